"""Checks that line N of three languages is the same sentence, as far as the data show."""

from typing import Any

import numpy as np
from fairseq.data import Dictionary, LanguagePairDataset
from torch import Tensor
from torch.utils.data import Dataset


def check_in_step(
    name: str, task: Any, dataset: LanguagePairDataset, pivot: LanguagePairDataset
) -> None:
    """Refuses sets whose targets differ in a line, and lines that one of the sources lacks.

    Args:
        name: how errors call the set.
        task: the task, for its languages and its target dictionary.
        dataset: the student's pairs.
        pivot: the teacher's pairs.

    Raises:
        ValueError: naming the first such line.
    """
    low, high = task.cfg.source_lang, task.pivot_lang
    if dataset.supports_prefetch:
        raise ValueError(
            f"The {name} is not stored so that any sentence can be read at any time. Binarise it "
            "with fairseq-preprocess --dataset-impl mmap, the default."
        )
    if len(dataset) != len(pivot):
        raise ValueError(
            f"The {name} has {len(dataset)} pairs of {low} but {len(pivot)} of {high}. Line N of "
            "all three languages must be the same sentence."
        )
    line = _first_difference(dataset, pivot)
    if line < len(dataset):
        ours, theirs = (
            _quoted(task.target_dictionary, each.tgt[line]) for each in (dataset, pivot)
        )
        raise ValueError(
            f"The {name} is out of step in line {line + 1}: the target of {low} is {ours}, but "
            f"that of {high} is {theirs}. Binarise both from the same target file, with the same "
            "dictionary."
        )
    lacking = (dataset.src_sizes <= 1) != (pivot.src_sizes <= 1)  # no more than the end symbol
    if lacking.any():
        line = int(lacking.argmax())
        side = low if dataset.src_sizes[line] <= 1 else high
        raise ValueError(
            f"The {name} lacks the {side} sentence of line {line + 1}. Leave the line out of all "
            "three files, and binarise them again."
        )


def check_links(
    name: str,
    alignments: Dataset,
    dataset: LanguagePairDataset,
    pivot: LanguagePairDataset,
    cut: bool = False,
) -> None:
    """Refuses invalid pairs of positions, and positions that a sentence does not have.

    Args:
        name: how errors call the alignments.
        alignments: for each sentence (source, pivot) positions in one row.
        dataset: the student's pairs.
        pivot: the teacher's pairs.
        cut: whether long sentences are cut, so that links beyond their ends are left out.

    Raises:
        ValueError: naming the first such line.
    """
    sizes = zip(dataset.src_sizes.tolist(), pivot.src_sizes.tolist(), strict=True)
    for line, own in enumerate(sizes):
        row = alignments[line]
        if len(row) % 2:
            raise ValueError(
                f"{name} must hold pairs of positions, but has {len(row)} numbers in line "
                f"{line + 1}. Binarise the alignments again, by fairseq-preprocess --align-suffix."
            )
        links = row.view(-1, 2)
        ends = links.new_tensor(own) - 1  # the last position is the end symbol's
        if (links < 0).any() or (not cut and (links >= ends).any()):
            raise ValueError(
                f"{name} links positions in line {line + 1} that its sentences do not have. Align "
                "the files that were binarised, after BPE, source to pivot."
            )


def _first_difference(dataset: LanguagePairDataset, pivot: LanguagePairDataset) -> int:
    """The first line with different targets, or the number of lines."""
    unequal = np.flatnonzero(dataset.tgt_sizes != pivot.tgt_sizes)
    stop = int(unequal[0]) if len(unequal) else len(dataset)
    pairs = ((dataset.tgt[line], pivot.tgt[line]) for line in range(stop))
    return next((line for line, (a, b) in enumerate(pairs) if not a.equal(b)), stop)


def _quoted(dictionary: Dictionary, sentence: Tensor) -> str:
    words = dictionary.string(sentence).split()
    return f'"{" ".join(words[:8])}{" ..." if len(words) > 8 else ""}"'
