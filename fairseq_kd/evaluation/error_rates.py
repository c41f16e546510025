"""Error rates of translations, rare words, and how often a system agrees with the teacher."""

from collections import Counter
from typing import Any, Dict, Iterator, List, Sequence

import torch
from torch import Tensor

from fairseq_kd.decoding.engine import length_sorted_batches
from fairseq_kd.decoding.subset import Subset
from fairseq_kd.evaluation.results import ErrorRates
from fairseq_kd.evaluation.systems import System, sample_of
from fairseq_kd.models.projection import decoder_output, real_tokens

SHORTEST_COPY = 3  # words; shorter sentences, such as names, are rightly copied
REPEATED_NGRAM = 4  # words
BATCH_TOKENS = 1000


def error_rates(
    sources: Sequence[str], hypotheses: Sequence[str], references: Sequence[str]
) -> ErrorRates:
    """Shares of sentences that are empty, copied or repeating, and the ratio of lengths.

    Args:
        sources: plain sentences with words separated by spaces.
        hypotheses: their translations.
        references: plain references.

    Returns:
        ``empty``: translations without a word. ``copied``: translations of at least three words
        that equal the source, case ignored. ``repeating``: translations with a sequence of four
        words that occurs more than once, and more often than in the reference.
    """
    count = max(1, len(hypotheses))
    return ErrorRates(
        empty=sum(not each.split() for each in hypotheses) / count,
        copied=sum(map(is_copy, sources, hypotheses)) / count,
        repeating=sum(map(repeats, hypotheses, references)) / count,
        length_ratio=_word_count(hypotheses) / max(1, _word_count(references)),
    )


def is_copy(source: str, hypothesis: str) -> bool:
    """Whether a translation equals its source."""
    words = hypothesis.lower().split()
    return len(words) >= SHORTEST_COPY and words == source.lower().split()


def repeats(hypothesis: str, reference: str) -> bool:
    """Whether a translation repeats four words more often than the reference."""
    expected = _ngrams(reference)
    return any(n > max(1, expected[ngram]) for ngram, n in _ngrams(hypothesis).items())


def _ngrams(text: str) -> "Counter[tuple[str, ...]]":
    words = text.lower().split()
    starts = range(len(words) - REPEATED_NGRAM + 1)
    return Counter(tuple(words[i : i + REPEATED_NGRAM]) for i in starts)


def _word_count(texts: Sequence[str]) -> int:
    return sum(len(each.split()) for each in texts)


def rare_share(tokens: Sequence[str], remove_bpe: str, unknown: str) -> float:
    """The share of a sentence's words that are rare: split by BPE, or unknown.

    Args:
        tokens: of the sentence, as binarised.
        remove_bpe: how words were split, as in ``fairseq-generate --remove-bpe``.
        unknown: the symbol of an unknown word.

    Returns:
        0 to 1; 0 for a sentence without words.
    """
    words = _tokens_by_word(tokens, remove_bpe)
    rare = sum(len(pieces) > 1 or unknown in pieces for pieces in words)
    return rare / max(1, len(words))


def _tokens_by_word(tokens: Sequence[str], remove_bpe: str) -> List[List[str]]:
    """Groups tokens: @@ continues a word; U+2581 or _ begins one, _EOW ends one."""
    words: List[List[str]] = [[]]
    for token in tokens:
        if remove_bpe in ("sentencepiece", "wordpiece") and token[:1] in ("\u2581", "_"):
            words.append([])
        words[-1].append(token)
        ends = {"subword_nmt": not token.endswith("@@"), "_EOW": token.endswith("_EOW")}
        if ends.get(remove_bpe, remove_bpe == "none"):
            words.append([])
    return [pieces for pieces in words if pieces]


@torch.no_grad()
def agreement(systems: Sequence[System], subset: Subset) -> Dict[str, float]:
    """The share of target tokens for which a system's most probable token is the teacher's.

    Every model is given the reference as prefix. Ends of sentences count, pads do not. Sentences
    that are too long for a model are left out.

    Args:
        systems: the teacher first.
        subset: with references.

    Returns:
        0 to 1 by name; 1 for the teacher.
    """
    agreed, tokens = {system.name: 0 for system in systems}, 0
    for sample in _batches(systems, subset):
        real = real_tokens(sample, subset.target_dictionary.pad())
        predicted = [_most_probable(each, sample["net_input"], real) for each in systems]
        tokens += int(real.sum())
        for system, each in zip(systems, predicted, strict=True):
            agreed[system.name] += int((each == predicted[0]).sum())
    return {name: count / max(1, tokens) for name, count in agreed.items()}


def _most_probable(system: System, net_input: Dict[str, Tensor], real: Tensor) -> Tensor:
    """(N,) the most probable vocabulary entry at each real token."""
    checkpoint = system.checkpoint
    net_input, real = checkpoint.format.batch(net_input, real)
    output = decoder_output(checkpoint.model, net_input, real)
    output, weight, bias = output.over(len(checkpoint.task.target_dictionary))
    logits = output if weight is None else torch.nn.functional.linear(output, weight, bias)
    return logits.argmax(-1)


def _batches(systems: Sequence[System], subset: Subset) -> Iterator[Dict[str, Any]]:
    """Batches of the sentences that every model can read."""
    limits = [(each.checkpoint.max_source, each.checkpoint.max_target) for each in systems]
    longest = [min(int(limit[side]) for limit in limits) for side in (0, 1)]
    for batch in length_sorted_batches(subset.target.sizes, BATCH_TOKENS):
        readable = [
            int(i)
            for i in batch
            if len(subset.source[int(i)]) <= longest[0] and len(subset.target[int(i)]) <= longest[1]
        ]
        if readable:
            yield sample_of(subset, readable)
