"""One table of bad values is given to every flag: each is refused by its name, or known as legal.

A flag with a type or a name of its own needs nothing here if its type refuses all of the table; a
new flag that takes what the table holds must say so in ``LEGAL`` or ``LEGAL_OF``.
"""

import argparse
import re

import pytest
from fairseq.models.transformer import TransformerModel

from fairseq_kd import cli
from fairseq_kd.criterions.flags import criterion_classes
from fairseq_kd.flag_types import (
    Range,
    Several,
    data_folder,
    file_path,
    one_line,
    one_word,
    subset_name,
    subset_names,
)
from fairseq_kd.models.transformer_options import model_args

BAD = ("nan", "inf", "-inf", "-1", "0", "1e-40", "1e300", str(2**63), "", "x", "1\n2", "\udce1")
TEXT = {*BAD} - {"", "1\n2", "\udce1"}
LEGAL_TYPES = {  # of the flags that take text, by their types
    one_line: TEXT,
    one_word: TEXT,
    data_folder: TEXT,
    file_path: TEXT,
    subset_name: TEXT - {"-inf", "-1"},
    subset_names: TEXT - {"-inf", "-1"},
}
LEGAL = {  # of numbers and their like, by command and flag
    ("prepare", "--max-words"): {"0"},
    ("inherit", "--encoder-layers"): {"0"},
    ("inherit", "--decoder-layers"): {"0"},
    ("evaluate", "--lenpen"): {"-1", "0", "1e-40"},
    ("evaluate", "--rounds"): {"0"},
    ("translate", "--lenpen"): {"-1", "0", "1e-40"},
    ("translate", "--max-len-a"): {"0", "1e-40"},
    ("translate", "--max-len-b"): {"0"},
    ("translate", "--seed"): {"0"},
    ("distill-data", "--min-words"): {"-inf"},
    ("distill-data", "--min-score"): {"-inf", "-1", "0", "1e-40"},
    ("distill-data", "--max-length-ratio"): {"inf"},
    ("distill-data", "--max-copied"): {"inf", "0", "1e-40"},
    ("distill-data", "--max-repeated"): {"inf", "0", "1e-40"},
    ("distill-data", "--min-similarity"): {"-inf", "0", "1e-40"},
    ("distill-data", "--max-duplicates"): {"inf", "0"},
}
FOLDERS = ("store", "translate", "distill-data", "evaluate", "export", "inherit")  # with --data
FOR_OTHERS = ("model_flags", "snakemake_flags", "command")  # words after --, which others read
SUBCOMMANDS = cli.parser()._subparsers._group_actions[0].choices
FLAGS = [
    (subcommand, action)
    for subcommand, parser in SUBCOMMANDS.items()
    for action in parser._actions
    if action.nargs != 0 and action.dest not in FOR_OTHERS and subcommand != "distil-data"
]


def name_of(action):
    return (action.option_strings or [action.metavar or action.dest])[0]


def named(command_and_action):
    subcommand, action = command_and_action
    return f"{subcommand} {name_of(action)}"


@pytest.mark.parametrize("flag", FLAGS, ids=named)
def test_a_command_refuses_bad_values_in_one_sentence_that_names_the_flag(flag, capsys):
    subcommand, action = flag
    name = name_of(action)
    positional = [each for each in SUBCOMMANDS[subcommand]._actions if not each.option_strings]
    legal = LEGAL.get((subcommand, name), LEGAL_TYPES.get(action.type, set()))
    faults = {}
    for value in BAD:
        if value in legal:
            assert SUBCOMMANDS[subcommand]._get_value(action, value) is not None
            continue
        if action in positional:
            words = [*["x"] * positional.index(action), value]
        else:
            words = [f"{name}={value}"]
        shown = re.escape(value if value.isprintable() and value else repr(value))
        must = rf"it must be .*, but is {shown}" if action.choices is None else "invalid choice: "
        try:
            SUBCOMMANDS[subcommand].parse_known_args(words)
            faults[value] = "accepted"
        except SystemExit:
            message = capsys.readouterr().err.strip().splitlines()[-1]
            if not re.search(rf"error: argument {re.escape(name)}: {must}", message):
                faults[value] = message
    assert faults == {}


@pytest.mark.parametrize("command", FOLDERS)
def test_data_that_fairseq_takes_for_several_folders_are_refused(command, capsys):
    with pytest.raises(SystemExit):
        SUBCOMMANDS[command].parse_known_args(["--data", "a:b"])
    assert (
        "error: argument --data: it must be a folder without : in its path, with which fairseq "
        "separates folders, but is a:b\n"
    ) in capsys.readouterr().err


@pytest.mark.parametrize("flag", FLAGS, ids=named)
def test_the_help_of_a_number_tells_its_range(flag):
    subcommand, action = flag
    assert action.type not in (int, float, str), "give it a Range or a type of flag_types"
    if isinstance(action.type, (Range, Several)):
        assert str(action.type) in " ".join(SUBCOMMANDS[subcommand].format_help().split())


# ---- the flags of a model, after --

MODEL_FLAGS = argparse.ArgumentParser(add_help=False)
TransformerModel.add_args(MODEL_FLAGS)
NUMBERS = [action for action in MODEL_FLAGS._actions if action.type in (int, float)]
SIZE = ("-layers", "-dim", "-heads")


@pytest.mark.parametrize("action", NUMBERS, ids=lambda action: action.option_strings[0])
def test_a_number_of_a_model_is_refused_by_its_flag(action):
    name = action.option_strings[0]
    bad = {*BAD} - {"0", "1e-40"} | ({"0", "1e-40"} if name.endswith(SIZE) else set())
    faults = {}
    for value in bad:
        try:
            model_args("transformer", argparse.Namespace(), [f"{name}={value}"])
            faults[value] = "accepted"
        except ValueError as error:
            message = rf"({name} must be |argument {name}: (invalid|expected) )[^\n]*"
            if not re.search(message, str(error)):
                faults[value] = str(error)
    assert faults == {}


# ---- the flags of the criterions

PATHS = {"--kd-teacher", "--kd-store"}  # looked for when the teacher is loaded
LEGAL_OF = {  # of the flags of criterions
    "--label-smoothing": {"0", "1e-40"},
    "--ignore-prefix-size": {"0"},
    "--kd-chunk-tokens": {"0"},
    "--kd-alpha": {"0"},
    "--kd-beta": {"0"},
    "--kd-alpha-final": {"0"},
    "--kd-beta-final": {"0"},
    "--kd-feature-weight": {"0"},
    "--kd-attention-weight": {"0"},
    "--kd-align-weight": {"0"},
    "--kd-mutual-weight": {"0"},
    "--kd-teacher-entropy": {"0", "1e-40"},
    "--kd-peer-overrides": TEXT,  # read with the model of the run
    **dict.fromkeys(PATHS, TEXT),
}
AROUND = {  # what the criterion reads of the training around it
    "max_update": 100,
    "sentence_avg": False,
    "train_subset": "train",
    "valid_subset": "valid",
    "disable_validation": False,
    "distributed_world_size": 1,
    "ddp_backend": "legacy_ddp",
    "fp16": False,
    "fp16_no_flatten_grads": False,
    "memory_efficient_fp16": False,
    "tpu": False,
}


def flags_of_criterions():
    for name, cls in criterion_classes().items():
        parser = argparse.ArgumentParser(prog=name, add_help=False, allow_abbrev=False)
        cls.add_args(parser)
        for action in parser._actions:
            if action.nargs != 0 and action.dest not in AROUND:
                yield name, cls, parser, action


CRITERION_FLAGS = list(flags_of_criterions())


@pytest.mark.parametrize(
    "flag", CRITERION_FLAGS, ids=lambda flag: f"{flag[0]} {flag[3].option_strings[0]}"
)
def test_a_criterion_refuses_bad_values_in_one_sentence_that_names_the_flag(flag, capsys):
    criterion, cls, parser, action = flag
    name = action.option_strings[0]
    teachers = "a.pt:b.pt" if criterion == "multi_teacher_kd" else "a.pt"
    usual = [] if criterion == "mutual_learning" else [f"--kd-teacher={teachers}"]
    faults = {}
    for value in BAD:
        legal = value in LEGAL_OF.get(name, ())
        try:
            args = vars(parser.parse_args([*usual, f"{name}={value}"]))
        except SystemExit:
            message = capsys.readouterr().err.strip().splitlines()[-1]
            good = f"error: argument {name}: invalid " in message and not legal
        else:
            message = refusal(cls, argparse.Namespace(**AROUND | args, _name=criterion))
            one_line = message.count("\n") == message.count(value) * value.count("\n")
            refused = message.startswith(f"{name} ") and one_line
            good = " must be " not in message if legal else refused
        if not good:
            faults[value] = message or "accepted"
    assert faults == {}


def refusal(cls, cfg):
    """The message of a criterion about its flags before it reads a model; "" if it accepts them."""
    try:
        cls.check_flags(cfg)
    except ValueError as error:
        return str(error)
    return ""
