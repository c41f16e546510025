"""The sheet for human raters, and what they filled in."""

import csv
import re

import pytest

from fairseq_kd.evaluation.ratings import (
    COLUMNS,
    check_sheet,
    read_ratings,
    sign_test,
    translation_id,
    write_sheet,
)

SOURCES = ["uno", "dos", "tres", "=SUMA(A1)"]
TEXTS = {
    "teacher": ["one", "two", "three", "=SUM(A1)"],
    "small": ["one", "to", "tree", "sum"],
    "alone": ["one", "two", "free", "+sum"],
}


@pytest.fixture
def sheet(tmp_path):
    path = tmp_path / "sheet.csv"
    write_sheet(path, SOURCES, TEXTS, 10)
    return path


def rows_of(path):
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def filled(path, ratings, name="filled.csv", delimiter=","):
    """A copy of the sheet with (fluency, adequacy, preferred) for some translations."""
    rows = rows_of(path)
    for row in rows:
        values = ratings.get(row["translation"].lstrip("'"), ("", "", ""))
        row.update(zip(COLUMNS[4:], values, strict=True))
    copy = path.with_name(name)
    with copy.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return copy


def test_the_sheet_has_every_different_translation_and_no_names(sheet):
    rows = rows_of(sheet)
    by_sentence = {}
    for row in rows:
        by_sentence.setdefault(int(row["sentence"]), set()).add(row["translation"].lstrip("'"))
    assert by_sentence == {  # all systems translate the first one alike
        2: {"two", "to"},
        3: {"three", "tree", "free"},
        4: {"=SUM(A1)", "sum", "+sum"},
    }
    text = sheet.read_text(encoding="utf-8")
    assert not any(name in text for name in TEXTS)
    assert all(row[column] == "" for row in rows for column in COLUMNS[4:])


def test_a_spreadsheet_takes_no_cell_for_a_formula(sheet):
    cells = [cell for row in rows_of(sheet) for cell in row.values()]
    assert "'=SUM(A1)" in cells
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]


def test_as_many_sentences_are_drawn_as_were_asked_for(tmp_path):
    texts = {"a": [str(i) for i in range(50)], "b": [f"x{i}" for i in range(50)]}
    write_sheet(tmp_path / "sheet.csv", texts["a"], texts, 7)
    rows = rows_of(tmp_path / "sheet.csv")
    assert len({row["sentence"] for row in rows}) == 7
    first = [row["translation"].startswith("x") for row in rows[::2]]
    assert set(first) == {True, False}  # in another order in every sentence


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_ratings_are_those_of_every_system_with_the_translation(sheet, delimiter):
    ratings = {"two": ("5", "4", "x"), "to": ("1", "2", ""), "tree": ("3", "", "")}
    copy = filled(sheet, ratings, delimiter=delimiter)
    result = read_ratings([copy], SOURCES, TEXTS, "small")
    assert (result.raters, result.sentences) == (1, 2)
    teacher, small, alone = (result.systems[name] for name in TEXTS)
    assert (teacher.ratings, teacher.fluency, teacher.adequacy) == (1, 5.0, 4.0)
    assert teacher == alone  # which have the same translation of it
    assert (small.ratings, small.fluency, small.adequacy) == (2, 2.0, 2.0)
    assert (teacher.preferred, small.preferred) == (1.0, 0.0)  # of the one with a preference
    assert (teacher.p, small.p) == (1.0, None)


def test_several_raters_count_each(sheet):
    copies = [
        filled(sheet, {"two": (good, good, "x"), "to": ("1", "1", "")}, f"{good}.csv")
        for good in ("3", "5")
    ]
    result = read_ratings(copies, SOURCES, TEXTS, "small")
    assert (result.raters, result.sentences) == (2, 1)
    assert result.systems["teacher"].fluency == 4.0
    assert result.systems["teacher"].p == 0.5  # two differences of one sign


@pytest.mark.parametrize(("yes", "no"), [("1", "0"), ("Yes", "no"), ("x", ""), ("\u2713", "-")])
def test_a_mark_of_no_is_no_preference(sheet, yes, no):
    ratings = {"two": ("", "", no), "to": ("", "", yes), "three": ("", "", yes)}
    result = read_ratings([filled(sheet, ratings)], SOURCES, TEXTS, "small")
    shares = {name: each.preferred for name, each in result.systems.items()}
    assert shares == {"teacher": 0.5, "small": 0.5, "alone": 0.0}


def test_a_rater_who_marks_all_translations_of_a_sentence_prefers_none(sheet):
    ratings = {"two": ("", "", "x"), "to": ("", "", "x")}
    result = read_ratings([filled(sheet, ratings)], SOURCES, TEXTS, "small")
    assert {each.preferred for each in result.systems.values()} == {None}


@pytest.mark.parametrize("text", ["\uff1dSUM(A1)", " =1+1", "\uff0b1", "\u3000\uff0d1"])
def test_signs_of_other_widths_and_behind_spaces_begin_no_formula(tmp_path, text):
    write_sheet(tmp_path / "sheet.csv", ["a"], {"a": [text], "b": ["b"]}, 1)
    assert f"'{text}" in [row["translation"] for row in rows_of(tmp_path / "sheet.csv")]


@pytest.mark.parametrize("order", [1, -1])
def test_a_sheet_that_is_given_twice_is_refused(sheet, order):
    first = filled(sheet, {"two": ("5", "4", "x"), "to": ("1", "1", "")}, "anna.csv")
    head, *rows = first.read_text(encoding="utf-8-sig").splitlines()
    second = first.with_name("ben.csv")
    second.write_text("\n".join([head, *rows[::order]]) + "\n", encoding="utf-8")
    with pytest.raises(
        ValueError,
        match=rf"^--ratings {re.escape(str(second))} has the same ratings as "
        rf"{re.escape(str(first))}\. Give the sheet of each rater once\.$",
    ):
        read_ratings([first, second], SOURCES, TEXTS, "small")


def test_no_id_is_a_number_for_a_spreadsheet():
    ids = [translation_id(number, "one") for number in range(2000)]
    assert sum(bool(re.fullmatch(r"\d+(e\d+)?", each[1:])) for each in ids) > 5
    assert {each[0] for each in ids} == {"t"}


def test_an_id_without_its_letter_is_the_same(sheet):
    path = filled(sheet, {"two": ("5", "4", "x"), "to": ("1", "2", "")})
    own = read_ratings([path], SOURCES, TEXTS, "small")
    text = path.read_text(encoding="utf-8")
    path.write_text(re.sub("^t", "", text, flags=re.M), encoding="utf-8")
    assert path.read_text(encoding="utf-8") != text
    assert read_ratings([path], SOURCES, TEXTS, "small") == own


def test_a_column_that_was_sorted_alone_is_refused(sheet):
    path = filled(sheet, {"two": ("5", "5", "x"), "to": ("1", "1", "")})
    rows = rows_of(path)
    for row, identity in zip(
        rows, sorted((each["id"] for each in rows), reverse=True), strict=True
    ):
        row["id"] = identity
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    message = (
        rf"^--ratings {re.escape(str(path))}, line 2: the translation is not that of the id "
        rf"{rows[0]['id']}, but '{re.escape(rows[0]['translation'])}'\. If a column was sorted "
        r"alone or a quotation mark was added, undo that\.$"
    )
    with pytest.raises(ValueError, match=message):
        read_ratings([path], SOURCES, TEXTS, "small")


def test_sources_that_were_moved_alone_are_refused(sheet):
    path = filled(sheet, {"two": ("5", "5", "x"), "sum": ("1", "1", "")})
    first, second = list(dict.fromkeys(row["source"] for row in rows_of(path)))[:2]
    text = path.read_text(encoding="utf-8-sig")
    path.write_text(text.replace(f",{first},", f",{second},"), encoding="utf-8")
    message = rf", line 2: the source is not that of the id t\w+, but '{second}'\. If a column was"
    with pytest.raises(ValueError, match=message):
        read_ratings([path], SOURCES, TEXTS, "small")


@pytest.mark.parametrize("empty", ["FALSE", "0", "no", ""])
def test_boxes_that_nobody_ticked_are_no_ratings(sheet, empty):
    names = [row["translation"] for row in rows_of(sheet)]
    path = filled(sheet, {name: ("", "", empty) for name in names})
    check_sheet(path)
    with pytest.raises(ValueError, match=r"holds no ratings\. Give a sheet that is filled in\."):
        read_ratings([path], SOURCES, TEXTS, "small")
    part = filled(sheet, {name: ("4" if name == "two" else "", "", empty) for name in names})
    assert read_ratings([part], SOURCES, TEXTS, "small").systems["teacher"].ratings == 1


def test_a_quotation_mark_that_takes_rows_for_text_is_refused(sheet):
    path = filled(sheet, {"two": ("5", "5", "x"), "sum": ("1", "1", "")})
    text = path.read_text(encoding="utf-8-sig")
    path.write_text(text.replace(",two,", ',"two,') + '"', encoding="utf-8")
    with pytest.raises(ValueError, match="the translation is not that of the id t"):
        read_ratings([path], SOURCES, TEXTS, "small")
    path.write_text(text.replace(",two,", ',"two,'), encoding="utf-8")
    with pytest.raises(
        ValueError, match=r" is damaged: unexpected end of data\. Save it again as CSV, by "
    ):
        read_ratings([path], SOURCES, TEXTS, "small")


def test_changed_spaces_and_line_ends_are_the_same_translations(sheet):
    path = filled(sheet, {"two": ("5", "4", "x"), "to": ("1", "2", "")})
    own = read_ratings([path], SOURCES, TEXTS, "small")
    text = path.read_text(encoding="utf-8").replace(",two,", ", two\u00a0,")
    path.write_bytes("\r".join(text.splitlines()).encode())
    assert read_ratings([path], SOURCES, TEXTS, "small") == own


def test_the_sign_test_is_that_of_its_definition():
    assert sign_test([1, 2, 1, 1, 3]) == pytest.approx(2 / 2**5)
    assert sign_test([1, -1, 0]) == 1.0
    assert sign_test([-2] * 7 + [1]) == pytest.approx(2 * (1 + 8) / 2**8)
    assert sign_test([0, 0]) == 1.0


def test_a_sheet_with_ratings_is_not_replaced(sheet):
    check_sheet(sheet)  # empty
    copy = filled(sheet, {"two": ("5", "5", "")})
    message = (
        r"filled\.csv holds ratings, which --rating-sheet would replace\. Give it by --ratings and "
        r"leave out --rating-sheet, or move it\.$"
    )
    with pytest.raises(ValueError, match=message):
        check_sheet(copy)
    with pytest.raises(ValueError, match=message):
        write_sheet(copy, SOURCES, TEXTS, 10)
    check_sheet(sheet.with_name("gone.csv"))


def test_a_folder_with_the_name_of_the_sheet_is_refused_before_anything_is_measured(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"must be a file, but is a folder\."):
        check_sheet(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", r"must have the columns id, sentence, source, translation, fluency, "),
        (f"{','.join(COLUMNS)}\n", r"holds no ratings\. Give a sheet that is filled in\."),
        (
            f"{','.join(COLUMNS)}\n123,1,a,b,5,5,\n",
            r", line 2: no system has the translation of the id '123'\. Give the sheet of this",
        ),
        (
            f"{','.join(COLUMNS)}\n{translation_id(0, 'one')},1,uno,one,6,5,\n",
            r", line 2: fluency must be a number from 1 to 5, but is '6'\.",
        ),
        (
            f"{','.join(COLUMNS)}\n{translation_id(0, 'one')},1,uno,one,5,good,\n",
            r", line 2: adequacy must be a number from 1 to 5, but is 'good'\.",
        ),
        (
            f"{','.join(COLUMNS)}\n{translation_id(0, 'one')},1,uno,one,5,5,better\n",
            r", line 2: preferred must be x or empty, but is 'better'\.",
        ),
        (
            f"{','.join(COLUMNS)}\n" + f"{translation_id(0, 'one')},1,uno,one,5,5,\n" * 2,
            rf", line 3: the id {translation_id(0, 'one')} is rated twice\. Remove one of the rows",
        ),
        (
            f"{','.join(COLUMNS)},fluency\n{translation_id(0, 'one')},1,uno,one,5,5,,1\n",
            r" has the column fluency twice\. Remove one of them\.$",
        ),
        (f"{','.join(COLUMNS)}\n1,2,3,{'x' * 200_000}", r" is damaged: field larger than field "),
    ],
)
def test_a_sheet_that_cannot_be_read_is_refused(tmp_path, text, message):
    path = tmp_path / "sheet.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"^--ratings {re.escape(str(path))}.*{message}"):
        read_ratings([path], SOURCES, TEXTS, "small")
