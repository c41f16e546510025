"""Options of a checkpoint are data: no command runs what one of them holds."""

import ast
import re
import sys
from argparse import Namespace
from pathlib import Path

import fairseq
import hostile
import pytest
from fairseq import checkpoint_utils, utils
from fairseq.data import Dictionary
from fairseq.data.data_utils import load_indexed_dataset
from fairseq.models import build_model
from forks import run_forked
from harness import PAIR, TRAINING, USER_DIR, Setup, namespace

from fairseq_kd import cli
from fairseq_kd.checkpoints.option_check import EVALUATED, is_plain, plain_value, refuse_code
from fairseq_kd.checkpoints.reading import read_checkpoint
from fairseq_kd.checkpoints.safe_loading import evaluate
from fairseq_kd.models.peers import peer_configurations
from fairseq_kd.sizing.teacher_structure import TeacherStructure
from fairseq_kd.teachers.loading import load_teacher

EVALUATING = ("eval", "eval_bool", "eval_str_dict", "eval_str_list")
PASSED_ON = {"x", "uf"}  # parameters of what evaluates, and of parsers of a command line
OF_DATA = {"eval(line.strip())"}  # a line of a manifest, which is no option
EVALUATES = re.compile(r"\beval(_\w+)?\((?!\))")
TRANSFORMER = "model.adaptive_softmax_cutoff"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert not hostile.ran_code(tmp_path)


def evaluated_names():
    """Options that fairseq's source evaluates, by name."""
    root = Path(fairseq.__file__).parent
    for path in root.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if "examples" in path.relative_to(root).parts or not EVALUATES.search(text):
            continue
        for call in (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)):
            name = getattr(call.func, "attr", None) or getattr(call.func, "id", None)
            method = name == "eval" and isinstance(call.func, ast.Attribute)
            if name not in EVALUATING or method or ast.unparse(call) in OF_DATA:
                continue
            (option, *_) = call.args
            if isinstance(option, ast.Subscript):  # of a mapping
                yield option.slice.value
            else:
                yield getattr(option, "attr", None) or option.id


def test_every_option_that_fairseq_evaluates_is_in_the_table():
    found = set(evaluated_names()) - PASSED_ON
    assert {"adaptive_softmax_cutoff", "adam_betas", "encoder_layers"} < found
    assert found <= EVALUATED.keys()


def test_no_module_of_fairseq_has_pythons_eval():
    modules = [name for name in sys.modules if name.partition(".")[0] == "fairseq"]
    assert len(modules) > 300
    later = [name for name in modules if getattr(sys.modules[name], "eval", None) is not evaluate]
    for name in later:  # loaded by other tests after the plugin
        path = Path(sys.modules[name].__file__)
        if path.suffix == ".py":  # the compiled ones are C
            assert not re.search(r"(?<![.\w])eval\(", path.read_text(encoding="utf-8")), name


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[(512, 3)] * 2 + [(1024, 3)]", [(512, 3), (512, 3), (1024, 3)]),
        ("1000,5000", (1000, 5000)),
        (" (0.9, 1 - 0.02)", (0.9, 0.98)),
        ("{'name': 'linformer', 'k': -1}", {"name": "linformer", "k": -1}),
        ("True", True),
        ("[[0] * 90] * 100", [[0] * 90] * 100),
        ("2 * ((1, 2),)", ((1, 2), (1, 2))),
        ("[1] * 0 + [1] * -2", []),
    ],
)
def test_plain_values_are_what_python_makes_of_them(text, value):
    assert plain_value(text) == value == eval(text.strip())


@pytest.mark.parametrize(
    "text",
    [
        hostile.CODE,
        f"[{hostile.CODE}]",
        f"{{'a': {hostile.CODE}}}",
        f"f'{{{hostile.CODE}}}'",
        "[x for x in (1, 2)]",
        "utils",
        "().__class__",
        "[0] * 1000000000",
        "1000000000 * 'a'",
        "[[[[0]*10000]*10000]*10000]*10000",
        "[[0] * 100] * 101",
        "[[0] * 5000] + [[0] * 5000]",
        "('a' * 9999, 'bc')",
        "{'a' * 9000: [1] * 2000}",
        "9**9**9",
        "[1] * [2]",
        "{**{}}",
        "1 / 0",
        "(" * 300 + ")" * 300,
        "-" * 9000 + "1",
        "[0]" + " " * 10000,
        "",
        "\0",
        b"1",
    ],
)
def test_what_is_no_plain_value_is_refused(text):
    with pytest.raises(ValueError, match=r"^What fairseq evaluates must be a plain value such as"):
        plain_value(text)


def test_a_value_must_be_of_the_kind_that_its_option_has():
    assert is_plain("adaptive_softmax_cutoff", "10")
    assert is_plain("xformers_att_config", "None")
    assert not is_plain("adaptive_softmax_cutoff", "'10'")
    assert not is_plain("xformers_att_config", "3")
    assert is_plain("wer_args", "('a', 'b', 1, 2)")
    assert not is_plain("wer_args", "'a'")


def test_fairseqs_own_switches_still_read_true_false_and_what_is_no_text():
    assert utils.eval_bool("True")
    assert not utils.eval_bool("False")
    assert utils.eval_bool(3, default="kept") == "kept"
    assert utils.eval_str_list("3, 4", int) == [3, 4]


def test_options_may_contain_themselves():
    options = {"task": {}}
    options["task"]["again"] = options
    refuse_code("T.pt", options)
    refuse_code("T.pt", hostile.CODE)
    options["task"]["adam_betas"] = ["(0.9, 0.98)", hostile.CODE]
    with pytest.raises(ValueError, match=r"^T\.pt holds the option task\.adam_betas, which"):
        refuse_code("T.pt", options)


READERS = {
    "as data": read_checkpoint,
    "as a teacher": load_teacher,
    "for its structure": TeacherStructure.of_checkpoint,
    "by fairseq": checkpoint_utils.load_checkpoint_to_cpu,
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@pytest.mark.parametrize("kind", hostile.CODES)
def test_a_checkpoint_whose_option_holds_code_is_refused_wherever_it_is_read(
    kind, read, teacher, folder
):
    path = hostile.write(kind, teacher, folder)
    sentence = f"{re.escape(path)} holds the option {re.escape(kind)}, which .*must be a plain val"
    with pytest.raises(ValueError, match=sentence) as error:
        read(path)
    assert str(error.value).count("\n") == 0


def test_an_option_that_no_table_names_runs_no_code_either(setup, data, folder):
    args = namespace(data)
    args.adaptive_softmax_cutoff = hostile.CODE
    with pytest.raises(ValueError, match=r"a plain value such as .* but is .__import__"):
        build_model(args, setup("--criterion", "cross_entropy").task)


SUBCOMMANDS = {
    "plan": ["plan", "--teacher", "T", "--target", "0.5"],
    "store": ["store", "--teacher", "T", "--data", "D", "--out", "out"],
    "translate": ["translate", "--teacher", "T", "--data", "D", "--out", "out"],
    "inherit": ["inherit", "--teacher", "T", "--arch", "transformer_kd_6_3", "--out", "out.pt"],
    "extract-peer": ["extract-peer", "T", "--peer", "1", "--out", "out.pt"],
    "evaluate": ["evaluate", "--teacher", "T", "--student", "T", "--data", "D", "--out", "out"],
    "evaluate a student": ["evaluate", "--teacher", "G", "--student", "T", "--data", "D"],
    "export": ["export", "T", "--data", "D", "--out", "out"],
}
SUBCOMMANDS["evaluate a student"] += ["--out", "out"]


@pytest.mark.parametrize("subcommand", SUBCOMMANDS)
def test_no_command_of_ours_runs_code_of_an_option(subcommand, teacher, data, folder, capsys):
    path = hostile.write(TRANSFORMER, teacher, folder)
    files = {"T": path, "G": teacher, "D": data}
    assert cli.main([files.get(word, word) for word in SUBCOMMANDS[subcommand]]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"{path} holds the option {TRANSFORMER}, which fairseq evaluates and which must" in said
    assert not (folder / "out").exists()
    assert not (folder / "out.pt").exists()


@pytest.mark.parametrize(
    ("program", "flags"),
    [
        ("fairseq-generate", ["--path", "T", *PAIR, "--cpu"]),
        ("fairseq-validate", ["--path", "T", "--task", "translation", "--batch-size", "8"]),
        ("fairseq-train", ["--finetune-from-model", "T"]),
        ("fairseq-train", ["--restore-file", "T"]),
    ],
)
def test_no_command_of_fairseqs_does_if_it_is_given_our_plugin(
    program, flags, teacher, data, folder
):
    path = hostile.write(TRANSFORMER, teacher, folder)
    flags = [path if word == "T" else word for word in flags]
    training = ["--criterion", "cross_entropy", "--max-update", "1", *TRAINING]
    flags += training if program == "fairseq-train" else []
    command = [program, data, "--user-dir", USER_DIR, *flags]
    result = run_forked(*command, cwd=folder, check=False)
    assert result.returncode != 0
    assert f"{path} holds the option {TRANSFORMER}, which fairseq evaluates" in result.stderr


@pytest.mark.parametrize(
    "criterion",
    ["word_kd", "feature_kd", "attention_kd", "hybrid_kd", "multi_teacher_kd"],
)
def test_no_criterion_runs_code_of_its_teacher(criterion, teacher, setup, folder):
    path = hostile.write(TRANSFORMER, teacher, folder)
    paths = f"{teacher}:{path}" if criterion == "multi_teacher_kd" else path
    with pytest.raises(ValueError, match=f"^--kd-teacher {re.escape(path)} holds the option "):
        setup("--criterion", criterion, "--kd-teacher", paths)


def test_peers_are_given_plain_values_alone(data, folder):
    cfg = Setup(data, "--criterion", "cross_entropy").cfg.model
    text = f"adaptive_softmax_cutoff={hostile.CODE}".replace(",", ";")
    with pytest.raises(ValueError, match=r"^--kd-peer-overrides adaptive_softmax_cutoff must be "):
        peer_configurations(cfg, text, 1)


def test_a_checkpoints_pretrained_embeddings_are_not_read_again(teacher, folder):
    def embeddings(state):
        state["cfg"]["model"].encoder_embed_path = "/gone/vectors.txt"

    model, _ = load_teacher(hostile.changed(teacher, folder, embeddings))
    assert model.encoder.embed_tokens.weight.equal(
        read_checkpoint(teacher)["model"]["encoder.embed_tokens.weight"]
    )


def test_a_file_that_a_checkpoint_names_for_predictions_is_not_overwritten(teacher, folder):
    kept = folder / "kept.txt"
    kept.write_text("mine\n")

    def predictions(state):
        options = {"_name": "sentence_ranking", "ranking_head_name": "x", "num_classes": 2}
        state["cfg"]["criterion"] = Namespace(**options, save_predictions=str(kept))

    path = hostile.changed(teacher, folder, predictions)
    (_,), cfg, task = checkpoint_utils.load_model_ensemble_and_task([path])
    task.build_criterion(cfg.criterion)  # as fairseq-validate
    assert kept.read_text() == "mine\n"


def test_no_shell_reads_the_name_of_a_file_of_data(folder):
    path = f"train.es-en$(touch {hostile.MARK}).en"
    (folder / f"{path}.fasta").write_text(">a\nabc\n")
    with pytest.raises(ValueError, match=r"\.en\.fasta is FASTA text, which fairseq would read by"):
        load_indexed_dataset(path, Dictionary())


def test_nothing_else_of_fairseq_uses_a_shell():
    root, shell = Path(fairseq.__file__).parent, re.compile(r"shell=True|os\.(system|popen)\(")
    files = (path for path in root.rglob("*.py") if "examples" not in path.parts)
    found = [path.name for path in files if shell.search(path.read_text(encoding="utf-8"))]
    assert found in (["fasta_dataset.py"], [])  # the second on fairseq's main branch
