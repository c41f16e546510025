"""Checks the options in a checkpoint: values only, no code that fairseq would evaluate.

fairseq calls ``eval`` on some options that are strings, such as ``adaptive_softmax_cutoff``, and
OmegaConf replaces ``${...}`` in any of them, ``${oc.env:NAME}`` by a variable of the environment.
"""

import ast
import operator
from argparse import Namespace
from typing import Any, Dict, Iterator, List, Tuple

LONGEST_EXPRESSION, MOST_ITEMS = 10_000, 10_000
SHOWN = 60  # characters of a refused value
NUMBERS, SWITCH, LAYERS = "1000,5000", "True", "[(512, 3)] * 20"
BETAS, TABLE = "(0.9, 0.98)", "{'name': 'linformer'}"
EVALUATED: Dict[str, str] = {  # option: a value of it; tests compare it with fairseq's source
    **dict.fromkeys(("adaptive_softmax_cutoff", "adaptive_input_cutoff"), NUMBERS),
    **dict.fromkeys(("pipeline_balance", "pipeline_devices"), NUMBERS),
    **dict.fromkeys(("pipeline_encoder_balance", "pipeline_encoder_devices"), NUMBERS),
    **dict.fromkeys(("pipeline_decoder_balance", "pipeline_decoder_devices"), NUMBERS),
    **dict.fromkeys(("adam_betas", "adamax_betas", "lamb_betas"), BETAS),
    "adafactor_eps": "(1e-30, 0.001)",
    **dict.fromkeys(("left_pad_source", "left_pad_target"), SWITCH),
    **dict.fromkeys(("encoder_attention", "decoder_attention", "self_attention"), SWITCH),
    **dict.fromkeys(("gated_attention", "project_input", "downsample", "pretrained"), SWITCH),
    **dict.fromkeys(("encoder_layers", "decoder_layers"), LAYERS),
    "character_filters": "[(1, 64), (2, 128)]",
    **dict.fromkeys(("conv_feature_layers", "conv_aggregator_layers"), LAYERS),
    **dict.fromkeys(("feature_encoder_spec", "override_encoder_layers"), LAYERS),
    **dict.fromkeys(("xformers_att_config", "encoder_xformers_att_config"), TABLE),
    "decoder_xformers_att_config": TABLE,
    "wer_args": "('kenlm.bin', 'lexicon.txt', 2.0, -1.0)",
}
UNOPENED = ("encoder_embed_path", "decoder_embed_path", "embed_path", "save_predictions")
_OPERATIONS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}


def plain_value(text: str) -> Any:
    """The value of a Python literal; numbers may be computed, and lists joined and repeated.

    Args:
        text: such as ``[(512, 3)] * 20 + [(1024, 3)]``.

    Raises:
        ValueError: it is anything else, or of more than ``MOST_ITEMS`` items in all depths.
    """
    try:
        if len(text) > LONGEST_EXPRESSION:
            raise ValueError(f"{len(text)} characters")
        return _value(ast.parse(text.lstrip(" \t"), mode="eval").body)[0]
    except (ArithmeticError, MemoryError, RecursionError, SyntaxError, TypeError, ValueError):
        raise ValueError(
            "What fairseq evaluates must be a plain value such as [1000, 5000] or True, but is "
            f"{shown(text)}."
        ) from None


def _value(node: ast.AST) -> Tuple[Any, int]:
    """A value, and how many items are in it in any depth, which is bounded before it is made."""
    if isinstance(node, ast.Constant):
        return node.value, 1 + (len(node.value) if isinstance(node.value, (str, bytes)) else 0)
    if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
        kind = {ast.List: list, ast.Tuple: tuple, ast.Set: set}[type(node)]
        parts = [_value(each) for each in node.elts]
        return kind(value for value, _ in parts), _few(1 + sum(items for _, items in parts))
    if isinstance(node, ast.Dict) and None not in node.keys:
        parts = [_value(each) for each in (*node.keys, *node.values)]
        values = [value for value, _ in parts]
        table = dict(zip(values[: len(node.keys)], values[len(node.keys) :]))  # noqa: B905
        return table, _few(1 + sum(items for _, items in parts))
    if isinstance(node, (ast.BinOp, ast.UnaryOp)) and type(node.op) in _OPERATIONS:
        operands = [node.operand] if isinstance(node, ast.UnaryOp) else [node.left, node.right]
        parts = [_value(each) for each in operands]
        values, items = [value for value, _ in parts], sum(items for _, items in parts)
        repeated = [count - 1 for value, count in parts if hasattr(value, "__len__")]
        if isinstance(node.op, ast.Mult) and repeated:  # a list and how often it is repeated
            times = next((value for value in values if not hasattr(value, "__len__")), 1)
            items = 1 + repeated[0] * times
        _few(items)
        return _OPERATIONS[type(node.op)](*values), items
    raise ValueError(type(node).__name__)


def _few(items: int) -> int:
    if items > MOST_ITEMS:
        raise ValueError("too many items")
    return items


def refuse_code(called: str, options: Any) -> None:
    """Refuses stored options that fairseq or OmegaConf would take for more than their text.

    Args:
        called: how errors name the file that holds them.
        options: a configuration of fairseq: dictionaries and Namespaces in each other.

    Raises:
        ValueError: naming the option, its value and what it must be.
    """
    for path, value in stored_options(options):
        if not path or not isinstance(value, (str, bytes, bytearray)):
            continue
        example = EVALUATED.get(path[-1])
        if example is not None and not is_plain(path[-1], value):
            raise ValueError(
                f"{called} holds the option {'.'.join(path)}, which fairseq evaluates and which "
                f"must be a plain value such as {example}, but is {shown(value)}. "
                "Do not use this file, unless you know who put that there."
            )
        if isinstance(value, str) and "${" in value:
            raise ValueError(
                f"{called} holds the option {'.'.join(path)}, which must be a plain value, but is "
                f"{shown(value)}, which OmegaConf would replace. Do not use this file, unless you "
                "know who put that there."
            )


def is_plain(name: str, value: Any) -> bool:
    """Whether a value is one that fairseq may evaluate for an option of that name."""
    try:
        value = plain_value(value)
    except (TypeError, ValueError):
        return False
    example = plain_value(EVALUATED[name])
    return _numeric(value) if _numeric(example) else value is None or type(value) is type(example)


def stored_options(options: Any) -> Iterator[Tuple[Tuple[str, ...], Any]]:
    """The options of a configuration, without groups, each with its path of names."""
    waiting: List[Tuple[Tuple[str, ...], Any]] = [((), options)]
    seen: Dict[int, Any] = {}  # keeps what it names alive, so that no identity is used twice
    while waiting:
        path, value = waiting.pop()
        if not isinstance(value, (dict, Namespace, list, tuple)):
            for content in ("_content", "_val"):  # of OmegaConf's own containers
                value = getattr(value, content, value)
        value = vars(value) if isinstance(value, Namespace) else value
        if isinstance(value, dict):
            inner = [((*path, str(key)), each) for key, each in value.items()]
        elif isinstance(value, (list, tuple)):
            inner = [(path, each) for each in value]
        else:
            yield path, value
            continue
        if id(value) not in seen:
            seen[id(value)] = value
            waiting += reversed(inner)


def unopened_files(*options: Any) -> Dict[str, None]:
    """The options that name files which fairseq would open, each with None, which is to replace it.

    Those of pretrained embeddings are not needed, since a checkpoint has the vectors among its
    weights; that of predictions fairseq would overwrite.

    Args:
        options: configurations of fairseq.
    """
    named = {path[-1] for path, value in stored_options(options) if path and value is not None}
    return {name: None for name in UNOPENED if name in named}


def shown(value: Any) -> str:
    """A value as a message shows it: in one line, cut where it is long."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _numeric(value: Any) -> bool:
    """Whether a value is None, a number, or a list of such, in any depth."""
    if isinstance(value, (list, tuple)):
        return all(map(_numeric, value))
    return value is None or isinstance(value, (int, float))
