"""The command evaluate on trained systems: its figures, errors and restart."""

import copy
import csv
import json
import re
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from fairseq.data import data_utils
from forks import run_forked
from sacrebleu.metrics import BLEU

from fairseq_kd import cli
from fairseq_kd.decoding.decode import ShardDecoder
from fairseq_kd.evaluation import plots
from fairseq_kd.evaluation.error_rates import agreement
from fairseq_kd.evaluation.pages import Plot, markdown_page
from fairseq_kd.evaluation.report import TITLE, cards, check_out, sections
from fairseq_kd.evaluation.results import EvaluationResult
from fairseq_kd.evaluation.scores import check_comet, comet_scores
from fairseq_kd.evaluation.systems import NamedCheckpoint, common_subset, load_systems
from fairseq_kd.files.locks import locked

FAST = find_spec("ctranslate2") is not None
QUICK = ["--rounds", "0", "--no-memory", "--bootstrap", "100"]


def test_every_score_is_that_of_the_sacrebleu_command_on_the_written_text(
    evaluated, measured, data
):
    reference = Path(data).parent / "text" / "test.en"
    for name in ("teacher", "small"):
        for metric, option in (("BLEU", "bleu"), ("chrF2", "chrf"), ("TER", "ter")):
            command = ["sacrebleu", reference, "-i", evaluated / "translations" / f"{name}.txt"]
            printed = run_forked(*command, "-m", option, "-b", "-w", "9").stdout
            score = measured["quality"]["scores"][name][metric]["score"]
            assert score == pytest.approx(float(printed), abs=1e-8)
    assert "nrefs:1|bs:1000|seed:12345|case:mixed" in measured["quality"]["signatures"]["BLEU"]
    assert measured["made"]["references"] == "text/test.en beside the data, as written"


@pytest.mark.skipif(not FAST, reason="needs CTranslate2")
def test_every_system_stands_in_every_table(evaluated, measured):
    names = ["teacher", "small", "left alone"]
    assert [system["name"] for system in measured["systems"]] == names
    assert list(measured["quality"]["scores"]) == [*names, "small, int8"]
    assert list(measured["quality"]["p"]) == ["teacher", "left alone"]
    assert measured["quality"]["p"]["left alone"]["left alone"] == {}
    engines = {"fairseq", "CTranslate2 float32", "CTranslate2 int8"}
    for part in (measured["speed"]["systems"], measured["memory"]["inference"]):
        assert {name: set(by) for name, by in part.items()} == dict.fromkeys(names, engines)
    for by in measured["speed"]["systems"].values():
        for found in by.values():
            assert 0 < found["median_ms"] <= found["p95_ms"]
            assert found["batch_32"]["sentences_per_s"] > 0
    trained = {name: set(by) for name, by in measured["memory"]["training"].items()}
    assert trained == {
        "teacher": {"alone"},
        "small": {"alone", "distilled"},
        "left alone": {"alone"},
    }
    for system in measured["systems"]:
        assert 0 < system["int8_bytes"] < system["float32_bytes"]
    page = (evaluated / "report.md").read_text(encoding="utf-8")
    for name in (*names, "small, int8"):
        assert page.count(f"| {name}") > 3


@pytest.fixture
def undrawn(monkeypatch):
    """Pages have empty plots: to draw one takes a second."""
    monkeypatch.setattr(plots, "drawn", lambda name, caption, *_: Plot(name, caption, "", b""))


def as_markdown(measured):
    """The report of these figures."""
    return markdown_page(TITLE, sections(EvaluationResult.from_json(measured)), "plots")


def test_the_figures_that_are_read_back_are_those_that_were_written(measured):
    assert EvaluationResult.from_json(measured).to_json() == measured


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("rounds", "drift", "message"),
    [
        (1, 0.0, "One round cannot show whether the machine was idle."),
        (3, 0.04, "round of a system took 4% longer than its fastest: the machine was idle."),
        (3, 0.25, "25% longer than its fastest: the machine was not idle. The systems, which"),
    ],
)
def test_the_report_states_whether_the_machine_was_idle(measured, rounds, drift, message):
    speed = copy.deepcopy(measured["speed"])
    speed["rounds"] = rounds
    for by in speed["systems"].values():
        for found in by.values():
            found["drift"] = drift if found is speed["systems"]["small"]["fairseq"] else 0.0
    page = as_markdown({**measured, "speed": speed})
    assert message in " ".join(page.split())


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("student", "control", "message"),
    [
        (20, 20, "with the same total number of updates (20)"),
        (2300, 500, "with 500 updates in total, while small has 2,300"),
        (20, None, "with an unknown total number of updates of left alone"),
        (None, 20, "with an unknown total number of updates of small"),
    ],
)
def test_a_gain_is_reported_with_the_updates_behind_both_weights(
    measured, student, control, message
):
    measured = copy.deepcopy(measured)
    measured["systems"][1]["updates_behind"] = student
    measured["systems"][2]["updates_behind"] = control
    page = " ".join(as_markdown(measured).split())
    assert f"Difference to left alone, {message}" in page
    texts = [text for _, text in cards(EvaluationResult.from_json(measured))]
    assert f"BLEU over left alone, {message}" in texts
    shown = "-" if control is None else f"{control:,}"
    assert re.search(rf"\| left alone \|[^|]+\|[^|]+\| 20 \| {shown} \|", page)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(("sentences", "tested"), [(10, True), (9, False)])
def test_differences_of_few_sentences_have_no_stars(measured, sentences, tested):
    measured = copy.deepcopy(measured)
    measured["made"]["sentences"] = sentences
    measured["quality"]["p"]["teacher"]["small"] = dict.fromkeys(("BLEU", "chrF2", "TER"), 0.001)
    page = " ".join(as_markdown(measured).split())
    assert ("* (p = 0.001)" in page) == tested
    assert ("* where p < 0.05" in page) == tested
    assert ("with fewer than 10 sentences, it cannot be tested" in page) != tested
    assert ("±" in page) == tested


def test_the_training_that_is_reported_is_that_of_the_checkpoint(measured):
    assert measured["systems"][1]["updates"] == measured["systems"][1]["updates_behind"] == 20
    assert measured["training"]["small"] is None  # fairseq-train ran without fairseq-kd stage


@pytest.mark.parametrize("short", [False, True], ids=["all sentences", "those that all can read"])
def test_agreement_is_the_share_of_equal_likeliest_words(
    ending_teacher, teacher, data, monkeypatch, short
):
    paths = {"teacher": ending_teacher, "student": teacher}
    named = [NamedCheckpoint(role, role, path) for role, path in paths.items()]
    systems = load_systems(named, Path(data))
    subset = common_subset(systems, Path(data), "test")
    same = tokens = 0
    sizes = [max(len(subset.source[i]), len(subset.target[i])) for i in range(len(subset))]
    limit = min(sizes) if short else 1024
    monkeypatch.setattr(systems[1].checkpoint.model, "max_positions", lambda: (limit, limit))
    for i in range(len(subset)):  # one sentence at a time: no padding can have an influence
        source, target = subset.source[i].long()[None], subset.target[i].long()
        if sizes[i] > limit:
            continue
        previous = data_utils.collate_tokens([target], 1, 2, move_eos_to_beginning=True)
        lengths = torch.tensor([source.shape[1]])
        models = [each.checkpoint.model for each in systems]
        words = [model(source, lengths, previous)[0][0].argmax(-1) for model in models]
        same += sum(a == b for a, b in zip(words[0].tolist(), words[1].tolist(), strict=True))
        tokens += len(target)
    found = agreement(systems, subset)
    assert found["teacher"] == 1.0
    assert tokens > 0
    assert found["student"] == pytest.approx(same / tokens, abs=2 / tokens)  # ties by rounding


def test_what_was_translated_is_kept_for_the_next_run(
    evaluate_words, evaluated, tmp_path, monkeypatch
):
    monkeypatch.setattr(ShardDecoder, "run", None)
    again = shutil.copytree(evaluated, tmp_path / "again")
    (again / "report.md").unlink()
    assert cli.main(evaluate_words(again, *QUICK)) == 0
    found = json.loads((again / "evaluation.json").read_text(encoding="utf-8"))
    assert found["quality"]["scores"].keys() >= {"teacher", "small"}
    page = (again / "report.md").read_text(encoding="utf-8")
    assert "## Speed" not in page
    assert "## Memory" not in page


def files_in(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_the_folder_holds_the_files_of_the_last_report_and_what_others_put_there(
    evaluate_words, evaluated, measured, tmp_path, monkeypatch
):
    pages = {"evaluation.json", "report.html", "report.md"}
    assert files_in(evaluated) == {*measured["files"], *pages}
    monkeypatch.setattr(ShardDecoder, "run", None)
    again = shutil.copytree(evaluated, tmp_path / "again")
    others = {"decoded/notes.txt", "translations/mine.txt", "plots/mine.png", "train.log"}
    theirs = next(name for name in measured["files"] if name.startswith("decoded/left-alone-"))
    others.add(str(Path(theirs).with_name("notes.txt")))
    outside = tmp_path / "mine.txt"
    for path in (outside, *(again / name for name in others)):
        path.touch()
    forged = {**measured, "files": [*measured["files"], "../mine.txt", str(outside), "train.log"]}
    forged["files"] += ["translations/../../mine.txt", 1]
    (again / "evaluation.json").write_text(json.dumps(forged), encoding="utf-8")
    words = evaluate_words(again, *QUICK)
    del words[words.index("--control") : words.index("--control") + 2]
    assert cli.main(words) == 0
    found = json.loads((again / "evaluation.json").read_text(encoding="utf-8"))
    assert files_in(again) == {*found["files"], *pages, *others}
    gone = set(measured["files"]) - set(found["files"])
    assert {"translations/left-alone.txt", theirs, "plots/front-speed.png"} <= gone
    assert outside.exists()


@pytest.mark.parametrize("flags", [[], ["--sacrebleu-tokenize", "char"]])
def test_bleu_parts_words_as_the_target_language_or_the_flag_asks(
    evaluate_words, evaluated, data, tmp_path, monkeypatch, flags
):
    monkeypatch.setitem(BLEU._TOKENIZER_MAP, "en", "zh" if flags else "char")
    again = shutil.copytree(evaluated, tmp_path / "again")
    assert cli.main(evaluate_words(again, *QUICK, *flags)) == 0
    quality = json.loads((again / "evaluation.json").read_text(encoding="utf-8"))["quality"]
    command = ["sacrebleu", Path(data).parent / "text" / "test.en", "-tok", "char"]
    printed = run_forked(
        *command, "-i", again / "translations" / "teacher.txt", "-b", "-w", "9"
    ).stdout
    score = quality["scores"]["teacher"]["BLEU"]["score"]
    assert score == pytest.approx(float(printed), abs=1e-8)
    assert "|tok:char|" in (again / "report.md").read_text(encoding="utf-8")


def test_references_are_the_binarised_ones_where_no_text_lies_beside(
    evaluate_words, data, tmp_path, capsys
):
    folder = shutil.copytree(data, tmp_path / "bin")
    flags = ["--data", folder, *QUICK]
    assert cli.main(evaluate_words(tmp_path / "out", *flags)) == 0
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text(encoding="utf-8"))
    assert found["made"]["references"] == "the binarised set, detokenised"
    assert re.search(r"\| teacher +\|", capsys.readouterr().out)


def test_without_ctranslate2_fairseq_alone_is_measured(
    evaluate_words, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    out = tmp_path / "out"
    flags = ["--no-memory", "--bootstrap", "100", "--subset", "valid"]
    assert cli.main(evaluate_words(out, *flags)) == 0
    assert "CTranslate2 is not installed (pip install" in capsys.readouterr().err
    found = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    assert list(found["quality"]["scores"]) == ["teacher", "small", "left alone"]
    assert {engine for by in found["speed"]["systems"].values() for engine in by} == {"fairseq"}
    assert "| 0.0 MiB" not in (out / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--student", "small=other.pt"], "are both called small. Name one of them as --student"),
        (
            ["--student", "a.b=other.pt", "--student", "a-b=another.pt"],
            "are both called a-b in the names of files. Name one of them as --student NAME=another",
        ),
        (["--student", "="], "--student is given as S.pt or NAME=S.pt, but is =."),
        (["--student", "small, int8=s.pt"], 'a name that does not end in ", int8".'),
        (["--student", "x=none.pt"], "--student none.pt does not exist. Give the path"),
        (["--subset", "dev"], "holds no dev.es-en.es. Give to --data the folder"),
        (["--remove-bpe", "sentencepiece"], "words of the data were split by subword_nmt, as "),
        (["--reference", "none"], "--reference none does not exist. Give the plain text"),
        (["--reference", "README.md"], "lines, but test in "),
        (["--comet", "none.ckpt"], "--comet none.ckpt does not exist. Give a checkpoint of COMET."),
    ],
)
def test_mistakes_are_refused_before_anything_is_measured(
    evaluate_words, flags, message, tmp_path, capsys
):
    assert cli.main(evaluate_words(tmp_path / "out", *flags)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["plots", "translations", "decoded", "decoded/teacher-0"])
def test_a_report_is_not_written_through_a_link_to_another_folder(tmp_path, name):
    (tmp_path / "theirs").mkdir()
    link = tmp_path / "out" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "theirs")
    message = f"{link} is a symbolic link. Replace it by the folder itself, or remove it."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_out(tmp_path / "out", tmp_path / "data")


def test_a_folder_that_another_process_evaluates_into_is_refused(evaluate_words, tmp_path, capsys):
    with locked(tmp_path / "out" / ".evaluate.lock", "it"):
        assert cli.main(evaluate_words(tmp_path / "out")) == 2
    assert f"evaluate: --out {tmp_path}/out is in use since" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_a_tokenizer_of_bleu_that_is_missing_is_named(
    evaluate_words, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("sacrebleu.tokenizers.tokenizer_ja_mecab.MeCab", None)
    assert cli.main(evaluate_words(tmp_path / "out", "--sacrebleu-tokenize", "ja-mecab")) == 2
    assert "(pip install 'sacrebleu[ja]'); or give another one by" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_package_that_is_missing_is_named(evaluate_words, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "sacremoses", None)
    assert cli.main(evaluate_words(tmp_path / "out")) == 2
    message = capsys.readouterr().err
    assert "pip install sacremoses. docs/install.md lists the requirements" in message


def test_comet_scores_every_system(tmp_path, monkeypatch):
    model = tmp_path / "model.ckpt"
    model.touch()
    monkeypatch.setitem(sys.modules, "comet", None)
    with pytest.raises(ValueError, match=r"not installed \(pip install unbabel-comet\)"):
        check_comet(model)
    comet = ModuleType("comet")  # the two calls of COMET's interface, and a score that one can tell

    def predict(samples, gpus):
        right = sum(each["mt"] == each["ref"] for each in samples)
        return SimpleNamespace(system_score=right / len(samples))

    comet.load_from_checkpoint = lambda path: SimpleNamespace(predict=predict)
    monkeypatch.setitem(sys.modules, "comet", comet)
    check_comet(model)
    texts = {"teacher": ["a", "b"], "student": ["a", "c"]}
    assert comet_scores(model, ["x", "y"], texts, ["a", "b"]) == {"teacher": 1.0, "student": 0.5}


def test_a_training_set_of_another_dictionary_is_refused(evaluate_words, data, tmp_path, capsys):
    other = shutil.copytree(data, tmp_path / "other")
    lines = (other / "dict.en.txt").read_text(encoding="utf-8").splitlines()
    (other / "dict.en.txt").write_text("\n".join(lines[::-1]) + "\n", encoding="utf-8")
    assert cli.main(evaluate_words(tmp_path / "out", *QUICK, "--training", other)) == 2
    message = f"--training {other} has another dictionary than --data: {other}/dict.en.txt and "
    assert message in capsys.readouterr().err


def test_a_training_set_without_targets_is_refused(evaluate_words, data, tmp_path, capsys):
    other = shutil.copytree(data, tmp_path / "other")
    for path in other.glob("train.es-en.en.*"):
        path.unlink()
    assert cli.main(evaluate_words(tmp_path / "out", *QUICK, "--training", other)) == 2
    assert f"--training {other} has no target side. Give a set" in capsys.readouterr().err


def test_a_rating_sheet_is_written_and_read_back(evaluate_words, evaluated, data, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(evaluated, out)
    flags = [*QUICK, "--rating-sheet", "5", "--training", data]
    assert cli.main(evaluate_words(out, *flags)) == 0
    sheet = out / "rating-sheet.csv"
    with sheet.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({row["sentence"] for row in rows}) == 5
    content = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    memorised = [each["memorised"] for each in content["quality"]["behaviour"].values()]
    assert all(0 <= share <= 1 for share in memorised)
    assert len(content["sentences"]) == content["made"]["sentences"]
    for row in rows:
        row.update(fluency="4", adequacy="2")
    with sheet.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    assert cli.main(evaluate_words(out, *flags)) == 2  # it would replace the ratings
    assert cli.main(evaluate_words(out, *QUICK, "--ratings", sheet)) == 0
    content = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    assert content["ratings"]["sentences"] == 5
    assert content["ratings"]["systems"]["small"]["fluency"] == 4.0
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "<h2>Human ratings</h2>" in page
    assert EvaluationResult.from_json(content).ratings.systems["teacher"].adequacy == 2.0
