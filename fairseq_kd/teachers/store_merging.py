"""Completes a subset of a top-k store whose parts are built, after checking them."""

import io
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, Dict, List

import numpy as np

from fairseq_kd.files.atomic_files import check_no_link
from fairseq_kd.files.hashes import first_damaged, sha256_of
from fairseq_kd.teachers.store import (
    AGAIN,
    INDEX,
    INDEX_AGAIN,
    SENTENCE,
    STORE_FILE,
    TABLE,
    UNCHECKED,
    TeacherStore,
    open_part,
    part_name,
    read_json,
    read_table,
    records_checksum,
    records_fault,
    write_array,
    write_json,
)

OF_PART = ".sentences.npy"  # suffix of a part's table


def merge_subset(out: Path, subset: str, read: bool = True) -> int:
    """Completes a subset that has all parts, and returns the number of its target tokens.

    A store of format 1 gets checksums of its present content.

    Args:
        out: folder of the store.
        subset: its name.
        read: whether to read all records and compare their checksums.

    Raises:
        FileNotFoundError: the store has no such subset.
        ValueError: naming missing or damaged parts; or the subset's folder is a link.
    """
    store, folder = TeacherStore(out), out / subset
    check_no_link(folder)
    if not (folder / INDEX).is_file():
        raise FileNotFoundError(f"{out} holds no part of {subset}. Build it by fairseq-kd store.")
    index = read_json(folder / INDEX)
    parts = _whole_parts(folder, index["sentences"], store, read)
    tables = [_with_checksums(folder, part, store) for part in parts]
    table = np.concatenate([np.empty(0, SENTENCE), *tables])
    if len(table) != index["sentences"]:
        raise _other_number(folder, index["sentences"], f"its parts have {len(table):,}")
    _check_against_former(folder, index, tables)
    digest = _sha256_of_array(table)
    if index.get("table") != digest:
        write_json(folder / INDEX, {**index, "table": digest})
    if not (folder / TABLE).is_file() or sha256_of([folder / TABLE]) != digest:
        write_array(folder / TABLE, table)
    if "dictionaries" not in store.identity:
        hashes = {path.name: sha256_of([path]) for path in store.dictionaries()}
        write_json(out / STORE_FILE, {**store.identity, "dictionaries": hashes})
    return int(table["length"].sum())


def _whole_parts(folder: Path, sentences: int, store: TeacherStore, read: bool) -> range:
    """The numbers of the parts of a subset, after checking that all are whole.

    Raises:
        ValueError: naming missing or damaged parts; or there are more parts than the sentences
            fill.
    """
    parts = range(-(-sentences // store.part_sentences))
    names = [path.name[: -len(OF_PART)] for path in folder.glob(f"*{OF_PART}")]
    numbers = sorted(int(name) for name in names if name.isdecimal() and len(name) < 10)
    if sentences < 0 or (numbers and numbers[-1] >= len(parts)):
        at_least = numbers[-1] * store.part_sentences + 1 if numbers else 0
        raise _other_number(folder, sentences, f"its parts have at least {at_least:,}")
    whole = {part for part in numbers if part_is_whole(folder, part, store, read)}
    lacking = len(parts) - len(whole)
    if lacking:
        first = list(islice((part for part in parts if part not in whole), 9))
        raise ValueError(
            f"{folder} lacks {lacking:,} of its {len(parts):,} parts, or they are damaged (numbers "
            f"{', '.join(map(str, first[:8]))}{', ...' if len(first) > 8 else ''}; part P "
            "belongs to shard P mod N + 1 of N). Run the fairseq-kd store command of the shards "
            "that build them, then merge again."
        )
    return parts


def _check_against_former(folder: Path, index: Dict[str, Any], tables: List[np.ndarray]) -> None:
    """Checks that an undamaged table is only replaced by one of the same sentences.

    Raises:
        ValueError: naming the table of a part that differs, which is damaged.
    """
    if "table" not in index or first_damaged(folder, {TABLE: index["table"]}):
        return
    former = read_table(folder / TABLE)
    if len(former) != index["sentences"]:
        raise _other_number(folder, index["sentences"], f"{TABLE} has {len(former):,}")
    start = 0
    for part, table in enumerate(tables):
        same = former[start : start + len(table)]
        start += len(table)
        if not all(np.array_equal(same[name], table[name]) for name, _ in UNCHECKED):
            raise ValueError(f"{sentences_path(folder, part)} is damaged. {AGAIN}")


def _other_number(folder: Path, sentences: int, actual: str) -> ValueError:
    return ValueError(
        f"{folder / INDEX} is damaged: it lists {sentences:,} sentences, but {actual}. "
        f"{INDEX_AGAIN}"
    )


def _with_checksums(folder: Path, part: int, store: TeacherStore) -> np.ndarray:
    """The table of a part's sentences; missing checksums of records are added to its file."""
    table = read_table(sentences_path(folder, part))
    if table.dtype != SENTENCE:
        full = np.zeros(len(table), SENTENCE)
        for name in table.dtype.names:
            full[name] = table[name]
        rows = _records_of(folder, part, table["length"], store)
        full["records"] = [records_checksum(records, store.seed) for records in rows]
        table = full
        write_array(sentences_path(folder, part), table)
    return table


def _sha256_of_array(array: np.ndarray) -> str:
    """The SHA-256 of the file that ``write_array`` writes."""
    content = io.BytesIO()
    np.save(content, array)
    return sha256(content.getvalue()).hexdigest()


def part_is_whole(folder: Path, part: int, store: TeacherStore, read: bool = True) -> bool:
    """Whether a part exists, with as many records as its sentences have tokens.

    Args:
        folder: of the subset.
        part: its number.
        store: the store.
        read: whether to also read the records and compare their checksums.
    """
    try:
        table = read_table(sentences_path(folder, part))
        rows = _records_of(folder, part, table["length"], store)
    except (OSError, ValueError, EOFError):
        return False
    if not read:
        return True
    return not any(
        records_fault(records, row, store.vocab_size, store.seed)
        for records, row in zip(rows, table, strict=True)
    )


def _records_of(
    folder: Path, part: int, lengths: np.ndarray, store: TeacherStore
) -> List[np.ndarray]:
    """The records of each sentence of a part."""
    ends = np.cumsum(lengths, dtype=np.int64)
    records = open_part(folder / part_name(part), store.dtype, int(lengths.sum()))
    return np.split(records, ends[:-1])


def sentences_path(folder: Path, part: int) -> Path:
    """The file of the table of a part's sentences."""
    return folder / f"{part:05d}{OF_PART}"
