"""A teacher of a rich pair for a student of a poor one: ``L = L_word(P_S, P_T) + g * L_align``."""

import os
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Dict, Optional, Tuple

import torch
from fairseq.criterions import register_criterion
from fairseq.logging import metrics
from fairseq.tasks import FairseqTask
from torch import Tensor, nn

from fairseq_kd.criterions.checks import check_choice, check_one_live_teacher
from fairseq_kd.criterions.word_kd import WordKDConfig, WordKDCriterion
from fairseq_kd.flag_types import WEIGHT, number_field
from fairseq_kd.losses.alignment import linked_distance, pooled_distance
from fairseq_kd.losses.hidden import DISTANCES
from fairseq_kd.models.structure import Structure, student_structure
from fairseq_kd.taps import encoder_outputs
from fairseq_kd.tasks import PivotTranslationTask

LEVELS = ("sentence", "token", "both")


@dataclass
class CrossLingualKDConfig(WordKDConfig):
    """The flags of ``cross_lingual_kd``, beside those of ``word_kd``."""

    kd_teacher: Optional[str] = field(
        default=None,
        metadata={
            "help": "checkpoint of the teacher: any autoregressive encoder-decoder of fairseq that "
            "translates the pivot language into the student's target, with its dictionary; a "
            "transformer unless --kd-align-weight is 0 (default: none, with --kd-store)"
        },
    )
    kd_share_encoder: bool = field(
        default=False,
        metadata={
            "help": "not with this criterion: the two encoders read different languages "
            "(default: off)"
        },
    )
    kd_align_weight: float = number_field(
        0.1,
        WEIGHT,
        "weight of the distance between what the encoders of student and teacher make "
        "of a sentence (default: %(default)s)",
    )
    kd_align_level: str = field(
        default="sentence",
        metadata={
            "help": "what is compared: sentence, the means over all positions; token, the "
            "positions that SUBSET.align.SOURCE-PIVOT in the data links; or both, their sum "
            "(default: %(default)s)"
        },
    )
    kd_align_distance: str = field(
        default="mse",
        metadata={"help": "mse, the mean over the width, or cosine (default: %(default)s)"},
    )


@register_criterion("cross_lingual_kd", dataclass=CrossLingualKDConfig)
class CrossLingualKDCriterion(WordKDCriterion):
    """word_kd from a teacher that reads the same sentences in another, richer language.

    The teacher reads the pivot's sentence and the target so far, the student its own source; both
    say the next target word. ``L_align`` draws the student's encoder states to the teacher's,
    through a trained linear map if the widths differ.

    Log: as word_kd's; ``align_loss``: mean distance, before its weight.

    Args:
        cfg: the flags.
        task: a ``pivot_translation`` task.

    Raises:
        FileNotFoundError: as ``WordKDCriterion``; the pivot's dictionary is missing.
        ValueError: as ``WordKDCriterion``; another task, a teacher that does not read the pivot
            language, or one without encoder states to compare.

    Source: a teacher that reads a pivot language, Chen et al. 2017, arXiv:1705.00753, section 3;
    states drawn together, Reimers and Gurevych 2020, arXiv:2004.09813.
    """

    def __init__(self, cfg: CrossLingualKDConfig, task: FairseqTask):
        if not isinstance(task, PivotTranslationTask):
            raise ValueError(
                "--criterion cross_lingual_kd needs the teacher's sentences beside the student's. "
                "Train with --task pivot_translation and --kd-pivot-lang."
            )
        if cfg.kd_align_weight > 0 and cfg.kd_align_level != "sentence":
            check_links(cfg, task)
        super().__init__(cfg, task)
        self.source_pad, self.pivot_pad = task.source_dictionary.pad(), task.pivot_dictionary.pad()
        self.projection = nn.Identity()
        if cfg.kd_align_weight > 0:
            widths = [
                each.width("encoder")
                for each in (
                    student_structure(cfg, task),
                    Structure(self.teachers[0].model, f"--kd-teacher {cfg.kd_teacher}"),
                )
            ]
            if widths[0] != widths[1]:
                self.projection = nn.Linear(*widths, bias=False)

    @classmethod
    def check_flags(cls, cfg: CrossLingualKDConfig) -> None:
        """As ``WordKDCriterion.check_flags``, and those of the alignment."""
        check_align(cfg)
        super().check_flags(cfg)

    @classmethod
    def other_weights(cls, cfg: CrossLingualKDConfig) -> Dict[str, float]:
        """The weight of the alignment, by flag."""
        return {"--kd-align-weight": cfg.kd_align_weight}

    def taught_task(self, task: PivotTranslationTask) -> Any:
        """What the teacher must have been trained on: the pivot language and the same target."""
        return SimpleNamespace(
            cfg=SimpleNamespace(
                data=task.cfg.data,
                source_lang=task.pivot_lang,
                target_lang=task.cfg.target_lang,
                upsample_primary=task.cfg.upsample_primary,
                max_source_positions=task.cfg.max_source_positions,
                max_target_positions=task.cfg.max_target_positions,
            ),
            source_dictionary=task.pivot_dictionary,
            target_dictionary=task.target_dictionary,
            described="the pivot sentences and their targets are",
            advice="change --kd-pivot-lang and --target-lang",
        )

    def taught_sample(self, sample: Dict[str, Any]) -> Dict[str, Any]:
        """The batch as the teacher reads it."""
        return {**sample, "net_input": {**sample["net_input"], **sample["pivot"]}}

    def forward(
        self, model: nn.Module, sample: Dict[str, Any], reduce: bool = True
    ) -> Tuple[Tensor, int, Dict[str, Any]]:
        """The loss of a batch, its sample size and what to log, as sums that fairseq divides."""
        if self.cfg.kd_align_weight == 0:
            return super().forward(model, sample, reduce)
        teacher = self.teachers[0]
        teacher.follow(model)
        with encoder_outputs(model) as ours, encoder_outputs(teacher.model) as theirs:
            word, sample_size, log = super().forward(model, sample, reduce)
            if not theirs:  # alpha is 0: no words were asked for
                with torch.no_grad():
                    teacher.model.encoder(**sample["pivot"])
        align = self.alignment(ours[0], theirs[0], sample)
        loss = word + self.cfg.kd_align_weight * align
        log |= {"loss": loss.data, "kd_align": align.data}
        log["kd_align_ntokens"] = self.real_tokens(sample).sum()
        return loss, sample_size, log

    def alignment(self, ours: Tensor, theirs: Tensor, sample: Dict[str, Any]) -> Tensor:
        """``L_align`` of encoder states (B, S, C) and (B, P, C), as a sum over target tokens."""
        tokens = self.real_tokens(sample).sum(1)
        how = (tokens, self.cfg.kd_align_distance, self.projection)
        total = ours.new_zeros((), dtype=torch.float32)
        if self.cfg.kd_align_level != "token":
            source = sample["net_input"]["src_tokens"].ne(self.source_pad)
            pivot = sample["pivot"]["src_tokens"].ne(self.pivot_pad)
            total = total + pooled_distance(ours, source, theirs, pivot, *how)
        if self.cfg.kd_align_level != "sentence":
            total = total + linked_distance(ours, theirs, sample["pivot_links"], *how)
        return total

    @classmethod
    def reduce_metrics(cls, logging_outputs) -> None:
        """Turns the sums of all workers into means a token."""
        super().reduce_metrics(logging_outputs)
        n_real = sum(log.get("kd_align_ntokens", 0) for log in logging_outputs)
        if n_real > 0:
            total = sum(log.get("kd_align", 0) for log in logging_outputs)
            metrics.log_scalar("align_loss", total / n_real, n_real, round=4)


def check_align(cfg: CrossLingualKDConfig) -> None:
    """Refuses choices that there are not, flags without effect, and teachers without states."""
    for name, value, choices in (
        ("--kd-align-level", cfg.kd_align_level, LEVELS),
        ("--kd-align-distance", cfg.kd_align_distance, DISTANCES),
    ):
        check_choice(name, value, choices)
        if cfg.kd_align_weight == 0 and value != next(iter(choices)):
            raise ValueError(
                f"{name} is {value}, but has no effect while --kd-align-weight is 0. Leave it out, "
                "or set the weight above 0."
            )
    if cfg.kd_share_encoder:
        raise ValueError(
            "--kd-share-encoder cannot be used with --criterion cross_lingual_kd, whose student "
            "and teacher read different sentences. Leave it out."
        )
    if cfg.kd_align_weight > 0:
        check_one_live_teacher(cfg)


def check_links(cfg: CrossLingualKDConfig, task: PivotTranslationTask) -> None:
    """Refuses data without alignments of positions for every subset that is read."""
    subsets = [cfg.train_subset]
    if not cfg.disable_validation:
        subsets += cfg.valid_subset.split(",")
    for subset in subsets:
        prefix = task.links_prefix(subset)
        if not os.path.isfile(f"{prefix}.idx"):
            raise ValueError(
                f"--kd-align-level {cfg.kd_align_level} needs alignments of positions, but "
                f"{prefix}.idx is missing. Binarise them by fairseq-preprocess --align-suffix, or "
                "choose --kd-align-level sentence."
            )
