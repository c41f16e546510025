"""Conversion of a model for CTranslate2: cached, and checked against fairseq's scores.

A conversion is a folder with the weights in float32 and in int8; the scores are compared in
float32. It holds the hashes of its files, and a damaged conversion is made again.

The int8 weights never overflow. On x86 processors without VNNI, bytes are multiplied by an
instruction (``vpmaddubsw``) that adds two products of an unsigned activation ``a <= 255`` and a
signed weight ``w`` in 16 bits, and saturates. CTranslate2 scales every row of weights to
``|w| <= 127``, so that sums saturate where weights and activations are both large. With
``|w| <= 64`` none does: ``2 * 255 * 64 = 32,640 <= 32,767``. That costs one of the eight bits, on
every processor, so that a model translates identically on all of them.

Source of the workaround: OpenVINO, "Saturation (overflow) Issue Workaround",
https://docs.openvino.ai/latest/pot_saturation_issue.html.
"""

import argparse
import hashlib
import os
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence

import ctranslate2
import numpy as np
import torch
from ctranslate2.converters import FairseqConverter
from ctranslate2.specs.model_spec import NumpyVariable, Variable, visit_spec
from fairseq.data import Dictionary
from torch import Tensor

from fairseq_kd.checkpoints.option_check import UNOPENED, unopened_files
from fairseq_kd.checkpoints.reading import options_of, read_checkpoint
from fairseq_kd.decoding.engine import EngineUnavailableError
from fairseq_kd.decoding.subset import Subset
from fairseq_kd.decoding.translation_model import Checkpoint
from fairseq_kd.files.atomic_files import make_folder
from fairseq_kd.files.hashes import SUMS, first_damaged, read_sums, write_sums
from fairseq_kd.files.names import on_terminal
from fairseq_kd.files.temporary_folders import temporary_folder
from fairseq_kd.files.write_errors import writing
from fairseq_kd.teachers.compatibility import language_pair
from fairseq_kd.teachers.loading import read_translation_model

UNFINISHED = r"ctranslate2-[\w.+-]+-int8\.\d+-[0-9a-f]{32}\."  # name prefix
FLOAT32, INT8 = "float32", "int8"
WEIGHTS = {f"{name}/model.bin" for name in (FLOAT32, INT8)}
PROBES, PROBE_TOKENS = 4, 60
TOLERANCE_NATS = 0.01  # per token in float32, where rounding gives about 0.0001
NEVER_CHOSEN = [["<blank>"]]  # padding, which fairseq's generator excludes too
FLOATS = ("float32", "float16", "bfloat16")
LARGEST = 64  # int8 weight, so that two products with 255 fit into 16 bits


class CannotConvertError(EngineUnavailableError):
    """CTranslate2 cannot convert a model, or its scores differ from fairseq's."""


def default_cache() -> Path:
    """The default folder of converted models, created if necessary.

    Raises:
        ValueError: it cannot be made, or nothing can be written into it.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fairseq_kd"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"{folder}, the folder for converted models, cannot be made ({error.strerror}). Give "
            "another one by --cache."
        ) from error
    return folder


def converted(checkpoint: Checkpoint, subset: Subset, cache: Path) -> Path:
    """The folder of a converted model, created if the cache has none.

    Args:
        checkpoint: with the subset's dictionaries.
        subset: its folder has the dictionaries; some of its sentences are used for the check.
        cache: folder for converted models.

    Raises:
        CannotConvertError: CTranslate2 refuses the model, or its scores differ from fairseq's.
    """
    folder = cache / _name(checkpoint, subset)
    if folder.is_dir():
        damage = _damage(folder)
        if damage is None:
            return folder
        print(f"{on_terminal(damage)}; the teacher is converted again", file=sys.stderr)
    make_folder(cache)
    with writing(cache, cache), temporary_folder(cache, f"{folder.name}.", UNFINISHED) as work:
        write_converted(checkpoint, subset, work / FLOAT32)
        _check_scores(work / FLOAT32, checkpoint, subset)
        write_converted(checkpoint, subset, work / INT8, INT8)
        write_sums(work)
        work.chmod(0o755)
        _put_in_place(work, folder)
    return folder


def _name(checkpoint: Checkpoint, subset: Subset) -> str:
    """The name of a conversion: the hashes of its inputs, vocabularies included."""
    dictionaries = (subset.hashes[f"{side}_dictionary"] for side in ("source", "target"))
    parts = [checkpoint.sha256, *dictionaries]
    if not checkpoint.format.is_plain:
        parts += [repr(checkpoint.format), repr(checkpoint.languages._replace(folder=None))]
    made_from = hashlib.sha256(" ".join(parts).encode()).hexdigest()
    return f"ctranslate2-{ctranslate2.__version__}-int8.{LARGEST}-{made_from[:32]}"


def _damage(folder: Path) -> Optional[str]:
    """The damage of a conversion in the cache, for a message; None if there is none."""
    sums = read_sums(folder)
    if not sums:
        return f"{folder} has no checksums"
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    if not sums.keys() >= (files | WEIGHTS) - {SUMS}:
        return f"{folder / SUMS} is damaged"
    path = first_damaged(folder, sums)
    return None if path is None else f"{path} is missing or damaged"


def _put_in_place(work: Path, folder: Path) -> None:
    """Moves a conversion to its place, unless another process did; removes a damaged one there."""
    if folder.is_dir() and _damage(folder) is not None:
        shutil.rmtree(folder, ignore_errors=True)
    try:
        work.replace(folder)
    except OSError:
        if not folder.is_dir() or _damage(folder) is not None:
            raise


def overflows(compute_type: str, device: str) -> bool:
    """Whether CTranslate2's own int8 weights, up to 127, may overflow, so that ours are used.

    Args:
        compute_type: one of CTranslate2's.
        device: cpu or cuda; a GPU multiplies int8 without overflow.
    """
    return device == "cpu" and compute_type.startswith("int8")


def weights_folder(conversion: Path, compute_type: str, device: str) -> Path:
    """The folder of a conversion that CTranslate2 loads, with weights in int8 or in float32.

    Args:
        conversion: the result of ``converted``.
        compute_type: one of CTranslate2's.
        device: cpu or cuda.
    """
    return conversion / (INT8 if overflows(compute_type, device) else FLOAT32)


def write_converted(
    checkpoint: Checkpoint, subset: Subset, folder: Path, quantization: Optional[str] = None
) -> None:
    """Writes a model in CTranslate2's format.

    Args:
        checkpoint: with the subset's dictionaries.
        subset: its folder has the dictionaries.
        folder: to write into.
        quantization: of the weights, one of CTranslate2's; None keeps their type. int8 is that of
            ``Int8Converter``.

    Raises:
        CannotConvertError: CTranslate2 refuses the model.
    """
    in_int8 = quantization is not None and quantization.startswith(INT8)
    converter = Int8Converter if in_int8 else FairseqConverter
    plain = checkpoint.format.is_plain
    try:
        with (_with_a_namespace if plain else _with_language_tokens)(checkpoint) as path:
            converter(
                str(path),
                str(subset.folder if plain else path.parent),
                source_lang=subset.pair[0],
                target_lang=subset.pair[1],
                no_default_special_tokens=not plain,
            ).convert(str(folder), quantization=None if in_int8 else quantization, force=True)
    except OSError:
        raise
    except Exception as error:  # its refusals have no common class
        reason = on_terminal(" ".join(str(error).split())[:400]) or type(error).__name__
        raise CannotConvertError(f"CTranslate2 cannot convert it: {reason}") from error


@contextmanager
def _with_a_namespace(checkpoint: Checkpoint) -> Iterator[Path]:
    """Yields a checkpoint with fairseq-train's Namespace, which CTranslate2 requires."""
    path = checkpoint.path
    state = read_checkpoint(path)
    args = state.get("args") or state["cfg"]["model"]
    unopened = unopened_files(args)
    if isinstance(args, argparse.Namespace) and "args" in state and not unopened:
        yield path
        return
    if not isinstance(args, argparse.Namespace):
        args = namespace_of(options_of(state, "model"))
    if unopened:
        args = argparse.Namespace(**{**vars(args), **dict.fromkeys(UNOPENED)})
    with temporary_folder() as folder:
        copy = folder / path.name
        with writing(folder.parent, folder), copy.open("wb") as file:
            torch.save({"args": args, "model": state["model"]}, file)
        yield copy


@contextmanager
def _with_language_tokens(checkpoint: Checkpoint) -> Iterator[Path]:
    """A model that reads tokens of languages, as a plain translation model of these vocabularies.

    The folder of the file has the dictionaries.
    """
    name = f"{checkpoint.flag} {checkpoint.path}"
    state = read_translation_model(str(checkpoint.path), name, checkpoint.languages)
    checkpoint.task.reorder(state["model"])
    args = argparse.Namespace(**{**options_of(state, "model"), "task": "translation"})
    for name in UNOPENED:
        setattr(args, name, None)
    args.lang_tok_replacing_bos_eos = False  # which CTranslate2 refuses; the tokens are ours to put
    dictionaries = zip(language_pair(checkpoint.task), checkpoint.task.whole, strict=True)
    with temporary_folder() as folder:
        with writing(folder.parent, folder):
            for language, dictionary in dictionaries:
                dictionary.save(str(folder / f"dict.{language}.txt"))
            torch.save({"args": args, "model": state["model"]}, folder / "model.pt")
        yield folder / "model.pt"


def namespace_of(model: Dict[str, Any]) -> argparse.Namespace:
    """The options of a model that fairseq-hydra-train wrote, under fairseq-train's names."""
    args = {**model, "arch": model["_name"], "task": "translation"}
    sides = {side: args.pop(side) for side in ("encoder", "decoder") if side in args}
    for side, options in sides.items():
        args.update({f"{side}_{name}": value for name, value in options.items()})
    for name in ("input_dim", "output_dim") if "decoder" in sides else ():
        args[f"decoder_{name}"] = sides["decoder"].get(name, args["decoder_embed_dim"])
    return argparse.Namespace(**args)


def _check_scores(folder: Path, checkpoint: Checkpoint, subset: Subset) -> None:
    """Compares CTranslate2's scores of a few translations with those of the fairseq model."""
    translator = ctranslate2.Translator(str(folder), compute_type="float32", intra_threads=1)
    symbols = ctranslate2_symbols(subset.source_dictionary)
    before, after, start = checkpoint.affixes
    known = {token: number for number, token in enumerate(checkpoint.symbols[1])}
    sources = _probes(subset, checkpoint)
    longest = min(PROBE_TOKENS, checkpoint.max_target - 1)
    results = translator.translate_batch(
        [
            [*before, *(symbols[token] for token in source.tolist()[:-1]), *after]
            for source in sources
        ],
        target_prefix=[list(start)] * len(sources) if start else None,
        beam_size=1,
        max_decoding_length=longest,
        suppress_sequences=NEVER_CHOSEN,
        return_scores=True,
        return_end_token=True,
    )
    for source, result in zip(sources, results, strict=True):
        tokens = [known[token] for token in result.hypotheses[0]]
        translation = tokens[max(0, len(start) - 1) :]
        expected = _log_probability(checkpoint, source, translation) / len(tokens)
        if not abs(result.scores[0] - expected) < TOLERANCE_NATS:
            raise CannotConvertError(
                "CTranslate2 differs from fairseq: it scores a translation "
                f"{result.scores[0]:.3f}, and fairseq {expected:.3f} nats per token"
            )


def _probes(subset: Subset, checkpoint: Checkpoint) -> List[Tensor]:
    """A few sentences of about the median length."""
    lengths = subset.source_lengths
    usable = (lengths > 1) & (lengths <= checkpoint.max_source)
    order = [i for i in lengths.argsort(kind="stable") if usable[i]]
    start = max(0, (len(order) - PROBES) // 2)
    return [subset.source[int(i)] for i in order[start : start + PROBES]]


@torch.no_grad()
def _log_probability(checkpoint: Checkpoint, source: Tensor, tokens: List[int]) -> float:
    """The model's log probability of tokens, without padding and without an empty translation."""
    target = torch.tensor([tokens])
    begin = torch.tensor([[checkpoint.task.target_dictionary.eos()]])
    plain = {
        "src_tokens": source[None].long(),
        "src_lengths": torch.tensor([len(source)]),
        "prev_output_tokens": torch.cat([begin, target[:, :-1]], 1),
    }
    net_input = checkpoint.format.inputs(plain)
    net_output = checkpoint.model(**net_input)
    logits = net_output[0][:, checkpoint.format.more_target :].float()  # (1, L, V)
    logits[:, :, checkpoint.task.target_dictionary.pad()] = float("-inf")
    logits[:, 0, checkpoint.task.target_dictionary.eos()] = float("-inf")
    log_p = logits.log_softmax(-1)
    return log_p[0].gather(1, target[0][:, None]).sum().item()


def ctranslate2_symbols(dictionary: Dictionary) -> Sequence[str]:
    """The tokens of a fairseq dictionary by id, as named in the converted model."""
    pad = dictionary.pad_word
    return ["<blank>" if token == pad else token for token in dictionary.symbols]


class Int8Converter(FairseqConverter):
    """Converts a fairseq model for CTranslate2 with weights between -LARGEST and LARGEST."""

    def _load(self) -> Any:
        spec = super()._load()
        spec.validate()  # makes all weights of one type
        visit_spec(spec, _quantise)
        return spec


def _quantise(layer: Any, path: str, value: Any) -> None:
    """Replaces a weight that CTranslate2 would quantise by int8 rows and their scales.

    Others, such as biases, become float32.
    """
    name = path.rpartition("/")[2]
    if not isinstance(value, Variable) or value.dtype not in FLOATS:
        return
    if not hasattr(layer, f"{name}_scale"):
        setattr(layer, name, value.to("float32"))
    else:
        weights, scales = int8_rows(value.to("float32").numpy())
        setattr(layer, name, NumpyVariable(weights))
        setattr(layer, f"{name}_scale", NumpyVariable(scales))


def int8_rows(weights: np.ndarray) -> "tuple[np.ndarray, np.ndarray]":
    """Rows of int8 and their scales: ``round(scale * weights)``, ``scale = LARGEST / max |row|``.

    Args:
        weights: (rows, columns), float32.

    Returns:
        ``(int8 of the same shape, float32 scales of the rows)``; a row of zeros has the scale 1.
    """
    largest = np.abs(weights).max(axis=1)
    scales = (LARGEST / np.where(largest > 0, largest, LARGEST)).astype(np.float32)
    return np.rint(weights * scales[:, None]).astype(np.int8), scales
