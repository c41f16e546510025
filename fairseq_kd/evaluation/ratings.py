"""Human ratings: a blind sheet of shuffled translations, and what raters filled in."""

import csv
import hashlib
import io
import math
import os
import random
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path
from typing import Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

from fairseq_kd.evaluation.results import Rating, RatingResult
from fairseq_kd.files.atomic_files import atomic_write
from fairseq_kd.files.names import why_no_file
from fairseq_kd.parallel_text import letters_of, lines_of

RATING_SHEET = "rating-sheet.csv"
COLUMNS = ("id", "sentence", "source", "translation", "fluency", "adequacy", "preferred")
RATED = COLUMNS[4:]
SCALE = ("1", "2", "3", "4", "5")
SEED = 1
PREFERRED = {
    "x",
    "1",
    "yes",
    "y",
    "true",
    "*",
    "+",
    "\u2713",
    "\u2714",
}  # the last two: check marks
NOT_PREFERRED = {"", "0", "no", "n", "false", "-"}
LETTER = "t"  # no hexadecimal digit
FORMULA = set("=+-@")  # with which a spreadsheet would take a text for a formula

Ids = Dict[str, Tuple[int, Tuple[str, ...]]]  # the sentence and the systems of each translation
Texts = Mapping[str, Sequence[str]]  # plain translations by system


def write_sheet(path: Path, sources: Sequence[str], texts: Texts, sentences: int) -> None:
    """Writes the sheet: a row for each different translation of randomly drawn sentences.

    Systems are shuffled for each sentence, and not named. Sentences that all systems translate
    alike are left out. Numbers from 1 to 5 belong into the columns fluency and adequacy, and an x
    into that of the preferred translation.

    Args:
        path: of the sheet.
        sources: plain source sentences.
        texts: plain translations by system.
        sentences: maximum number.
    """
    numbers = [i for i in range(len(sources)) if len({each[i] for each in texts.values()}) > 1]
    check_sheet(path)  # it may have been filled in meanwhile
    order = random.Random(SEED)
    drawn = sorted(order.sample(numbers, min(sentences, len(numbers))))
    with atomic_write(path) as file:
        file.write("\ufeff")  # by which spreadsheets recognise UTF-8
        sheet = csv.writer(file, lineterminator="\n")
        sheet.writerow(COLUMNS)
        for i in drawn:
            different = sorted({each[i] for each in texts.values()})
            order.shuffle(different)
            for text in different:
                given = (translation_id(i, text), i + 1, _as_text(sources[i]), _as_text(text))
                sheet.writerow([*given, *("" for _ in RATED)])


def _as_text(text: str) -> str:
    """A cell that a spreadsheet does not execute as a formula."""
    first = unicodedata.normalize("NFKC", text.lstrip()[:1])  # full-width signs count, too
    return f"'{text}" if first in FORMULA else text


def translation_id(number: int, text: str) -> str:
    """The id of a translation in the sheet, from which no system can be seen.

    It begins with a letter, since a spreadsheet would take 12e456 for a number and change it.
    """
    return LETTER + hashlib.sha256(f"{number} {text}".encode()).hexdigest()[:12]


def check_sheet(path: Path) -> None:
    """Refuses to replace a sheet that somebody has filled in.

    Raises:
        FileNotFoundError, ValueError: it has ratings, or something else has its name.
    """
    if os.path.lexists(path) and any(_is_rated(row) for _, row in _rows(path, str(path))):
        raise ValueError(
            f"{path} holds ratings, which --rating-sheet would replace. Give it by --ratings and "
            "leave out --rating-sheet, or move it."
        )


def read_ratings(
    paths: Sequence[Path], sources: Sequence[str], texts: Texts, student: str
) -> RatingResult:
    """Means of the ratings of all raters.

    Args:
        paths: the sheet as each rater filled it in.
        sources: plain source sentences.
        texts: plain translations by system.
        student: the system that all others are compared with, by the sign test on the sum of
            fluency and adequacy of each sentence and rater.

    Raises:
        FileNotFoundError, ValueError: a file is missing, damaged or given twice, or a row has
            another source or translation than its id.
    """
    systems_of: Ids = {}
    for name, translations in texts.items():
        for i, text in enumerate(translations):
            identity = translation_id(i, text)
            systems_of[identity] = (i, (*systems_of.get(identity, (i, ()))[1], name))
    rated: Dict[str, Dict[Tuple[int, int], _Row]] = defaultdict(dict)
    sheets = [list(_rated_rows(path, systems_of, sources, texts)) for path in paths]
    unordered = [frozenset(rows) for rows in sheets]
    for rater, rows in enumerate(sheets):
        if rows and unordered[rater] in unordered[:rater]:
            raise ValueError(
                f"--ratings {paths[rater]} has the same ratings as "
                f"{paths[unordered.index(unordered[rater])]}. Give the sheet of each rater once."
            )
        for row in rows:
            number, names = systems_of[row.identity]
            for name in names:
                rated[name][rater, number] = row
    if not rated:
        raise ValueError(f"--ratings {paths[0]} holds no ratings. Give a sheet that is filled in.")
    shares = _preferred_shares(sheets, systems_of, texts)
    return RatingResult(
        raters=len(paths),
        sentences=len({number for each in rated.values() for _, number in each}),
        systems={
            name: _rating(rated[name], shares[name], rated[student] if name != student else None)
            for name in texts
        },
    )


class _Row(NamedTuple):
    identity: str
    fluency: Optional[int]
    adequacy: Optional[int]
    preferred: bool

    @property
    def total(self) -> Optional[int]:
        """Fluency plus adequacy, if both are rated."""
        return None if None in (self.fluency, self.adequacy) else self.fluency + self.adequacy


def _is_rated(row: Mapping[str, str]) -> bool:
    """Whether anything is filled in; spreadsheets save the boxes that nobody ticked as FALSE."""
    return any(map(row.get, RATED[:2])) or row["preferred"].casefold() not in NOT_PREFERRED


def _rated_rows(
    path: Path, systems_of: Ids, sources: Sequence[str], texts: Texts
) -> Iterator[_Row]:
    """The rows of a sheet in which anything is filled in; the text of all rows is compared."""
    called, seen = f"--ratings {path}", set()
    for line, row in _rows(path, called):
        identity = LETTER + row["id"].removeprefix(LETTER)  # which sheets may lack
        number, names = systems_of.get(identity, (0, ()))
        own = (texts[names[0]][number], sources[number]) if names else ()
        for column, text in zip(("translation", "source"), own):  # noqa: B905  (none without names)
            if letters_of(text) != letters_of(row[column]):
                raise ValueError(
                    f"{called}, line {line}: the {column} is not that of the id {row['id']}, but "
                    f"{row[column]!r:.40}. If a column was sorted alone or a quotation mark was "
                    "added, undo that."
                )
        if not _is_rated(row):
            continue
        if not names:
            raise ValueError(
                f"{called}, line {line}: no system has the translation of the id "
                f"{row['id']!r:.40}. Give the sheet of this evaluation."
            )
        for column in RATED[:2]:
            if row[column] not in ("", *SCALE):
                raise ValueError(
                    f"{called}, line {line}: {column} must be a number from 1 to 5, but is "
                    f"{row[column]!r:.40}."
                )
        mark = row["preferred"].casefold()
        if mark not in PREFERRED | NOT_PREFERRED:
            raise ValueError(
                f"{called}, line {line}: preferred must be x or empty, but is "
                f"{row['preferred']!r:.40}."
            )
        if identity in seen:
            raise ValueError(
                f"{called}, line {line}: the id {row['id']} is rated twice. Remove one of the rows."
            )
        seen.add(identity)
        fluency, adequacy = (int(row[each]) if row[each] else None for each in RATED[:2])
        yield _Row(identity, fluency, adequacy, mark in PREFERRED)


def _rows(path: Path, called: str) -> Iterator[Tuple[int, Dict[str, str]]]:
    """The rows of a sheet by column, each with the line of the file where it ends."""
    if not path.is_file():
        raise FileNotFoundError(f"{called} {why_no_file(path)}. Give a sheet that is filled in.")
    text = "\n".join(lines_of(str(path), called)).lstrip("\ufeff").replace("\r", "\n")
    head = text.partition("\n")[0]
    delimiter = max(",;\t", key=head.count)
    reader = csv.DictReader(io.StringIO(text), delimiter=delimiter, restval="", strict=True)
    try:
        columns = Counter(reader.fieldnames)
        if not set(COLUMNS) <= columns.keys():
            raise ValueError(
                f"{called} must have the columns {', '.join(COLUMNS)}. Give a sheet of this."
            )
        twice = [each for each in COLUMNS if columns[each] > 1]
        if twice:
            raise ValueError(f"{called} has the column {twice[0]} twice. Remove one of them.")
        for row in reader:
            yield reader.line_num, {name: row[name].strip() for name in COLUMNS}
    except csv.Error as error:
        raise ValueError(
            f"{called} is damaged: {error}. Save it again as CSV, by a spreadsheet."
        ) from None


def _preferred_shares(
    sheets: Sequence[Sequence[_Row]], systems_of: Ids, texts: Texts
) -> Dict[str, Optional[float]]:
    """The share of sentences for which each system was preferred; None if there are none.

    A sentence counts once for every rater who marked some of its translations, but not all.
    """
    counts, total = dict.fromkeys(texts, 0), 0
    for rows in sheets:
        marked: Dict[int, Set[str]] = defaultdict(set)
        for row in rows:
            if row.preferred:
                marked[systems_of[row.identity][0]].add(row.identity)
        for number, identities in marked.items():
            if len(identities) < len({each[number] for each in texts.values()}):
                total += 1
                for name in {name for each in identities for name in systems_of[each][1]}:
                    counts[name] += 1
    return {name: count / total if total else None for name, count in counts.items()}


def _rating(
    rows: Mapping[Tuple[int, int], _Row],
    preferred: Optional[float],
    base: Optional[Mapping[Tuple[int, int], _Row]],
) -> Rating:
    """The means of one system; ``base`` has the rows of the student."""
    differences = [
        row.total - base[key].total
        for key, row in (rows.items() if base else ())
        if key in base and None not in (row.total, base[key].total)
    ]
    return Rating(
        ratings=len(rows),
        fluency=_mean([row.fluency for row in rows.values()]),
        adequacy=_mean([row.adequacy for row in rows.values()]),
        preferred=preferred,
        p=sign_test(differences) if differences else None,
    )


def _mean(values: Sequence[Optional[int]]) -> Optional[float]:
    known = [each for each in values if each is not None]
    return sum(known) / len(known) if known else None


def sign_test(differences: List[int]) -> float:
    """The probability that as many of the differences have one sign by chance; zeros are left out.

    ``min(1, 2 * sum_{i <= k} binomial(n, i) / 2^n)``, k the smaller number of one sign, of n.
    """
    positive, negative = (sum(sign * each > 0 for each in differences) for sign in (1, -1))
    n = positive + negative
    return min(1.0, 2 * sum(math.comb(n, i) for i in range(min(positive, negative) + 1)) / 2**n)
