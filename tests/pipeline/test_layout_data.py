"""The stores, translations and distilled sets among the steps of a run."""

import os
import shutil
from pathlib import Path

import pytest
from workflows import args, kinds, words


def test_a_store_is_made_before_the_stage_that_reads_it(workflow_of, large_teacher, data):
    workflow = workflow_of("ladder: [{ratio: 0.5, soft-targets: store}]\nstore: {topk: 8}")
    said = words(workflow, "teacher-store")
    assert said == {
        "--teacher": large_teacher,
        "--data": data,
        "--out": "runs/run/teacher-store",
        "--topk": "8",
        "--subset": "train,valid",
    }
    step = workflow.step("teacher-store")
    assert {large_teacher, f"{data}/train.es-en.es.bin"} <= {*step.reads}
    assert [os.path.relpath(path, said["--out"]) for path in step.makes] == [
        "train/sentences.npy",
        "valid/sentences.npy",
    ]
    student = args(workflow, "student")
    assert (student["kd_store"], student["kd_teacher"]) == ("runs/run/teacher-store", None)
    assert workflow.step("student").after == ["teacher-store"]


def test_a_store_has_all_sets_that_its_trainings_read(workflow_of, large_teacher, data):
    ladder = "ladder: [{ratio: 0.7, soft-targets: store, train: {valid-subset: 'valid,test'}}, 0.4]"
    step = workflow_of(ladder).step("teacher-store")
    assert words(workflow_of(ladder), "teacher-store")["--subset"] == "train,valid,test"
    assert f"{data}/test.es-en.es.bin" in step.reads
    assert step.makes[-1] == "runs/run/teacher-store/test/sentences.npy"


def test_a_store_of_a_stage_in_shards_is_merged(workflow_of):
    ladder = "ladder: [0.7, {ratio: 0.4, soft-targets: store}]"
    workflow = workflow_of(f"{ladder}\nstore: {{shards: 3}}")
    parts = [f"stage-70-store-{number}-of-3" for number in (1, 2, 3)]
    for number, part in enumerate(parts, 1):
        assert words(workflow, part)["--shard"] == f"{number}/3"
        assert workflow.step(part).after == ["stage-70"]
        assert workflow.step(part).folder == "runs/run/stage-70-store"
    merged = workflow.step("stage-70-store")
    assert merged.commands[0][1] == "store-merge"
    assert merged.after == parts
    assert workflow.step("student").after == ["stage-70-store"]


@pytest.mark.parametrize("kind", ["distilled", "mixed"])
def test_translations_of_the_teacher_become_a_training_set(workflow_of, kind, large_teacher, data):
    ladder = f"ladder: [0.7, {{ratio: 0.4, data: {kind}}}]"
    asked = "distilled: {translate: {beam: 2}, distill-data: {max-repeated: 1}}"
    workflow = workflow_of(f"{ladder}\n{asked}")
    assert words(workflow, "teacher-translations") == {
        "--teacher": large_teacher,
        "--data": data,
        "--out": "runs/run/teacher-translations",
        "--beam": "2",
    }
    said = words(workflow, kind)
    assert said["--translations"] == "runs/run/teacher-translations"
    assert (said["--select"], said["--max-repeated"]) == ("best", "1")
    assert said.get("--mix") == {"mixed": "gold"}.get(kind)
    assert workflow.step(kind).after == ["teacher-translations"]
    assert args(workflow, "student")["data"] == f"runs/run/{kind}"
    assert workflow.step("student").after == [kind, "stage-70"]
    # nll_loss on references misleads there, so the last checkpoint counts
    assert workflow.step("student").makes == ["runs/run/student/checkpoint_last.pt"]
    assert args(workflow, "stage-70")["data"] == args(workflow, "undistilled")["data"] == data


def test_a_distilled_set_depends_on_every_set_that_it_takes_from_the_data(workflow_of, data):
    workflow = workflow_of("ladder: [{ratio: 0.5, data: mixed}]")
    splits = {f"{data}/{name}.es-en.en.bin" for name in ("train", "valid", "test")}
    assert splits <= {*workflow.step("mixed").reads}


def test_translations_in_shards_are_merged_and_made_once_for_all_stages(workflow_of):
    ladder = "ladder: [{ratio: 0.7, data: distilled}, {ratio: 0.4, data: mixed}]"
    workflow = workflow_of(f"{ladder}\ndistilled: {{shards: 2}}")
    assert list(kinds(workflow)) == [
        *("teacher-translations-1-of-2", "teacher-translations-2-of-2", "teacher-translations"),
        *("distilled", "stage-70", "mixed", "student", "undistilled", "evaluation"),
    ]
    merge = workflow.step("teacher-translations")
    assert merge.commands == [["fairseq-kd", "merge", "runs/run/teacher-translations"]]
    assert merge.makes == ["runs/run/teacher-translations/hypotheses.txt"]


def test_a_store_of_distilled_data_is_another_than_that_of_the_references(workflow_of):
    stored = "soft-targets: store, learns-from: teacher"
    workflow = workflow_of(
        f"ladder: [{{ratio: 0.7, {stored}}}, {{ratio: 0.4, {stored}, data: distilled}}]"
    )
    assert args(workflow, "stage-70")["kd_store"] == "runs/run/teacher-store"
    assert args(workflow, "student")["kd_store"] == "runs/run/teacher-store-distilled"
    assert words(workflow, "teacher-store-distilled")["--data"] == "runs/run/distilled"
    assert workflow.step("teacher-store-distilled").after == ["distilled"]


def test_translations_of_another_system_are_imported_in_the_place_of_the_teachers(
    workflow_of, data, tmp_path
):
    text = Path(data).parent / "text"
    sides = [(text / f"train.{each}").read_text().splitlines() for each in ("es", "en")]
    lines = ["\t".join(pair) for pair in zip(*sides, strict=True)]
    (tmp_path / "train.tsv").write_text("\n".join(lines))
    section = "import-translations: {hypotheses: train.tsv, format: tsv}"
    ladder = "ladder: [{ratio: 0.5, data: mixed}]"
    workflow = workflow_of(f"{ladder}\ndistilled: {{{section}}}")
    assert list(kinds(workflow))[:3] == ["imported-translations", "mixed", "student"]
    assert words(workflow, "imported-translations") == {
        **{"--hypotheses": "train.tsv", "--data": data, "--format": "tsv"},
        "--out": "runs/run/imported-translations",
    }
    step = workflow.step("imported-translations")
    assert {"train.tsv", f"{data}/train.es-en.es.bin"} <= {*step.reads}
    assert step.makes == ["runs/run/imported-translations/hypotheses.txt"]
    assert words(workflow, "mixed")["--translations"] == "runs/run/imported-translations"
    with pytest.raises(
        ValueError, match=r"distilled\.shards has no effect with import-translations"
    ):
        workflow_of(f"{ladder}\ndistilled: {{shards: 2, {section}}}")
    with pytest.raises(ValueError, match=r"import-translations lacks the key hypotheses\."):
        workflow_of(f"{ladder}\ndistilled: {{import-translations: {{format: tsv}}}}")


@pytest.mark.parametrize("what", ["another order", "the sources"])
def test_translations_of_other_sentences_are_refused_by_a_dry_run(workflow_of, data, what):
    path = Path(data).parent / "text" / f"train.{'es' if what == 'the sources' else 'en'}"
    lines = path.read_text().splitlines()
    Path("train.en").write_text("\n".join(lines[7:] + lines[:7]))
    section = "distilled: {import-translations: {hypotheses: train.en}}"
    with pytest.raises(
        ValueError,
        match=rf"run\.yaml: distilled\.import-translations: --hypotheses train\.en does not "
        rf"translate train in {data}: its chrF is",
    ):
        workflow_of(f"ladder: [{{ratio: 0.5, data: mixed}}]\n{section}")


def test_text_in_the_target_language_is_refused_by_a_dry_run(workflow_of, data):
    shutil.copy(Path(data).parent / "text" / "train.en", "news.es")
    section = "distilled: {binarise-text: {text: news.es}}"
    message = r"distilled\.binarise-text: --text news\.es must be in the source language, es, but"
    with pytest.raises(ValueError, match=message):
        workflow_of(f"ladder: [{{ratio: 0.5, data: mixed}}]\n{section}")


def test_text_is_prepared_by_the_vocabulary_of_a_teacher(workflow_of, prepared, large_teacher):
    for path in (prepared / "codes", *(prepared / "bin").glob("dict.*.txt")):
        shutil.copy(path, ".")
    text = f"data: {{text: {prepared / 'text'}, source: es, target: en, vocabulary: .}}"
    workflow = workflow_of(f"{text}\nladder: [0.5]")
    step = workflow.step("data")
    assert words(workflow, "data")["--vocabulary"] == "."
    assert {"codes", "dict.es.txt", "dict.en.txt"} <= set(step.reads)
    with pytest.raises(ValueError, match="merges has no effect beside data"):
        workflow_of(f"{text[:-1]}, merges: 9}}\nladder: [0.5]")
    with pytest.raises(FileNotFoundError, match=r"gone/codes is missing\. Give a folder wi"):
        workflow_of(f"{text.replace('y: .', 'y: gone')}\nladder: [0.5]")


@pytest.mark.parametrize("kind", ["distilled", "mixed"])
def test_monolingual_text_is_translated_in_the_place_of_the_training_set(workflow_of, data, kind):
    Path("news.es").write_text("Y dijo Dios: Sea la luz.\n")
    ladder = f"ladder: [{{ratio: 0.5, data: {kind}}}]"
    workflow = workflow_of(f"{ladder}\ndistilled: {{binarise-text: {{text: news.es}}}}")
    names = ["monolingual-text", "teacher-translations", kind, "student"]
    assert list(kinds(workflow))[:4] == names
    text = workflow.step("monolingual-text")
    assert words(workflow, text.name) == {
        **{"--text": "news.es", "--data": data, "--out": "runs/run/monolingual-text"}
    }
    assert {"news.es", f"{data}/dict.es.txt"} <= {*text.reads}
    assert words(workflow, names[1])["--data"] == "runs/run/monolingual-text"
    assert workflow.step(names[1]).after == ["monolingual-text"]
    distilling = words(workflow, kind)
    assert distilling["--data"] == "runs/run/monolingual-text"
    assert distilling.get("--gold-data") == {"mixed": data}.get(kind)


def test_monolingual_text_that_is_missing_is_named(workflow_of):
    section = "distilled: {binarise-text: {text: gone.es}}"
    with pytest.raises(FileNotFoundError, match=r"distilled\.binarise-text: gone\.es is missing"):
        workflow_of(f"ladder: [{{ratio: 0.5, data: mixed}}]\n{section}")


@pytest.mark.parametrize("flags", ["select: interpolation", "min-similarity: 20"])
def test_monolingual_text_has_no_references_to_compare_with(workflow_of, flags):
    section = f"binarise-text: {{text: x}}, translate: {{nbest: 5}}, distill-data: {{{flags}}}"
    message = r"run\.yaml: distilled\.binarise-text has no references, with which distilled\.distil"
    with pytest.raises(ValueError, match=message):
        workflow_of(f"ladder: [{{ratio: 0.5, data: mixed}}]\ndistilled: {{{section}}}")


@pytest.mark.parametrize(
    ("flags", "error", "message"),
    [
        ("bpe: sentencepiece", ValueError, r"bpe is sentencepiece, but the words of the data were"),
        ("codes: gone", FileNotFoundError, r"--codes gone does not exist\. Give the merges that"),
    ],
)
def test_monolingual_text_is_split_as_the_data(workflow_of, flags, error, message):
    Path("news.es").write_text("Y dijo Dios: Sea la luz.\n")
    section = f"distilled: {{binarise-text: {{text: news.es, {flags}}}}}"
    with pytest.raises(error, match=rf"run\.yaml: distilled\.binarise-text: {message}"):
        workflow_of(f"ladder: [{{ratio: 0.5, data: mixed}}]\n{section}")


def test_other_names_of_languages_than_those_of_a_bilingual_teacher_have_no_effect(workflow_of):
    message = (
        r"run\.yaml: teacher-languages has no effect, since the teacher itself names its languages "
        r"es and en\. Leave it out\."
    )
    with pytest.raises(ValueError, match=message):
        workflow_of("ladder: [0.5]\nteacher-languages: {source: es_XX, target: en_XX}")


ON_OWN = """\
ladder:
  - {ratio: 0.5, name: word, soft-targets: store}
  - {ratio: 0.5, name: own-1, start: word, data: own}
  - {ratio: 0.5, name: own-2, start: own-1, data: own, soft-targets: store, beta: 0.3}
"""


def test_a_student_translates_the_training_set_itself(workflow_of, data):
    workflow = workflow_of(f"{ON_OWN}own-translations: {{beam: 2}}")
    word = "runs/run/word/checkpoint_best.pt"
    assert words(workflow, "own-1-own-translations") == {
        "--teacher": word,
        "--data": data,
        "--out": "runs/run/own-1-own-translations",
        "--beam": "2",
    }
    assert workflow.step("own-1-own-translations").after == ["word"]
    assert words(workflow, "own-1-own") == {
        "--translations": "runs/run/own-1-own-translations",
        "--data": data,
        "--out": "runs/run/own-1-own",
        "--select": "best",
        "--max-length-ratio": "inf",
        "--max-copied": "inf",
        "--max-repeated": "inf",
    }
    greedy = words(workflow_of(ON_OWN), "own-2-own-translations")
    assert (greedy["--teacher"], greedy["--beam"]) == ("runs/run/own-1/checkpoint_last.pt", "1")


def test_a_student_learns_on_its_own_translations_from_the_teacher_alone(
    workflow_of, large_teacher
):
    workflow = workflow_of(ON_OWN)
    first, second = (args(workflow, name) for name in ("own-1", "own-2"))
    assert first["data"] == "runs/run/own-1-own"
    assert first["finetune_from_model"] == "runs/run/word/checkpoint_best.pt"
    assert first["kd_teacher"] == large_teacher
    assert (first["kd_alpha"], first["kd_beta"]) == (1, 0)
    assert (second["kd_alpha"], second["kd_beta"]) == (1, 0.3)
    assert second["kd_store"] == "runs/run/teacher-store-own-2-own"
    assert workflow.step("own-1").after == ["own-1-own", "word"]


def test_a_stage_that_starts_from_another_has_its_shape(workflow_of):
    ladder = "ladder: [{ratio: 0.7, name: word}, {ratio: 0.4, start: word}]"
    with pytest.raises(ValueError, match="student is trained with --encoder-") as error:
        workflow_of(ladder)
    assert "but word has" in str(error.value)


def test_a_stage_that_starts_from_another_learns_from_its_teacher(workflow_of, large_teacher):
    workflow = workflow_of("ladder: [{ratio: 0.5, name: word}, {ratio: 0.5, start: word}]")
    assert args(workflow, "student")["kd_teacher"] == large_teacher
    following = workflow_of("ladder: [{ratio: 0.5, name: word}, {ratio: 0.5}]")
    assert args(following, "student")["kd_teacher"] == "runs/run/word/checkpoint_best.pt"


@pytest.mark.parametrize(("device", "gpus"), [("cpu", 0), ("cuda", 1), ("both", 1)])
def test_an_evaluation_on_a_gpu_requests_one(workflow_of, device, gpus):
    workflow = workflow_of(f"ladder: [0.5]\nevaluate: {{device: {device}}}")
    assert workflow.step("evaluation").gpus == gpus
