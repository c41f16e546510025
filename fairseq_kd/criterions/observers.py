"""What a criterion must know of the training around it, read from calls to its task.

fairseq tells a criterion neither which update is under way nor what all workers saw. The task is
told both, so an instance of it gets one of its own methods wrapped; its class stays as it is.
"""

from functools import wraps

from fairseq.criterions import FairseqCriterion
from fairseq.logging import metrics
from fairseq.logging.meters import AverageMeter
from fairseq.tasks import FairseqTask

GAP = "teacher_gap"
GAP_PRIORITY = 10  # its place in the log
GAP_DECAY = 0.99  # of the running mean: it looks back about a hundred updates


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


class TeacherGap:
    """The running mean of the share of tokens whose likeliest word is not the teacher's.

    It is 1 at first, and after every update ``0.99 * gap + 0.01 * share``, the share over the whole
    update: the batches of ``--update-freq`` and of all workers. It is logged as ``teacher_gap``,
    and read back from fairseq's meters, which are in every checkpoint: a resumed training goes on
    with it unless it is told to ``--reset-meters``.

    Args:
        task: the task of the training.
        criterion: whose logs hold ``kd_agreed`` and ``kd_ntokens``.
    """

    def __init__(self, task: FairseqTask, criterion: FairseqCriterion):
        inner = task.reduce_metrics

        @wraps(inner)
        def reduce_metrics(logging_outputs, *args, **kwargs):
            if criterion.training:
                self.observe(logging_outputs)
            return inner(logging_outputs, *args, **kwargs)

        task.reduce_metrics = reduce_metrics

    @property
    def value(self) -> float:
        """The gap, in [0, 1]."""
        meter = metrics.get_meter("default", GAP)
        return 1.0 if meter is None else meter.val

    def observe(self, logging_outputs) -> None:
        """Takes in the logs of one update."""
        tokens = float(sum(log.get("kd_ntokens", 0) for log in logging_outputs))
        if tokens > 0:
            agreed = float(sum(log["kd_agreed"] for log in logging_outputs))
            gap = GAP_DECAY * self.value + (1 - GAP_DECAY) * (1 - agreed / tokens)
            metrics.log_scalar(GAP, gap, round=3)
            self._save(gap)

    @staticmethod
    def _save(gap: float) -> None:
        """Puts the gap among the meters that are saved; after a restart fairseq logs to others."""
        saved = metrics.get_meters("default")
        if GAP not in saved:
            saved.add_meter(GAP, AverageMeter(round=3), GAP_PRIORITY)
        if saved[GAP].val != gap:
            saved[GAP].update(gap)
