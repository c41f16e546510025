"""The options of ``fairseq-kd store`` and ``store-merge``."""

import os
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Optional

from fairseq_kd.command_line import (
    Options,
    teacher_language_field,
    teacher_pair,
    user_dir_field,
)
from fairseq_kd.flag_types import (
    COUNT,
    Range,
    data_folder,
    file_path,
    number_field,
    one_line,
    option_field,
    subset_names,
)
from fairseq_kd.shard import Shard


@dataclass(frozen=True, kw_only=True)
class StoreOptions(Options):
    """The teacher, its data, and what is kept of its distributions."""

    COMMAND = "store"
    teacher: str = option_field(MISSING, "its checkpoint", read=one_line)
    data: Path = option_field(MISSING, "the folder that fairseq-train reads", read=data_folder)
    subset: str = option_field(
        "train,valid",
        "one or several, separated by commas (default: %(default)s)",
        read=subset_names,
    )
    out: Path = option_field(MISSING, "the folder of the store", read=file_path)
    topk: int = number_field(
        64,
        Range(int, 1, 65536),
        "K, the tokens kept of each distribution (default: %(default)s)",
    )
    shard: Shard = option_field(
        Shard(),
        "build the I-th of N parts of the work, then run store-merge (default: all)",
        read=Shard.parse,
        metavar="I/N",
    )
    max_tokens: int = number_field(4000, COUNT, "target tokens per batch (default: %(default)s)")
    part_sentences: int = number_field(
        4096,
        Range(int, 1, 10_000_000),
        "sentences per file; a killed process loses at most its unfinished file (default: "
        "%(default)s)",
    )
    dtype: str = option_field(
        "float32",
        "precision of the teacher (default: %(default)s)",
        ("float32", "bfloat16", "float16"),
    )
    teacher_source_lang: Optional[str] = teacher_language_field("source")
    teacher_target_lang: Optional[str] = teacher_language_field("target")
    user_dir: Optional[str] = user_dir_field()

    def check(self) -> None:
        """Checks that the teacher's languages are given together, and that it is one teacher."""
        teacher_pair(self)
        if os.pathsep in self.teacher and not Path(self.teacher).exists():
            raise ValueError(
                f"--teacher names several checkpoints, {self.teacher}, but a store has one "
                "teacher. Build a store of each, and train with --criterion multi_teacher_kd "
                f"--kd-store STORE{os.pathsep}STORE."
            )


@dataclass(frozen=True, kw_only=True)
class StoreMergeOptions(Options):
    """The store, and which of its subsets are complete."""

    COMMAND = "store-merge"
    out: Path = option_field(MISSING, "the folder of the store", read=file_path)
    subset: str = option_field("train,valid", "as in fairseq-kd store", read=subset_names)
