"""Rates of empty, copied, hallucinated and memorised translations; rare words; agreement."""

from collections import Counter
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Set

import numpy as np
import torch
from fairseq import utils
from sacrebleu.metrics import CHRF
from torch import Tensor

from fairseq_kd.decoding.engine import length_sorted_batches
from fairseq_kd.decoding.subset import Subset
from fairseq_kd.evaluation.results import ErrorRates
from fairseq_kd.evaluation.systems import System, sample_of
from fairseq_kd.models.projection import decoder_output
from fairseq_kd.models.real_tokens import RealTokens

SHORTEST_COPY = 3  # words; shorter sentences, such as names, are rightly copied
REPEATED_NGRAM = 4  # words
SHORTEST_MEMORISED = 4  # words; shorter sentences are often translated alike
OTHERS = 5  # sentences whose references a translation is compared with
BATCH_TOKENS = 1000


def error_rates(
    sources: Sequence[str],
    hypotheses: Sequence[str],
    references: Sequence[str],
    memorised: Optional[Sequence[bool]] = None,
) -> ErrorRates:
    """Shares of sentences with an error, and the ratio of lengths.

    Args:
        sources: plain sentences with words separated by spaces.
        hypotheses: their translations.
        references: plain references.
        memorised: whether each translation is a target sentence of the training set; None if
            unknown.

    Returns:
        ``empty``: translations without a word. ``copied``: translations of at least three words
        that equal the source, case ignored. ``repeating``: translations with a sequence of four
        words that occurs more than once, and more often than in the reference. ``detached``:
        translations for which at least one of five other references is as near, by chrF, as
        their own. ``memorised``: translations of at least four words that are in the
        training set and are not the reference.

    Source: side effects of sequence-level distillation by Dankers and Raunak, ACL 2025,
        arXiv:2502.01491.
    """
    count = max(1, len(hypotheses))
    learned = None
    if memorised is not None:
        triples = zip(hypotheses, references, memorised, strict=True)
        learned = sum(is_memorised(*each) for each in triples) / count
    return ErrorRates(
        empty=sum(not each.split() for each in hypotheses) / count,
        copied=sum(map(is_copy, sources, hypotheses)) / count,
        repeating=sum(map(repeats, hypotheses, references)) / count,
        length_ratio=_word_count(hypotheses) / max(1, _word_count(references)),
        detached=sum(detached(hypotheses, references)) / count,
        memorised=learned,
    )


def detached(hypotheses: Sequence[str], references: Sequence[str]) -> List[bool]:
    """Whether each translation is no nearer to its reference than to one of five others."""
    chrf, count = CHRF(), len(references)
    steps = sorted({count * k // (OTHERS + 1) for k in range(1, OTHERS + 1)} - {0})
    result = []
    for i, hypothesis in enumerate(hypotheses):
        own = chrf.sentence_score(hypothesis, [references[i]]).score
        others = (references[(i + step) % count] for step in steps)
        result.append(
            any(
                chrf.sentence_score(hypothesis, [other]).score >= own
                for other in others
                if other != references[i]
            )
        )
    return result


def is_memorised(hypothesis: str, reference: str, in_training: bool) -> bool:
    """Whether a translation was learned by heart, as ``error_rates`` defines it."""
    words = hypothesis.split()
    return in_training and len(words) >= SHORTEST_MEMORISED and words != reference.split()


def in_training_set(
    tokens: Mapping[str, Sequence[str]], subset: Subset, training: Iterable[Tensor]
) -> Dict[str, List[bool]]:
    """Whether each translation is a target sentence of a training set, token for token.

    Args:
        tokens: of the translations, by system.
        subset: whose dictionary they have.
        training: token ids of the targets, with the end of sentence.
    """
    index, end = subset.target_dictionary.index, [subset.target_dictionary.eos()]
    keys = {
        name: [
            np.array([index(token) for token in text.split()] + end, np.int64).tobytes()
            for text in texts
        ]
        for name, texts in tokens.items()
    }
    wanted: Set[bytes] = {key for each in keys.values() for key in each}
    sentences = (sentence.numpy().astype(np.int64).tobytes() for sentence in training)
    found = {key for key in sentences if key in wanted}
    return {name: [key in found for key in each] for name, each in keys.items()}


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
def agreement(systems: Sequence[System], subset: Subset, device: str = "cpu") -> Dict[str, float]:
    """The share of target tokens for which a system's most probable token is the teacher's.

    Every model is given the reference as prefix. Ends of sentences count, pads do not. Sentences
    that are too long for a model are left out.

    Args:
        systems: the teacher first.
        subset: with references.
        device: where the models compute; they are on the CPU before and after.

    Returns:
        0 to 1 by name; 1 for the teacher.
    """
    agreed, tokens = {system.name: 0 for system in systems}, 0
    for system in systems:
        system.checkpoint.model.to(device)
    for sample in _batches(systems, subset):
        sample = utils.apply_to_sample(lambda tensor: tensor.to(device), sample)
        real = RealTokens.of_mask(sample["target"].ne(subset.target_dictionary.pad()))
        predicted = [_most_probable(each, sample["net_input"], real) for each in systems]
        tokens += len(real.positions)
        for system, each in zip(systems, predicted, strict=True):
            agreed[system.name] += int((each == predicted[0]).sum())
    for system in systems:
        system.checkpoint.model.to("cpu")
    return {name: count / max(1, tokens) for name, count in agreed.items()}


def _most_probable(system: System, net_input: Dict[str, Tensor], real: RealTokens) -> Tensor:
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
    for batch in length_sorted_batches(subset.pair_lengths, BATCH_TOKENS):
        readable = [
            int(i)
            for i in batch
            if len(subset.source[int(i)]) <= longest[0] and len(subset.target[int(i)]) <= longest[1]
        ]
        if readable:
            yield sample_of(subset, readable)
