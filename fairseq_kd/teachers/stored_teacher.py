"""A store as the teacher of a training, matched to its data by a fingerprint and checksums."""

import logging
import os
from types import SimpleNamespace
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
from fairseq.data import Dictionary
from fairseq.tasks import FairseqTask
from fairseq.tasks.translation import load_langpair_dataset
from torch import Tensor, nn

from fairseq_kd.files.names import plain_languages
from fairseq_kd.losses import TopK
from fairseq_kd.models.real_tokens import RealTokens, prepared
from fairseq_kd.teachers.compatibility import check_same_vocabulary, language_pair
from fairseq_kd.teachers.store import STORE_FILE, StoredSubset, TeacherStore
from fairseq_kd.teachers.store_records import as_bytes
from fairseq_kd.teachers.teacher_data import data_fingerprint, sentence_checksums

logger = logging.getLogger(__name__)


class StoredTeacher:
    """A teacher's top-k distributions for certain data, read from disk.

    Languages, dictionaries and the data of every subset are compared before the first update, and
    each sentence of each batch by its checksum.

    Args:
        path: the folder that ``fairseq-kd store`` wrote.
        task: the task of the training.
        subsets: the subsets that the training reads.
        limits: of each, the most source and target tokens of the sentences that it reads.

    Raises:
        FileNotFoundError: there is no store.
        ValueError: it was built for other languages, dictionaries or data, lacks a subset or
            sentences of it, or is damaged; or the training reads several folders, or sentences
            more than once.
    """

    def __init__(
        self,
        path: str,
        task: FairseqTask,
        subsets: Sequence[str],
        limits: Sequence[Tuple[int, int]],
    ):
        self.name = f"--kd-store {path}"
        _refuse_mixtures(self.name, task.cfg)
        self.store = TeacherStore(path)
        self.pad = task.target_dictionary.pad()
        check_same_vocabulary(self.name, stored_task(self.store), task)
        missing = [subset for subset in subsets if subset not in self.store.subsets()]
        if missing:
            begun = all((self.store.path / subset).is_dir() for subset in missing)
            how = (
                "Complete it by fairseq-kd store-merge" if begun else "Build it by fairseq-kd store"
            )
            raise ValueError(
                f"{self.name} holds {', '.join(self.store.subsets()) or 'no complete subset'}, but "
                f"the training also needs {', '.join(missing)}. {how} --subset "
                f"{','.join(missing)} --out {path}, or train with --disable-validation."
            )
        self.subsets: List[StoredSubset] = [self.store.subset(subset) for subset in subsets]
        for name, subset in zip(subsets, self.subsets, strict=True):
            if data_fingerprint(task.cfg.data, name, language_pair(task)) != subset.fingerprint:
                raise ValueError(
                    f"{self.name} was built from a {name} that differs from that in "
                    f"{task.cfg.data}. Build a store from this data, or train on the data it was "
                    "built from."
                )
        for name, subset, longest in zip(subsets, self.subsets, limits, strict=True):
            check_left_out(self.name, name, subset.sentences["length"], task, longest)
        opened = dict(zip(subsets, self.subsets, strict=True))
        unchecked = [name for name, subset in opened.items() if not subset.has_checksums]
        if unchecked:
            logger.warning(
                f"{self.name} was built without checksums, so that damage is not detected. "
                f"fairseq-kd store-merge --out {path} --subset {','.join(unchecked)} adds them."
            )

    def move_to(self, student: nn.Module) -> None:
        """Does nothing: its soft targets are built on the device of the batch."""

    def soft_targets(self, sample: Dict[str, Any], real: RealTokens) -> TopK:
        """The stored top-k distributions of the real tokens of a batch.

        Args:
            sample: a batch of fairseq's, prepared in the data loader or not.
            real: the target tokens that are wanted; see ``records``.

        Raises:
            ValueError: as ``records``.
        """
        content = prepared(sample).get("records", {}).get(self.name)
        if content is None or len(content) != len(real.positions):
            content = self.records(sample, real.mask)
        return self.store.unpack(content.to(real.mask.device))

    def records(self, sample: Dict[str, Any], real: Tensor) -> Tensor:
        """The bytes of the records of the real tokens of a batch, (N, bytes of one) uint8.

        Args:
            sample: a batch of fairseq's, of one of the subsets.
            real: (B, L) bool, True at the target tokens that are wanted: in each sentence all, or
                all but some first ones.

        Raises:
            ValueError: the batch holds a sentence that is not in the store, or whose records are
                damaged.
        """
        numbers = sample["id"].tolist()
        subset = self._subset_of(numbers, sentence_checksums(sample, self.pad))
        wanted = real.sum(-1).tolist()
        rows = [
            records[len(records) - count :]
            for records, count in zip(map(subset.records, numbers), wanted, strict=True)
        ]
        return as_bytes(np.concatenate(rows))

    def _subset_of(self, numbers: List[int], checksums: np.ndarray) -> StoredSubset:
        """The subset whose sentences of these numbers are those of the batch."""
        known: Optional[np.ndarray] = None
        for subset in self.subsets:
            if max(numbers) < len(subset):
                known = subset.sentences["checksum"][numbers] == checksums
                if known.all() and subset.sentences["length"][numbers].all():
                    return subset
        raise ValueError(
            f"{self.name} has no entry for sentence {numbers[0]} of this batch, as the training "
            "reads it. A store holds the sentences as the teacher's task reads them, without those "
            "that are too long for the teacher: train with the same task options, and with the "
            "teacher's --max-source-positions and --max-target-positions."
        )


def stored_task(store: TeacherStore) -> Any:
    """The languages and dictionaries of a store's teacher, in the shape of a task.

    Raises:
        ValueError: a dictionary is missing or damaged.
    """
    languages = plain_languages(store.identity["languages"], str(store.path))
    source, target = (Dictionary.load(str(path)) for path in store.dictionaries())
    if len(target) != store.vocab_size:
        raise ValueError(
            f"{store.path / STORE_FILE} gives the dictionary {store.vocab_size} entries, but "
            f"{store.dictionaries()[1]} has {len(target)}: one of them is damaged. Remove the "
            "store and build it again."
        )
    return SimpleNamespace(
        cfg=SimpleNamespace(source_lang=languages[0], target_lang=languages[1]),
        source_dictionary=source,
        target_dictionary=target,
    )


def check_left_out(
    called: str, name: str, lengths: np.ndarray, task: FairseqTask, longest: Tuple[int, int]
) -> None:
    """Refuses a store without sentences that the training reads, as its teacher reads fewer tokens.

    Args:
        called: how errors name the store.
        name: of the subset.
        lengths: of its sentences in the store; 0: left out.
        task: the languages, dictionaries and data of the training.
        longest: the most source and target tokens of the sentences that it reads.

    Raises:
        ValueError: some sentences are left out that the training reads.
    """
    left_out = np.flatnonzero(lengths == 0)
    if not len(left_out):
        return
    (source, target), cfg = language_pair(task), task.cfg
    pairs = load_langpair_dataset(
        cfg.data, name, source, task.source_dictionary, target, task.target_dictionary,
        combine=True, dataset_impl=getattr(cfg, "dataset_impl", None), upsample_primary=1,
        left_pad_source=True, left_pad_target=False, max_source_positions=longest[0],
        max_target_positions=longest[1], truncate_source=getattr(cfg, "truncate_source", False),
    )  # fmt: skip
    sizes = np.stack([pairs.src_sizes[left_out], pairs.tgt_sizes[left_out]], -1)
    read = sizes[(sizes <= longest).all(-1)]
    if len(read):
        raise ValueError(
            f"{called} must hold all sentences that the training reads, but lacks {len(read):,} of "
            f"{name}, of up to {read[:, 0].max()} source and {read[:, 1].max()} target tokens, "
            "which its teacher could not read. Train with --max-source-positions and "
            "--max-target-positions of the teacher."
        )


def _refuse_mixtures(name: str, cfg: Any) -> None:
    """Refuses data in which the number of a sentence is not that of one folder's file."""
    if os.pathsep in cfg.data:
        raise ValueError(
            f"{name} belongs to one data folder, but the training reads {cfg.data}. Binarise the "
            "data into one folder, or train from --kd-teacher."
        )
    if cfg.upsample_primary > 1:
        raise ValueError(
            f"--upsample-primary is {cfg.upsample_primary}, but {name} has each sentence once. "
            "Leave it out, or train from --kd-teacher."
        )
