"""The command translate: every sentence in its place, with the teacher's own scores."""

import math
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from translations import binarised, hypotheses

from fairseq_kd.teachers.loading import load_teacher

pytestmark = pytest.mark.skipif(find_spec("ctranslate2") is None, reason="needs CTranslate2")
EOS = 2


def bits_of(models, source, target):
    """log2 of the mean of the models' probabilities, one step at a time, without a cache."""
    bits = 0.0
    for i, word in enumerate(target):
        before, sentence = torch.tensor([[EOS, *target[:i]]]), torch.tensor([source])
        length = torch.tensor([len(source)])
        logits = [model.eval()(sentence, length, before)[0][0, -1] for model in models]
        each = [one.double().softmax(0)[word].item() for one in logits]
        bits += math.log2(sum(each) / len(each))
    return bits


@pytest.mark.parametrize("lenpen", ["1", "0.3"])
@pytest.mark.parametrize("engine", ["ctranslate2", "fairseq"])
def test_scores_are_the_teachers_log2_probability_per_token(
    translate, ending_teacher, data, tmp_path, engine, lenpen
):
    flags = ["--subset", "valid", "--nbest", "2", "--lenpen", lenpen, "--engine", engine]
    flags += ["--compute-type", "float32"] if engine == "ctranslate2" else []
    translate(tmp_path / "out", *flags)
    model, task = load_teacher(ending_teacher)
    source, words = binarised(data, "valid", "es"), task.target_dictionary
    checked = 0
    for number, found in hypotheses(tmp_path / "out").items():
        for hypothesis in found:
            if not hypothesis.tokens.endswith(" .") or checked == 6:
                continue  # it may have been cut, so that no end is scored
            checked += 1
            target = [words.index(token) for token in hypothesis.tokens.split()] + [words.eos()]
            bits = bits_of([model], source[number], target)
            assert hypothesis.score == pytest.approx(bits / len(target), abs=0.01)
    assert checked == 6


@pytest.mark.parametrize("engine", ["ctranslate2", "fairseq", "ensemble"])
@pytest.mark.parametrize("temperature", ["0.5", "2"])
def test_scores_of_samples_are_the_teachers_at_any_temperature(
    translate, ending_teacher, teacher, data, tmp_path, engine, temperature
):
    teachers = [ending_teacher, teacher] if engine == "ensemble" else [ending_teacher]
    flags = ["--subset", "valid", "--nbest", "2", "--sampling", "--temperature", temperature]
    flags += ["--engine", "fairseq"] if engine != "ctranslate2" else ["--compute-type", "float32"]
    flags += ["--max-len-a", "0.5"]
    translate(tmp_path / "out", *flags, teacher=":".join(teachers))
    models = [load_teacher(path)[0] for path in teachers]
    source, words = binarised(data, "valid", "es"), load_teacher(teacher)[1].target_dictionary
    for number, found in list(hypotheses(tmp_path / "out").items())[:6]:
        assert found == sorted(found, key=lambda each: -each.score)
        for hypothesis in found:
            target = [words.index(token) for token in hypothesis.tokens.split()]
            ended = bits_of(models, source[number], [*target, EOS]) / (len(target) + 1)
            if engine == "ctranslate2" and abs(hypothesis.score - ended) >= 0.01:
                ended = bits_of(models, source[number], target) / len(target)  # it was cut
            assert hypothesis.score == pytest.approx(ended, abs=0.01)


@pytest.mark.parametrize("engine", ["ctranslate2", "fairseq"])
def test_no_translation_is_longer_than_asked_for(translate, tmp_path, engine):
    flags = ["--subset", "valid", "--max-len-a", "0", "--max-len-b", "5", "--engine", engine]
    translate(tmp_path / "out", *flags)
    lengths = [len(each.tokens.split()) for (each,) in hypotheses(tmp_path / "out").values()]
    assert max(lengths) == 5


def test_every_sentence_has_its_hypotheses_best_first(decoded, data):
    found = hypotheses(decoded)
    assert list(found) == list(range(len(binarised(data, "train", "es"))))
    for each in found.values():
        scores = [hypothesis.score for hypothesis in each]
        assert len(scores) == 4
        assert scores == sorted(scores, reverse=True)
    lines = Path(data, "dict.en.txt").read_text(encoding="utf-8").splitlines()
    known = {"<unk>", *(line.split()[0] for line in lines)}
    assert {word for each in found.values() for word in each[0].tokens.split()} <= known


@pytest.mark.parametrize("engine", ["ctranslate2", "fairseq"])
def test_what_cannot_be_translated_is_reported_and_keeps_its_line(
    translate, odd_data, tmp_path, engine, capsys
):
    assert translate(tmp_path / "out", "--engine", engine, folder=odd_data) == 0
    found = hypotheses(tmp_path / "out")
    assert [bool(found[i][0].tokens) for i in range(4)] == [True, False, False, True]
    text = "2 of 4 sentences are empty or have more than 1024 tokens, and were not translated: 1, 2"
    assert text in capsys.readouterr().err


def test_a_training_set_that_goes_on_is_reported(translate, odd_data, tmp_path, capsys):
    flags = ["--engine", "fairseq", "--beam", "1"]
    translate(tmp_path / "before", *flags, folder=odd_data)
    assert "train1" not in capsys.readouterr().err
    for path in list(odd_data.glob("train.es-en.*")):
        shutil.copy(path, odd_data / path.name.replace("train.", "train1."))
    assert translate(tmp_path / "out", *flags, folder=odd_data) == 0
    text = "this command does not decode. For it: fairseq-kd translate --subset train1 ... --out "
    assert text in capsys.readouterr().err
    assert translate(tmp_path / "on", *flags, "--subset", "train1", folder=odd_data) == 0
    assert "ANOTHER" not in capsys.readouterr().err


def test_a_source_alone_can_be_decoded(translate, data, tmp_path):
    folder = shutil.copytree(data, tmp_path / "mono")
    for suffix in ("bin", "idx"):
        (folder / f"valid.es-en.es.{suffix}").rename(folder / f"mono.es-None.es.{suffix}")
    assert translate(tmp_path / "out", "--subset", "mono", folder=folder) == 0
    assert len(hypotheses(tmp_path / "out")) == len(binarised(data, "valid", "en"))


def test_a_beam_that_is_too_narrow_for_nbest_is_widened_and_reported(translate, tmp_path, capsys):
    flags = ["--subset", "valid", "--beam", "1", "--nbest", "2"]
    assert translate(tmp_path / "out", *flags) == 0
    assert "--beam is 2, so that --nbest 2 are found" in capsys.readouterr().err
    assert {len(found) for found in hypotheses(tmp_path / "out").values()} == {2}
