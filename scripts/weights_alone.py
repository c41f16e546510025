"""Averages checkpoints of one training and writes their weights alone, in half precision.

    python scripts/weights_alone.py OUT.pt CHECKPOINT...

What a training needs to go on, and the paths of the machine that it ran on, are left out; what a
teacher needs stays: its options, and the number of updates behind its weights.
"""

import argparse
from pathlib import Path
from typing import Any, Dict, List

import torch
from omegaconf import OmegaConf

from fairseq_kd.checkpoints import read_model
from fairseq_kd.updates import updates_of
from fairseq_kd.whole_files import written_whole

KEPT = ("_name", "common", "criterion", "model", "optimization", "task")  # of the options


def average(states: List[Dict[str, Any]]) -> Dict[str, torch.Tensor]:
    """The mean of each weight over checkpoints, in float16; computed in float64.

    Names that share a weight, such as those of shared embeddings, share its mean, too.

    Raises:
        ValueError: their weights differ in names or shapes.
    """
    shapes = [{name: each.shape for name, each in state["model"].items()} for state in states]
    if any(each != shapes[0] for each in shapes):
        raise ValueError("The checkpoints are not of one training: their weights differ in shape.")
    means: Dict[int, torch.Tensor] = {}
    for name, weight in states[0]["model"].items():
        values = [state["model"][name].double() for state in states]
        means.setdefault(weight.data_ptr(), torch.stack(values).mean(0).half())
    return {name: means[weight.data_ptr()] for name, weight in states[0]["model"].items()}


def without_places(options: Any) -> Any:
    """Options in which no text is an absolute path; such a text becomes empty."""
    if isinstance(options, argparse.Namespace):
        return argparse.Namespace(**without_places(vars(options)))
    if isinstance(options, dict):
        return {key: without_places(value) for key, value in options.items()}
    return "" if isinstance(options, str) and options.startswith("/") else options


def weights_alone(paths: List[str]) -> Dict[str, Any]:
    """A checkpoint of the mean of others, with the options and the updates of the last of them."""
    states = sorted(map(read_model, paths), key=updates_of)
    cfg = states[-1]["cfg"]
    if OmegaConf.is_config(cfg):
        cfg = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    last = {"criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}}
    return {
        "args": None,
        "cfg": without_places({name: cfg[name] for name in KEPT if name in cfg}),
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
    content = weights_alone(args.checkpoints)
    with written_whole(args.out, "wb", new=True) as file:
        torch.save(content, file)


if __name__ == "__main__":
    main()
