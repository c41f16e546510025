"""The page of ``fairseq-kd progressive`` against the keys of a run file and its output."""

import re

import pytest
import yaml
from harness import ROOT

from fairseq_kd import cli
from fairseq_kd.pipeline.preparation import prepare_run
from fairseq_kd.pipeline.run_file import SCHEMA, read_run
from fairseq_kd.pipeline.training_check import UNFIT
from fairseq_kd.pipeline.training_flags import DEFAULTS

PAGE = (ROOT / "docs" / "progressive.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.M | re.S)
SHORTEST, EVERY_KEY = BLOCKS[0], max(BLOCKS, key=len)


@pytest.fixture
def file_of(tmp_path):
    def write(text):
        path = tmp_path / "de-en.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def keys_of_schema(part, schema, at=""):
    """Dotted names of all keys that a part of the schema allows; lists do not count."""
    if "$ref" in part:
        part = schema["$defs"][part["$ref"].rpartition("/")[2]]
    found = set()
    for key, inner in part.get("properties", {}).items():
        name = f"{at}.{key}".lstrip(".")
        found |= {name} | keys_of_schema(inner, schema, name)
    for inner in [*part.get("oneOf", []), *([part["items"]] if "items" in part else [])]:
        found |= keys_of_schema(inner, schema, at)
    return found


def keys_of(content, at=""):
    """Dotted names of all keys of a run file."""
    if isinstance(content, list):
        return set().union(*(keys_of(each, at) for each in content))
    if not isinstance(content, dict):
        return set()
    found = set()
    for key, inner in content.items():
        name = f"{at}.{key}".lstrip(".")
        found |= {name} | keys_of(inner, name)
    return found


def test_the_shortest_run_file_is_five_lines_and_valid(file_of):
    assert len(SHORTEST.splitlines()) == 5
    assert read_run(file_of(SHORTEST)).other["target"] == 0.25


def test_the_example_is_valid_with_each_of_its_ends(file_of):
    read_run(file_of(EVERY_KEY))
    content = yaml.safe_load(EVERY_KEY)
    ends = re.findall(r"^# (target|parameters): (\S+)", EVERY_KEY, re.M)
    for end, value in ends:
        other = {**content, end: yaml.safe_load(value)}
        del other["ladder"]
        read_run(file_of(yaml.safe_dump(other)))
    assert {end for end, _ in ends} == {"target", "parameters"}


def test_the_example_names_every_key_and_explains_those_of_the_file():
    schema = yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))
    known = keys_of_schema(schema, schema)
    assert {"data.merges", "teacher.arch", "ladder.ratio", "each.temperature.schedule"} <= known
    content = yaml.safe_load(EVERY_KEY)
    named = keys_of(content) | set(re.findall(r"^# ([\w-]+): ", EVERY_KEY, re.M))
    beside = re.findall(r"^  # ([\w-]+): ", EVERY_KEY, re.M)  # what another key excludes
    named |= {f"{top}.{key}" for key in beside for top in ("data", "distilled")}
    named |= {f"teacher-languages.{side}" for side in ("source", "target")}  # on its line
    of_stages = {name.partition(".")[2] for name in named if name.startswith(("each.", "ladder."))}
    for name in known:
        top, _, inner = name.partition(".")  # what a stage may say stands under each or a stage
        assert (inner in of_stages) if inner and top in ("each", "ladder") else name in named, name
    top_level = [line for line in EVERY_KEY.splitlines() if re.match(r"[a-z]", line)]
    alone = {line.partition(":")[0] for line in top_level if "#" not in line}
    assert not alone


def test_fairseq_takes_every_training_of_the_example(file_of, tmp_path, monkeypatch):
    text = tmp_path / "text" / "de-en"
    text.mkdir(parents=True)
    for split in ("train", "valid", "test"):
        for language in ("de", "en"):
            (text / f"{split}.{language}").touch()
    monkeypatch.chdir(tmp_path)
    ours = f"user-dir: {ROOT / 'user_dir'}"  # fairseq imports one plugin of a name
    described = EVERY_KEY.replace("user-dir: user_dir", ours)
    described = re.sub(r"compare:.*\n  baseline:.*\n", "", described)  # a checkpoint of German
    workflow = prepare_run(file_of(described))
    trained = [step.name for step in workflow.steps if step.kind == "train"]
    assert trained == ["teacher", "stage-70", "half", "student", "undistilled", "one-step"]
    assert workflow.folder == "runs/de-en"


def test_the_table_of_defaults_is_current():
    rows = dict(re.findall(r"^\| `--([\w-]+)` \| (\S[^|]*\S|\S) \|$", _section("Flags of"), re.M))
    assert rows == {
        flag: "given" if value is True else str(value) for flag, value in DEFAULTS.items()
    }


def test_the_rules_that_the_profile_names_are_in_the_snakefile():
    rules = (ROOT / "fairseq_kd" / "pipeline" / "Snakefile").read_text(encoding="utf-8")
    known = set(re.findall(r"^(?:use rule \w+ as|rule) (\w+)", rules, re.M)) - {"all"}
    profile = next(yaml.safe_load(block) for block in BLOCKS if block.startswith("executor: slurm"))
    assert {*profile["set-threads"], *profile["set-resources"]} <= known
    assert all(f"`{rule}`" in _section("On a cluster") for rule in known - {"evaluate_systems"})


def _section(title):
    return PAGE.split(f"\n## {title}")[1].split("\n## ")[0]


def test_no_example_has_a_flag_that_no_run_can_have():
    examples = "\n".join(re.findall(r"```yaml\n(.*?)```", PAGE, re.S))
    flags = set(re.findall(r"([\w-]+):", examples))
    assert "max-update" in flags
    assert not flags & {name.replace("_", "-") for name in UNFIT}


def test_the_job_for_kubernetes_is_valid():
    validator = pytest.importorskip("kubernetes_validate")
    (job,) = [yaml.safe_load(block) for block in BLOCKS if "kind: Job" in block]
    for version in ("1.28", "1.37"):
        validator.validate(job, version, strict=True)
    words = job["spec"]["template"]["spec"]["containers"][0]["command"]
    args = cli.parser().parse_args(words[1:])
    assert args.invoked.options.parsed(args).jobs == 2
