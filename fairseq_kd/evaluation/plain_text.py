"""The test set as people write it: detokenised sources, references and translations."""

import sys
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterable, List, Optional, Tuple

from fairseq.data import Dictionary
from fairseq.data.encoders import build_tokenizer
from torch import Tensor

from fairseq_kd.parallel_text import lines_of
from fairseq_kd.sequence.subset import Subset
from fairseq_kd.sequence.words import words_of

Detokeniser = Callable[[str], str]


@dataclass(frozen=True)
class PlainText:
    """The texts that translations are compared with.

    Args:
        sources: plain source sentences, in the set's order.
        references: plain reference translations.
        origin: where the references come from, as a phrase for the report.
    """

    sources: List[str]
    references: List[str]
    origin: str


def detokeniser(tokenizer: str, remove_bpe: str, language: str) -> Detokeniser:
    """What turns a model's tokens into plain text, as ``fairseq-generate`` does.

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
    """The texts of a set: the user's, those that scripts/prepare.sh keeps, or the binarised ones.

    Args:
        subset: the set, with references.
        reference: a file of plain references, or None to look for ``../text/SUBSET.LANG``.
        detokenisers: of the source and the target language.

    Raises:
        FileNotFoundError: there is no such reference file.
        ValueError: it has another number of lines than the set, or is no UTF-8.
    """
    kept = [
        subset.folder.resolve().parent / "text" / f"{subset.name}.{each}" for each in subset.pair
    ]
    sources = _text_beside(kept[0], subset)
    if sources is None:
        sources = _binarised(subset.source, subset.source_words, detokenisers[0])
    if reference is not None:
        if not reference.is_file():
            raise FileNotFoundError(
                f"--reference {reference} does not exist. Give the plain text of the set."
            )
        references = list(lines_of(str(reference), f"--reference {reference}"))
        if len(references) != len(subset):
            raise ValueError(
                f"--reference {reference} has {len(references)} lines, but {subset.name} in "
                f"{subset.folder} has {len(subset)} sentences. Give the text that was binarised."
            )
        return PlainText(sources, references, f"the lines of {reference.name}")
    written = _text_beside(kept[1], subset)
    if written is not None:
        return PlainText(sources, written, f"text/{kept[1].name} beside the data, as written")
    references = _binarised(subset.target, subset.target_words, detokenisers[1])
    return PlainText(sources, references, "the binarised set, detokenised")


def _text_beside(path: Path, subset: Subset) -> Optional[List[str]]:
    """The lines of a text that lies beside the data; None if it is not there, or not the set's."""
    lines = list(lines_of(str(path))) if path.is_file() else None
    if lines is None or len(lines) == len(subset):
        return lines
    told = f"it has {len(lines)} lines, but {subset.name} has {len(subset)} sentences"
    print(f"{path} is ignored: {told}", file=sys.stderr)
    return None


def _binarised(
    sentences: Iterable[Tensor], words: Dictionary, detokenise: Detokeniser
) -> List[str]:
    return [detokenise(" ".join(tokens_of(sentence, words))) for sentence in sentences]


def tokens_of(sentence: Tensor, words: Dictionary) -> List[str]:
    """The symbols of a binarised sentence, its end left out."""
    return [words[index] for index in sentence.tolist() if index != words.eos()]
