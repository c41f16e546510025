"""Translation data with a pivot: every source sentence also in a language that the teacher reads.

The data folder holds ``train.LOW-TGT.{LOW,TGT}``, as ``translation`` reads them, and the same
sentences as ``train.PIVOT-TGT.{PIVOT,TGT}``. The three languages are aligned if the targets of
both are the same, line for line.
"""

import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Dict, List, Optional

import numpy as np
import torch
from fairseq import utils
from fairseq.data import (
    BaseWrapperDataset,
    Dictionary,
    LanguagePairDataset,
    data_utils,
    indexed_dataset,
)
from fairseq.tasks import register_task
from fairseq.tasks.translation import TranslationConfig, TranslationTask, load_langpair_dataset
from torch import Tensor
from torch.utils.data import Dataset

from fairseq_kd.binarised import check_side


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


@dataclass
class PivotTranslationConfig(TranslationConfig):
    """The flags of the task ``pivot_translation``, beside those of ``translation``."""

    kd_pivot_lang: Optional[str] = field(
        default=None,
        metadata={
            "help": "the language that the teacher reads the same sentences in (default: none; one "
            "must be given)"
        },
    )


@register_task("pivot_translation", dataclass=PivotTranslationConfig)
class PivotTranslationTask(TranslationTask):
    """fairseq's ``translation``, whose batches also hold the pivot's sentences.

    The model reads and translates as in ``translation``, and in the same batches; only a criterion
    sees ``sample["pivot"]``, what ``net_input`` would be in the pivot language but for the target,
    and, if the data hold alignments of positions, ``sample["pivot_links"]``, (n, 3) rows of
    sentence, position in the source and position in the pivot. The trained model is used with
    ``--task translation``, without the pivot.

    Raises:
        FileNotFoundError: the pivot's dictionary or a subset in it is missing.
        ValueError: no pivot language is given, or the three sides are not in step.
    """

    cfg: PivotTranslationConfig
    reads_plain_sentences = True  # so that what was trained can teach

    @property
    def pivot_lang(self) -> str:
        """The language that the teacher reads."""
        pivot = self.cfg.kd_pivot_lang
        if pivot is None:
            raise ValueError(
                "--task pivot_translation needs --kd-pivot-lang, the language that the teacher "
                "reads. Give it, or train with --task translation."
            )
        if pivot in (self.cfg.source_lang, self.cfg.target_lang):
            raise ValueError(
                f"--kd-pivot-lang is {pivot}, which is the student's own source or target. Give "
                "the language that the teacher reads."
            )
        return pivot

    @cached_property
    def pivot_dictionary(self) -> Dictionary:
        """The dictionary of the language that the teacher reads."""
        path = os.path.join(utils.split_paths(self.cfg.data)[0], f"dict.{self.pivot_lang}.txt")
        if not os.path.isfile(path):
            raise FileNotFoundError(f"{path} is missing. {self._how_to_make('train')}")
        return self.load_dictionary(path)

    def load_dataset(self, split: str, epoch: int = 1, combine: bool = False, **kwargs) -> None:
        """Loads a subset in all three languages, and refuses one whose lines are not in step."""
        paths = utils.split_paths(self.cfg.data)
        if split != self.cfg.train_subset:
            paths = paths[:1]
        folder = paths[(epoch - 1) % len(paths)]
        self._check_files(folder, split)
        super().load_dataset(split, epoch=epoch, combine=combine, **kwargs)
        dataset, pivot = self.datasets[split], self._load_pivot(folder, split, combine)
        check_in_step(f"{split} set in {folder}", self, dataset, pivot)
        alignments = self._load_alignments(folder, split, dataset, pivot)
        self.datasets[split] = PivotDataset(dataset, pivot, self.pivot_dictionary, alignments)

    def links_prefix(self, split: str, folder: Optional[str] = None) -> str:
        """The path, but for its ending, of the linked positions of source and pivot."""
        folder = folder or utils.split_paths(self.cfg.data)[0]
        return os.path.join(folder, f"{split}.align.{self.cfg.source_lang}-{self.pivot_lang}")

    def _check_files(self, folder: str, split: str) -> None:
        """Refuses a subset without the pivot's side, or with sides of different lengths."""
        low, target, pivot = self.cfg.source_lang, self.cfg.target_lang, self.pivot_lang
        sides = {low: f"{low}-{target}.{low}", target: f"{low}-{target}.{target}"}
        sides[pivot] = f"{pivot}-{target}.{pivot}"
        prefixes = {side: os.path.join(folder, f"{split}.{name}") for side, name in sides.items()}
        impl = self.cfg.dataset_impl
        if not indexed_dataset.dataset_exists(prefixes[pivot], impl=impl):
            raise FileNotFoundError(f"{prefixes[pivot]}.idx is missing. {self._how_to_make(split)}")
        for prefix, vocab_size in (
            (prefixes[pivot], len(self.pivot_dictionary)),
            (f"{folder}/{split}.{pivot}-{target}.{target}", len(self.tgt_dict)),
            (self.links_prefix(split, folder), None),
        ):
            check_side(Path(prefix), vocab_size)
        counts = {
            side: len(data_utils.load_indexed_dataset(prefix, None, impl))
            for side, prefix in prefixes.items()
            if indexed_dataset.dataset_exists(prefix, impl=impl)
        }
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"{side} {count}" for side, count in counts.items())
            raise ValueError(
                f"The {split} set in {folder} has different numbers of lines: {listed}. Line N of "
                "all three must be the same sentence; binarise them again from files that are in "
                "step."
            )

    def _load_pivot(self, folder: str, split: str, combine: bool) -> LanguagePairDataset:
        """The teacher's pair of a subset, put together as the student's is."""
        return load_langpair_dataset(
            folder,
            split,
            self.pivot_lang,
            self.pivot_dictionary,
            self.cfg.target_lang,
            self.tgt_dict,
            combine=combine,
            dataset_impl=self.cfg.dataset_impl,
            upsample_primary=self.cfg.upsample_primary,
            left_pad_source=self.cfg.left_pad_source,
            left_pad_target=self.cfg.left_pad_target,
            max_source_positions=self.cfg.max_source_positions,
            max_target_positions=self.cfg.max_target_positions,
            truncate_source=self.cfg.truncate_source,
        )

    def _load_alignments(
        self, folder: str, split: str, dataset: LanguagePairDataset, pivot: LanguagePairDataset
    ) -> Optional[Dataset]:
        """The linked positions of source and pivot, if the data hold them."""
        prefix = self.links_prefix(split, folder)
        if not indexed_dataset.dataset_exists(prefix, impl=self.cfg.dataset_impl):
            return None
        alignments = data_utils.load_indexed_dataset(prefix, None, self.cfg.dataset_impl)
        if len(alignments) != len(dataset):
            raise ValueError(
                f"{prefix} aligns {len(alignments)} sentences, but the {split} set has "
                f"{len(dataset)}. Align the same files that were binarised."
            )
        check_links(prefix, alignments, dataset, pivot, cut=self.cfg.truncate_source)
        return alignments

    def _how_to_make(self, split: str) -> str:
        source, target = self.pivot_lang, self.cfg.target_lang
        return (
            f"Binarise the {split} sentences in {source} too: fairseq-preprocess --source-lang "
            f"{source} --target-lang {target}, with --srcdict and --tgtdict of the teacher and the "
            "same --destdir."
        )


class PivotDataset(BaseWrapperDataset):
    """Pairs and batches of a dataset as they are, with the pivot's sentences beside them.

    Args:
        dataset: the student's pairs.
        pivot: the same sentences in the pivot language, of the same order.
        dictionary: of the pivot language.
        alignments: for each sentence the pairs of aligned positions (source, pivot) in one row, or
            None.
    """

    def __init__(
        self,
        dataset: LanguagePairDataset,
        pivot: LanguagePairDataset,
        dictionary: Dictionary,
        alignments: Optional[Dataset] = None,
    ):
        super().__init__(dataset)
        self.pivot, self.dictionary, self.alignments = pivot, dictionary, alignments

    def __getitem__(self, index: int) -> Dict[str, Any]:
        item = {**self.dataset[index], "pivot": self.pivot.src[index]}
        if self.alignments is not None:
            item["links"] = self.alignments[index].view(-1, 2)
        return item

    def collater(self, samples: List[Dict[str, Any]], pad_to_length=None) -> Dict[str, Any]:
        """The dataset's batch, with ``pivot`` and, if there are alignments, ``pivot_links``."""
        batch = self.dataset.collater(samples, pad_to_length=pad_to_length)
        if not batch:
            return batch
        by_id = {sample["id"]: sample for sample in samples}
        ordered = [by_id[number] for number in batch["id"].tolist()]
        sentences = [sample["pivot"] for sample in ordered]
        left = self.dataset.left_pad_source
        tokens = data_utils.collate_tokens(
            sentences, self.dictionary.pad(), self.dictionary.eos(), left_pad=left
        )
        lengths = torch.tensor([len(sentence) for sentence in sentences])
        batch["pivot"] = {"src_tokens": tokens, "src_lengths": lengths}
        if self.alignments is not None:
            widths = batch["net_input"]["src_tokens"].size(1), tokens.size(1)
            batch["pivot_links"] = _links(ordered, widths if left else None)
        return batch

    def filter_indices_by_size(self, indices: np.ndarray, max_sizes):
        """Leaves out what is too long in any of the three languages."""
        kept, ignored = self.dataset.filter_indices_by_size(indices, max_sizes)
        limit = max_sizes[0] if isinstance(max_sizes, (list, tuple)) else max_sizes
        if limit is None:
            return kept, ignored
        short = self.pivot.src_sizes[kept] <= limit
        return kept[short], [*ignored, *kept[~short].tolist()]


def _links(ordered: List[Dict[str, Any]], widths) -> Tensor:
    """(n, 3): sentence, position in the source, position in the pivot; padding counted.

    Args:
        ordered: the sentences of a batch.
        widths: of source and pivot, if they are padded on the left.
    """
    rows = []
    for row, sample in enumerate(ordered):
        lengths = torch.tensor([len(sample["source"]), len(sample["pivot"])])
        links = sample["links"]
        links = links[(links < lengths - 1).all(-1)]  # where a word was cut off, the end stands
        offsets = torch.tensor(widths) - lengths if widths else torch.zeros(2, dtype=torch.long)
        rows.append(torch.cat([torch.full((len(links), 1), row), links + offsets], -1))
    return torch.cat(rows).long()
