"""How translations go wrong: copies, empty ones, repetitions, and their lengths."""

from collections import Counter
from typing import Dict, Sequence

COPIED_FROM = 3  # words; shorter sentences, such as names, are copied rightly
REPEATED_NGRAM = 4


def behaviour(
    sources: Sequence[str], hypotheses: Sequence[str], references: Sequence[str]
) -> Dict[str, float]:
    """Shares of sentences, 0 to 1, and the ratio of lengths.

    Args:
        sources: plain sentences, words parted by spaces.
        hypotheses: their translations.
        references: what they should be.

    Returns:
        ``empty``: translations without a word. ``copied``: translations of three words or more that
        are the source, upper and lower case alike. ``repeating``: translations in which some four
        words come more often than once, and more often than in the reference. ``length_ratio``:
        words of all translations for one of the references.
    """
    count = max(1, len(hypotheses))
    return {
        "empty": sum(not each.split() for each in hypotheses) / count,
        "copied": sum(map(is_copy, sources, hypotheses)) / count,
        "repeating": sum(map(repeats, hypotheses, references)) / count,
        "length_ratio": _words(hypotheses) / max(1, _words(references)),
    }


def is_copy(source: str, hypothesis: str) -> bool:
    """Whether a translation is nothing but the source."""
    words = hypothesis.lower().split()
    return len(words) >= COPIED_FROM and words == source.lower().split()


def repeats(hypothesis: str, reference: str) -> bool:
    """Whether four words come again in a translation, and not as often in the reference."""
    expected = _ngrams(reference)
    return any(n > max(1, expected[ngram]) for ngram, n in _ngrams(hypothesis).items())


def _ngrams(text: str) -> "Counter[tuple[str, ...]]":
    words = text.lower().split()
    starts = range(len(words) - REPEATED_NGRAM + 1)
    return Counter(tuple(words[i : i + REPEATED_NGRAM]) for i in starts)


def _words(texts: Sequence[str]) -> int:
    return sum(len(each.split()) for each in texts)


def rare_share(tokens: Sequence[str], remove_bpe: str, unknown: str) -> float:
    """The share of a sentence's words that are rare: those that BPE splits, and unknown ones.

    Args:
        tokens: of the sentence, as binarised.
        remove_bpe: how words were split, as in ``fairseq-generate --remove-bpe``.
        unknown: the symbol of an unknown word.

    Returns:
        0 to 1; 0 for a sentence without words.
    """
    words = rare = 0
    for pieces in _pieces_of_words(tokens, remove_bpe):
        words += 1
        rare += len(pieces) > 1 or unknown in pieces
    return rare / max(1, words)


def _pieces_of_words(tokens: Sequence[str], remove_bpe: str) -> "list[list[str]]":
    """The tokens of each word: @@ goes on with the word; U+2581 or _ begins one, _EOW ends one."""
    words: list[list[str]] = [[]]
    for token in tokens:
        if remove_bpe in ("sentencepiece", "wordpiece") and token[:1] in ("\u2581", "_"):
            words.append([])
        words[-1].append(token)
        ends = {"subword_nmt": not token.endswith("@@"), "_EOW": token.endswith("_EOW")}
        if ends.get(remove_bpe, remove_bpe == "none"):
            words.append([])
    return [pieces for pieces in words if pieces]
