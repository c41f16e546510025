"""How words were split into what a model reads, and how they are put together again."""

from typing import Optional

from fairseq.data import Dictionary, data_utils

from fairseq_kd.decoding.subset import Subset

SENTENCEPIECE, SUBWORD_NMT = "sentencepiece", "subword_nmt"
MARKS = {  # of the first piece of a word, and of every piece but the last
    SENTENCEPIECE: lambda piece: piece.startswith("\u2581"),
    SUBWORD_NMT: lambda piece: piece.endswith("@@"),
}
MARKED = 0.1  # share of a dictionary that bears a mark, if its words were split so


def words_of(tokens: str, remove_bpe: str) -> str:
    """A sentence with the splitting of words undone.

    Args:
        tokens: the sentence, with spaces between its tokens.
        remove_bpe: how words were split, as in ``fairseq-generate --remove-bpe``.
    """
    return data_utils.post_process(tokens, remove_bpe)


def splitting_of(words: Dictionary) -> Optional[str]:
    """By which of SentencePiece and subword-nmt the words of a dictionary were split, if any."""
    own = words.symbols[words.nspecial :]
    marked = {name: sum(map(has_mark, own)) for name, has_mark in MARKS.items()}
    likely = max(marked, key=lambda name: marked[name])
    return likely if own and marked[likely] >= MARKED * len(own) else None


def check_splitting(subset: Subset, remove_bpe: str, flag: str = "--remove-bpe") -> None:
    """Makes sure that words can be put together as the user says.

    Args:
        subset: of the data.
        remove_bpe: how the user says that words were split.
        flag: by which flag.

    Raises:
        ValueError: a dictionary bears the marks of the other one of SentencePiece and subword-nmt,
            so that pieces would be taken for words.
    """
    for words in (subset.source_words, subset.target_words):
        found = splitting_of(words)
        if found and found != remove_bpe and remove_bpe in (SENTENCEPIECE, SUBWORD_NMT):
            break
    else:
        return
    example = next(word for word in words.symbols if MARKS[found](word))
    whole = (
        " (and --tokenizer none, where there is such a flag, unless the text was tokenised first)"
    )
    raise ValueError(
        f"{flag} is {remove_bpe}, but the words of the data were split by {found}, as "
        f"{example} shows. Give {flag} {found}{whole if found == SENTENCEPIECE else ''}."
    )
