"""Damage to a run: detection, results that are kept, and the clock."""

import hashlib
import json
import os
import re
from pathlib import Path

import pytest
from stores import write_random_store
from workflows import build, made, manifest, small_workflow, statuses, write_sealed

from fairseq_kd.files import hashes
from fairseq_kd.pipeline import status
from fairseq_kd.pipeline.execution import run_step
from fairseq_kd.pipeline.workflow import Step, Workflow


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "middle/text.made is missing"),
        (lambda path: path.write_text("li"), r"has 2 bytes, but had [\d,]+ when it was made"),
        (
            lambda path: path.write_text(path.read_text().replace("line", "lime")),
            "was modified: its SHA-256 has changed",
        ),
    ],
)
def test_a_damaged_file_is_noticed_and_made_anew(workflow, damage, message):
    before = made(workflow)
    path = Path(workflow.step("middle").makes[0])
    damage(path)
    found = statuses(workflow)
    assert found["middle"][0] == status.DAMAGED
    assert re.search(message, found["middle"][1])
    assert found["teacher"][0] == found["undistilled"][0] == status.DONE
    assert build(workflow) == ["middle", "student", "evaluation"]
    assert made(workflow) == before


def flipped(path):
    """Changes a bit of a file, and neither its size nor its time."""
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=times)


@pytest.mark.parametrize("large", [False, True])
def test_a_flipped_bit_is_noticed_at_once_in_small_files_and_by_verify_in_large(
    workflow, monkeypatch, large
):
    if large:
        monkeypatch.setattr(hashes, "SMALL_BYTES", 0)
    assert set(statuses(workflow).values()) == {(status.DONE, "")}  # from now on hashes are known
    path = Path(workflow.step("middle").makes[0])
    flipped(path)
    message = (status.DAMAGED, f"{path} was modified: its SHA-256 has changed")
    assert statuses(workflow)["middle"] == ((status.DONE, "") if large else message)
    assert statuses(workflow, verify=True)["middle"] == message


@pytest.mark.parametrize("whose", ["read", "made"])
def test_a_damaged_hash_that_is_kept_makes_nothing_stale(tmp_path, monkeypatch, whose):
    monkeypatch.setattr(hashes, "SMALL_BYTES", 0)
    text = tmp_path / "text"
    text.write_text("one\n")
    workflow = small_workflow(tmp_path / "run", reads=[str(text)])
    build(workflow)
    assert set(statuses(workflow).values()) == {(status.DONE, "")}  # from now on hashes are known
    kept = tmp_path / "run" / status.HASHES
    files = json.loads(kept.read_text())["files"]
    path = str(text) if whose == "read" else workflow.step("middle").makes[0]
    right = files[path]["sha256"]
    files[path]["sha256"] = right.translate(str.maketrans("0123456789", "1234567890"))
    write_sealed(kept, {"files": files})
    assert set(statuses(workflow).values()) == {(status.DONE, "")}
    assert json.loads(kept.read_text())["files"][path]["sha256"] == right


def changed_digit(text, behind):
    """A text in which the first digit, 0 to 9, behind some word is another."""
    at = re.compile(r"[0-9]").search(text, text.index(behind) + len(behind)).start()
    return f"{text[:at]}{(int(text[at]) + 1) % 10}{text[at + 1 :]}"


RECORDS = {  # of a step, with words before which a digit counts
    "middle.json": ('"id"', '"reads"', '"after"', '"stood_on"', '"outputs"', '"bytes"', '"sha256"'),
    "middle.recipe.json": ('"id"', '"reads"', '"after"'),
    "hashes.json": ('"stamp"', '"sha256"'),
}


@pytest.mark.parametrize(
    ("name", "behind"), [(name, word) for name, words in RECORDS.items() for word in words]
)
def test_a_changed_digit_in_a_record_is_named_and_nothing_is_made_again(
    tmp_path, monkeypatch, name, behind
):
    monkeypatch.chdir(tmp_path)
    Path("text").write_text("one\n")
    workflow = small_workflow("run", reads=["text"])
    build(workflow)
    assert set(statuses(workflow).values()) == {(status.DONE, "")}
    steps = Path("run/steps")
    repair = "Remove it, and middle is run again."
    if name == "middle.recipe.json":  # of a step that was interrupted
        (steps / "middle.json").unlink()
        repair = (
            "Remove it and run/steps/middle.attempts, and middle starts again; its output is then "
            "moved to run/replaced."
        )
    path = steps / name
    if name == "hashes.json":
        path, repair = Path("run/hashes.json"), "Remove it: it only saves time."
    path.write_text(changed_digit(path.read_text(), behind))
    message = f"{path} is damaged: its values do not match its checksum. "
    with pytest.raises(ValueError, match=f"^{re.escape(message + repair)}$"):
        build(workflow)
    assert Path(workflow.step("middle").makes[0]).is_file()
    assert not Path("run/replaced").exists()
    path.unlink()
    if name != "middle.recipe.json":
        assert set(build(workflow)) <= {"middle"}
        assert not Path("run/replaced").exists()


def test_records_of_earlier_versions_are_read(workflow):
    for path in sorted(Path(workflow.folder).glob("steps/*.json")):
        content = json.loads(path.read_text())
        del content["checksum"]
        path.write_text(json.dumps(content))
    (Path(workflow.folder) / status.HASHES).write_text('{"text": {"stamp": [1, 2], "sha256": "0"}}')
    assert set(statuses(workflow).values()) == {(status.DONE, "")}


def change_manifest(workflow, name, **changed):
    path = status.manifest_path(workflow, workflow.step(name))
    return write_sealed(path, {**manifest(workflow, name), **changed})


@pytest.mark.parametrize(
    ("changed", "wrong"),
    [
        ({"updates": "x"}, "'updates' must be a whole number, but is a text"),
        ({"updates_behind": "x"}, "'updates_behind' must be a whole number or null, but is a text"),
        ({"scores": None}, "'scores' must be an object, but is null"),
        ({"parents": "data"}, "'parents' must be a list, but is a text"),
    ],
)
def test_a_damaged_manifest_is_named(workflow, changed, wrong):
    path = change_manifest(workflow, "middle", **changed)
    message = f"{path} is damaged: {wrong}. Remove it, and middle is run again."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        status.step_statuses(workflow)


@pytest.mark.parametrize("lost", ["hashes", "manifest"])
def test_a_finished_step_whose_hashes_are_lost_goes_on_and_makes_nothing_after_it_stale(
    workflow, lost
):
    before, path = made(workflow), change_manifest(workflow, "middle", outputs={})
    why = f"its manifest has no hash of {workflow.step('middle').makes[0]}"
    if lost == "manifest":
        path.unlink()
        why = "it was interrupted"
    found = statuses(workflow)
    assert found.pop("middle") == (status.INTERRUPTED, why)
    assert set(found.values()) == {(status.DONE, "")}
    assert build(workflow) == ["middle"]
    assert made(workflow) == before
    assert set(statuses(workflow).values()) == {(status.DONE, "")}
    path.unlink()
    Path(workflow.step("middle").makes[0]).write_text("another model\n")
    assert statuses(workflow)["student"] == (status.CHANGED, "middle must be made again")


@pytest.mark.parametrize("time", ["x", "2026-01-01T00:00:00"])
def test_a_damaged_time_is_reported_before_the_work(workflow, time):
    status.manifest_path(workflow, workflow.step("middle")).unlink()
    attempts = status.attempts_path(workflow, workflow.step("middle"))
    attempts.write_text(json.dumps([{"start": time, "seen": "2026-01-01T00:00:00+00:00"}]))
    Path(workflow.step("middle").makes[0]).unlink()
    message = (
        rf"^{attempts} is damaged: '\[0\]\.start' must be a time as \S+, but is '{time}'\. Write"
    )
    with pytest.raises(ValueError, match=message):
        run_step(workflow, "middle")
    assert not Path(workflow.step("middle").makes[0]).exists()


def test_a_clock_that_was_set_back_gives_no_time_below_zero(workflow):
    status.manifest_path(workflow, workflow.step("middle")).unlink()
    attempts = status.attempts_path(workflow, workflow.step("middle"))
    late, soon = "2027-01-01T00:00:00+00:00", "2026-01-01T00:00:00+00:00"
    attempts.write_text(json.dumps([{"start": late, "seen": soon}]))
    build(workflow)
    assert 0 <= manifest(workflow, "middle")["seconds"] < 60


def test_the_files_of_a_distilled_set_are_looked_at_too(tmp_path):
    out = tmp_path / "run" / "distilled"
    step = Step("distilled", "distill", [["true"]], [], [], [f"{out}/manifest.json"], str(out))
    workflow = Workflow(str(tmp_path / "run"), {}, 1, [step])
    status.prepare_steps(workflow, status.step_statuses(workflow))
    (out / "text").mkdir(parents=True)
    (out / "text" / "train.en").write_text("one\ntwo\n")
    files = {"text/train.en": hashlib.sha256(b"one\ntwo\n").hexdigest()}
    decoding = {"teacher": ["t"], "beam": 5, "compute_type": "int8", "engine": "e"}
    made_of = {"decoding": decoding, "choice": {"select": "best"}}
    message = {"made_of": made_of, "counts": {"kept": 1, "sentences": 1}, "gold_pairs": 0}
    (out / "manifest.json").write_text(json.dumps({**message, "files": files}))
    assert run_step(workflow, "distilled") == 0
    assert statuses(workflow)["distilled"] == (status.DONE, "")
    flipped(out / "text" / "train.en")
    message = f"{out}/text/train.en was modified: its SHA-256 has changed"
    assert statuses(workflow)["distilled"] == (status.DAMAGED, message)
    (out / "text" / "train.en").unlink()
    assert statuses(workflow)["distilled"] == (
        status.DAMAGED,
        f"{out}/text/train.en is missing",
    )


@pytest.mark.parametrize("kind", ["store", "merge"])
def test_all_files_of_a_store_are_named_by_its_manifest(tmp_path, kind):
    out = tmp_path / "run" / "teacher-store"
    makes = [f"{out}/train/sentences.npy"]
    step = Step("teacher-store", kind, [["true"]], [], [], makes, str(out))
    workflow = Workflow(str(tmp_path / "run"), {}, 1, [step])
    status.prepare_steps(workflow, status.step_statuses(workflow))
    write_random_store(out, "train")
    assert run_step(workflow, "teacher-store") == 0
    assert statuses(workflow)["teacher-store"] == (status.DONE, "")
    files = [path for path in out.rglob("*") if path.is_file()]
    assert len(files) > 4
    for path in files:
        whole = path.read_bytes()
        flipped(path)
        message = f"{path} was modified: its SHA-256 has changed"
        assert statuses(workflow)["teacher-store"] == (status.DAMAGED, message)
        path.unlink()
        assert statuses(workflow)["teacher-store"] == (status.DAMAGED, f"{path} is missing")
        path.write_bytes(whole)
    assert statuses(workflow)["teacher-store"] == (status.DONE, "")


@pytest.mark.parametrize("name", ["plots/quality.png", "translations/student.txt"])
def test_a_damaged_part_of_a_report_is_noticed(tmp_path, name):
    folder = tmp_path / "run"
    makes = [f"{folder}/report.md"]
    step = Step("evaluation", "evaluate", [["true"]], [], [], makes)
    workflow = Workflow(str(folder), {}, 1, [step])
    status.prepare_steps(workflow, status.step_statuses(workflow))
    for path in (folder / name, folder / "report.md"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("some content\n")
    assert run_step(workflow, "evaluation") == 0
    flipped(folder / name)
    message = f"{folder / name} was modified: its SHA-256 has changed"
    assert statuses(workflow)["evaluation"] == (status.DAMAGED, message)
