"""A teacher that cannot teach is refused before the first update, by one sentence."""

import argparse
import re
import shutil
from pathlib import Path

import pytest
import torch
from harness import Setup, copy_dictionaries
from hostile_files import Intruder
from refusals import WORD_KD, refuses

from fairseq_kd.checkpoints.reading import read_checkpoint


@pytest.fixture
def edited(teacher, tmp_path):
    """Writes a changed copy of the teacher, with its dictionaries beside it."""

    def edit(change, name="edited.pt"):
        state = read_checkpoint(teacher)
        copy_dictionaries(state["cfg"]["task"]["data"], tmp_path)
        change(state)
        torch.save(state, tmp_path / name)
        return str(tmp_path / name)

    return edit


def test_a_missing_teacher_is_refused(setup):
    refuses(
        setup,
        "--kd-teacher nowhere.pt does not exist. Give the path of a fairseq checkpoint.",
        *["--kd-teacher", "nowhere.pt"],
        error=FileNotFoundError,
    )


def test_a_checkpoint_that_carries_code_is_not_run(setup, tmp_path):
    path, proof = tmp_path / "teacher.pt", tmp_path / "proof"
    torch.save({"model": {}, "cfg": Intruder(proof)}, path)
    with pytest.raises(ValueError, match=r"holds a Python object besides weights, posix\.mkdir"):
        setup(*WORD_KD, "--kd-teacher", path)
    assert not proof.exists()


@pytest.mark.parametrize(
    "architecture", ["transformer_lm", "roberta_base", "levenshtein_transformer"]
)
def test_a_teacher_of_another_family_is_refused(setup, edited, architecture):
    def rename(state):
        state["cfg"]["model"] = argparse.Namespace(arch=architecture, _name=architecture)

    path = edited(rename)
    refuses(
        setup,
        f"--kd-teacher {path} has the architecture '{architecture}', but must be an autoregressive "
        "encoder-decoder, such as transformer, lstm or fconv, which predicts one distribution per "
        "target token.",
        *["--kd-teacher", path],
    )


@pytest.mark.parametrize("part", ["architecture", "task"])
def test_a_teacher_of_an_unknown_plugin_is_refused(setup, edited, part):
    def rename(state):
        if part == "task":
            state["cfg"]["task"]["_name"] = "homemade"
        else:
            state["cfg"]["model"] = argparse.Namespace(arch="homemade", _name="homemade")

    path = edited(rename)
    refuses(
        setup,
        f"--kd-teacher {path} was trained with the {part} 'homemade', which fairseq does not know. "
        "Give the plugin that registers it by --user-dir; for fairseq-train, which takes one "
        "plugin, let it also import fairseq_kd.plugin.",
        *["--kd-teacher", path],
    )


def test_a_teacher_with_an_adaptive_softmax_is_refused(setup, data, tmp_path):
    adaptive = ["--adaptive-softmax-cutoff", "50,100", "--no-save-optimizer-state"]
    adaptive += ["--ddp-backend", "legacy_ddp"]  # fairseq's adaptive_loss asks for it
    path = setup("--criterion", "adaptive_loss", *adaptive).save(tmp_path / "adaptive.pt")
    refuses(
        setup,
        f"--kd-teacher {path} uses an adaptive softmax, which gives no logits to distil from. "
        "Train the teacher without --adaptive-softmax-cutoff.",
        *["--kd-teacher", path],
    )


def test_a_student_with_an_adaptive_softmax_is_refused(setup, teacher):
    student = setup(*WORD_KD, "--adaptive-softmax-cutoff", "50,100", "--kd-teacher", teacher)
    message = (
        "The student has an adaptive softmax, which gives no logits to compare with another "
        "model's. Train without --adaptive-softmax-cutoff."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        student.criterion(student.model, student.batch(0))


def test_a_swapped_language_pair_is_refused(setup, teacher):
    refuses(
        setup,
        f"--kd-teacher {teacher} translates es-en, but the student learns en-es (the pair is "
        "swapped). Give a teacher of the same direction, or change --source-lang and "
        "--target-lang.",
        *["--source-lang", "en", "--target-lang", "es", "--kd-teacher", teacher],
    )


def test_dictionaries_that_differ_are_refused(setup, teacher, tmp_path):
    data = Path(read_checkpoint(teacher)["cfg"]["task"]["data"])
    path = shutil.copy(teacher, tmp_path / "teacher.pt")
    lines = (data / "dict.es.txt").read_text(encoding="utf-8").splitlines()
    ours = lines[8].split(" ")[0]
    lines[8] = "über 7"
    for lang in ("es", "en"):
        (tmp_path / f"dict.{lang}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    refuses(
        setup,  # four special symbols precede the first line
        f"The source dictionaries of --kd-teacher {path} and {data} differ at index 12: "
        f'"über" against "{ours}". Binarise the data with --srcdict and the '
        "teacher's dict.es.txt.",
        *["--kd-teacher", path],
    )


def test_dictionaries_of_another_length_are_refused(setup, teacher, tmp_path):
    data = Path(read_checkpoint(teacher)["cfg"]["task"]["data"])
    path = shutil.copy(teacher, tmp_path / "teacher.pt")
    for lang in ("es", "en"):
        lines = (data / f"dict.{lang}.txt").read_text(encoding="utf-8").splitlines()
        (tmp_path / f"dict.{lang}.txt").write_text("\n".join(lines[:-9]) + "\n", encoding="utf-8")
    with pytest.raises(
        ValueError, match=f"does not fit the dictionaries in {tmp_path}: .*size mismatch"
    ):
        setup(*WORD_KD, "--kd-teacher", path)


def test_dictionaries_that_are_not_found_are_refused(setup, edited, tmp_path):
    def move(state):
        state["cfg"]["task"]["data"] = "moved-away"

    path = edited(move)
    (tmp_path / "dict.en.txt").unlink()
    searched = ", ".join(f"{each}/moved-away" for each in (Path.cwd(), *Path(path).parents[:4]))
    refuses(
        setup,
        f"The dictionaries dict.es.txt and dict.en.txt of --kd-teacher {path} are neither beside "
        f"it nor in moved-away, the data folder that it was trained on (searched: {searched}). "
        f"Copy them into {tmp_path}.",
        *["--kd-teacher", path],
        error=FileNotFoundError,
    )


def test_a_teacher_of_no_language_pair(setup, edited):
    def forget(state):
        state["cfg"]["task"]["source_lang"] = None
        state["cfg"]["task"]["data"] = "moved-away"

    path = edited(forget)
    searched = ", ".join(f"{each}/moved-away" for each in (Path.cwd(), *Path(path).parents[:4]))
    refuses(
        setup,
        f"--kd-teacher {path} does not record its language pair, and no data with a language pair "
        f"was found in moved-away, which it was trained on (searched: {searched}). Put that folder "
        "back, or give --kd-teacher-source-lang and --kd-teacher-target-lang.",
        *["--kd-teacher", path],
    )


@pytest.mark.parametrize(("side", "end"), [("encoder", "source"), ("decoder", "target")])
def test_a_teacher_that_knows_fewer_positions_than_sentences_may_have(
    setup, tmp_path, data, side, end
):
    copy_dictionaries(data, tmp_path)
    learned = [f"--{side}-learned-pos", f"--max-{end}-positions", "64"]
    plain = ["--criterion", "label_smoothed_cross_entropy", "--no-save-optimizer-state"]
    path = setup(*plain, *learned).save(tmp_path / "teacher.pt")
    refuses(
        setup,
        f"The {side} of --kd-teacher {path} has 64 positions, but --max-{end}-positions allows "
        f"sentences of 1024 tokens. Train with --max-{end}-positions 64.",
        *["--kd-teacher", path],
    )
    taught = setup(*WORD_KD, "--kd-teacher", path, f"--max-{end}-positions", "64")
    assert taught.criterion.teachers


def test_a_teacher_that_inferred_its_language_pair_teaches(setup, edited):
    def forget(state):
        state["cfg"]["task"]["source_lang"] = state["cfg"]["task"]["target_lang"] = None

    distilling = setup(*WORD_KD, "--kd-teacher", edited(forget))
    assert distilling.criterion(distilling.model, distilling.batch(0))[2]["kd_loss"] > 0


@pytest.mark.parametrize("subset", ["train", "valid"])
def test_damaged_data_are_named_before_the_first_update(data, teacher, tmp_path, subset):
    copied = shutil.copytree(data, tmp_path / "bin")
    path = Path(copied) / f"{subset}.es-en.es.bin"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(ValueError, match=f"^{path} is cut off or damaged: it has "):
        Setup(str(copied), *WORD_KD, "--kd-teacher", teacher)
