"""Training state for criterions: update number, running means, first-batch check.

fairseq passes a criterion neither the number of the update nor the logs of all workers. It passes
both to the task, so a method of that one task object is wrapped; its class is not changed.
"""

import logging
import math
from functools import wraps
from typing import Any, Callable, Dict, Optional

from fairseq.criterions import FairseqCriterion
from fairseq.logging import metrics
from fairseq.logging.meters import AverageMeter
from fairseq.tasks import FairseqTask

from fairseq_kd.losses import LossTerms

logger = logging.getLogger(__name__)
PRIORITY = 10  # of a running mean: its place in the log
DECAY = 0.99  # of a running mean, which covers about a hundred updates
NEARLY_UNIFORM = 0.9  # of the highest entropy

Total = Callable[[str], float]  # the sum of a key over the logs of an update


class UpdateClock:
    """Holds the number of the current update, counted from 0.

    The number comes from the trainer at every step, so it is right after a restart, with
    ``--update-freq`` and on every worker, and needs no state of its own.

    Args:
        task: the task of the training.
    """

    def __init__(self, task: FairseqTask):
        self.update = 0
        inner = task.train_step

        @wraps(inner)
        def train_step(sample, model, criterion, optimizer, update_num, *args, **kwargs):
            self.update = update_num
            return inner(sample, model, criterion, optimizer, update_num, *args, **kwargs)

        task.train_step = train_step


class RunningMean:
    """A running mean, over about a hundred updates, of a figure that the criterion logs.

    After every update ``0.99 * mean + 0.01 * value``, the value over the whole update: the batches
    of ``--update-freq`` and of all workers. It is logged, and kept among fairseq's meters, which
    are in every checkpoint, so a resumed training continues it; with ``--reset-meters`` it starts
    again with the first value.

    Args:
        task: the task of the training.
        criterion: whose logs are read.
        name: how it is logged.
        value: of one update, from a function that sums a key over its logs; called only if
            there were real tokens.
        start: the mean before the first update; None: the first value.
        clock: to recognise the first update; needed for a start.
    """

    def __init__(
        self,
        task: FairseqTask,
        criterion: FairseqCriterion,
        name: str,
        value: Callable[[Total], float],
        start: Optional[float] = None,
        clock: Optional[UpdateClock] = None,
    ):
        self.name, self._value, self.start, self._clock = name, value, start, clock
        criterion.running_means = [*getattr(criterion, "running_means", ()), self]
        inner = task.reduce_metrics

        @wraps(inner)
        def reduce_metrics(logging_outputs, *args, **kwargs):
            if criterion.training:
                self.observe(logging_outputs)
            return inner(logging_outputs, *args, **kwargs)

        task.reduce_metrics = reduce_metrics

    @property
    def value(self) -> Optional[float]:
        """The mean; before the first update the start."""
        meter = metrics.get_meter("default", self.name)
        return self.start if meter is None else meter.val

    def observe(self, logging_outputs) -> None:
        """Updates the mean with the logs of one update."""

        def total(key: str) -> float:
            return float(sum(log.get(key, 0) for log in logging_outputs))

        if total("kd_ntokens") > 0:
            begun = metrics.get_meter("default", self.name) is not None
            restarted = not begun and self._clock is not None and self._clock.update > 0
            before, value = None if restarted else self.value, self._value(total)
            mean = value if before is None else DECAY * before + (1 - DECAY) * value
            metrics.log_scalar(self.name, mean, round=3)
            self.save(mean)

    def save(self, mean: float) -> None:
        """Puts the mean among the meters that are saved; after a restart fairseq logs to others."""
        saved = metrics.get_meters("default")
        if self.name not in saved:
            saved.add_meter(self.name, AverageMeter(round=3), PRIORITY)
        if saved[self.name].val != mean:
            saved[self.name].update(mean)


def restore_running_means(criterion: FairseqCriterion, saved: Dict[str, Any]) -> None:
    """Restores those of a criterion from the meters of a checkpoint, if fairseq has not.

    fairseq leaves out all meters of a checkpoint of the end of an epoch.

    Args:
        criterion: with or without running means.
        saved: ``metrics.state_dict()`` in the checkpoint.
    """
    values = {key: meter.get("val") for _, key, _, meter in saved.get("default", ())}
    for mean in getattr(criterion, "running_means", ()):
        if values.get(mean.name) is not None:
            mean.save(values[mean.name])


def teacher_gap(task: FairseqTask, criterion: FairseqCriterion, clock: UpdateClock) -> RunningMean:
    """``teacher_gap``: the share of tokens whose likeliest token is not the teacher's, 1 at first.

    Args:
        task: the task of the training.
        criterion: whose logs hold ``kd_agreed`` and ``kd_ntokens``.
        clock: of the same task.
    """

    def gap(total: Total) -> float:
        return 1 - total("kd_agreed") / total("kd_ntokens")

    return RunningMean(task, criterion, "teacher_gap", gap, start=1.0, clock=clock)


class TemperatureWarning:
    """Warns, at the first batch, of a temperature at which the teacher is nearly uniform."""

    def __init__(self) -> None:
        self.checked = False

    def __call__(self, terms: LossTerms, tokens: int, vocab_size: int) -> None:
        """Checks the first batch that has a token.

        Args:
            terms: the sums of the loss over its tokens.
            tokens: their number.
            vocab_size: V.
        """
        if self.checked or tokens == 0:
            return
        self.checked = True
        entropy_bits = terms.entropy.item() / tokens / math.log(2)
        temperature, highest = terms.temperature.item() / tokens, math.log2(vocab_size)
        if temperature > 1 and entropy_bits > NEARLY_UNIFORM * highest:
            logger.warning(
                "at temperature %.3g the teacher's distribution is nearly uniform: %.1f of at most "
                "%.1f bits a token. Lower --kd-temperature; start with 1",
                temperature,
                entropy_bits,
                highest,
            )
