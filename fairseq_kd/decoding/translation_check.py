"""Checks that texts are translations of their sentences: in step, and in the right language."""

from typing import List, NamedTuple, Sequence

from sacrebleu.metrics import CHRF

from fairseq_kd.decoding.subset import words_of

MANY_PIECES = 1.5  # largest ratio of pieces per word to that of the references
BLOCK, MOST_BLOCKS, IN_STEP_IN_A_BLOCK = 25, 20, 1.2  # parts of the set that are checked separately
IN_STEP = 1.3  # smallest ratio of the chrF with the own reference to that with another reference
IN_A_ROW, CLEARLY_NEARER = 10, 10.0  # sentences, and their mean chrF, that show a shift


class Compared(NamedTuple):
    """A translation that is compared with its reference; all as tokens.

    Args:
        number: of the sentence.
        text: the translation.
        reference: that of the set.
        source: that of the set.
        neighbours: the references of the sentences before and after it.
    """

    number: int
    text: str
    reference: str
    source: str
    neighbours: List[str]


def why_not_translations(compared: Sequence[Compared], bpe: str) -> str:
    """The reason why texts are not translations of their sentences; "" if they may be.

    They are refused if their chrF with their own references is hardly above the chrF with other
    references, in the whole set or in a part of it, or below the chrF with their own sources. They
    are also refused if words are split into many more pieces than in the references, which
    indicates another language.

    Args:
        compared: translations, in the order of their sentences.
        bpe: how words are split.
    """
    numbers, *tokens, _ = zip(*compared, strict=True)
    texts, references, sources = ([words_of(each, bpe) for each in side] for side in tokens)
    half, chrf = len(compared) // 2, CHRF()
    others = references[half:] + references[:half]
    own = chrf.corpus_score(texts, [references]).score
    other = chrf.corpus_score(texts, [others]).score
    copied = chrf.corpus_score(texts, [sources]).score
    pieces, usual = (
        sum(len(each.split()) for each in split) / max(1, sum(len(each.split()) for each in words))
        for split, words in zip(tokens, (texts, references), strict=False)
    )
    if copied > own:
        return (
            f"its chrF is {own:.1f} with the references, and {copied:.1f} with the sources. Give "
            "the translations."
        )
    if own < IN_STEP * other:
        return (
            f"its chrF is {own:.1f} with the references, and {other:.1f} with those of other "
            "sentences. The lines are out of step, or in another language."
        )
    if pieces > MANY_PIECES * usual:
        return (
            f"its words are split into {pieces:.1f} pieces, and those of the references into "
            f"{usual:.1f}. It is in another language, or the data were split by other --codes."
        )
    blocks = min(MOST_BLOCKS, len(compared) // BLOCK)
    for i in range(blocks):
        part = slice(i * len(compared) // blocks, (i + 1) * len(compared) // blocks)
        near, far = (chrf.corpus_score(texts[part], [side[part]]) for side in (references, others))
        if near.score < IN_STEP_IN_A_BLOCK * far.score:
            return (
                f"about sentence {numbers[part][0]} to {numbers[part][-1]}, its chrF is "
                f"{near.score:.1f} with the references, and {far.score:.1f} with those of other "
                "sentences. Lines are missing, doubled or out of step there."
            )
    return _why_shifted(compared, bpe)


def _why_shifted(compared: Sequence[Compared], bpe: str) -> str:
    """The reason if many translations in a row are nearer to the reference of a neighbour."""
    chrf, run = CHRF(), []
    for each in compared:
        text = words_of(each.text, bpe)
        own, *others = (
            chrf.sentence_score(text, [words_of(reference, bpe)]).score
            for reference in (each.reference, *each.neighbours)
        )
        if max(others, default=0.0) <= own:
            run = []
            continue
        run.append((each.number, max(others) - own))
        if len(run) == IN_A_ROW and sum(gain for _, gain in run) > IN_A_ROW * CLEARLY_NEARER:
            return (
                f"from about sentence {run[0][0]} on, its lines are nearer to the references of "
                "neighbouring sentences. Lines are missing, doubled or out of step there."
            )
    return ""
