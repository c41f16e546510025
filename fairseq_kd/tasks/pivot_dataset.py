"""Sentence pairs whose batches also hold the same sentences in a pivot language."""

from typing import Any, Dict, List, Optional

import numpy as np
import torch
from fairseq.data import BaseWrapperDataset, Dictionary, LanguagePairDataset, data_utils
from torch import Tensor
from torch.utils.data import Dataset


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
        links = links[(links < lengths - 1).all(-1)]  # the end symbol replaces a cut word
        offsets = torch.tensor(widths) - lengths if widths else torch.zeros(2, dtype=torch.long)
        rows.append(torch.cat([torch.full((len(links), 1), row), links + offsets], -1))
    return torch.cat(rows).long()
