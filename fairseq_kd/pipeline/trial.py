"""Tries every training on one sentence, to find failures before any step starts.

Models that the run has not trained yet are replaced by untrained ones of the same size, and stores
by their teachers.
"""

import logging
import os
import sys
import time
import warnings
from argparse import Namespace
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, Mapping, Set

from fairseq_kd.pipeline.layout import Layout
from fairseq_kd.pipeline.training_check import training_refused
from fairseq_kd.teachers.options import StoreOptions

PLACES = ("save_dir", "kd_teacher", "kd_store", "finetune_from_model", "seed")  # of equal trainings
SILENT_SECONDS = 3
_tried: Set[str] = set()


class Trials:
    """Tries the trainings of a run, in its order.

    Args:
        layout: the steps of the run.
        trainings: their parsed flags, by step.
        folder: for the untrained placeholder models.
    """

    def __init__(self, layout: Layout, trainings: Mapping[str, Mapping[str, Any]], folder: Path):
        self.data, self.folder = layout.corpus.folder, folder
        steps = {step.name: step for step in layout.steps}
        self.checkpoints = {name: steps[name].makes[0] for name in trainings}
        commands = [step.command for step in layout.steps]
        self.stores = {
            each.out.as_posix(): each.teacher for each in commands if isinstance(each, StoreOptions)
        }
        named = (self._teachers(training) for training in trainings.values())
        self.teaching = {path for paths in named for path in paths}
        self.stand_ins: Dict[str, str] = {}
        self.started = time.monotonic()

    def _teachers(self, training: Mapping[str, Any]) -> "list[str]":
        """The checkpoints that a training learns from, by itself or by their stores."""
        paths = (training.get("kd_teacher") or "").split(os.pathsep)
        stores = (training.get("kd_store") or "").split(os.pathsep)
        return [path for path in [*paths, *(self.stores.get(each, "") for each in stores)] if path]

    def run(self, name: str, training: Mapping[str, Any]) -> None:
        """Computes an update and a validation of a training on a sentence of median length.

        Raises:
            FileNotFoundError, ValueError: the training would fail.
        """
        checkpoint = self.checkpoints[name]
        teachers = [self.stand_ins.get(path, path) for path in self._teachers(training)]
        flags = {**training, "data": self.data, "kd_compile": False}
        key = repr(sorted((each, str(flags[each])) for each in flags if each not in PLACES))
        key += repr((checkpoint in self.teaching, self._teachers(training)))
        if key in _tried and checkpoint not in self.teaching:
            return
        if teachers:
            flags |= {"kd_teacher": os.pathsep.join(teachers), "kd_store": None}
        if training.get("finetune_from_model"):
            flags["kd_share_encoder"] = False  # its encoder is the start's, which is not at hand
        if time.monotonic() - self.started > SILENT_SECONDS:
            print(f"trying the training of {name} on one sentence", file=sys.stderr)
        with training_refused(name), _silent():
            cfg, model = _try(Namespace(**flags))
        _tried.add(key)
        if checkpoint in self.teaching:
            self._save(checkpoint, cfg, model)

    def _save(self, checkpoint: str, cfg: Any, model: Any) -> None:
        """Saves an untrained model as a placeholder for one that is not trained yet."""
        import torch
        from omegaconf import OmegaConf

        cfg = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
        path = self.folder / f"{len(self.stand_ins)}.pt"
        torch.save({"args": None, "cfg": cfg, "model": model.state_dict()}, path)
        self.stand_ins[checkpoint] = str(path)


@contextmanager
def _silent() -> Iterator[None]:
    """Suppresses warnings, which would be about an untrained model."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _try(args: Namespace) -> Any:
    """Trains and validates on a sentence of median length, as fairseq-train does.

    Returns:
        The configuration and the model.

    Raises:
        Exception: whatever fairseq raises.
    """
    import torch
    from fairseq import tasks
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf, omegaconf_no_object_check
    from fairseq.logging import metrics
    from omegaconf import OmegaConf

    from fairseq_kd.teachers.loading import check_task

    check_task("A model that it trains", args.task)
    cfg = convert_namespace_to_omegaconf(args)
    with torch.random.fork_rng():
        task = tasks.setup_task(cfg.task)
        subset = cfg.dataset.valid_subset.split(",")[0]
        task.load_dataset(subset)
        dataset = task.datasets[subset]
        model = task.build_model(cfg.model)
        content = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
        with omegaconf_no_object_check():  # models of fairseq-train have Namespaces in it
            whole = OmegaConf.create(content)
        del whole["dataset"]  # otherwise a criterion checks all of the data
        criterion = task.build_criterion(whole.criterion)
        ordered, most = dataset.ordered_indices(), model.max_positions()  # by length
        readable, _ = dataset.filter_indices_by_size(ordered, most)
        sample = dataset.collater([dataset[readable[len(readable) // 2]]])
        loss = criterion.train()(model.train(), sample)[0]
        loss.backward()
        model.zero_grad()
        with metrics.aggregate(new_root=True) as logged:
            log = task.valid_step(sample, model, criterion.eval())[2]
            task.reduce_metrics([log], criterion)
    figures, metric = logged.get_smoothed_values(), cfg.checkpoint.best_checkpoint_metric
    if metric not in figures:
        raise ValueError(
            f"--best-checkpoint-metric is {metric}, which this training does not log. It logs "
            f"{', '.join(figures)}. Choose one of them."
        )
    return cfg, model
