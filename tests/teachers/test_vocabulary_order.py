"""Multilingual teachers that have language tokens among their words, where the data have none."""

from pathlib import Path

import pytest
import torch
from fairseq.data import Dictionary
from multilingual import TASKS

from fairseq_kd import cli
from fairseq_kd.checkpoints.reading import read_checkpoint
from fairseq_kd.decoding.hypothesis_files import by_sentence
from fairseq_kd.models.real_tokens import RealTokens
from fairseq_kd.teachers.languages import Languages
from fairseq_kd.teachers.live_teacher import LiveTeacher
from fairseq_kd.teachers.loading import load_teacher
from fairseq_kd.teachers.vocabulary_order import ROWS, students_order

PAIR = ("es", "en")
POSITIONS = ["--max-source-positions", "1000", "--max-target-positions", "1000"]
UNUSED = "madeupwordforbt"


def in_another_order(path, folder):
    """Writes a multilingual model again, with its dictionaries in another order.

    Language tokens and an unused entry come first, and words follow from the last to the first.
    """
    state = read_checkpoint(path)
    _, task = load_teacher(path, "--teacher", Languages(PAIR))
    for side, (language, own) in enumerate(zip(PAIR, task.whole, strict=True)):
        first = own.nspecial
        order = [*range(first), *range(first, len(own))[::-1]]
        names = [own.symbols[row] for row in order]
        names.insert(first + 1, UNUSED)
        dictionary = Dictionary()
        for name in names[first:]:
            dictionary.add_symbol(name)
        dictionary.save(str(folder / f"dict.{language}.txt"))
        for key, rows in state["model"].items():
            if any(key.endswith(name) and ROWS[name] == side for name in ROWS):
                rows = rows[order]
                new = torch.full_like(rows[:1], 0.5)
                state["model"][key] = torch.cat([rows[: first + 1], new, rows[first + 1 :]])
    torch.save(state, folder / "teacher.pt")
    return str(folder / "teacher.pt")


@pytest.fixture(scope="session")
def reordered(multilingual, made_once):
    """A kind of model whose dictionaries hold language tokens before the words."""

    def of(kind):
        path = multilingual(kind)
        folder = made_once(f"reordered-{kind}", lambda folder: in_another_order(path, folder))
        return str(folder / "teacher.pt")

    return of


@pytest.mark.parametrize("kind", TASKS)
def test_it_teaches_as_if_language_tokens_followed_the_students_vocabulary(
    multilingual, reordered, setup, kind
):
    student = setup("--criterion", "label_smoothed_cross_entropy", *POSITIONS)
    sample = student.batch(0, 3, 5)
    real = RealTokens.of_mask(sample["target"].ne(student.task.target_dictionary.pad()))
    logits = []
    for path in (multilingual(kind), reordered(kind)):
        teacher = LiveTeacher.load(path, student.task, "float32")
        logits.append(teacher.soft_targets(sample, real)[0 : len(real.positions)].logits)
    assert logits[0].size(1) == len(student.task.target_dictionary)
    torch.testing.assert_close(logits[1], logits[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["m2m", "mbart"])
@pytest.mark.parametrize("engine", ["fairseq", "ctranslate2"])
def test_its_translations_are_the_same(
    multilingual, reordered, data, cache, tmp_path, kind, engine
):
    texts = []
    for path in (multilingual(kind), reordered(kind)):
        out = tmp_path / Path(path).parent.name
        words = ["--teacher", path, "--data", data, "--subset", "valid", "--engine", engine]
        words += ["--beam", "2", "--max-len-a", "0", "--max-len-b", "12", "--out", str(out)]
        words += ["--cache", str(cache)] if engine == "ctranslate2" else []
        words += ["--compute-type", "float32"] if engine == "ctranslate2" else []
        assert cli.main(["translate", *words]) == 0
        texts.append([nbest[0].tokens for _, nbest in by_sentence(out / "hypotheses.txt")])
    assert len(texts[0]) > 20
    assert texts[0] == texts[1]


def test_a_student_starts_with_the_rows_of_its_own_vocabulary(
    multilingual, reordered, data, tmp_path
):
    rows = []
    for path in (multilingual("m2m"), reordered("m2m")):
        out = tmp_path / Path(path).parent.name / "start.pt"
        words = ["--teacher", path, "--arch", "transformer", "--out", str(out)]
        words += ["--importance", "data", "--data", data, "--subset", "valid", "--"]
        for side in ("encoder", "decoder"):
            words += [f"--{side}-layers", "1", f"--{side}-embed-dim", "16"]
            words += [f"--{side}-ffn-embed-dim", "16", f"--{side}-attention-heads", "2"]
        assert cli.main(["inherit", *words]) == 0
        rows.append(read_checkpoint(out)["model"]["encoder.embed_tokens.weight"])
    torch.testing.assert_close(rows[1], rows[0])


def test_without_data_its_dictionaries_are_its_own(reordered):
    _, task = load_teacher(reordered("m2m"), "--teacher", Languages(PAIR))
    assert UNUSED in task.source_dictionary


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda tokens: tokens[:-1], id="a word is missing"),
        pytest.param(lambda tokens: [*tokens, "another"], id="a word is new"),
        pytest.param(lambda tokens: [*tokens, tokens[0]], id="a word twice"),
    ],
)
def test_dictionaries_that_differ_in_words_are_not_reordered(change, tmp_path):
    own = Dictionary()
    for word in ("__en__", "the", "of", "and", "to", "in"):
        own.add_symbol(word)
    for language in PAIR:
        words = change([word for word in own.symbols[own.nspecial :] if word != "__en__"])
        lines = [f"{word} 1" for word in words[:5]]
        lines += [f"{word} 1 #fairseq:overwrite" for word in words[5:]]
        Path(tmp_path, f"dict.{language}.txt").write_text("\n".join(lines) + "\n")
    languages = Languages(PAIR, folder=str(tmp_path))
    assert students_order(languages, (own, own), ["__en__"]) is None


def test_one_shared_vocabulary_is_not_reordered_in_two_ways(tmp_path):
    own = Dictionary()
    for word in ("__en__", "the", "of"):
        own.add_symbol(word)
    orders = {"es": ("the", "of"), "en": ("of", "the")}
    for language, words in orders.items():
        lines = "".join(f"{word} 1\n" for word in words)
        Path(tmp_path, f"dict.{language}.txt").write_text(lines)
    languages = Languages(PAIR, folder=str(tmp_path))
    assert students_order(languages, (own, own), ["__en__"]) is None
    same = Languages(("es", "es"), folder=str(tmp_path))
    assert students_order(same, (own, own), ["__en__"]).ids == ([0, 1, 2, 3, 5, 6, 4],) * 2


def test_a_run_takes_it(reordered, data, tmp_path, capsys):
    run = tmp_path / "run.yaml"
    run.write_text(
        f"data: {data}\nteacher: {reordered('m2m')}\nladder: [0.562]\n"
        "train: {max-update: 4, max-tokens: 1000, warmup-updates: 1}\n",
        encoding="utf-8",
    )
    assert cli.main(["progressive", str(run), "--dry-run"]) == 0, capsys.readouterr().err
