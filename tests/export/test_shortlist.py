"""The lexical shortlist of an export: its candidates, its measurement, and its use."""

import re
import shutil
import sys
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from fairseq.data import Dictionary
from harness import run

if find_spec("ctranslate2") is None:
    pytest.skip("needs CTranslate2", allow_module_level=True)

from fairseq_kd import cli
from fairseq_kd.decoding.conversion import write_converted
from fairseq_kd.decoding.ctranslate2_engine import CTranslate2Engine
from fairseq_kd.decoding.engine import Batch
from fairseq_kd.decoding.options import Search
from fairseq_kd.decoding.subset import Subset, read_subset
from fairseq_kd.decoding.translation_model import load_checkpoint
from fairseq_kd.evaluation.systems import sample_of
from fairseq_kd.export import shortlist as shortlists
from fairseq_kd.export.example import translate_py
from fairseq_kd.export.shortlist import (
    Shortlist,
    ShortlistTrial,
    aligned_tokens,
    alignments_of,
    shortlist_of,
)

PAIR = ("es", "en")
A, B, C, D = 4, 5, 6, 7  # the first tokens of a dictionary


def dictionary(*symbols):
    made = Dictionary()
    for symbol in symbols:
        made.add_symbol(symbol)
    return made


def subset_of(source, target, source_dictionary, target_dictionary):
    sides = [[torch.tensor(each) for each in side] for side in (source, target)]
    return Subset(Path(), "test", PAIR, "", source_dictionary, target_dictionary, *sides)


@pytest.fixture(scope="module")
def checkpoint(ending_teacher):
    return load_checkpoint(ending_teacher, "--student")


@pytest.fixture(scope="module")
def training(data):
    return read_subset(Path(data), "train", PAIR)


@pytest.fixture(scope="module")
def model(checkpoint, training, tmp_path_factory):
    """The folder of the converted model."""
    folder = tmp_path_factory.mktemp("model") / "model"
    write_converted(checkpoint, training, folder, "float32")
    return folder


# ---- candidates


def test_the_candidates_are_the_most_frequent_and_the_most_often_aligned(training):
    draw, size = np.random.default_rng(3), len(training.target_dictionary)
    batches = [4 + draw.integers(0, (9, 40), (n, 2)) for n in (50, 1, 0, 200)]
    pairs, tokens = defaultdict(int), defaultdict(int)
    for source, target in (link for batch in batches for link in batch.tolist()):
        pairs[source, target] += 1
        tokens[target] += 1
    found = shortlist_of(batches, training, everywhere=5, each=3)
    assert found.everywhere[:3] == (0, 2, 3)
    assert len(found.everywhere) == 8
    rest = [tokens[each] for each in range(size) if each not in found.everywhere]
    assert min(tokens[each] for each in found.everywhere[3:]) >= max(rest)
    for source in range(4, len(training.source_dictionary)):
        own = found.of_token[source]
        copied = training.target_dictionary.index(training.source_dictionary[source])
        assert copied in own
        aligned = sorted((pairs[source, each] for each in range(size)), reverse=True)[:3]
        shown = own[:-1] if own[-1] == copied and len(own) == 1 + np.count_nonzero(aligned) else own
        assert [pairs[source, each] for each in shown] == [n for n in aligned if n]


def test_a_token_that_the_target_dictionary_lacks_is_no_candidate():
    source, target = dictionary("1990", "casa"), dictionary("1990", "house")
    training = subset_of([[A, 2]], [[A, 2]], source, target)
    found = shortlist_of([np.array([[B, B]])], training, everywhere=9, each=9)
    assert found == Shortlist((0, 2, 3, B), {A: (A,), B: (B,)})


def test_the_coverage_of_references_by_hand():
    words = dictionary("a", "b", "c", "d")
    subset = subset_of([[A, B, 2], [C, 2]], [[A, C, D, 2], [D, D, 2]], words, words)
    covered, candidates = Shortlist((0, 2, 3, C), {A: (A, B), B: (B,), C: (D,)}).coverage(subset)
    assert covered == 6 / 7  # not the d of the first sentence
    assert candidates == (6 + 5) / 2


def test_the_file_names_tokens_as_the_converted_model_does(tmp_path):
    source, target = dictionary("uno", "dos@@"), dictionary("one", "two")
    subset = subset_of([[A, 2]], [[A, 2]], source, target)
    Shortlist((0, 2, 3, 1, A), {A: (A, B), B: ()}).write(tmp_path / "vmap.txt", subset)
    text = (tmp_path / "vmap.txt").read_text(encoding="utf-8")
    assert text == "\t<s> </s> <unk> <blank> one\nuno\tone two\ndos@@\t\n"


# ---- alignments


def attention_of(checkpoint, source, target):
    """(L, S) the sum of the attention of the heads for one pair, by the formula in float64."""
    block = checkpoint.model.decoder.layers[-1].encoder_attn
    inputs = []
    hook = block.register_forward_pre_hook(
        lambda module, args, named: inputs.append((named.get("query", *args[:1]), named["key"])),
        with_kwargs=True,
    )
    previous = torch.cat((target[-1:], target[:-1]))
    with torch.no_grad():
        checkpoint.model(source[None], torch.tensor([len(source)]), previous[None])
    hook.remove()
    ((query, key),) = inputs
    query, key = (
        (states[:, 0].double() @ part.weight.double().T + part.bias.double())
        for states, part in ((query, block.q_proj), (key, block.k_proj))
    )
    maps = 0
    for head in range(block.num_heads):
        part = slice(head * block.head_dim, (head + 1) * block.head_dim)
        maps += torch.softmax(query[:, part] @ key[:, part].T / block.head_dim**0.5, dim=-1)
    return maps


def aligned_by(maps, source, target):
    """The source token of each target token that is no special one."""
    real = [place for place, token in enumerate(source.tolist()) if token > 3]
    return [
        (int(source[max(real, key=lambda place: float(row[place]))]), token)
        for row, token in zip(maps, target.tolist(), strict=True)
        if token > 3
    ]


def test_a_target_token_is_aligned_where_the_last_layer_attends_most(checkpoint, training):
    indices = [*range(20)]
    sample = sample_of(training, indices)
    expected, ends = [], 0
    for i in sorted(indices, key=lambda i: -len(training.source[i])):
        source, target = training.source[i].long(), training.target[i].long()
        maps = attention_of(checkpoint, source, target)
        ends += int((maps.argmax(dim=-1) == len(source) - 1).sum())
        expected += aligned_by(maps, source, target)
    assert ends > 0  # where the second highest attention counts
    found = aligned_tokens(checkpoint.model, sample, training.target_dictionary)
    assert list(map(tuple, found.tolist())) == expected


def test_every_pair_is_aligned_once_and_a_large_set_evenly(checkpoint, training, monkeypatch):
    def lengths():
        return sum(map(len, alignments_of(checkpoint.model, training)))

    tokens = [sum(token > 3 for token in each.tolist()) for each in training.target]
    assert lengths() == sum(tokens)
    monkeypatch.setattr(shortlists, "MOST_PAIRS", len(training) // 3)
    assert lengths() == sum(tokens[:: -(-len(training) // (len(training) // 3))])


def test_pairs_that_the_model_cannot_read_are_left_out(checkpoint, training, monkeypatch):
    limits = (12, 14)
    monkeypatch.setattr(checkpoint.model, "max_positions", lambda: limits)
    expected = sum(
        sum(token > 3 for token in target.tolist())
        for source, target in zip(training.source, training.target, strict=True)
        if len(source) <= 12 and len(target) <= 14
    )
    assert 0 < expected == sum(map(len, alignments_of(checkpoint.model, training)))


# ---- CTranslate2


def translations(model, training, **options):
    """The translation of each sentence of a set, as token ids."""
    search = Search(beam=2)
    engine = CTranslate2Engine(
        model, training.source_dictionary, 50, search, "cpu", "float32", 1, **options
    )
    batches = (Batch(0, [training.source[i].long()]) for i in range(40))
    return [
        [training.target_dictionary.index(token) for token in best.tokens.split()]
        for ((best, *_),) in engine.translate(batches)
    ]


def test_ctranslate2_chooses_among_the_candidates_alone(model, training):
    found = shortlist_of([4 + np.arange(40).reshape(20, 2)], training, everywhere=9, each=2)
    found.write(model / "vmap.txt", training)

    def outside(translated):
        return sum(
            token not in found.candidates(source.tolist())
            for source, tokens in zip(training.source, translated, strict=False)
            for token in tokens
        )

    assert outside(translations(model, training, shortlist=True)) == 0
    assert outside(translations(model, training)) > 0
    whole = Shortlist(tuple(range(len(training.target_dictionary))), {})
    whole.write(model / "vmap.txt", training)
    assert translations(model, training, shortlist=True) == translations(model, training)


def test_translations_with_other_candidates_are_not_taken_for_the_same(model, training):
    identities = []
    for everywhere in ((0, 2, 3), (0, 2, 3, 4), None):
        if everywhere:
            Shortlist(everywhere, {}).write(model / "vmap.txt", training)
        engine = CTranslate2Engine(
            *(model, training.source_dictionary, 50, Search(), "cpu", "float32", 1),
            shortlist=everywhere is not None,
        )
        identities.append(engine.identity)
        alone = engine.batch_tokens == 1  # a batch would share its candidates
        assert alone is (everywhere is not None)
    assert len({each.get("shortlist") for each in identities}) == 3


# ---- export


@pytest.fixture(scope="module")
def export(ending_teacher, cache):
    """Runs the command export with a shortlist in this process."""

    def exported(out, *flags):
        words = ["export", ending_teacher, "--out", out, "--threads", "1", "--cache", cache]
        words += ["--beam", "2", "--shortlist"]
        return cli.main([str(word) for word in (*words, *flags)])

    return exported


@pytest.fixture(scope="module")
def exported(export, tmp_path_factory):
    """An export with a shortlist that is kept, whatever it costs."""
    out = tmp_path_factory.mktemp("export") / "student"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shortlists, "MOST_BLEU_LOST", 100)
        assert export(out) == 0
    return out


def card(folder):
    return (folder / "README.md").read_text(encoding="utf-8")


def test_an_export_holds_the_shortlist_and_the_card_has_its_figures(exported, checkpoint, training):
    found = shortlist_of(alignments_of(checkpoint.model, training), training)
    lines = (exported / "vmap.txt").read_text(encoding="utf-8").split("\n")
    assert len(lines) == 2 + len(found.of_token)
    assert "vmap.txt\n" in (exported / "SHA256SUMS").read_text()
    assert run("sha256sum", "--check", "--quiet", "SHA256SUMS", cwd=exported).stdout == ""
    text = card(exported)
    rows = re.findall(r"\| (checkpoint, fairseq|this, int8.*?) +\|", text)
    assert rows == ["checkpoint, fairseq", "this, int8, shortlist", "this, int8"]
    section = text.partition("## Lexical shortlist\n\n")[2].partition("\n\n")[0]
    test = read_subset(training.folder, "test", PAIR)
    covered, candidates = found.coverage(test)
    size = len(training.target_dictionary)
    assert section.startswith(f"The model chooses among {candidates:,.0f} of {size} tokens, the ")
    assert f": {100 * covered:.1f} % of the tokens of the references are among them. " in section
    row = r"\| this, int8{} +\| +\S+ MiB \| +([\d.]+) \|"
    change, short, whole = (
        float(re.search(pattern, text)[1])
        for pattern in (r"BLEU changes by (\S+),", row.format(", shortlist"), row.format(""))
    )
    assert change == pytest.approx(short - whole, abs=0.11)  # of rounded figures
    bleu = re.search(r"\| this, int8, shortlist +\| +\S+ MiB \| +([\d.]+) \|", text)[1]
    assert round(float(re.search(r'"value": ([\d.]+)', text)[1]), 1) == float(bleu)


def test_the_program_uses_the_shortlist_unless_the_flag_says_otherwise(exported, data, tmp_path):
    text = (Path(data).parent / "text" / "test.es").read_text(encoding="utf-8")
    moved = shutil.copytree(exported, tmp_path / "moved")
    (moved / "vmap.txt").write_text("\t</s>\n")  # nothing but the end
    sums = (moved / "SHA256SUMS").read_text()
    digest = run("sha256sum", moved / "vmap.txt").stdout.split()[0]
    (moved / "SHA256SUMS").write_text(re.sub(r"\w+(?=  vmap.txt)", digest, sums))

    def translated(folder, *flags):
        (tmp_path / "text").write_text(text, encoding="utf-8")
        command = " ".join([sys.executable, f"{folder}/translate.py", *flags])
        return run("bash", "-c", f"{command} < {tmp_path}/text", cwd="/").stdout

    whole = translated(exported, "--whole-vocabulary")
    assert translated(moved, "--whole-vocabulary") == whole
    short = translated(moved)
    assert short != whole
    assert not re.search(r"[b-z]", short.replace("<unk>", "").replace("<s>", ""))
    assert translated(exported).count("\n") == whole.count("\n")


def test_the_program_is_run_again_with_the_shortlist(export, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shortlists, "MOST_BLEU_LOST", 100)

    def program(*args):
        made = translate_py(*args)
        return "import sys; sys.exit('broken')" if "use_vmap" in made else made

    monkeypatch.setattr("fairseq_kd.export.student.translate_py", program)
    assert export(tmp_path / "out") == 2
    message = "The exported translate.py failed: broken. Nothing was exported.\n"
    assert capsys.readouterr().err.endswith(message)
    assert not (tmp_path / "out").exists()


def test_a_damaged_shortlist_is_named(exported, tmp_path):
    moved = shutil.copytree(exported, tmp_path / "moved")
    (moved / "vmap.txt").write_text("\t</s>\n")
    done = run(sys.executable, moved / "translate.py", check=False)
    message = f"{moved}/vmap.txt is damaged: its hash differs from SHA256SUMS. Copy it again.\n"
    assert (done.returncode, done.stderr) == (1, message)


def test_a_shortlist_that_loses_is_left_out(export, tmp_path, monkeypatch, capsys):
    nothing = Shortlist((0, 2, 3), {})
    monkeypatch.setattr("fairseq_kd.export.student.shortlist_of", lambda *_: nothing)
    assert export(tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert re.search(r"\); the shortlist is left out, as it loses \d\.\d\d BLEU; see ", printed)
    text = card(tmp_path / "out")
    assert "A shortlist of 3 of " in text
    assert re.search(r" is left out: it loses \d\.\d\d BLEU, more than 0\.2\. ", text)
    assert re.search(r"\| this, int8, shortlist +\| ", text)
    assert not (tmp_path / "out" / "vmap.txt").exists()
    assert "vmap" not in (tmp_path / "out" / "SHA256SUMS").read_text()
    program = (tmp_path / "out" / "translate.py").read_text(encoding="utf-8")
    assert "vmap" not in program
    assert "whole" not in program


@pytest.mark.parametrize(("lost", "kept"), [(-1.0, True), (0.204, True), (0.206, False)])
def test_a_shortlist_may_lose_a_fifth_of_a_point(lost, kept):
    assert ShortlistTrial(None, 9, lost, 1.0, 1.0).kept is kept


def without(data, folder, pattern):
    """A copy of data without some of their files."""
    return Path(shutil.copytree(data, folder, ignore=shutil.ignore_patterns(pattern)))


def test_data_without_the_training_set_are_refused(export, data, tmp_path, capsys):
    folder = without(data, tmp_path / "bin", "train.*")
    assert export(tmp_path / "out", "--data", folder) == 2
    assert capsys.readouterr().err.endswith(
        f"--shortlist needs the training set, but {folder} holds no train.es-en.es. Give to --data "
        "the folder of the training.\n"
    )
    assert not (tmp_path / "out").exists()


def test_a_training_set_without_references_is_refused(export, data, tmp_path, capsys):
    folder = without(data, tmp_path / "bin", "train.*.en.*")
    assert export(tmp_path / "out", "--data", folder) == 2
    assert capsys.readouterr().err.endswith(
        f"{folder} holds no references of train. Binarise it with both languages.\n"
    )
