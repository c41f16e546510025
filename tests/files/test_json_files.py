"""The package's JSON files: reading them, and naming damaged ones."""

import json
import os
import re

import pytest

from fairseq_kd.files.json_files import read_json, sealed

FORM = {
    "rate?": float,
    "count": int,
    "seconds": float,
    "names": [str],
    "sizes": {str: int},
    "note": (str, None),
}
GOOD = {"count": 3, "seconds": 1, "names": ["a"], "sizes": {"x": 1}, "note": None, "more": [{}]}
REPAIR = "Remove it and run that again."


def text(**changed):
    return json.dumps({**GOOD, **changed})


@pytest.mark.parametrize(
    "more", [{}, {"rate": 2}, {"note": "x", "seconds": 0.5, "names": [], "sizes": {}}]
)
def test_a_file_of_the_expected_keys_and_types_is_read(tmp_path, more):
    path = tmp_path / "state.json"
    path.write_text(text(**more))
    assert read_json(path, FORM, REPAIR) == {**GOOD, **more}


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        ("", "it is empty"),
        (" \n", "it is empty"),
        ('{"count": 3,\n "sec', "it is not JSON from line 2, column 2 on"),
        ("[" * 100_000, "it has too many brackets"),
        *(
            (text(more=[json.loads("[" * depth + "]" * depth)]), "it has too many brackets")
            for depth in (100, 500)
        ),
        (" " * (16 << 20) + text(), "it has more than 16 MiB"),
        (b'{"a": "\xff"}', "its byte 8 is not UTF-8"),
        ("[]", "it must be an object, but is a list"),
        ('{"count": ' + "9" * 5000 + "}", "it has a number that is too long"),
        ("null", "it must be an object, but is null"),
        ('{"count": 3, "seconds": 1}', "it lacks 'names'"),
        (text(count="3"), "'count' must be a whole number, but is a text"),
        (text(count=True), "'count' must be a whole number, but is true or false"),
        (text(count=3.5), "'count' must be a whole number, but is a number"),
        (text(seconds=float("nan")), "'seconds' must be a number, but is nan"),
        (text(names={}), "'names' must be a list, but is an object"),
        (text(names=["a", 2]), "'names[1]' must be a text, but is a whole number"),
        (text(sizes={"x": 1, "y": None}), "'sizes.y' must be a whole number, but is null"),
        (text(rate="x"), "'rate' must be a number, but is a text"),
        (text(note=7), "'note' must be a text or null, but is a whole number"),
    ],
)
def test_a_damaged_file_is_named_with_the_key_and_its_repair(tmp_path, content, wrong):
    path = tmp_path / "state.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    message = f"^{re.escape(f'{path} is damaged: {wrong}. {REPAIR}')}$"
    with pytest.raises(ValueError, match=message):
        read_json(path, FORM, REPAIR)


def test_a_sealed_file_with_another_value_is_damaged(tmp_path):
    path = tmp_path / "state.json"
    path.write_text(json.dumps(sealed(GOOD), indent=2))
    assert read_json(path, FORM, REPAIR) == GOOD
    path.write_text(path.read_text().replace('"count": 3', '"count": 4'))
    wrong = "its values do not match its checksum"
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path} is damaged: {wrong}. {REPAIR}')}$"):
        read_json(path, FORM, REPAIR)


@pytest.mark.parametrize("depth", range(900, 1000, 7))  # what json reads, but cannot write again
def test_a_sealed_file_that_is_deep_is_damaged(tmp_path, depth):
    path = tmp_path / "state.json"
    path.write_text(f'{{"checksum": "x", "a": {"[" * depth}{"]" * depth}}}')
    with pytest.raises(ValueError, match=r"it has too many brackets\. Remove it"):
        read_json(path, {}, REPAIR)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "state.json")
    with pytest.raises(
        ValueError, match=r"state\.json is damaged: it is not a regular file\. Remov"
    ):
        read_json(tmp_path / "state.json", FORM, REPAIR)


def test_a_key_with_a_question_mark_may_be_missing(tmp_path):
    path = tmp_path / "state.json"
    path.write_text('{"a": 1}')
    assert read_json(path, {"a": int, "b?": [str]}, REPAIR) == {"a": 1}
    path.write_text('{"a": 1, "b": null}')
    with pytest.raises(ValueError, match="'b' must be a list, but is null"):
        read_json(path, {"a": int, "b?": [str]}, REPAIR)


def test_a_key_deep_inside_is_named_whole(tmp_path):
    path = tmp_path / "state.json"
    path.write_text('{"steps": [{"reads": {"x": {}}}]}')
    with pytest.raises(ValueError, match=r"it lacks 'steps\[0\]\.reads\.x\.sha256'"):
        read_json(path, {"steps": [{"reads": {str: {"sha256": str}}}]}, REPAIR)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"state\.json does not exist\. Remove it and"):
        read_json(tmp_path / "state.json", FORM, REPAIR)
