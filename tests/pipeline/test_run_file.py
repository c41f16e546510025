"""Run files: allowed content, and messages for mistakes."""

import re
import time

import pytest

from fairseq_kd.pipeline.run_file import read_run

SHORTEST = "data: data-bin\nteacher: teacher.pt\ntarget: 0.25\ntrain:\n  max-update: 100000\n"


@pytest.fixture
def read(tmp_path):
    def read_text(text):
        path = tmp_path / "run.yaml"
        path.write_text(text, encoding="utf-8")
        return read_run(path)

    return read_text


def test_five_lines_are_enough(read):
    run = read(SHORTEST)
    assert len(SHORTEST.splitlines()) == 5
    assert run.folder.parts == ("runs", "run")
    assert run.teacher == ["teacher.pt"]
    assert run.ladder is None
    assert run.other["target"] == 0.25
    assert run.each["criterion"] == "word_kd"


def test_a_run_file_of_many_keys_is_read_as_fast_as_its_length(read):
    many = "".join(f"  k{number}: 1\n" for number in range(10_000))
    begin = time.process_time()
    assert len(read(SHORTEST + many).train) == 10_001
    assert time.process_time() - begin < 20  # 3 s; it was a minute where keys were counted


def test_a_stage_is_a_ratio_or_says_more(read):
    ladder = "ladder: [0.7, {ratio: 0.5, name: half, temperature: 2}, {arch: transformer}]"
    stages = read(SHORTEST.replace("target: 0.25", ladder)).ladder
    assert [(stage.name, stage.ratio, stage.arch) for stage in stages] == [
        ("", 0.7, None),
        ("half", 0.5, None),
        ("", None, "transformer"),
    ]
    assert stages[1].settings == {"temperature": 2}


def test_a_file_that_is_no_text_is_named_with_its_line(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_bytes(b"# ma\xf1ana\n" + SHORTEST.encode())
    with pytest.raises(ValueError, match=f'^{path}, line 1, is not UTF-8: after "# ma" comes the'):
        read_run(path)


REFUSALS = {
    "an unknown key": ("tain: {}", "it has an unknown key tain. Did you mean train?"),
    "one far from all": ("zzz: 1", "it has an unknown key zzz. Known keys are run, seed, "),
    "one of a stage": ("each: {temprature: 2}", "each has an unknown key temprature. Did you mean"),
    "one of the text": (
        "data: {text: t, source: es, target: en, merge: 5}",
        "data has an unknown key merge. Did you mean merges?",
    ),
    "text without a language": ("data: {text: t, source: es}", "data lacks the key target."),
    "a wrong choice": (
        "controls: [undistiled]",
        "controls[0] must be one of undistilled, inherited, total, one-step, but is undistiled.",
    ),
    "a wrong start of a ladder": (
        "strategy: wide",
        "strategy must be one of balanced, depth, width, deep-shallow, but is wide.",
    ),
    "a word for a number": (
        "seed: many",
        "seed cannot be 'many'. docs/progressive.md lists the allowed values.",
    ),
    "a negative temperature": ("each: {temperature: -1}", "each.temperature cannot be -1: "),
    "no that YAML reads as false": (
        "data: {text: t, source: es, target: no}",
        "data.target is no, which YAML reads as true or false: write 'no' in quotes.",
    ),
    "a name that YAML reads as a number": (
        "ladder: [{ratio: 0.5, name: 07.5}]",
        "ladder[0].name is 07.5, which YAML reads as a number: write '07.5' in quotes.",
    ),
    "a folder that YAML reads as a date": (
        "run: 2026-11-28",
        "run is 2026-11-28, which YAML reads as a date: write '2026-11-28' in quotes.",
    ),
    "a teacher that YAML reads as true": (
        "teacher: on",
        "teacher is on, which YAML reads as true or false: write 'on' in quotes.",
    ),
    "a layer map that YAML reads as minutes": (
        "each: {train: {kd-feature-layers: 1:2}}",
        "1:2 would be read as 62, so write it in quotes",
    ),
    "a flag that YAML reads as a number": (
        "evaluate: {1: 2}",
        "evaluate has a key that YAML reads as a number, 1. Write it in quotes.",
    ),
    "a flag of a list, beside one that YAML reads as a number": (
        "each: {train: {1: [x], a: [y]}}",
        "each.train has a key that YAML reads as a number, 1. Write it in quotes.",
    ),
    "a value that ends its line": (
        'each: {train: {dropout: "0.1\\n"}}',
        "each.train.dropout must be a value on one line that does not begin with -, as a flag",
    ),
    "a number that YAML reads as octal": ("seed: 010", "010 would be read as 8, so write it in"),
    "a name that ends its line": (
        'ladder: [{ratio: 0.5, name: "half\\n"}]',
        "ladder[0].name must be a name of letters, digits, - and _, but is 'half\\n'.",
    ),
    "a flag that ends its line": (
        'each: {train: {"lr\\n": 1}}',
        "each.train must be flags without their dashes, each a name, but is 'lr\\n'.",
    ),
    "a folder of two lines": (
        'run: "a\\nb"',
        "run must be a path on one line, not empty, not beginning with -, and without a colon, "
        "with which fairseq separates folders, but is 'a\\nb'.",
    ),
    "a folder of spaces": ('run: "  "', "run must be a path on one line, not empty, not beginn"),
    "a flag for a folder": ("run: --user-dir=x", "run must be a path on one line, not empty, not"),
    "several folders": (
        "data: a:b",
        "and without a colon, with which fairseq separates folders, but",
    ),
    "a ratio that leaves nothing": (
        "ladder: [0.0001]",
        "ladder[0] cannot be 0.0001: 0.0001 is less than the minimum of 0.001.",
    ),
    "a flag for a value": (
        "each: {train: {cpu: --user-dir=x}}",
        "each.train.cpu must be a value on one line that does not begin with -, as a flag does, ",
    ),
    "a weight that is none": ("each: {alpha: .nan}", "each.alpha cannot be nan."),
    "shards that are no whole number": ("store: {shards: 2.0}", "store.shards cannot be 2.0."),
    "more shards than anyone has": ("store: {shards: 2000000000}", "store.shards cannot be 20000"),
    "a teacher that is learned from twice": (
        "ladder: [{ratio: 0.5, learns-from: [teacher, teacher]}]",
        "ladder[0].learns-from names one of teacher, teacher twice. Name each once.",
    ),
    "both ends": (
        "ladder: [0.5]",
        "it must have exactly one of target, ladder, parameters, but has target and ladder.",
    ),
    "a key that is given twice": (
        "seed: 1\nseed: 2",
        "cannot be read as YAML: seed is given twice",
    ),
    "aliases that multiply": (
        "each: [&a [1, 2, 3], &b [*a, *a, *a], "
        + ", ".join(
            f"&{y} [{', '.join([f'*{x}'] * 9)}]" for x, y in zip("bcdefg", "cdefgh", strict=True)
        )
        + "]",
        "cannot be read as YAML: its aliases make it longer than 100,000 values",
    ),
    "an alias of itself": ("each: &a [*a]", "its aliases make it longer than 100,000 values"),
    "no YAML": ("each: [", "cannot be read as YAML: "),
    "a truth that is none": (
        "seed: !!bool x",
        "cannot be read as YAML: 'x' is not a valid bool in ",
    ),
    "a number that is none": (
        'seed: !!int ""',
        "cannot be read as YAML: '' is not a valid int in ",
    ),
    "a time that is none": (
        "seed: !!timestamp q",
        "cannot be read as YAML: 'q' is not a valid timestamp",
    ),
    "a day that no month has": (
        "run: 2026-02-30",
        "cannot be read as YAML: '2026-02-30' is not a valid timestamp in ",
    ),
    "a set that is none": ("seed: !!set [1]", "cannot be read as YAML: expected a mapping node, "),
    "a number without end": (
        "each: {train: {lr: 1e400}}",
        "each.train.lr is 1e400, which is not a finite number.",
    ),
}


@pytest.mark.parametrize("wrong", REFUSALS)
def test_a_mistake_is_reported_by_its_key(read, wrong):
    line, message = REFUSALS[wrong]
    key = line.partition(":")[0]
    replaced = (key, "target") if key == "ladder" and wrong != "both ends" else (key,)
    kept = [each for each in SHORTEST.splitlines() if not each.startswith(replaced)]
    with pytest.raises(ValueError, match=r"run\.yaml") as refused:
        read("\n".join([*kept, line]))
    assert message in str(refused.value)


def test_keys_of_another_mapping_are_merged_and_overridden(read):
    run = read(f"{SHORTEST}each: {{<<: {{alpha: 0.5, temperature: 1}}, temperature: 2}}\n")
    assert (run.each["alpha"], run.each["temperature"]) == (0.5, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            ["run=2026-11-29"],
            "run is 2026-11-29, which YAML reads as a date: write '2026-11-29' in",
        ),
        (["run=12"], "run is 12, which YAML reads as a number: write '12' in quotes."),
        (["run=a", "run=yes"], "run is yes, which YAML reads as true or false: write 'yes' in quo"),
        (["train.lr=1e400"], "train.lr is 1e400, which is not a finite number."),
        (["train.lr=1", "train={lr: .nan}"], "train.lr is .nan, which is not a finite number."),
        (["seed=!!bool x"], "!!bool x cannot be read as YAML."),
        (
            [f"seed={'[' * 3000}"],
            f"{'[' * 60} cannot be read as YAML.",
        ),
    ],
)
def test_a_mistake_in_a_change_is_reported_with_its_value(tmp_path, changes, message):
    (tmp_path / "run.yaml").write_text(f"run: runs/old\n{SHORTEST}  lr: 5e-4\n")
    with pytest.raises(ValueError, match=f"^{re.escape(f'--set {changes[-1]}: {message}')}"):
        read_run(tmp_path / "run.yaml", changes)


def test_an_unknown_key_of_a_stage_is_reported_with_its_place(read):
    ladder = "ladder:\n  - 0.7\n  - {ratio: 0.5, critrion: word_kd}"
    with pytest.raises(ValueError, match=r"ladder\[1\] has an unknown key critrion. Did you mean"):
        read(SHORTEST.replace("target: 0.25", ladder))


def test_a_number_is_read_as_people_write_it(read):
    run = read(SHORTEST.replace("max-update: 100000", "lr: 5e-4"))
    assert run.train == {"lr": 5e-4}


@pytest.mark.parametrize(
    ("stage", "has"), [("{name: a}", "none"), ("{ratio: 0.5, arch: a}", "ratio and arch")]
)
def test_a_stage_needs_one_size(read, stage, has):
    message = rf"ladder\[0\] must have exactly one of ratio, arch, but has {has}"
    with pytest.raises(ValueError, match=message):
        read(SHORTEST.replace("target: 0.25", f"ladder: [{stage}]"))


def test_a_run_without_an_end_says_which_there_are(read):
    with pytest.raises(ValueError, match="one of target, ladder, parameters, but has none"):
        read(SHORTEST.replace("target: 0.25\n", ""))


def test_a_path_may_begin_with_the_home_folder(read, monkeypatch):
    monkeypatch.setenv("HOME", "/home/anna")
    run = read(f"run: ~/runs/one\n{SHORTEST.replace('teacher.pt', '~/teacher.pt')}")
    assert str(run.folder) == "/home/anna/runs/one"
    assert run.teacher == ["/home/anna/teacher.pt"]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.yaml does not exist\. Give the YAML"):
        read_run(tmp_path / "none.yaml")
