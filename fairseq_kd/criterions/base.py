"""Base class of the criterions: the mask of non-padding tokens, metrics, and restart."""

import functools
import logging
import math
import os
from typing import Any, ClassVar, Dict, List, Mapping, NamedTuple, Optional, Tuple

from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterion
from fairseq.logging import metrics
from fairseq.tasks import FairseqTask
from fairseq.trainer import Trainer
from fairseq.utils import has_parameters
from torch import Tensor, nn

from fairseq_kd.binarised import check_training
from fairseq_kd.checkpoints.reading import read_state
from fairseq_kd.criterions.batch_preparation import BatchPreparation
from fairseq_kd.criterions.flag_checks import refuse_ignored_ranks
from fairseq_kd.criterions.training_state import restore_running_means
from fairseq_kd.flag_types import Range, number_field, option_field
from fairseq_kd.models.real_tokens import RealTokens, prepared

logger = logging.getLogger(__name__)
BITS, PERCENT = 1 / math.log(2), 100  # units


class Metric(NamedTuple):
    """A mean in the training log, ``unit * (sum of a key) / (sum of other keys)`` over all workers.

    Args:
        name: in the log; a ``*`` stands for what the ``*`` of the key matched.
        unit: a factor, such as from nats to bits.
        over: the keys whose sums are the denominator.
        weight: the key whose sum is the weight of the mean in fairseq's means over updates;
            nothing is logged where it is 0.
        digits: decimal places.
        in_validation: whether a validation logs it too.
    """

    name: str
    unit: float = 1
    over: Tuple[str, ...] = ("kd_ntokens",)
    weight: str = "kd_ntokens"
    digits: int = 3
    in_validation: bool = True


def log_metrics(logs: List[Dict[str, Any]], table: Mapping[str, Metric]) -> None:
    """Logs the metrics of those keys of a table that some worker has in its log.

    Args:
        logs: the logs of all workers, sums by key.
        table: the metric of a key; a final ``*`` in the key matches any rest.
    """

    @functools.cache  # a comparison waits for a GPU
    def total(*keys: str) -> Any:
        return sum(log.get(key, 0) for key in keys for log in logs)

    @functools.cache
    def is_zero(*keys: str) -> bool:
        return bool(total(*keys) == 0)

    present = list(dict.fromkeys(key for log in logs for key in log))
    for pattern, metric in table.items():
        stem = pattern.removesuffix("*")
        wild = stem != pattern
        for key in present:
            if (key.startswith(stem) if wild else key == pattern) and not is_zero(metric.weight):
                whole = total(*metric.over)
                mean = 0.0 if is_zero(*metric.over) else metric.unit * total(key) / whole
                name = metric.name.replace("*", key.removeprefix(stem))
                metrics.log_scalar(name, mean, total(metric.weight), round=metric.digits)


class KDCriterion(LabelSmoothedCrossEntropyCriterion):
    """fairseq's label-smoothed cross-entropy, extended by terms of distillation.

    A subclass has ``check_flags``, ``forward``, and the ``metric_table`` of its log. What it trains
    (projections, mixtures, peers) are its parameters: optimised, saved and resumed with the model.

    Args:
        cfg: the flags; every value is checked here, before the first update.
        task: the translation task.
    """

    METRICS: ClassVar[Dict[str, Metric]] = {}

    def __init__(self, cfg: Any, task: FairseqTask):
        super().__init__(
            task,
            cfg.sentence_avg,
            cfg.label_smoothing,
            cfg.ignore_prefix_size,
            cfg.report_accuracy,
        )
        refuse_ignored_ranks()
        self.check_flags(cfg)
        self.cfg = cfg
        self.check_data(cfg, task)

    @classmethod
    def check_flags(cls, cfg: Any) -> None:
        """Refuses flags that are wrong for every model, before any model is read."""
        raise NotImplementedError

    @staticmethod
    def check_data(cfg: Any, task: FairseqTask) -> None:
        """Refuses damaged data before any model is read, if the task has one pair of languages."""
        dataset = getattr(cfg._get_root(), "dataset", None)
        if dataset is not None and getattr(task.cfg, "source_lang", None):
            check_training(dataset, task)

    def real_mask(self, sample: Dict[str, Any]) -> Tensor:
        """(B, L) bool: the target tokens that count, which pads and ignored prefixes do not."""
        real = sample["target"].ne(self.padding_idx)
        real[:, : self.ignore_prefix_size] = False
        return real

    def real_tokens(self, sample: Dict[str, Any]) -> RealTokens:
        """The target tokens that count, as the data loader has found them, or found here."""
        mask, parts = self.real_mask(sample), prepared(sample)
        if parts.get("ignored") == self.ignore_prefix_size:
            return RealTokens(mask, parts["positions"])
        return RealTokens.of_mask(mask)

    def prepare_batches(self, task: FairseqTask, *stores: Any) -> None:
        """Has the data loader find the real tokens of the batches, and read their stores.

        Args:
            task: whose data are not loaded yet.
            stores: as for ``BatchPreparation``.
        """
        BatchPreparation(self.real_mask, self.ignore_prefix_size, *stores).attach(task)

    def batch_log(
        self, sample: Dict[str, Any], loss: Tensor, n_real: Tensor, correct: Tensor
    ) -> Dict[str, Any]:
        """The part of a batch's log that all criterions have, with the sample size.

        Args:
            sample: the batch.
            loss: its whole loss.
            n_real: its number of real tokens.
            correct: how many of them the student predicts.
        """
        n_sentences = sample["target"].size(0)
        log = {
            "loss": loss.data,
            "ntokens": sample["ntokens"],
            "nsentences": n_sentences,
            "sample_size": n_sentences if self.sentence_avg else sample["ntokens"],
            "kd_ntokens": n_real,
        }
        if self.report_accuracy:
            log |= {"n_correct": correct, "total": n_real}
        return log

    @classmethod
    def metric_table(cls) -> Dict[str, Metric]:
        """The metrics that are logged beside fairseq's own, by the key of their sum."""
        return cls.METRICS

    @classmethod
    def metric_copies(cls, cfg: Any) -> int:
        """How many names a ``*`` in the names of metrics stands for, which are numbers from 1."""
        return 0

    @classmethod
    def validation_metrics(cls, cfg: Any) -> List[str]:
        """The names of the metrics that a validation logs beside fairseq's own.

        Args:
            cfg: the flags.
        """
        numbers = range(1, cls.metric_copies(cfg) + 1)
        names = [each.name for each in cls.metric_table().values() if each.in_validation]
        return [
            name.replace("*", str(number))
            for name in names
            for number in (numbers if "*" in name else [0])
        ]

    @classmethod
    def reduce_metrics(cls, logging_outputs: List[Dict[str, Any]]) -> None:
        """Turns the sums of all workers into means."""
        if sum(log.get("sample_size", 0) for log in logging_outputs) == 0:
            return  # no real token, so there is no mean to log
        super().reduce_metrics(logging_outputs)
        log_metrics(logging_outputs, cls.metric_table())

    def load_state_dict(self, state_dict: Optional[Mapping[str, Tensor]], strict: bool = True):
        """As in ``nn.Module``; if the checkpoint has no matching weights, nothing is loaded."""
        difference = self._difference(state_dict or {})
        if difference:
            logger.warning(
                f"the criterion's weights are initialised anew: the checkpoint {difference}"
            )
            return None
        return super().load_state_dict(state_dict, strict=strict)

    def check_resumed(self, path: str) -> None:
        """Checks that a training can be resumed from a checkpoint with its optimizer.

        Args:
            path: the checkpoint.

        Raises:
            ValueError: its weights of the criterion do not match this criterion's.
        """
        difference = self._difference(read_state(path, path)["criterion"] or {})
        if difference:
            raise ValueError(
                f"{path} {difference}. Resume with the same {self.flags_of_weight_shapes()}, or "
                "start a new training from its model, with --finetune-from-model and another "
                "--save-dir."
            )

    @classmethod
    def flags_of_weight_shapes(cls) -> str:
        """The flags that determine the number and shapes of the criterion's own weights."""
        return "flags of this criterion"

    def _difference(self, state_dict: Mapping[str, Tensor]) -> str:
        """The difference of a state from this criterion's own, as a clause; "" if none."""
        trained = self.state_dict() if has_parameters(self) else {}  # else fairseq saves none
        own, others = (
            {key: tuple(value.shape) for key, value in state.items()}
            for state in (trained, state_dict)
        )
        for key in dict.fromkeys([*own, *others]):
            if own.get(key) != others.get(key):
                has, must = (
                    f"of shape {each[key]}" if key in each else "absent" for each in (others, own)
                )
                return (
                    f"must hold the weights of --criterion {self.cfg._name} as they are trained "
                    f"here, but '{key}' is {has} there and {must} here"
                )
        return ""


_load_checkpoint = Trainer.load_checkpoint


@functools.wraps(_load_checkpoint)
def load_checkpoint(
    trainer: Trainer,
    filename: str,
    reset_optimizer: bool = False,
    reset_lr_scheduler: bool = False,
    optimizer_overrides: Optional[Dict[str, Any]] = None,
    reset_meters: bool = False,
) -> Optional[Dict[str, Any]]:
    """As fairseq's, which drops meters at the end of an epoch; also checks the criterion.

    Raises:
        ValueError: the checkpoint holds other weights of the criterion.
    """
    criterion, resets = trainer.get_criterion(), (reset_optimizer, reset_lr_scheduler)
    if isinstance(criterion, KDCriterion) and not reset_optimizer and os.path.isfile(filename):
        criterion.check_resumed(filename)
    state = _load_checkpoint(trainer, filename, *resets, optimizer_overrides, reset_meters)
    if state and not reset_meters:
        restore_running_means(criterion, state.get("metrics", {}))
    return state


Trainer.load_checkpoint = load_checkpoint


def follow(criterion: nn.Module, model: nn.Module) -> None:
    """Moves the weights of a criterion to the device and the precision of the model.

    fairseq-train has already moved them; fairseq-validate moves only the model.

    Args:
        criterion: with or without weights of its own.
        model: the student.
    """
    own, other = (next(each.parameters(), None) for each in (criterion, model))
    if own is None or other is None or (own.device, own.dtype) == (other.device, other.dtype):
        return
    criterion.to(other.device, other.dtype)


def chunk_tokens_flag() -> Any:
    """The field ``kd_chunk_tokens``, an optional int."""
    return number_field(
        None,
        Range(int, 0, 1_000_000_000),
        "target tokens that are projected to the vocabulary at once; 0: the whole "
        "batch; changes memory and speed, not the result (default: by the sizes of the models)",
    )


def compile_flag() -> Any:
    """The field ``kd_compile``, a bool."""
    return option_field(
        False,
        "compile the loss with torch.compile, in the first updates and the first validation, "
        "where no kernel of ours computes it, as with tvd, a gate or several teachers: faster on "
        "a GPU, and the same within rounding (default: off)",
    )
