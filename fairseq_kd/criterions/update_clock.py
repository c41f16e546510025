"""Tells a criterion which update is under way: fairseq tells only the task's ``train_step``."""

from functools import wraps

from fairseq.tasks import FairseqTask


class UpdateClock:
    """Holds the number of the current update, counted from 0.

    The number comes from the trainer at every step, so it is right after a restart, with
    ``--update-freq`` and on every worker, and needs no state of its own. The task keeps its own
    ``train_step``; this instance of it reports to the clock first.

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
