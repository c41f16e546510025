"""Teachers from checkpoints: their dictionaries, their task, and fairseq versions."""

import re
import shutil
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from fairseq.tasks.translation import TranslationTask
from harness import LSTM, Setup, copy_dictionaries

from fairseq_kd.checkpoints.reading import read_checkpoint
from fairseq_kd.dictionaries import read_dictionary
from fairseq_kd.export.lineage import trained_on
from fairseq_kd.sizing.teacher_structure import TeacherStructure
from fairseq_kd.teachers.languages import Languages
from fairseq_kd.teachers.loading import load_teacher, teacher_languages


@pytest.fixture
def moved(teacher, tmp_path, monkeypatch):
    """The teacher with its dictionaries in a folder of its own, and no other data in sight."""
    data = Path(read_checkpoint(teacher)["cfg"]["task"]["data"])
    shutil.copy(teacher, tmp_path / "teacher.pt")
    copy_dictionaries(data, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "teacher.pt"


def save_with(path, change):
    state = read_checkpoint(path)
    change(state)
    torch.save(state, path.with_name("changed.pt"))
    return str(path.with_name("changed.pt"))


def test_dictionaries_beside_the_checkpoint_come_before_the_recorded_ones(moved):
    text = (moved.parent / "dict.en.txt").read_text(encoding="utf-8").replace("the ", "ye ")
    for lang in ("es", "en"):
        (moved.parent / f"dict.{lang}.txt").write_text(text, encoding="utf-8")
    _, task = load_teacher("teacher.pt")
    assert "ye" in task.target_dictionary.symbols


def test_a_teacher_trained_on_a_relative_path_is_found_where_it_lies(moved):
    def forget(state):
        state["cfg"]["task"]["data"] = "data-bin"

    _, task = load_teacher(save_with(moved, forget))
    assert task.cfg.data == str(moved.parent.resolve())


def test_a_folder_that_fairseq_takes_for_two_is_refused(moved):
    folder = moved.parent / "a:b"
    folder.mkdir()
    copy_dictionaries(moved.parent, folder)
    teacher = shutil.copy(moved, folder)
    message = f"--kd-teacher {teacher} has its dictionaries in {folder}, but fairseq separates "
    with pytest.raises(ValueError, match=f"^{message}folders by :. Rename the folder.$"):
        load_teacher(str(teacher))


@pytest.mark.parametrize("reads", ["model", "dictionary"])
def test_a_dictionary_that_is_no_text_is_named_with_its_line(moved, reads):
    path = moved.parent / "dict.en.txt"
    path.write_bytes(b"the 9\nma\xf1ana 3\n")
    text = f'^{path}, line 2, is not UTF-8: after "ma" comes the byte 0xf1. If the file'
    with pytest.raises(ValueError, match=text):
        load_teacher("teacher.pt") if reads == "model" else read_dictionary(path)


@pytest.mark.parametrize("languages", [("es", "en"), (None, None)])
def test_data_by_a_relative_path_are_found_from_the_folders_above_the_checkpoint(
    moved, data, languages, tmp_path_factory, monkeypatch
):
    def record(state):
        source, target = languages
        state["cfg"]["task"].update(data="bin/es-en:other", source_lang=source, target_lang=target)

    saved = Path(save_with(moved, record))
    project = tmp_path_factory.mktemp("project")
    folder = shutil.copytree(data, project / "bin" / "es-en")
    path = project / "runs" / "wide" / "seed1" / "checkpoint_best.pt"
    path.parent.mkdir(parents=True)
    shutil.move(saved, path)
    for place in (project, moved.parent):  # where the training was called, and somewhere else
        monkeypatch.chdir(place)
        _, task = load_teacher(str(path))
        assert Path(task.cfg.data).resolve() == folder
        assert (task.cfg.source_lang, task.cfg.target_lang) == ("es", "en")
    assert trained_on(path) == folder


NO_PATHS = {"long": "a" * 5000, "zero": "a\0b", "one of two": f"{'x' * 300}:y"}


@pytest.mark.parametrize("named", NO_PATHS.values(), ids=NO_PATHS)
def test_data_by_a_path_that_no_file_can_have_are_not_there(moved, named):
    saved = save_with(moved, lambda state: state["cfg"]["task"].update(data=named))
    (moved.parent / "dict.en.txt").unlink()
    message = (
        f"The dictionaries dict.es.txt and dict.en.txt of --kd-teacher {saved} are neither beside "
        f"it nor in {named[:200]}, the data folder that it was trained on"
    )
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(message)}"):
        load_teacher(saved)


def test_a_checkpoint_from_before_fairseq_had_configurations(moved):
    def age(state):
        cfg = state.pop("cfg")
        options = {"task": "translation", "criterion": "cross_entropy", "optimizer": "adam"}
        options |= {"data": cfg["task"]["data"], "source_lang": "es", "target_lang": "en"}
        options |= {"lr_scheduler": "fixed", "lr": [0.1], "adam_betas": "(0.9, 0.999)"}
        state["args"] = Namespace(**{**vars(cfg["model"]), **options})

    model, task = load_teacher(save_with(moved, age))
    want, _ = load_teacher(str(moved))
    assert task.cfg.source_lang == "es"
    weights = zip(model.parameters(), want.parameters(), strict=True)
    assert all(torch.equal(got, expected) for got, expected in weights)


def test_the_languages_are_those_that_are_recorded_or_those_of_the_data(moved, data):
    assert teacher_languages(str(moved)) == ("es", "en")

    def forget(folder):
        def change(state):
            state["cfg"]["task"].update(source_lang=None, target_lang=None, data=folder)

        return change

    assert teacher_languages(save_with(moved, forget(data))) == ("es", "en")
    with pytest.raises(
        ValueError, match="no data with a language pair was found in gone, which it was trained on "
    ):
        teacher_languages(save_with(moved, forget("gone")))


READERS = pytest.mark.parametrize("read", [load_teacher, TeacherStructure.of_checkpoint])


@READERS
@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        ("encoder_attention_heads", 0, "from 1 to 1,000,000, but is 0"),
        ("decoder_layers", 10**9, "from 1 to 1,000, but is 1000000000"),
        ("max_source_positions", 10**11, "from 1 to "),
        ("encoder_embed_dim", 2**40, "from 1 to 1,000,000, but is 1099511627776"),
    ],
)
def test_sizes_of_no_model_are_named_before_it_is_built(moved, read, option, value, text):
    path = save_with(moved, lambda state: setattr(state["cfg"]["model"], option, value))
    whole = f"has the option {option}, which must be a whole number {text}"
    with pytest.raises(ValueError, match=rf"^--.*{path} {whole}"):
        read(path)


@READERS
@pytest.mark.parametrize(
    ("option", "value", "right"),
    [
        ("encoder_ffn_embed_dim", 1_000_000, "32 by its weights"),
        ("decoder_embed_dim", 64, "16 by its weights"),
        ("decoder_output_dim", 100_000, "16 by its weights"),
        ("encoder_layers", 1000, "1 by its weights"),
        ("decoder_layers", 3, "1 by its weights"),
        ("max_source_positions", 10**9, "a whole number from 1 to 100,000"),
    ],
)
def test_sizes_that_the_weights_do_not_have_are_named_before_a_model_is_built(
    moved, read, option, value, right, monkeypatch
):
    monkeypatch.setattr(TranslationTask, "build_model", None)
    path = save_with(moved, lambda state: setattr(state["cfg"]["model"], option, value))
    message = f"{path} has the option {option}, which must be {right}, but is {value}. Give a file "
    with pytest.raises(ValueError, match=rf"^--.* {re.escape(message)}that fairseq-train wrote\.$"):
        read(path)


@pytest.mark.parametrize("error", [MemoryError(), ZeroDivisionError("by 0"), RuntimeError("full")])
def test_an_error_while_the_model_is_built_is_not_attributed_to_the_dictionaries(
    moved, error, monkeypatch
):
    def fail(*_):
        raise error

    monkeypatch.setattr(TranslationTask, "build_model", fail)
    message = f"^--kd-teacher {moved} has options that fairseq cannot use: {error or 'MemoryError'}"
    with pytest.raises(ValueError, match=message):
        load_teacher(str(moved))


def test_an_lstm_can_teach_and_be_taught(data, moved):
    lstm = Setup(data, "--criterion", "cross_entropy", training=LSTM)
    path = lstm.save(moved.parent / "lstm.pt")
    distil = ["--criterion", "word_kd", "--kd-teacher", path]
    for student in (Setup(data, *distil), Setup(data, *distil, training=LSTM)):
        loss, _, log = student.criterion(student.model, student.batch(0, 1))
        assert log["kd_loss"] > 0
        loss.backward()


def test_names_of_languages_that_a_bilingual_teacher_does_not_use_are_refused(teacher):
    languages = Languages(("es", "en"), ("es_XX", "en_XX"))
    message = (
        rf"^--kd-teacher-source-lang and --kd-teacher-target-lang have no effect: --kd-teacher "
        rf"{teacher} itself names its languages es and en\. Leave them out\.$"
    )
    with pytest.raises(ValueError, match=message):
        load_teacher(teacher, "--kd-teacher", languages)
    load_teacher(teacher, "--kd-teacher", languages._replace(several=True))
