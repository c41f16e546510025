"""A lexical shortlist: the target tokens among which CTranslate2 chooses for a source sentence.

    candidates(sentence) = EVERYWHERE + the union of CANDIDATES[s] over the source tokens s

``EVERYWHERE`` are the most frequent target tokens of the training set. ``CANDIDATES[s]`` are those
that the student aligns to s most often in the training set, and s itself if the target dictionary
has it, so that names and numbers can be copied. The student aligns a target token to the source
token to which the last layer of its decoder attends most, as the mean of its heads, when it
predicts the token.

CTranslate2 reads the candidates from ``vmap.txt``: a source token, a tab and its candidates in a
line; those of every sentence follow an empty source token.

Source: L'Hostis, Grangier and Auli 2016, arXiv:1610.00072; there aligned by a model of words.
"""

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Sequence, Set, Tuple

import numpy as np
import torch
from fairseq.data import Dictionary
from fairseq.models import FairseqEncoderDecoderModel

from fairseq_kd.decoding.conversion import ctranslate2_symbols
from fairseq_kd.decoding.engine import length_sorted_batches
from fairseq_kd.decoding.subset import Subset
from fairseq_kd.evaluation.systems import System, common_subset, sample_of
from fairseq_kd.files.atomic_files import atomic_write
from fairseq_kd.progress import ProgressLine

TRAINING = "train"  # subset
EVERYWHERE, EACH = 100, 30  # candidates of every sentence, and of each source token
MOST_BLEU_LOST = 0.2  # by a shortlist that is kept
MOST_PAIRS = 200_000  # sentence pairs that are aligned, evenly spread over the training set
BATCH_TOKENS = 4000  # of the longer side, padding included


class Coverage(NamedTuple):
    """How well a shortlist covers the references of a set.

    Args:
        tokens: share of their tokens that are candidates, the ends of sentences included.
        candidates: their number, as the mean of the sentences.
    """

    tokens: float
    candidates: float


class ShortlistTrial(NamedTuple):
    """A shortlist measured against the whole vocabulary.

    Args:
        pairs: number of sentence pairs from which it was made.
        coverage: of the references on which it was measured.
        vocabulary: number of target tokens.
        bleu_lost: BLEU with the whole vocabulary less that with the shortlist.
        speed_alone, speed_batched: how many times as fast it is, one sentence at a time and in
            batches.
    """

    pairs: int
    coverage: Coverage
    vocabulary: int
    bleu_lost: float
    speed_alone: float
    speed_batched: float

    @property
    def kept(self) -> bool:
        """Whether it loses so little that it is exported."""
        return round(self.bleu_lost, 2) <= MOST_BLEU_LOST


@dataclass(frozen=True)
class Shortlist:
    """The candidates of a model, by token ids.

    Args:
        everywhere: those of every sentence, with the tokens that CTranslate2 always adds.
        of_token: those of a source token.
    """

    everywhere: Tuple[int, ...]
    of_token: Dict[int, Tuple[int, ...]]

    def candidates(self, source: Sequence[int]) -> Set[int]:
        """The candidates of a sentence."""
        return set(self.everywhere).union(*(self.of_token.get(token, ()) for token in source))

    def coverage(self, subset: Subset) -> Coverage:
        """How well the references of a set are covered."""
        covered = tokens = candidates = 0
        for source, target in zip(subset.source, subset.target, strict=True):
            chosen, reference = self.candidates(source.tolist()), target.tolist()
            covered += sum(token in chosen for token in reference)
            tokens, candidates = tokens + len(reference), candidates + len(chosen)
        return Coverage(covered / tokens, candidates / len(subset))

    def write(self, path: Path, subset: Subset) -> None:
        """Writes ``vmap.txt``, with the names of tokens in the converted model.

        Args:
            path: of the file.
            subset: of the dictionaries.
        """
        sources = ctranslate2_symbols(subset.source_dictionary)
        targets = ctranslate2_symbols(subset.target_dictionary)
        lines = {"": self.everywhere, **{sources[s]: own for s, own in self.of_token.items()}}
        with atomic_write(path) as file:
            for source, own in lines.items():
                file.write(f"{source}\t{' '.join(targets[token] for token in own)}\n")


def training_set(system: System, subset: Subset) -> Subset:
    """The training set in the folder of another set.

    Raises:
        FileNotFoundError: the folder has none.
        ValueError: it has no references, or the other set is the training set itself.
    """
    if subset.name == TRAINING:
        raise ValueError(
            "--shortlist is made from the training set, so it cannot be measured on --subset "
            f"{TRAINING}. Give another set, such as test."
        )
    if not subset.has_split(TRAINING):
        raise FileNotFoundError(
            f"--shortlist needs the training set, but {subset.folder} holds no "
            f"{TRAINING}.{'-'.join(subset.pair)}.{subset.pair[0]}. Give to --data the folder of "
            "the training."
        )
    return common_subset([system], subset.folder, TRAINING)


def shortlist_of(
    alignments: Iterable[np.ndarray],
    training: Subset,
    everywhere: int = EVERYWHERE,
    each: int = EACH,
) -> Shortlist:
    """The shortlist of a training set.

    Args:
        alignments: (tokens, 2) ids of aligned source and target tokens, some sentences at a time.
        training: the set.
        everywhere: number of frequent target tokens that are candidates of every sentence.
        each: number of target tokens that are candidates of a source token.
    """
    source, target = training.source_dictionary, training.target_dictionary
    aligned: Counter = Counter()
    frequency = np.zeros(len(target), dtype=np.int64)
    for links in alignments:
        keys, counts = np.unique(links @ (len(target), 1), return_counts=True)
        aligned.update(dict(zip(keys.tolist(), counts.tolist(), strict=True)))
        np.add.at(frequency, links[:, 1], 1)
    own: Dict[int, List[int]] = {}
    for key, _ in aligned.most_common():
        tokens = own.setdefault(key // len(target), [])
        if len(tokens) < each:
            tokens.append(key % len(target))
    for token in range(source.nspecial, len(source)):
        copy = target.index(source[token])
        if copy != target.unk() and copy not in own.setdefault(token, []):
            own[token].append(copy)
    frequent = np.argsort(-frequency, kind="stable")[:everywhere]
    always = (target.bos(), target.eos(), target.unk())  # CTranslate2 adds them in any case
    return Shortlist(
        (*always, *frequent[frequency[frequent] > 0].tolist()),
        {token: tuple(tokens) for token, tokens in own.items()},
    )


def pairs_to_align(
    model: FairseqEncoderDecoderModel, training: Subset, measured: Subset
) -> List[int]:
    """The indices of the pairs from which a shortlist is made, evenly spread.

    Args:
        model: whose lengths the pairs do not exceed.
        training: the set.
        measured: on which the shortlist is measured, and whose sentences are left out: it would
            have the tokens of their references for candidates.

    Raises:
        ValueError: none is left.
    """
    sides = zip((training.source, training.target), model.max_positions(), strict=True)
    readable = np.all([np.asarray(side.sizes) <= longest for side, longest in sides], axis=0)
    spread = np.flatnonzero(readable)[:: math.ceil(len(training) / MOST_PAIRS)]
    known = {source.numpy().tobytes() for source in measured.source}
    indices = [i for i in spread.tolist() if training.source[i].numpy().tobytes() not in known]
    if not indices:
        raise ValueError(
            f"--shortlist: every sentence of {TRAINING} that the model can read is also in "
            f"{measured.name}, on which it would be measured. Give another --subset."
        )
    return indices


def alignments_of(
    model: FairseqEncoderDecoderModel, training: Subset, indices: Sequence[int]
) -> Iterator[np.ndarray]:
    """The alignments of a training set by a model, a batch of sentences at a time.

    Args:
        model: in eval mode.
        training: the set.
        indices: of the pairs to align.
    """
    chosen = np.asarray(indices)
    lengths = training.pair_lengths[chosen]
    with ProgressLine("shortlist", len(indices), "sentence pairs") as progress:
        for batch in length_sorted_batches(lengths, BATCH_TOKENS):
            sample = sample_of(training, chosen[batch].tolist())
            yield aligned_tokens(model, sample, training.target_dictionary)
            progress.add(len(batch))


@torch.no_grad()
def aligned_tokens(
    model: FairseqEncoderDecoderModel, sample: Dict[str, Any], dictionary: Dictionary
) -> np.ndarray:
    """Every target token of a batch with the source token to which the student attends most.

    Args:
        model: in eval mode.
        sample: as of ``sample_of``.
        dictionary: whose special tokens, such as pads and ends of sentences, are not aligned.

    Returns:
        (tokens, 2) source and target ids.
    """
    source, target = sample["net_input"]["src_tokens"], sample["target"]
    _, extra = model(**sample["net_input"], features_only=True)
    attention = extra["attn"][0]  # (B, L, S)
    special = source < dictionary.nspecial
    places = attention.masked_fill(special.unsqueeze(1), -1).argmax(dim=-1)  # (B, L)
    pairs = torch.stack((source.gather(1, places), target), dim=-1)  # (B, L, 2)
    return pairs[(pairs >= dictionary.nspecial).all(dim=-1)].numpy()
