"""``fairseq-kd inherit --importance data``: the data, the student that is written, and refusals."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from harness import Setup, copy_dictionaries
from layered import SHAPE

from fairseq_kd import cli
from fairseq_kd.checkpoints.reading import read_checkpoint
from fairseq_kd.inheritance.importance_data import ImportanceData, ImportanceMeasurement
from fairseq_kd.teachers.loading import load_teacher

PLAIN = ["--criterion", "label_smoothed_cross_entropy"]
ALIKE = ["--encoder-layers", "1", "--decoder-layers", "1", "--encoder-embed-dim", "16"]
ALIKE += ["--decoder-embed-dim", "16", "--encoder-attention-heads", "2"]
ALIKE += ["--decoder-attention-heads", "2", "--encoder-ffn-embed-dim", "32"]
ALIKE += ["--decoder-ffn-embed-dim", "32"]
NORMS = ["--encoder-normalize-before", "--decoder-normalize-before"]
FEWER = [*NORMS, *ALIKE, "--encoder-ffn-embed-dim", "8"]


@pytest.fixture
def words(teacher, data, tmp_path):
    """A command line of inherit; flags after these win over them."""

    def line(*flags, model=FEWER, folder=data):
        command = ["inherit", "--teacher", teacher, "--arch", "transformer"]
        command += ["--out", tmp_path / "start.pt", "--importance", "data", "--data", folder]
        return [str(word) for word in (*command, *flags, "--", *model)]

    return line


def measurement(teacher, data, **more):
    data = ImportanceData(**{"folder": Path(data), "subset": "valid", "max_tokens": 400, **more})
    model, task = load_teacher(teacher, "--teacher", data.languages(None))
    return ImportanceMeasurement("--teacher t.pt", model, task, data)


def test_the_student_has_the_units_that_are_most_active(words, teacher, data, tmp_path, capsys):
    assert cli.main(words("--subset", "valid", "--sentences", "15")) == 0
    shown = capsys.readouterr()
    assert "importance on valid: 100%" in shown.err
    assert "encoder layer 0: layer 0, all heads, 8 of 32 units" in shown.out
    model, _ = load_teacher(teacher, "--teacher")
    layer, setup, seen = model.encoder.layers[0], Setup(data, *PLAIN), []
    model.eval()
    layer.fc2.register_forward_pre_hook(lambda fc2, inputs: seen.append(inputs[0][:, 0]))
    assert len(setup.dataset) == 22
    for i in range(15):  # of 22, at equal distances
        model(**setup.batch(i * 22 // 15)["net_input"])
    activity = torch.cat(seen).abs().double().mean(0) * layer.fc2.weight.norm(dim=0)
    kept = activity.topk(8).indices.sort().values
    state = read_checkpoint(tmp_path / "start.pt")
    assert torch.equal(state["model"]["encoder.layers.0.fc1.weight"], layer.fc1.weight[kept])


def test_a_second_call_keeps_the_file_of_the_same_data_alone(words, capsys):
    assert cli.main(words("--sentences", "20")) == 0
    capsys.readouterr()
    assert cli.main(words("--sentences", "20", "--max-tokens", "70")) == 0
    shown = capsys.readouterr()
    assert shown.out.endswith("start.pt already exists\n")
    assert "importance on" not in shown.err
    assert cli.main(words("--sentences", "21")) == 2
    assert "start.pt" in capsys.readouterr().err


def test_the_layers_that_matter_least_are_left_out(words, large, capsys):
    model = [*NORMS, *ALIKE, *SHAPE[:-1], "--encoder-layers", "2", "--decoder-layers", "1"]
    line = words("--sentences", "20", "--decoder-layers", "3", "--teacher", large, model=model)
    assert cli.main(line) == 0
    shown = capsys.readouterr().out
    costs = re.search(r"encoder layers left out one at a time: nll_loss (.*) \(teacher: ", shown)[1]
    costs = [float(cost) for cost in costs.split(", ")]
    kept = [int(layer) for layer in re.findall(r"encoder layer \d: layer (\d)", shown)]
    assert kept == sorted(sorted(range(3), key=lambda i: -costs[i])[:2])
    assert "decoder layers left out" not in shown
    assert "decoder layer 0: layer 3, " in shown


def test_the_size_of_batches_changes_nothing(teacher, data):
    first, *others = [
        measurement(teacher, data, sentences=25, max_tokens=size).measure([])
        for size in (1, 100, 4000)
    ]
    for other in others:
        for name in ("heads", "scores", "content", "units"):
            for key, values in getattr(first, name).items():
                got = getattr(other, name)[key]
                torch.testing.assert_close(got, values, rtol=1e-4, atol=1e-6)


def test_sentences_that_the_teacher_cannot_read_are_left_out(teacher, odd_data):
    found = measurement(teacher, odd_data, subset="train", sentences=4)
    found.teacher.model.encoder.max_source_positions = 100
    found.task.load_dataset("train")
    found.dataset = found.task.dataset("train")
    assert found._readable() == [0, 1, 3]
    found.teacher.model.encoder.max_source_positions = 0
    message = (
        f"--teacher t.pt reads sentences of at most 0 and 1024 tokens, but all of train in --data "
        f"{odd_data} are longer. Give data with shorter ones."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        found.measure([])


def test_a_teacher_that_computes_nan_is_refused(teacher, data):
    found = measurement(teacher, data, subset="valid", sentences=4)
    for parameter in found.teacher.model.decoder.parameters():
        parameter.data *= 1e30
    message = (
        "--teacher t.pt computes NaN or infinity for the sentences of valid, as after a diverged "
        "training. Give another checkpoint."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        found.measure(["decoder"])


def test_attention_to_source_and_target_at_once_is_refused(teacher, data):
    model, task = load_teacher(teacher, "--teacher")
    model.decoder.layers[0].cross_self_attention = True
    message = (
        "--teacher t.pt attends to source and target at once (--cross-self-attention), which "
        "--importance data cannot measure. Leave it out."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ImportanceMeasurement(
            "--teacher t.pt", model, task, ImportanceData(Path(data), "valid", 9, 400)
        )


REFUSALS = {  # flags, and the message
    "no effect": (
        ["--importance", "data", "--data", "{data}"],
        [*NORMS, *ALIKE],
        "--importance data has no effect on a student with all heads and units of its teacher's "
        "layers, and no layers to choose. Leave it out.",
    ),
    "no data": (
        ["--importance", "data"],
        FEWER,
        "--importance data needs --data. Give the folder that fairseq-train reads.",
    ),
    **{
        f"{flag} with weights": (
            [flag, value],
            FEWER,
            f"{flag} has no effect without --importance data. Add that, or leave it out.",
        )
        for flag, value in (
            *(("--data", "{data}"), ("--subset", "valid")),
            *(("--sentences", "9"), ("--max-tokens", "9")),
        )
    },
    "no folder": (
        ["--importance", "data", "--data", "nowhere"],
        FEWER,
        "--data nowhere is not a folder that fairseq-preprocess wrote. Give one.",
    ),
    "no such set": (
        ["--importance", "data", "--data", "{data}", "--subset", "dev"],
        FEWER,
        "{data} holds no dev of es and en.",
    ),
    "a wide student": (
        ["--importance", "data", "--data", "{data}"],
        [*NORMS, *ALIKE, "--encoder-ffn-embed-dim", "33"],
        "The student has 33 feed-forward units, but layer 0 of the teacher's encoder has 32. "
        "Choose a student with at most as many.",
    ),
}


@pytest.mark.parametrize("flags", REFUSALS)
def test_mistakes_end_in_one_sentence_before_anything_is_read(
    teacher, data, tmp_path, capsys, flags
):
    flags, model, message = REFUSALS[flags]
    out = tmp_path / "start.pt"
    words = ["inherit", "--teacher", teacher, "--arch", "transformer", "--out", str(out)]
    flags = [flag.replace("{data}", data) for flag in flags]
    assert cli.main([*words, *flags, "--", *model]) == 2
    shown = capsys.readouterr().err
    assert shown == f"fairseq-kd inherit: {message.replace('{data}', data)}\n"
    assert not out.exists()


def test_data_of_other_dictionaries_are_refused(words, data, tmp_path, capsys):
    folder = copy_dictionaries(data, tmp_path / "other")
    for path in Path(data).glob("train.*"):
        shutil.copy(path, folder)
    for language in ("es", "en"):
        path = folder / f"dict.{language}.txt"
        first, second, *others = path.read_text(encoding="utf-8").splitlines(keepends=True)
        path.write_text("".join([second, first, *others]), encoding="utf-8")
    names = [line.partition(" ")[0] for line in (first, second)]
    assert cli.main(words(folder=folder)) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("fairseq-kd inherit: The source dictionaries of --teacher ")
    assert shown.endswith(
        f'differ at index 4: "{names[0]}" against "{names[1]}". Binarise the data with --srcdict '
        "and the teacher's dict.es.txt.\n"
    )
