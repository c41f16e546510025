"""An exported student, used with nothing but its directory."""

import re
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml
from harness import run
from sacrebleu.metrics import BLEU

from fairseq_kd import cli
from fairseq_kd.decoding.options import Search
from fairseq_kd.export.card import Licences, Measured, MeasurementSetup
from fairseq_kd.export.card import card as model_card
from fairseq_kd.export.example import translate_py
from fairseq_kd.export.lineage import Ancestor, lineage
from fairseq_kd.files.hashes import write_sums
from fairseq_kd.files.locks import lock_beside, locked

pytestmark = pytest.mark.skipif(find_spec("ctranslate2") is None, reason="needs CTranslate2")


@pytest.fixture(scope="session")
def export(ending_teacher, cache):
    """Runs the command export in this process."""

    def exported(out, *flags):
        words = ["export", ending_teacher, "--out", out, "--threads", "1", "--cache", cache]
        return cli.main([str(word) for word in (*words, "--beam", "2", *flags)])

    return exported


@pytest.fixture(scope="session")
def exported(export, tmp_path_factory):
    """A directory that was exported."""
    out = tmp_path_factory.mktemp("export") / "student"
    assert export(out, "--license", "MIT", "--data-license", "the Bible, public domain") == 0
    return out


def translated(folder, text):
    """A text translated by the directory's own program, in another place."""
    done = run("bash", "-c", f"{sys.executable} {folder}/translate.py < {text}", cwd="/")
    return done.stdout.splitlines()


def test_the_directory_translates_by_itself_and_as_well_as_its_card_says(exported, data, tmp_path):
    moved = shutil.copytree(exported, tmp_path / "moved")
    text = Path(data).parent / "text"
    hypotheses = translated(moved, text / "test.es")
    references = (text / "test.en").read_text(encoding="utf-8").splitlines()
    assert len(hypotheses) == len(references)
    row = re.search(r"\| this, int8 +\| +\S+ MiB \| +([\d.]+) \|", card(exported))
    bleu = BLEU().corpus_score(hypotheses, [references]).score
    assert bleu == pytest.approx(float(row[1]), abs=0.3)  # they differ where the length ends


def test_a_byte_that_is_no_utf8_costs_its_own_line_alone(exported, tmp_path):
    (tmp_path / "text").write_bytes(b"uno\n" + b"ma\xf1ana\n" + "¿qué?\n".encode())
    command = f"{sys.executable} {exported}/translate.py < {tmp_path}/text"
    done = run("bash", "-c", command, env={"LC_ALL": "C", "PYTHONUTF8": "0"})
    assert len(done.stdout.splitlines()) == 3
    assert done.stderr == "line 2: bytes that are not UTF-8 are replaced\n"


SPOILT_SUMS = {
    "sums cut off": (
        ("SHA256SUMS", 40),
        "SHA256SUMS is missing or damaged: it must name model.bin.",
    ),
    "empty sums": (("SHA256SUMS", 0), "SHA256SUMS is missing or damaged: it must name model.bin."),
    "no sums": (("SHA256SUMS", None), "SHA256SUMS is missing or damaged: it must name model.bin."),
    "no model": (("model.bin", None), "model.bin is missing."),
    "half a model": (("model.bin", 9), "model.bin is damaged: its hash differs from SHA256SUMS."),
}


@pytest.mark.parametrize(
    ("redirection", "status", "message"),
    [
        ("| head -1", 0, ""),
        ("<&-", 1, "Standard input and output must be open.\n"),
        (">&-", 1, "Standard input and output must be open.\n"),
        ("> /dev/full", 1, "line 1: standard output cannot be written (No space left on device)\n"),
    ],
)
def test_an_end_of_input_or_output_is_no_traceback(
    exported, tmp_path, redirection, status, message
):
    (tmp_path / "text").write_text("y el\n" * 20, encoding="utf-8")
    command = f"{sys.executable} {exported}/translate.py < {tmp_path}/text {redirection}"
    done = run("bash", "-c", command, check=False, cwd="/")
    assert (done.returncode, done.stderr) == (status, message)


@pytest.mark.parametrize("kind", SPOILT_SUMS)
def test_a_lost_or_shortened_file_of_an_export_is_named(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["translate.py"])
    (name, size), message = SPOILT_SUMS[kind]
    (tmp_path / "model.bin").write_bytes(bytes(18))
    write_sums(tmp_path)
    program = translate_py(("es", "en"), "none", "none", "int8", Search(), (9, 9))
    checks = program.partition("model = ")[0].replace("import ctranslate2\n", "")
    own = {"__file__": str(tmp_path / "translate.py"), "__doc__": "one line"}
    exec(checks, own)
    path = tmp_path / name
    if size is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(SystemExit) as printed:
        exec(checks, own)
    assert printed.value.code == f"{tmp_path}/{message} Copy it again."


@pytest.mark.parametrize("name", ["model.bin", "codes"])
def test_a_damaged_file_is_named_before_anything_is_translated(exported, tmp_path, name):
    moved = shutil.copytree(exported, tmp_path / "moved")
    content = bytearray((moved / name).read_bytes())
    content[-9] ^= 1
    (moved / name).write_bytes(content)
    done = run(sys.executable, moved / "translate.py", check=False)
    assert done.returncode == 1
    message = f"{moved / name} is damaged: its hash differs from SHA256SUMS. Copy it again."
    assert done.stderr == f"{message}\n"
    assert run("sha256sum", "--check", "--quiet", "SHA256SUMS", cwd=exported).stdout == ""


def test_a_long_line_is_read_and_written_as_far_as_the_model_can_and_what_is_cut_is_reported(
    exported, tmp_path
):
    text = "\ufeff" + ", " * 1100 + "\r\n" + ", " * 400 + "\runo\n\n"
    (tmp_path / "text").write_bytes(text.encode())
    command = f"{sys.executable} {exported}/translate.py < {tmp_path}/text"
    done = run("bash", "-c", command)
    assert done.stderr == "line 1: cut to 1023 of 1100 tokens\n"
    cut, whole, empty = done.stdout.split("\n")[:-1]
    assert len(cut.split()) > 256 < len(whole.split())  # where CTranslate2 ends if not message
    assert empty == ""


def test_the_program_writes_as_long_translations_as_the_measurement():
    search = Search(max_len_a=1.5, max_len_b=7)
    program = translate_py(("es", "en"), "none", "none", "int8", search, (1024, 50))
    (length,) = re.findall(r"max_decoding_length=(.*),", program)
    for count in (0, 1, 4, 500):
        allowed = search.max_length(count + 1, 50)
        assert eval(length, {"tokens": [""] * count}) == allowed


def card(folder):
    return (folder / "README.md").read_text(encoding="utf-8")


def test_the_directory_holds_weights_vocabulary_codes_program_and_card(exported):
    names = {path.name for path in exported.iterdir()}
    assert {"model.bin", "config.json", "codes", "translate.py", "README.md"} <= names
    assert "SHA256SUMS" in names
    assert any(name.endswith("vocabulary.json") for name in names)
    assert list(exported.parent.iterdir()) == [exported]  # nothing is left beside it


def test_the_card_lists_measurements_lineage_and_licences(exported, ending_teacher):
    text = card(exported)
    assert text.startswith('---\nlanguage: ["es", "en"]\nlicense: mit\n')
    assert "| checkpoint, fairseq |" in text
    assert "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:" in text
    assert "- training data: the Bible, public domain" in text
    assert "- updates: 300" in text
    assert "label_smoothed_cross_entropy (label smoothing 0.0)" in text
    assert ending_teacher in text


def test_what_cannot_be_read_of_the_lineage_is_a_line_of_the_card(export, tmp_path, monkeypatch):
    def fail(name):
        raise PermissionError(13, "Permission denied", name)

    monkeypatch.setattr("fairseq_kd.export.lineage._command", fail)  # when its student was read
    assert export(tmp_path / "out") == 0
    assert "- could not be read: [Errno 13] Permission denied: '" in card(tmp_path / "out")


def test_float32_keeps_every_weight(export, tmp_path, capsys):
    flags = ["--quantization", "float32", "--sacrebleu-tokenize", "char"]
    assert export(tmp_path / "whole", *flags) == 0
    before, after = re.search(
        r"BLEU ([\d.]+) \(checkpoint ([\d.]+)\)", capsys.readouterr().out
    ).groups()
    # of a poor teacher, whose translations the longest length ends, each engine otherwise
    assert float(before) == pytest.approx(float(after), abs=0.5)
    whole = (tmp_path / "whole" / "model.bin").stat().st_size
    assert "| this, float32" in card(tmp_path / "whole")
    assert "|tok:char|" in card(tmp_path / "whole")
    assert whole > 10_000


def test_weights_that_the_processor_cannot_compute_in_are_measured_in_float32(
    export, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        "fairseq_kd.export.student.get_supported_compute_types", lambda device: {"float32"}
    )
    assert export(tmp_path / "out", "--quantization", "int16") == 0
    assert "This processor cannot compute in int16: float32 was used." in card(tmp_path / "out")


def fields_of(pair=("es", "en"), licence="not stated"):
    """The metadata of a card."""
    measured = [Measured("checkpoint", 1, 10.0, 1.0, 1.0, 1.0)] * 2
    measurement = MeasurementSetup("test", 7, "tok:13a", beam=5, threads=1, compute_type="int8")
    text = model_card(pair, "int8", measured, measurement, [], Licences(licence))
    return yaml.safe_load(text.split("---")[1])


def test_the_languages_of_a_card_are_read_as_text():
    assert fields_of(("no", "en"))["language"] == ["no", "en"]


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ("not stated", {"license": "unknown"}),
        ("CC-BY-4.0", {"license": "cc-by-4.0"}),
        ("GPL-3.0-or-later", {"license": "gpl-3.0"}),
        ('ours: ask"', {"license": "other", "license_name": 'ours: ask"'}),
        ("no", {"license": "other", "license_name": "no"}),
    ],
)
def test_a_licence_is_one_of_the_hub_or_other_with_its_name(stated, expected):
    fields = fields_of(licence=stated)
    assert {key: fields[key] for key in fields if key.startswith("license")} == expected


def test_the_result_of_a_card_has_all_that_the_hub_needs():
    ((result,),) = [each["results"] for each in fields_of()["model-index"]]
    assert result["task"]["type"] == "translation"
    assert result["dataset"] == {"type": "parallel-text", "name": "test, 7 sentences"}
    assert result["metrics"] == [{"type": "bleu", "value": 10.0, "name": "BLEU tok:13a"}]


def test_the_library_of_the_hub_loads_a_card(exported):
    hub = pytest.importorskip("huggingface_hub")
    data = hub.ModelCard.load(exported / "README.md").data
    assert (data.license, data.language) == ("mit", ["es", "en"])
    (result,) = data.eval_results
    assert (result.task_type, result.metric_type, result.dataset_name[:5]) == (
        *("translation", "bleu", "test,"),
    )


def test_the_line_of_teachers_goes_on_as_far_as_there_are_files(setup, teacher, tmp_path):
    (tmp_path / "middle").mkdir()
    flags = ["--criterion", "word_kd", "--no-save-optimizer-state", "--kd-teacher"]
    middle = setup(*flags, teacher).save(tmp_path / "middle" / "m.pt")
    student = setup(*flags, f"{middle}:{teacher}").save(tmp_path / "s.pt")
    found = lineage(student)
    assert [ancestor.path for ancestor in found] == [str(student), str(middle), teacher]
    assert found[1].role == f"teacher of {tmp_path.name}"
    assert found[0].facts["trained by"].startswith("word_kd (alpha 0.8, beta 0.2, temperature 4.0")
    assert found[2].facts["updates"] == "20"
    middle.write_text("no weights")
    message = f"{middle} is not a fairseq checkpoint: torch cannot read it. Give a file that "
    assert lineage(student)[1].facts == {"could not be read": f"{message}fairseq-train wrote."}
    middle.unlink()
    assert lineage(student)[1].facts == {}
    middle.write_bytes(b"no checkpoint any more")
    found = lineage(student)
    message = found[1].facts["could not be read"]
    assert message.startswith(f"{middle} is not a fairseq checkpoint")
    assert found[2].path == teacher


def test_a_store_stands_between_a_student_and_its_teacher(setup, teacher, data, tmp_path):
    store = str(tmp_path / "store")
    flags = ["--teacher", teacher, "--data", data, "--subset", "valid", "--topk", "8"]
    assert cli.main(["store", *flags, "--out", store]) == 0
    flags = ["--criterion", "word_kd", "--label-smoothing", "0.1", "--kd-store", store]
    flags += ["--train-subset", "valid", "--no-save-optimizer-state"]
    found = lineage(setup(*flags).save(tmp_path / "s.pt"))
    assert [each.path for each in found[1:]] == [store, teacher]
    assert found[1].facts == {"store": "the top-8 distribution of every token"}
    assert found[2].role == "teacher of the store"


def test_a_student_of_a_teacher_and_a_store_has_both(setup, teacher, tmp_path):
    flags = ["--criterion", "word_kd", "--no-save-optimizer-state", "--kd-teacher", teacher]
    path = setup(*flags).save(tmp_path / "s.pt")
    state = torch.load(path, weights_only=False)
    state["cfg"]["criterion"]["kd_store"] = "store:other"
    torch.save(state, path)
    assert [each.path for each in lineage(path)[1:]] == [teacher, "store", "other"]


def test_the_checkpoint_that_a_training_began_with_is_named(setup, teacher, tmp_path):
    flags = ["--criterion", "cross_entropy", "--finetune-from-model", teacher]
    found = lineage(setup(*flags, "--no-save-optimizer-state").save(tmp_path / "s.pt"))
    assert [(each.path, each.role) for each in found[1:]] == [
        (teacher, f"initial weights of {tmp_path.name}")
    ]


@pytest.mark.parametrize(
    ("roles", "origin"),
    [
        (["student"], "A translation model, converted for CTranslate2 by fairseq_kd "),
        (["student", "initial weights of s"], "A translation model, converted for CTranslate2 "),
        (["student", "teacher of s"], "A translation model distilled by fairseq_kd, converted "),
    ],
)
def test_a_card_calls_a_model_distilled_if_it_has_a_teacher(roles, origin):
    measured = [Measured("checkpoint", 1, 10.0, 1.0, 1.0, 1.0)] * 2
    measurement = MeasurementSetup("test", 1, "", beam=5, threads=1, compute_type="int8")
    ancestors = [Ancestor("m.pt", role, {}, None) for role in roles]
    text = model_card(("es", "en"), "int8", measured, measurement, ancestors, Licences())
    assert f"\n{origin}" in text


def test_the_data_are_those_of_the_training_where_dictionaries_lie_beside(
    ending_teacher, data, tmp_path, capsys
):
    for path in (Path(ending_teacher), Path(data) / "dict.es.txt", Path(data) / "dict.en.txt"):
        shutil.copy(path, tmp_path)
    student = tmp_path / Path(ending_teacher).name
    flags = ["--out", tmp_path / "out", "--subset", "dev"]
    assert cli.main([str(word) for word in ("export", student, *flags)]) == 2
    assert f"{data} holds no dev.es-en.es." in capsys.readouterr().err


def test_codes_that_are_not_the_datas_are_found_out(export, tmp_path, capsys):
    codes = tmp_path / "codes"
    codes.write_text("#version: 0.2\nzz zz</w>\n", encoding="utf-8")  # words become letters
    assert export(tmp_path / "out", "--codes", codes) == 2
    shown = capsys.readouterr().err
    assert re.search(r"translate.py translates \d of 8 sentences as the model does", shown)
    assert "Nothing was exported. Give the --codes, --bpe and --tokenizer" in shown
    assert [path.name for path in tmp_path.iterdir()] == ["codes"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--codes", "none"], "--codes none does not exist. Give the merges"),
        (["--codes", "x", "--bpe", "none"], "--codes has no effect with --bpe none."),
        (["--subset", "dev"], "holds no dev.es-en.es."),
        (["--data", "none"], "none holds no test.es-en.es."),
    ],
)
def test_mistakes_are_refused(export, flags, message, tmp_path, capsys):
    assert export(tmp_path / "out", *flags) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_there_is_left_alone(export, exported, capsys):
    before = card(exported)
    assert export(exported) == 2
    message = f"--out {exported} already exists and holds README.md. Remove it or choose another."
    assert message in capsys.readouterr().err
    assert card(exported) == before


def test_a_directory_that_another_process_exports_is_refused(export, tmp_path, capsys):
    with locked(lock_beside(tmp_path / "student"), "it"):
        assert export(tmp_path / "student") == 2
    message = capsys.readouterr().err
    assert message.startswith(f"fairseq-kd export: --out {tmp_path}/student is in use since")
    assert list(tmp_path.iterdir()) == []


def test_no_codes_beside_the_data_are_asked_for(export, data, tmp_path, capsys):
    folder = shutil.copytree(data, tmp_path / "bin")
    assert export(tmp_path / "out", "--data", folder) == 2
    assert (
        f"There is no file codes beside {folder}. Give the merges that" in capsys.readouterr().err
    )


@pytest.mark.parametrize("tokenizer", ["moses", "none"])
@pytest.mark.parametrize("bpe", ["subword_nmt", "none"])
def test_the_example_is_a_program_that_imports_what_it_names(tokenizer, bpe):
    program = translate_py(("es", "en"), tokenizer, bpe, "int8", Search(), (1024, 1024))
    compile(program, "translate.py", "exec")
    assert ("sacremoses" in program) == (tokenizer == "moses")
    assert ("subword_nmt" in program) == (bpe == "subword_nmt")
    assert "\n\n\n\n" not in program
