"""A model converted for CTranslate2: once, cached, and proven to score as fairseq does.

A conversion is a folder of two forms, in float32 and in int8; the proof is of the first. The hashes
of its files are beside them, and one that is damaged is made anew.
"""

import argparse
import os
import shutil
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

import ctranslate2
import torch
from ctranslate2.converters import FairseqConverter
from torch import Tensor

from fairseq_kd.checkpoints import options_of, read_checkpoint
from fairseq_kd.decoding.ctranslate2_engine import NEVER_CHOSEN, ctranslate2_symbols
from fairseq_kd.decoding.int8 import LARGEST, Int8Converter, overflows
from fairseq_kd.decoding.subset import Subset
from fairseq_kd.decoding.translation_model import Checkpoint
from fairseq_kd.hashes import first_damaged, read_sums, write_sums
from fairseq_kd.stored_options import UNOPENED, unopened_files
from fairseq_kd.whole_files import make_folder
from fairseq_kd.write_errors import writing

FLOAT32, INT8 = "float32", "int8"
PROBES, PROBE_TOKENS = 4, 60
TOLERANCE_NATS = 0.01  # per token in float32, where rounding gives about 0.0001


class CannotConvertError(Exception):
    """Why CTranslate2 does not serve a model, as half a sentence."""


def default_cache() -> Path:
    """Where converted models are kept if no other folder is given."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fairseq_kd"


def converted(checkpoint: Checkpoint, sha256: str, subset: Subset, cache: Path) -> Path:
    """The folder of a converted model with both forms of it, made if the cache has none.

    Args:
        checkpoint: with the subset's dictionaries.
        sha256: of its checkpoint.
        subset: whose folder has the dictionaries, and whose sentences prove the conversion.
        cache: folder for converted models.

    Raises:
        CannotConvertError: CTranslate2 refuses the model, or scores otherwise than fairseq.
    """
    folder = cache / f"ctranslate2-{ctranslate2.__version__}-int8.{LARGEST}-{sha256[:32]}"
    if folder.is_dir():
        damage = _damage(folder)
        if damage is None:
            return folder
        print(f"{damage}; the teacher is converted anew", file=sys.stderr)
    make_folder(cache)
    with writing(cache, cache):
        work = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=cache))
    try:
        with writing(cache, work):
            write_converted(checkpoint, subset, work / FLOAT32)
            _prove(work / FLOAT32, checkpoint, subset)
            write_converted(checkpoint, subset, work / INT8, INT8)
            write_sums(work)
            work.chmod(0o755)
            _put_in_place(work, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder


def _damage(folder: Path) -> Optional[str]:
    """What is wrong with a conversion in the cache, in a few words; None if nothing is."""
    sums = read_sums(folder)
    if not sums:
        return f"{folder} has no checksums"
    path = first_damaged(folder, sums)
    return None if path is None else f"{path} is missing or damaged"


def _put_in_place(work: Path, folder: Path) -> None:
    """Gives a conversion its name, unless another process was quicker; a damaged one is removed."""
    if folder.is_dir() and _damage(folder) is not None:
        shutil.rmtree(folder, ignore_errors=True)
    try:
        work.replace(folder)
    except OSError:
        if not folder.is_dir() or _damage(folder) is not None:
            raise


def form(conversion: Path, compute_type: str, device: str) -> Path:
    """The form of a conversion that serves a computation.

    Args:
        conversion: as ``converted`` gives it.
        compute_type: one of CTranslate2's.
        device: cpu or cuda.
    """
    return conversion / (INT8 if overflows(compute_type, device) else FLOAT32)


def write_converted(
    checkpoint: Checkpoint, subset: Subset, folder: Path, quantization: Optional[str] = None
) -> None:
    """Writes a model as CTranslate2 reads it.

    Args:
        checkpoint: with the subset's dictionaries.
        subset: whose folder has the dictionaries.
        folder: to write into.
        quantization: of the weights, one of CTranslate2's; None keeps them as they are. int8 is
            that of ``Int8Converter``.

    Raises:
        CannotConvertError: CTranslate2 refuses the model.
    """
    in_int8 = quantization is not None and quantization.startswith(INT8)
    converter = Int8Converter if in_int8 else FairseqConverter
    try:
        with _with_a_namespace(checkpoint.path) as path:
            converter(
                str(path),
                str(subset.folder),
                source_lang=subset.pair[0],
                target_lang=subset.pair[1],
            ).convert(str(folder), quantization=None if in_int8 else quantization, force=True)
    except OSError:
        raise
    except Exception as error:  # its refusals have no common class
        reason = " ".join(str(error).split())[:400] or type(error).__name__
        raise CannotConvertError(f"CTranslate2 cannot convert it: {reason}") from error


@contextmanager
def _with_a_namespace(path: Path) -> Iterator[Path]:
    """A checkpoint as CTranslate2 reads it, which knows those of fairseq-train alone."""
    state = read_checkpoint(path)
    args = state.get("args") or state["cfg"]["model"]
    forgotten = unopened_files(args)
    if isinstance(args, argparse.Namespace) and "args" in state and not forgotten:
        yield path
        return
    if not isinstance(args, argparse.Namespace):
        args = namespace_of(options_of(state, "model"))
    if forgotten:
        args = argparse.Namespace(**{**vars(args), **dict.fromkeys(UNOPENED)})
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        with writing(Path(tempfile.gettempdir()), Path(folder)), copy.open("wb") as file:
            torch.save({"args": args, "model": state["model"]}, file)
        yield copy


def namespace_of(model: Dict[str, Any]) -> argparse.Namespace:
    """The options of a model that fairseq-hydra-train wrote, by the names of fairseq-train."""
    args = {**model, "arch": model["_name"], "task": "translation"}
    sides = {side: args.pop(side) for side in ("encoder", "decoder") if side in args}
    for side, options in sides.items():
        args.update({f"{side}_{name}": value for name, value in options.items()})
    for name in ("input_dim", "output_dim") if "decoder" in sides else ():
        args[f"decoder_{name}"] = sides["decoder"].get(name, args["decoder_embed_dim"])
    return argparse.Namespace(**args)


def _prove(folder: Path, checkpoint: Checkpoint, subset: Subset) -> None:
    """Compares the scores of a few translations with those that the fairseq model gives them."""
    translator = ctranslate2.Translator(str(folder), compute_type="float32", intra_threads=1)
    symbols = ctranslate2_symbols(subset.source_words)
    sources = _probes(subset, checkpoint)
    results = translator.translate_batch(
        [[symbols[word] for word in source.tolist()[:-1]] for source in sources],
        beam_size=1,
        max_decoding_length=PROBE_TOKENS,
        suppress_sequences=NEVER_CHOSEN,
        return_scores=True,
        return_end_token=True,
    )
    for source, result in zip(sources, results, strict=True):
        words = [subset.target_words.index(token) for token in result.hypotheses[0]]
        expected = _log_probability(checkpoint, source, words) / len(words)
        if not abs(result.scores[0] - expected) < TOLERANCE_NATS:
            raise CannotConvertError(
                "CTranslate2 would translate otherwise than fairseq: it scores a translation "
                f"{result.scores[0]:.3f}, and fairseq {expected:.3f} nats per token"
            )


def _probes(subset: Subset, checkpoint: Checkpoint) -> List[Tensor]:
    """A few sentences of middling length."""
    lengths = subset.source_lengths
    usable = (lengths > 1) & (lengths <= checkpoint.model.max_positions()[0])
    order = [i for i in lengths.argsort(kind="stable") if usable[i]]
    start = max(0, (len(order) - PROBES) // 2)
    return [subset.source[int(i)] for i in order[start : start + PROBES]]


@torch.no_grad()
def _log_probability(checkpoint: Checkpoint, source: Tensor, words: List[int]) -> float:
    """The model's log probability of words; none has padding or an end that comes first."""
    target = torch.tensor([words])
    begin = torch.tensor([[checkpoint.task.target_dictionary.eos()]])
    net_output = checkpoint.model(
        source[None].long(), torch.tensor([len(source)]), torch.cat([begin, target[:, :-1]], 1)
    )
    logits = net_output[0].float()  # (1, L, V)
    logits[:, :, checkpoint.task.target_dictionary.pad()] = float("-inf")
    logits[:, 0, checkpoint.task.target_dictionary.eos()] = float("-inf")
    log_p = logits.log_softmax(-1)
    return log_p[0].gather(1, target[0][:, None]).sum().item()
