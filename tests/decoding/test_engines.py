"""The choice of the engine, and that all engines give fairseq's text."""

import os
import re
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from fairseq.data import Dictionary
from forks import run_forked
from harness import PAIR, run
from torch.backends import cpu
from translations import binarised, content, hypotheses

from fairseq_kd.decoding import engine_choice
from fairseq_kd.decoding.conversion import _damage, converted, namespace_of
from fairseq_kd.decoding.options import Search
from fairseq_kd.decoding.subset import read_subset
from fairseq_kd.decoding.translation_model import load_checkpoint
from fairseq_kd.distilled_data.binarised_writer import PairWriter
from fairseq_kd.files.hashes import write_sums

pytestmark = pytest.mark.skipif(find_spec("ctranslate2") is None, reason="needs CTranslate2")
ISA = "CT2_FORCE_CPU_ISA"
SAME = ["--compute-type", "float32", "--max-len-a", "2", "--max-len-b", "20"]


def test_ctranslate2_and_both_ways_of_fairseq_give_the_same_text(
    translate, ending_teacher, data, tmp_path
):
    translate(tmp_path / "fast", "--subset", "valid", *SAME)
    translate(tmp_path / "slow", "--subset", "valid", "--engine", "fairseq")
    command = ["fairseq-generate", data, "--user-dir", "user_dir", "--path", ending_teacher, *PAIR]
    command += ["--gen-subset", "valid", "--beam", "5", "--cpu", *SAME[2:]]
    command += ["--max-tokens", "200", "--required-batch-size-multiple", "1"]
    printed = run_forked(*command).stdout
    plain = {
        int(number): (text, float(score))
        for number, score, text in re.findall(r"^H-(\d+)\t(\S+)\t(.*)$", printed, re.M)
    }
    fast, slow = hypotheses(tmp_path / "fast"), hypotheses(tmp_path / "slow")
    assert list(fast) == list(slow) == sorted(plain)
    ended = [number for number, (text, _) in plain.items() if text.endswith(" .")]
    assert len(ended) > 12
    for number in ended:  # where the longest length ends a translation, the engines differ
        text, score = plain[number]
        (ours,), (theirs,) = fast[number], slow[number]
        assert ours.tokens == theirs.tokens == text
        assert theirs.score == pytest.approx(score, abs=1e-3)
        assert ours.score == pytest.approx(score, abs=0.01)  # it leaves out an end that comes first


def test_sums_that_do_not_name_every_file_of_a_conversion_are_damaged(tmp_path):
    for name in ("float32/model.bin", "int8/model.bin", "int8/config.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    write_sums(tmp_path)
    sums = tmp_path / "SHA256SUMS"
    lines = sums.read_text().splitlines(keepends=True)
    assert _damage(tmp_path) is None
    for left_out in range(len(lines)):
        sums.write_text("".join(lines[:left_out] + lines[left_out + 1 :]))
        assert _damage(tmp_path) == f"{sums} is damaged"


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("int8/model.bin", "{}/int8/model.bin is missing or damaged"),
        ("float32/config.json", "{}/float32/config.json is missing or damaged"),
        ("SHA256SUMS", "{} has no checksums"),
    ],
)
def test_a_damaged_conversion_is_made_anew_and_gives_the_same_text(
    translate, tmp_path, capsys, name, fault
):
    flags = ["--subset", "valid", "--engine", "ctranslate2", "--cache", tmp_path / "cache"]
    translate(tmp_path / "whole", *flags)
    (folder,) = (tmp_path / "cache").iterdir()
    folder.with_name(f"{folder.name}.a_killed").mkdir()  # as a killed conversion leaves it
    before = (folder / name).read_bytes()
    if name == "SHA256SUMS":  # as of conversions that were made before there were any
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(before[:-40] + bytes([before[-40] ^ 64]) + before[-39:])
    capsys.readouterr()
    assert translate(tmp_path / "out", *flags) == 0
    message = f"{fault.format(folder)}; the teacher is converted again\n"
    assert message in capsys.readouterr().err
    assert (folder / name).read_bytes() == before
    assert hypotheses(tmp_path / "out") == hypotheses(tmp_path / "whole")
    assert list((tmp_path / "cache").iterdir()) == [folder]
    translate(tmp_path / "again", *flags)
    assert "converted again" not in capsys.readouterr().err


def test_other_dictionaries_are_another_conversion(teacher, data, tmp_path):
    checkpoint = load_checkpoint(teacher, "--teacher")
    folder = Path(shutil.copytree(data, tmp_path / "data"))
    vocabularies = []
    for _ in range(2):
        made = converted(checkpoint, read_subset(folder, "valid", ("es", "en")), tmp_path / "cache")
        files = sorted((made / "int8").glob("*vocabulary.json"))
        vocabularies.append([path.read_text() for path in files])
        for path in folder.glob("dict.*.txt"):
            first, second, *others = path.read_text().splitlines(keepends=True)
            path.write_text("".join([second, first, *others]))
    assert vocabularies[0] != vocabularies[1]
    assert len(list((tmp_path / "cache").iterdir())) == 2


@pytest.mark.skipif(cpu.get_cpu_capability() != "AVX512", reason="needs AVX-512")
@pytest.mark.parametrize(("env", "used"), [({}, "AVX512"), ({ISA: "AVX2"}, "AVX2")])
def test_ctranslate2_uses_avx512_unless_set_otherwise(translate_words, tmp_path, env, used):
    words = translate_words(tmp_path / "out", "--subset", "valid", "--engine", "ctranslate2")
    shown = run("fairseq-kd", *words, env={"CT2_VERBOSE": "1", **env}).stderr
    assert re.findall(r"Selected ISA: (\w+)", shown) == [used]


def test_ctranslate2_is_left_alone_without_avx512(translate, tmp_path, monkeypatch):
    monkeypatch.delenv(ISA, raising=False)
    monkeypatch.setattr(cpu, "get_cpu_capability", lambda: "AVX2")
    assert translate(tmp_path / "out", "--subset", "valid", "--max-len-a", "0.5") == 0
    assert ISA not in os.environ


def test_int8_on_a_cpu_has_smaller_batches_but_draws_as_many_at_once(data, tmp_path):
    from fairseq_kd.decoding.ctranslate2_engine import CTranslate2Engine

    def batch(compute_type, device="cpu", **sampling):
        words = Dictionary.load(f"{data}/dict.es.txt")
        search = Search(**sampling)
        where = device, compute_type, 1
        return CTranslate2Engine(tmp_path, words, 1024, search, *where).batch_tokens

    assert batch("int8") == batch("int8_float32") < batch("float32")
    assert batch("int8_float32", "cuda") == batch("float16", "cuda") > batch("float32")
    assert batch("int8", sampling=True) == batch("float32", sampling=True)


def test_a_teacher_is_converted_once(translate, tmp_path, monkeypatch):
    from fairseq_kd.decoding import conversion

    monkeypatch.setattr(conversion, "FairseqConverter", None)
    assert translate(tmp_path / "out", "--subset", "valid") == 0


def test_a_conversion_that_scores_otherwise_is_not_used(translate, tmp_path, monkeypatch, capsys):
    from fairseq_kd.decoding import conversion

    probability = conversion._log_probability
    monkeypatch.setattr(conversion, "_log_probability", lambda *words: probability(*words) * 1.1)
    flags = ["--subset", "valid", "--cache", tmp_path / "cache", "--engine", "ctranslate2"]
    assert translate(tmp_path / "out", *flags) == 2
    shown = capsys.readouterr().err
    assert "CTranslate2 differs from fairseq: it scores a translation -" in shown
    assert list((tmp_path / "cache").iterdir()) == []


def test_what_ctranslate2_cannot_convert_is_decoded_by_fairseq(
    translate, setup, data, tmp_path, capsys
):
    flags = ["--criterion", "cross_entropy", "--no-save-optimizer-state"]
    flags += ["--encoder-attention-heads", "4"]
    teacher = setup(*flags).save(tmp_path / "teacher.pt")
    flags = ["--subset", "valid", "--max-len-a", "0.5", "--beam", "2"]
    assert translate(tmp_path / "out", *flags, teacher=teacher) == 0
    shown = capsys.readouterr().err
    assert "CTranslate2 cannot convert it: " in shown
    assert "Options --encoder-attention-heads and --decoder-attention-heads must have" in shown
    assert ". Using fairseq, which is several times slower.\n" in shown
    assert translate(tmp_path / "no", *flags, "--engine", "ctranslate2", teacher=teacher) == 2
    assert "Omit --engine ctranslate2 to decode with fairseq." in capsys.readouterr().err


@pytest.mark.parametrize("engine", ["auto", "fairseq"])
def test_a_gpu_that_is_not_there_is_refused(translate, engine, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("ctranslate2.get_cuda_device_count", lambda: 0)
    assert translate(tmp_path / "out", "--device", "cuda", "--engine", engine) == 2
    assert "--device is cuda, but no GPU can be used here." in capsys.readouterr().err


@pytest.fixture
def without_cublas(monkeypatch):
    """CTranslate2 sees a GPU, which it cannot use; what torch sees is to be said."""
    monkeypatch.setattr("ctranslate2.get_cuda_device_count", lambda: 1)
    monkeypatch.setattr("fairseq_kd.decoding.engine_choice.has_cublas", lambda: False)
    return lambda sees: monkeypatch.setattr("torch.cuda.is_available", lambda: sees)


def test_without_cublas_fairseq_decodes_on_the_gpu(
    translate, without_cublas, tmp_path, monkeypatch, capsys
):
    class ChosenError(Exception):
        pass

    def engine(teachers, search, *where):
        raise ChosenError(*where)

    without_cublas(True)
    monkeypatch.setattr("fairseq_kd.decoding.engine_choice.FairseqEngine", engine)
    with pytest.raises(ChosenError) as chosen:
        translate(tmp_path / "out", "--subset", "valid")
    assert chosen.value.args == ("cuda", "float16")
    text = "CTranslate2 finds no cuBLAS of CUDA 12 for the GPU (pip install nvidia-cublas-cu12)"
    assert f"{text}. Using fairseq, which is several times slower." in capsys.readouterr().err


def test_without_cublas_and_a_torch_with_cuda_the_cpu_decodes(
    translate, without_cublas, tmp_path, capsys
):
    without_cublas(False)
    flags = ["--subset", "valid", "--max-len-a", "0.5", "--beam", "2"]
    assert translate(tmp_path / "out", *flags) == 0
    assert re.search(r"^ctranslate2 \S+, int8, cpu,", capsys.readouterr().err, re.M)
    assert translate(tmp_path / "no", *flags, "--device", "cuda") == 2
    assert "--device is cuda, but this torch can use no GPU." in capsys.readouterr().err


@pytest.mark.parametrize("installed", [True, False])
def test_cublas_is_found_where_pip_puts_it(installed, tmp_path, monkeypatch):
    monkeypatch.setattr(engine_choice, "LIBRARIES", ("libneeded-kd.so", "libother-kd.so"))
    folder = tmp_path / "nvidia" / "cublas" / "lib"
    folder.mkdir(parents=True)
    for name in engine_choice.LIBRARIES if installed else ():
        shutil.copy(find_spec("_ctypes").origin, folder / name)  # any library will do
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert engine_choice.has_cublas.__wrapped__() == installed


def test_the_options_of_hydra_get_the_names_of_fairseq_train():
    sides = {"encoder": {"embed_dim": 32, "layers": 2}, "decoder": {"embed_dim": 32, "layers": 1}}
    flat = {"_name": "transformer", "encoder_embed_dim": 512, "decoder_output_dim": 512}
    options = vars(namespace_of({**flat, **sides, "share_all_embeddings": True}))
    assert options["arch"] == "transformer"
    layers = options["encoder_layers"], options["decoder_layers"]
    assert (options["encoder_embed_dim"], *layers) == (32, 2, 1)
    assert options["decoder_input_dim"] == options["decoder_output_dim"] == 32
    assert vars(namespace_of(flat))["decoder_output_dim"] == 512


def test_an_ensemble_is_decoded_by_fairseq(translate, ending_teacher, teacher, tmp_path, capsys):
    flags = ["--subset", "valid", "--max-len-a", "0.5", "--beam", "2"]
    assert translate(tmp_path / "out", *flags, teacher=f"{ending_teacher}:{teacher}") == 0
    assert (
        "CTranslate2 does not decode ensembles. Using fairseq, which is several"
        in capsys.readouterr().err
    )
    assert translate(tmp_path / "one", *flags, "--engine", "fairseq") == 0
    assert content(tmp_path / "out") != content(tmp_path / "one")


def test_without_ctranslate2_the_message_installs_it(translate, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    flags = ["--subset", "valid", "--engine", "ctranslate2"]
    assert translate(tmp_path / "out", *flags) == 2
    text = "CTranslate2 is not installed (pip install 'ctranslate2>=4.8')"
    assert text in capsys.readouterr().err


def test_an_unknown_source_word_is_the_same_to_both_engines(translate, data, tmp_path):
    folder = shutil.copytree(data, tmp_path / "data")
    writer = PairWriter(folder, "unknown", read_subset(folder, "valid", ("es", "en")))
    for sentence in binarised(data, "valid", "es"):
        writer.add([3, *sentence[1:5], 3, *sentence[6:]], [6, 2])
    writer.close()
    for engine, flags in (("ctranslate2", SAME[:2]), ("fairseq", [])):
        flags = ["--subset", "unknown", "--engine", engine, *flags]
        assert translate(tmp_path / engine, *flags, folder=folder) == 0
    fast, slow = hypotheses(tmp_path / "ctranslate2"), hypotheses(tmp_path / "fairseq")
    both = [(fast[number][0], slow[number][0]) for number in slow]
    ended = [pair for pair in both if all(each.tokens.endswith(" .") for each in pair)]
    assert len(ended) > 12  # the others repeat themselves, where rounding decides
    for ours, theirs in ended:
        assert ours.tokens == theirs.tokens
        assert ours.score == pytest.approx(theirs.score, abs=0.01)
