"""What a criterion must know of the training around it, read from calls to its task.

fairseq tells a criterion neither which update is under way nor what all workers saw. The task is
told both, so an instance of it gets one of its own methods wrapped; its class stays as it is.
"""

from functools import wraps
from typing import Callable, Optional

from fairseq.criterions import FairseqCriterion
from fairseq.logging import metrics
from fairseq.logging.meters import AverageMeter
from fairseq.tasks import FairseqTask

PRIORITY = 10  # of a running mean: its place in the log
DECAY = 0.99  # of a running mean: it looks back about a hundred updates

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
    """A running mean, over about a hundred updates, of something that the criterion logs.

    After every update ``0.99 * mean + 0.01 * value``, the value over the whole update: the batches
    of ``--update-freq`` and of all workers. It is logged, and read back from fairseq's meters,
    which are in every checkpoint: a resumed training goes on with it unless it is told to
    ``--reset-meters``. From a checkpoint of the end of an epoch fairseq reads no meters: then the
    mean begins anew with the first value.

    Args:
        task: the task of the training.
        criterion: whose logs are read.
        name: how it is logged.
        value: of one update, from a function that sums a key over its logs; asked only if there
            were real tokens.
        start: the mean before the first update; None: the first value.
        clock: tells the first update; needed for a start.
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
        inner = task.reduce_metrics

        @wraps(inner)
        def reduce_metrics(logging_outputs, *args, **kwargs):
            if criterion.training:
                self.observe(logging_outputs)
            return inner(logging_outputs, *args, **kwargs)

        task.reduce_metrics = reduce_metrics

    @property
    def value(self) -> Optional[float]:
        """The mean; None before the first update if nothing was given for it."""
        meter = metrics.get_meter("default", self.name)
        return self.start if meter is None else meter.val

    def observe(self, logging_outputs) -> None:
        """Takes in the logs of one update."""

        def total(key: str) -> float:
            return float(sum(log.get(key, 0) for log in logging_outputs))

        if total("kd_ntokens") > 0:
            begun = metrics.get_meter("default", self.name) is not None
            restarted = not begun and self._clock is not None and self._clock.update > 0
            before, value = None if restarted else self.value, self._value(total)
            mean = value if before is None else DECAY * before + (1 - DECAY) * value
            metrics.log_scalar(self.name, mean, round=3)
            self._save(mean)

    def _save(self, mean: float) -> None:
        """Puts the mean among the meters that are saved; after a restart fairseq logs to others."""
        saved = metrics.get_meters("default")
        if self.name not in saved:
            saved.add_meter(self.name, AverageMeter(round=3), PRIORITY)
        if saved[self.name].val != mean:
            saved[self.name].update(mean)


def teacher_gap(task: FairseqTask, criterion: FairseqCriterion, clock: UpdateClock) -> RunningMean:
    """The share of tokens whose likeliest word is not the teacher's, 1 at first: ``teacher_gap``.

    Args:
        task: the task of the training.
        criterion: whose logs hold ``kd_agreed`` and ``kd_ntokens``.
        clock: of the same task.
    """

    def gap(total: Total) -> float:
        return 1 - total("kd_agreed") / total("kd_ntokens")

    return RunningMean(task, criterion, "teacher_gap", gap, start=1.0, clock=clock)
