"""Translates the test set, and reads its sources and references as plain text."""

import sys
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterable, List, Optional, Sequence, Tuple

from fairseq.data import Dictionary
from fairseq.data.encoders import build_tokenizer
from torch import Tensor

from fairseq_kd.decoding.decode import LOCK, decode, settings_id, settings_of
from fairseq_kd.decoding.engine import Engine
from fairseq_kd.decoding.hypothesis_files import by_sentence
from fairseq_kd.decoding.subset import Subset, words_of
from fairseq_kd.evaluation.results import IN_INT8, int8_name
from fairseq_kd.evaluation.variants import Variant
from fairseq_kd.files.atomic_files import atomic_write, make_folder
from fairseq_kd.files.names import why_no_file
from fairseq_kd.parallel_text import SplitWords, letters_of, lines_of
from fairseq_kd.shard import Shard

Detokeniser = Callable[[str], str]
SAME_SHARE = 0.9  # of the sentences that a text beside the data must have


@dataclass(frozen=True)
class PlainText:
    """Sources and references of a set, detokenised.

    Args:
        sources: plain source sentences, in the set's order.
        references: plain reference translations.
        origin: where the references come from, as a phrase for the report.
    """

    sources: List[str]
    references: List[str]
    origin: str


def detokeniser(tokenizer: str, remove_bpe: str, language: str) -> Detokeniser:
    """A function that turns a model's tokens into plain text, as ``fairseq-generate`` does.

    Args:
        tokenizer: ``moses`` or ``none``, as in ``fairseq-generate --tokenizer``.
        remove_bpe: how words were split, as in ``--remove-bpe``.
        language: whose rules for spaces hold.
    """
    if tokenizer == "none":
        return lambda tokens: words_of(tokens, remove_bpe)
    moses = build_tokenizer(
        Namespace(tokenizer=tokenizer, source_lang=language, target_lang=language)
    )
    return lambda tokens: moses.decode(words_of(tokens, remove_bpe))


def plain_text(
    subset: Subset, reference: Optional[Path], detokenisers: Tuple[Detokeniser, Detokeniser]
) -> PlainText:
    """The texts of a set: the user's, those of fairseq-kd prepare, or the binarised ones.

    Args:
        subset: the set, with references.
        reference: a file of plain references, or None to look for ``../text/SUBSET.LANG``.
        detokenisers: of the source and the target language.

    Raises:
        FileNotFoundError: there is no such reference file.
        ValueError: its number of lines is not that of the set, or it is not UTF-8.
    """
    beside = [
        subset.folder.resolve().parent / "text" / f"{subset.name}.{each}" for each in subset.pair
    ]
    binarised = _detokenised(subset.source, subset.source_dictionary, detokenisers[0])
    sources = _text_beside(beside[0], subset, binarised) or binarised
    binarised = _detokenised(subset.target, subset.target_dictionary, detokenisers[1])
    if reference is not None:
        references = read_references(reference, subset)
        _check_split(f"--reference {reference}", references, binarised)
        other, known = _others(references, binarised)
        if other > (1 - SAME_SHARE) * known:
            print(
                f"--reference {reference}: {other} of its lines are not the sentences of "
                f"{subset.name} in {subset.folder}; see that line N is sentence N",
                file=sys.stderr,
            )
        return PlainText(sources, references, f"the lines of {reference.name}")
    text = _text_beside(beside[1], subset, binarised)
    if text is not None:
        return PlainText(sources, text, f"text/{beside[1].name} beside the data, as written")
    return PlainText(sources, binarised, "the binarised set, detokenised")


def read_references(path: Path, subset: Subset) -> List[str]:
    """The lines of ``--reference``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: its number of lines is not that of the set, or it is not UTF-8.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"--reference {path} {why_no_file(path)}. Give the plain text of the set."
        )
    references = list(lines_of(str(path), f"--reference {path}"))
    if len(references) != len(subset):
        raise ValueError(
            f"--reference {path} has {len(references)} lines, but {subset.name} in "
            f"{subset.folder} has {len(subset)} sentences. Give the text that was binarised."
        )
    return references


def _text_beside(path: Path, subset: Subset, binarised: Sequence[str]) -> Optional[List[str]]:
    """The lines of a text beside the data; None without one, or if it is not that of the set.

    Args:
        path: of the text.
        subset: the set.
        binarised: the set's own sentences, detokenised.
    """
    lines = list(lines_of(str(path))) if path.is_file() else None
    if lines is None:
        return None
    other, known = _others(lines, binarised)
    if len(lines) != len(subset):
        why = f"it has {len(lines)} lines, but {subset.name} has {len(subset)} sentences"
    elif other > (1 - SAME_SHARE) * known:
        why = f"{other} of its lines are not the sentences of {subset.name}"
    elif _split_by(lines) and not _split_by(binarised):
        why = f"it must be plain text, but is split by {_split_by(lines)}"
    else:
        return lines
    print(f"{path} is ignored: {why}", file=sys.stderr)
    return None


def _check_split(called: str, lines: Sequence[str], binarised: Sequence[str]) -> None:
    """Refuses text that is split into subwords, unless the set's own sentences are not joined.

    Raises:
        ValueError: scores of translations against it would be wrong.
    """
    if not _split_by(binarised):
        words = SplitWords(called)
        for line in lines:
            words.add(line)
        words.check()


def _split_by(lines: Sequence[str]) -> str:
    """What split most words of a text; "" if nothing did."""
    words = SplitWords("", advice="")
    for line in lines:
        words.add(line)
    return words.split_by


def _others(lines: Sequence[str], binarised: Sequence[str]) -> Tuple[int, int]:
    """How many lines are not the sentences of a set, and how many can be compared."""
    known = [(each, own) for each, own in zip(lines, binarised, strict=False) if "<unk>" not in own]
    return sum(letters_of(each) != letters_of(own) for each, own in known), len(known)


def _detokenised(
    sentences: Iterable[Tensor], vocabulary: Dictionary, detokenise: Detokeniser
) -> List[str]:
    return [detokenise(" ".join(tokens_of(sentence, vocabulary))) for sentence in sentences]


def tokens_of(sentence: Tensor, vocabulary: Dictionary) -> List[str]:
    """The symbols of a binarised sentence, without the end of sentence."""
    return [vocabulary[index] for index in sentence.tolist() if index != vocabulary.eos()]


def translated(variant: Variant, engine: Engine, subset: Subset, out: Path) -> List[str]:
    """The tokens of the best translation of every sentence, in the set's order.

    An interrupted run continues in the folder of ``decoded_folder``.

    Args:
        variant: the system that translates.
        engine: runs it.
        subset: to be translated.
        out: the evaluation's folder.
    """
    folder, label = decoded_folder(variant, engine, subset, out), f"{variant.system.name}: "
    path, _ = decode([variant.system.checkpoint], subset, engine, folder, Shard(), label=label)
    (folder / LOCK).unlink(missing_ok=True)  # the evaluation has a lock of its own
    return [hypotheses[0].tokens for _, hypotheses in by_sentence(path)]


def decoded_folder(variant: Variant, engine: Engine, subset: Subset, out: Path) -> Path:
    """The folder of a variant's hypotheses; its name ends in the id of the decoding's settings."""
    decoding = settings_id(settings_of([variant.system.checkpoint], subset, engine))
    return out / "decoded" / f"{_file_stem(variant)}-{decoding}"


def _file_stem(variant: Variant) -> str:
    return variant.system.slug + (".int8" if variant.engine in IN_INT8 else "")


def quality_name(variant: Variant) -> str:
    """The name of a variant in the tables of quality."""
    name = variant.system.name
    return int8_name(name) if variant.engine in IN_INT8 else name


def translation_file(variant: Variant, out: Path) -> Path:
    """The file that ``write_translations`` writes."""
    return out / "translations" / f"{_file_stem(variant)}.txt"


def write_translations(
    variant: Variant, tokens: List[str], detokenise: Detokeniser, out: Path
) -> List[str]:
    """Writes plain translations to ``out/translations/NAME.txt``, and returns them."""
    texts = [detokenise(each) for each in tokens]
    path = translation_file(variant, out)
    make_folder(path.parent)
    with atomic_write(path) as file:
        file.writelines(f"{text}\n" for text in texts)
    return texts
