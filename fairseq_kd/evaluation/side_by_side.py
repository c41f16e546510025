"""Translations side by side: the sentences where a student loses and gains most."""

import difflib
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np
from sacrebleu.metrics import CHRF

from fairseq_kd.evaluation.pages import Span, TextVersions
from fairseq_kd.evaluation.results import SentenceResult

MOST_SENTENCES = 2000  # of a set that are kept, which keeps the page readable
SHOWN = 10  # sentences of a list


def sentence_results(
    sources: Sequence[str], references: Sequence[str], texts: Mapping[str, Sequence[str]]
) -> List[SentenceResult]:
    """Every sentence with its translations; of a large set, evenly spread ones.

    Args:
        sources: plain source sentences.
        references: plain references.
        texts: plain translations by system.
    """
    chrf, count = CHRF(), len(sources)
    kept = np.linspace(0, count - 1, min(count, MOST_SENTENCES)).round().astype(int).tolist()
    return [
        SentenceResult(
            number=i + 1,
            source=sources[i],
            reference=references[i],
            translations={name: each[i] for name, each in texts.items()},
            chrf={
                name: round(chrf.sentence_score(each[i], [references[i]]).score, 2)
                for name, each in texts.items()
            },
        )
        for i in kept
    ]


def largest_losses(
    sentences: Sequence[SentenceResult], worse: str, better: str
) -> List[SentenceResult]:
    """The sentences whose chrF falls most from a better system to a worse one, in order."""
    falls = {each.number: each.chrf[better] - each.chrf[worse] for each in sentences}
    lost = [each for each in sentences if falls[each.number] > 0]
    return sorted(lost, key=lambda each: -falls[each.number])[:SHOWN]


def side_by_side(
    sentence: SentenceResult, compared: Optional[Tuple[str, str]] = None
) -> TextVersions:
    """The versions of a sentence; in translations, what the reference lacks is highlighted.

    Args:
        sentence: with its translations.
        compared: two systems whose difference in chrF is in the title.
    """
    title = f"Sentence {sentence.number:,}"
    if compared is not None:
        first, second = (sentence.chrf[name] for name in compared)
        title += f": chrF {first:.0f} of {compared[0]}, {second:.0f} of {compared[1]}"
    versions: Dict[str, List[Span]] = {
        "source": [Span(sentence.source)],
        "reference": [Span(sentence.reference)],
        **{
            f"{name} ({sentence.chrf[name]:.0f})": differing(text, sentence.reference)
            for name, text in sentence.translations.items()
        },
    }
    return TextVersions(title, versions)


def differing(text: str, reference: str) -> List[Span]:
    """A text as spans of words, highlighted where the reference has others."""
    words, expected = text.split(), reference.split()
    matcher = difflib.SequenceMatcher(None, expected, words, autojunk=False)
    return [
        Span(" ".join(words[start:end]), highlighted=kind != "equal")
        for kind, _, _, start, end in matcher.get_opcodes()
        if end > start
    ]
