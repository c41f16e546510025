"""Averages checkpoints of one training and writes their weights alone, in half precision.

    python scripts/weights_alone.py OUT.pt CHECKPOINT...

The state that is only needed to resume a training, and paths of the machine, are left out.
The options and the number of updates behind the weights, which a teacher needs, are kept.
"""

import argparse
import re
import sys
from pathlib import Path
from typing import Any, Dict, List

import torch
from omegaconf import OmegaConf

from fairseq_kd.checkpoints.reading import read_model
from fairseq_kd.checkpoints.updates import (
    inherited_history,
    updates_behind,
    updates_done,
    updates_of,
)
from fairseq_kd.checkpoints.weights import NO_WEIGHTS
from fairseq_kd.files.atomic_files import atomic_write, check_new_file
from fairseq_kd.files.write_errors import explained

KEPT = ("_name", "common", "criterion", "model", "optimization", "task")  # of the options
PLACE = re.compile(r"(?<![\w.])/\w")  # an absolute path in a text


def average(states: List[Dict[str, Any]]) -> Dict[str, torch.Tensor]:
    """The mean of each weight over checkpoints, in float16; computed in float64.

    Names that share a weight, such as those of shared embeddings, share its mean, too.

    Raises:
        ValueError: their weights differ in names or shapes, or a mean is too large for float16.
    """
    shapes = [{name: each.shape for name, each in state["model"].items()} for state in states]
    if any(each != shapes[0] for each in shapes):
        raise ValueError("The checkpoints are not of one training: their weights differ in shape.")
    means: Dict[Any, torch.Tensor] = {}
    first = states[0]["model"]
    places = {name: (each.data_ptr(), each.shape, each.stride()) for name, each in first.items()}
    for name, place in places.items():
        values = [state["model"][name].double() for state in states]
        means.setdefault(place, torch.stack(values).mean(0).half())
        if not name.endswith(NO_WEIGHTS) and not torch.isfinite(means[place]).all():
            raise ValueError(
                f"The mean of '{name}' has numbers beyond 65,504, which half precision cannot "
                "hold. Give other checkpoints, or one of these to fairseq as it is."
            )
    return {name: means[place] for name, place in places.items()}


def without_places(options: Any) -> Any:
    """Options without absolute paths: such a text becomes empty."""
    if isinstance(options, argparse.Namespace):
        return argparse.Namespace(**without_places(vars(options)))
    if isinstance(options, dict):
        return {key: without_places(value) for key, value in options.items()}
    if isinstance(options, (list, tuple)):
        return type(options)(without_places(each) for each in options)
    return "" if isinstance(options, str) and PLACE.search(options) else options


def weights_alone(paths: List[str]) -> Dict[str, Any]:
    """A checkpoint of the mean of others, with the options and the updates of the last of them."""
    paths = sorted(paths, key=updates_done)
    states = [read_model(path) for path in paths]
    args, cfg = (states[-1].get(part) for part in ("args", "cfg"))
    if OmegaConf.is_config(cfg):
        cfg = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    if args is None:
        cfg = {name: cfg[name] for name in KEPT if name in cfg}
    last = inherited_history(paths[-1], updates_behind(paths[-1]))[0]
    del last["file"]  # where it was
    return {
        "args": without_places(args),
        "cfg": None if args is not None else without_places(cfg),
        "model": average(states),
        "optimizer_history": [{**last, "num_updates": updates_of(states[-1])}],
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
        "last_optimizer_state": None,
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path, metavar="OUT.pt", help="what to write")
    parser.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT", help="of one training")
    args = parser.parse_args()
    try:
        check_new_file(args.out, "OUT.pt")
        content = weights_alone(args.checkpoints)
        with atomic_write(args.out, "wb", new=True) as file:
            torch.save(content, file)
    except (MemoryError, OSError, ValueError) as error:
        sys.exit(explained(error, args.out, "the checkpoints are as they were") or str(error))


if __name__ == "__main__":
    main()
