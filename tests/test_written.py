"""Every command where it cannot write, and where other files exist at its output path."""

import io
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from disks import files_up_to, make_read_only, small_disk
from harness import Setup, write_text

from fairseq_kd import cli

pytestmark = pytest.mark.skipif(find_spec("ctranslate2") is None, reason="needs CTranslate2")
PEERS = ["--criterion", "mutual_learning", "--label-smoothing", "0.1", "--kd-peers", "2"]
PEERS += ["--no-save-optimizer-state"]
SMALLER = ["--encoder-normalize-before", "--decoder-normalize-before", "--encoder-layers", "1"]
SMALLER += ["--decoder-layers", "1", "--encoder-embed-dim", "8", "--decoder-embed-dim", "8"]
SMALLER += ["--encoder-attention-heads", "1", "--decoder-attention-heads", "1"]
SMALLER += ["--encoder-ffn-embed-dim", "32", "--decoder-ffn-embed-dim", "32"]
FOLDERS = {  # commands that fill a folder, with what they keep
    "prepare": "the text is unchanged",
    "binarise-text": "the text is unchanged",
    "store": "complete parts are kept",
    "translate": "earlier translations are kept",
    "import-translations": "the file of translations is unchanged",
    "distill-data": "the translations are kept",
    "evaluate": "finished translations are kept",
    "export": "the checkpoint is unchanged",
}
FILES = {  # commands that write a file
    "inherit": "the teacher is unchanged",
    "extract-peer": "CKPT is unchanged",
    "plan": "existing files are unchanged",
    "progressive": "finished steps are kept",
}
SHARDS = ("-of-2.txt", ".npy")
COMMANDS = {**FOLDERS, **FILES}


@pytest.fixture(scope="module")
def translations(teacher, data, cache, tmp_path_factory):
    """The training set as the teacher translates it, in two shards that are not merged."""
    out = tmp_path_factory.mktemp("translations") / "out"
    words = ["translate", "--teacher", teacher, "--data", data, "--beam", "1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fairseq_kd.decoding.decode.merge_if_last", lambda folder: None)
        for shard in ("--shard=1/2", "--shard=2/2"):
            assert cli.main([*words, "--cache", str(cache), "--out", str(out), shard]) == 0
    return out


@pytest.fixture(scope="module")
def merged(translations, tmp_path_factory):
    """A copy of them whose shards are one file."""
    copied = shutil.copytree(translations, tmp_path_factory.mktemp("merged") / "out")
    assert cli.main(["merge", str(copied)]) == 0
    return copied


@pytest.fixture(scope="module")
def peers(data, tmp_path_factory):
    """A checkpoint of a training with a peer."""
    return Setup(data, *PEERS).save(tmp_path_factory.mktemp("peers") / "peers.pt")


@pytest.fixture
def words(teacher, data, cache, merged, peers, tmp_path, monkeypatch):
    """The words of each command, but for where it writes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(
        f"data: {data}\nteacher: {teacher}\nladder: [{{arch: transformer_kd_tiny_student}}]\n"
        f"train: {{max-update: 10}}\nevaluate: {{subset: valid}}\nrun: {tmp_path}/run\n"
    )
    taught = ["--teacher", teacher, "--data", data]
    fast = ["--threads", "1", "--beam", "1", "--subset", "valid", "--cache", cache]
    evaluate = ["--student", f"s={teacher}", "--rounds", "0", "--no-memory", "--bootstrap", "100"]
    text = write_text(tmp_path / "text", {"train": 60, "valid": 10, "test": 10})
    pair = ["--source", "es", "--target", "en", "--merges", "60"]
    alone = ["--data", data, "--workers", "1"]
    return {
        "prepare": ["prepare", "--text", text, *pair, "--workers", "1", "--out"],
        "binarise-text": ["binarise-text", "--text", text / "train.es", *alone, "--out"],
        "store": ["store", *taught, "--subset", "valid", "--topk", "4", "--out"],
        "translate": ["translate", *taught, "--beam", "1", "--cache", cache, "--out"],
        "import-translations": [
            *("import-translations", "--data", data, "--workers", "1"),
            *("--hypotheses", Path(data).parent / "text" / "train.en", "--out"),
        ],
        "distill-data": [
            *("distill-data", "--translations", merged, "--data", data),
            *("--workers", "1", "--out"),
        ],
        "evaluate": ["evaluate", *taught, *evaluate, *fast, "--out"],
        "export": ["export", teacher, "--data", data, *fast, "--out"],
        "inherit": ["inherit", "--teacher", teacher, "--arch", "transformer", "--out"],
        "extract-peer": ["extract-peer", peers, "--out"],
        "plan": ["plan", "--teacher", teacher, "--ladder", "1.0,0.5", "--chart"],
        "progressive": ["progressive", tmp_path / "run.yaml", "--shell"],
    }


def run(words, command, out):
    """Runs a command that writes to ``out``."""
    if command == "plan":
        out = f"{out}.svg"
    model = ["--", *SMALLER] if command == "inherit" else []
    return cli.main([str(word) for word in (*words[command], out, *model)])


def content(folder):
    """Every file of a folder; of links, where they lead."""
    paths = sorted(folder.rglob("*"))
    return {
        str(path): os.readlink(path) if path.is_symlink() else path.is_file() and path.read_bytes()
        for path in paths
    }


def last_line(capsys):
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk_is_reported_and_nothing_half_made_is_left(words, command, tmp_path, capsys):
    with files_up_to(2000):
        assert run(words, command, tmp_path / "out") == 2
    assert re.fullmatch(
        rf"fairseq-kd {command}: The disk of {tmp_path}/(out|run)\S* is full; "
        rf"{COMMANDS[command]}\. Free some space and run the same command again\.",
        last_line(capsys),
    )
    assert list(tmp_path.rglob("*.partial")) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_a_read_only_disk_is_reported(words, command, tmp_path, capsys):
    with small_disk(tmp_path / "disk", "ro") as disk:
        assert run(words, command, disk / "out") == 2
        assert re.fullmatch(
            rf"fairseq-kd {command}: The disk of {disk}/out\S* is read-only; {COMMANDS[command]}\. "
            "Give a path on another disk\\.",
            last_line(capsys),
        )


@pytest.mark.parametrize("command", [*list(FOLDERS)[:6], "inherit", "extract-peer"])
def test_finished_work_is_found_on_a_disk_that_became_read_only(words, command, tmp_path):
    with small_disk(tmp_path / "disk", "size=64m") as disk:
        assert run(words, command, disk / "out") == 0
        before = content(disk)
        make_read_only(disk)
        assert run(words, command, disk / "out") == 0
        assert content(disk) == before


@pytest.mark.parametrize("command", COMMANDS)
def test_a_place_below_a_file_is_reported(words, command, tmp_path, capsys):
    (tmp_path / "file").write_text("theirs")
    assert run(words, command, tmp_path / "file" / "out") == 2
    assert re.fullmatch(
        rf"fairseq-kd {command}: {tmp_path}/file(/out\S* lies below a file instead of a folder; "
        rf"{COMMANDS[command]}\.| must be a folder, but is a file\.) Give another path\.",
        last_line(capsys),
    )
    assert (tmp_path / "file").read_text() == "theirs"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_name_that_is_too_long_is_reported(words, command, tmp_path, capsys):
    out = tmp_path / ("n" * 300)
    assert run(words, command, out) == 2
    assert re.fullmatch(
        rf"fairseq-kd {command}: The name of {out}\S* is too long for its disk; "
        rf"{COMMANDS[command]}\. Give a shorter one\.",
        last_line(capsys),
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_without_permission_is_reported(words, command, tmp_path, capsys):
    (tmp_path / "closed").mkdir(mode=0o500)
    assert run(words, command, tmp_path / "closed" / "out") == 2
    assert re.fullmatch(
        rf"fairseq-kd {command}: {tmp_path}/closed/out\S* may not be used by this user; "
        rf"{COMMANDS[command]}\. Allow it, or give another path\.",
        last_line(capsys),
    )


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("what", ["a file", "a folder", "a link"])
def test_what_somebody_else_made_is_left_alone(words, command, what, tmp_path, capsys):
    out = tmp_path / ("out.svg" if command == "plan" else "out")
    if what == "a folder":
        out.mkdir()
        for name in ("report.md", "train.en"):
            (out / name).write_text("theirs")
    else:
        (tmp_path / "real").write_text("theirs")
        out.symlink_to("real") if what == "a link" else os.link(tmp_path / "real", out)
    before = content(tmp_path)
    assert run(words, command, tmp_path / "out") == 2
    shown = last_line(capsys)
    assert shown.startswith(f"fairseq-kd {command}: ")
    assert f"{out} " in shown
    assert before.items() <= content(tmp_path).items()
    shutil.rmtree(tmp_path / "run", ignore_errors=True)  # where progressive keeps its plan
    assert content(tmp_path) == before


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("", "--out {data} and --data {data} are the same. Choose another path."),
        ("in", "--out {data}/in lies inside --data {data}, which is only read."),
    ],
    ids=["the data", "inside"],
)
@pytest.mark.parametrize("command", sorted({*FOLDERS} - {"distill-data", "prepare"}))
def test_a_place_in_the_data_is_refused(words, command, out, message, data, tmp_path, capsys):
    copied = shutil.copytree(data, tmp_path / "data")
    at = words[command].index(data)
    words[command][at] = copied
    before = content(tmp_path)
    assert run(words, command, copied / out) == 2
    assert message.format(data=copied) in last_line(capsys)
    assert content(tmp_path) == before


@pytest.mark.parametrize("name", ["t.pt", "hard.pt", "soft.pt"])
def test_the_teacher_is_not_replaced_by_its_student(words, teacher, tmp_path, capsys, name):
    own = shutil.copy(teacher, tmp_path / "t.pt")
    os.link(own, tmp_path / "hard.pt")
    (tmp_path / "soft.pt").symlink_to("t.pt")
    before = content(tmp_path)
    words["inherit"][2] = own
    assert run(words, "inherit", tmp_path / name) == 2
    message = f"--out {tmp_path}/{name} and --teacher {own} are the same. Choose another path."
    assert message in last_line(capsys)
    assert content(tmp_path) == before


@pytest.mark.parametrize("command", ["inherit", "extract-peer", "plan", "progressive", "store"])
def test_output_of_the_same_command_already_exists(words, command, tmp_path, capsys):
    assert run(words, command, tmp_path / "out") == 0
    before = content(tmp_path)
    assert run(words, command, tmp_path / "out") == 0
    assert content(tmp_path) == before
    if command == "inherit":
        assert capsys.readouterr().out.endswith(f"{tmp_path}/out already exists\n")
        words["inherit"].insert(1, "--encoder-layers=0")
        assert run(words, "inherit", tmp_path / "out") == 2
        assert f"--out {tmp_path}/out already exists. Remove it or" in last_line(capsys)


@pytest.mark.parametrize(
    "command", ["distill-data", pytest.param("export", marks=pytest.mark.slow)]
)
def test_what_lies_beside_a_folder_is_left_alone(words, command, tmp_path):
    for name in ("out.partial", "out.decoded"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis").write_text("theirs")
    before = content(tmp_path)
    run(words, command, tmp_path / "out")
    after = content(tmp_path)
    assert before.items() <= after.items()
    assert all(re.match(rf"{tmp_path}/out(/|$)", path) for path in after.keys() - before.keys())


@pytest.mark.parametrize("command", ["merge", "store-merge"])
def test_a_full_disk_costs_no_shard_when_they_are_merged(
    words, command, translations, tmp_path, capsys
):
    if command == "merge":
        shutil.copytree(translations, tmp_path / "out")
        merge, limit, kept = ["merge"], 1000, "the shards are kept"
    else:
        words["store"].insert(1, "--shard=1/2")
        assert run(words, "store", "out") == 0
        words["store"][1] = "--shard=2/2"
        assert run(words, "store", "out") == 0
        merge, limit, kept = ["store-merge", "--subset=valid", "--out"], 300, "the parts are kept"
    before = {path: data for path, data in content(tmp_path).items() if path.endswith(SHARDS)}
    with files_up_to(limit):
        assert cli.main([*merge, str(tmp_path / "out")]) == 2
    assert re.fullmatch(
        rf"fairseq-kd {command}: The disk of {tmp_path}/out/\S+ is full; {kept}\. Free some space "
        r"and run the same command again\.",
        last_line(capsys),
    )
    assert before.items() <= content(tmp_path).items()
    assert list(tmp_path.rglob("*.partial")) == []
    assert cli.main([*merge, str(tmp_path / "out")]) == 0


@pytest.mark.parametrize("command", ["inherit", "store", "plan"])
def test_what_a_terminal_cannot_show_is_no_reason_to_fail(words, command, tmp_path, monkeypatch):
    out = tmp_path / "\xe8"
    shown = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, shown)
    assert run(words, command, out) == 0
    print(out)
    shown.flush()
    assert rf"{tmp_path}/\xe8" in shown.buffer.getvalue().decode("ascii")
    assert (tmp_path / ("\xe8.svg" if command == "plan" else "\xe8")).exists()


def test_a_reader_who_leaves_takes_nothing_back(words, merged, tmp_path, monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w", encoding="utf-8") as nobody:
        monkeypatch.setattr(sys, "stdout", nobody)
        assert run(words, "store", tmp_path / "out") == 1
    monkeypatch.undo()
    assert cli.main(["store-merge", "--subset", "valid", "--out", str(tmp_path / "out")]) == 0


@pytest.mark.parametrize(
    ("closed", "message"), [(">&-", 1), ("2>&-", 0), ("<&-", 1), (">&- 2>&- <&-", 0)]
)
def test_closed_streams_are_no_reason_to_fail(closed, message, tmp_path):
    command = f'"$0" -m fairseq_kd.cli merge . {closed}'
    found = subprocess.run(
        ["bash", "-c", command, sys.executable], cwd=tmp_path, capture_output=True, text=True
    )
    assert (found.returncode, found.stdout, len(found.stderr.splitlines())) == (2, "", message)
