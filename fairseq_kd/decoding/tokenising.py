"""Converts plain text to tokens: Moses tokenisation, then BPE or SentencePiece.

Worker processes import it, so it imports neither torch nor fairseq.
"""

import io
from contextlib import redirect_stderr
from functools import cache
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence

from fairseq_kd.parallel_text import cleaned

NONE, MOSES = "none", "moses"
SENTENCEPIECE, SUBWORD_NMT = "sentencepiece", "subword_nmt"


@cache
def splitter(tokenizer: str, bpe: str, codes: Optional[Path], language: str) -> Callable:
    """A function from a line of text to its tokens, separated by spaces.

    Args:
        tokenizer: MOSES or NONE.
        bpe: a key of CODES, or NONE.
        codes: as ``find_codes`` returns it.
        language: whose rules of tokenisation hold.

    Raises:
        ValueError: the file of the codes is damaged.
    """
    split = _SPLIT[bpe](codes)
    if tokenizer == NONE:
        return split
    from sacremoses import MosesTokenizer

    moses = MosesTokenizer(language)
    return lambda line: split(moses.tokenize(line, return_str=True))


def split_lines(
    tokenizer: str, bpe: str, codes: Optional[Path], language: str, lines: Sequence[str]
) -> List[str]:
    """The tokens of each line; a function for a worker process. Arguments as of ``splitter``."""
    split = splitter(tokenizer, bpe, codes, language)
    return [split(cleaned(line).strip()) for line in lines]


def _merges(codes: Path) -> Callable[[str], str]:
    from subword_nmt.apply_bpe import BPE

    try:
        with codes.open(encoding="utf-8") as file, redirect_stderr(io.StringIO()):
            bpe = BPE(file)
    except (SystemExit, ValueError, IndexError) as error:  # it exits at a line of another kind
        raise ValueError(
            f"--codes {codes} is not a subword-nmt codes file. Give the merges that subword-nmt "
            "learned."
        ) from error
    return lambda line: bpe.process_line(line).strip()


def _pieces(codes: Path) -> Callable[[str], str]:
    from sentencepiece import SentencePieceProcessor

    try:
        pieces = SentencePieceProcessor(model_file=str(codes))
    except RuntimeError as error:
        raise ValueError(
            f"--codes {codes} is not a SentencePiece model. Give the model that SentencePiece "
            "learned."
        ) from error
    return lambda line: " ".join(pieces.encode(line, out_type=str))


_SPLIT: Dict[str, Callable[[Path], Callable[[str], str]]] = {
    SUBWORD_NMT: _merges,
    SENTENCEPIECE: _pieces,
    NONE: lambda codes: lambda line: " ".join(line.split()),
}
