"""Distillation from a teacher of another language: ``L = L_word(P_S, P_T) + g * L_align``."""

import os
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, Dict, Mapping, Optional

import torch
from fairseq.criterions import register_criterion
from fairseq.tasks import FairseqTask
from torch import Tensor

from fairseq_kd.criterions.intermediate import (
    IntermediateCriterion,
    IntermediateKDConfig,
    Positions,
    Term,
    width_projection,
)
from fairseq_kd.flag_types import WEIGHT, number_field, option_field
from fairseq_kd.losses.hidden_states import DISTANCES, linked_distance, pooled_distance
from fairseq_kd.models.capture import Captured, CapturePoints
from fairseq_kd.models.structure import Structure
from fairseq_kd.tasks import PivotTranslationTask
from fairseq_kd.term_weights import TERM_WEIGHTS

LEVELS = ("sentence", "token", "both")


@dataclass
class CrossLingualKDConfig(IntermediateKDConfig):
    """The flags of ``cross_lingual_kd``, beside those of ``word_kd``."""

    kd_teacher: Optional[str] = option_field(
        None,
        "checkpoint of the teacher: any autoregressive encoder-decoder of fairseq that "
        "translates the pivot language into the student's target, with its dictionary; a "
        "transformer unless --kd-align-weight is 0 (default: none, with --kd-store)",
    )
    kd_share_encoder: bool = option_field(
        False,
        "not with this criterion: the two encoders read different languages (default: off)",
    )
    kd_align_weight: float = number_field(
        TERM_WEIGHTS["align"],
        WEIGHT,
        "weight of the distance between the encoder states of student and teacher "
        "(default: %(default)s)",
    )
    kd_align_level: str = option_field(
        "sentence",
        "what is compared: sentence, the means over all positions; token, the "
        "positions that SUBSET.align.SOURCE-PIVOT in the data links; or both, their sum "
        "(default: %(default)s)",
        LEVELS,
    )
    kd_align_distance: str = option_field(
        "mse",
        "mse, the mean over the width, or cosine (default: %(default)s)",
        DISTANCES,
    )


class AlignTerm(Term):
    """The distance between the encoder states of a sentence in the source and the pivot language.

    Encoders of different widths get a trained ``width_projection``.
    """

    name = "align"
    config = CrossLingualKDConfig

    def __init__(self, cfg: Any, student: Structure, teacher: Structure):
        super().__init__(cfg, student, teacher)
        self.level, self.distance = cfg.kd_align_level, cfg.kd_align_distance
        self.projection = width_projection(student, teacher, "encoder")
        self.student_points = self.teacher_points = CapturePoints(encoder=True)

    @classmethod
    def check_task(cls, cfg: Any, task: PivotTranslationTask) -> None:
        """Refuses data without alignments of positions, where they are needed, for a subset."""
        if cfg.kd_align_level == "sentence":
            return
        subsets = [cfg.train_subset]
        if not cfg.disable_validation:
            subsets += cfg.valid_subset.split(",")
        for subset in subsets:
            prefix = task.links_prefix(subset)
            if not os.path.isfile(f"{prefix}.idx"):
                raise ValueError(
                    f"--kd-align-level {cfg.kd_align_level} needs alignments of positions, but "
                    f"{prefix}.idx is missing. Binarise them by fairseq-preprocess --align-suffix, "
                    "or choose --kd-align-level sentence."
                )

    def forward(self, student: Captured, teacher: Captured, at: Positions) -> Tensor:
        """``L_align`` of the encoder states, as a sum over target tokens."""
        ours, theirs = student.encoder_states, teacher.encoder_states
        options = (at.tokens, self.distance, self.projection)
        total = ours.new_zeros((), dtype=torch.float32)
        if self.level != "token":
            total = total + pooled_distance(ours, at.source, theirs, at.teacher_source, *options)
        if self.level != "sentence":
            total = total + linked_distance(ours, theirs, at.links, *options)
        return total


@register_criterion("cross_lingual_kd", dataclass=CrossLingualKDConfig)
class CrossLingualKDCriterion(IntermediateCriterion):
    """word_kd from a teacher that reads the same sentences in another, richer language.

    The teacher reads the pivot's sentence and the target so far, the student its own source; both
    predict the next target token. ``L_align`` is the distance between their encoder states.

    See ``IntermediateCriterion`` for the log and the errors. ``task`` must be
    ``pivot_translation``.

    Source: a teacher that reads a pivot language, Chen et al. 2017, arXiv:1705.00753, section 3;
    distances of encoder states, Reimers and Gurevych 2020, arXiv:2004.09813.
    """

    term_types = (AlignTerm,)

    def __init__(self, cfg: CrossLingualKDConfig, task: FairseqTask):
        if not isinstance(task, PivotTranslationTask):
            raise ValueError(
                "--criterion cross_lingual_kd needs the teacher's sentences beside the student's. "
                "Train with --task pivot_translation and --kd-pivot-lang."
            )
        super().__init__(cfg, task)
        self.check_data(cfg, self.teacher_task(task))
        self.pivot_padding_idx = task.pivot_dictionary.pad()

    @classmethod
    def check_flags(cls, cfg: CrossLingualKDConfig) -> None:
        """As ``IntermediateCriterion.check_flags``; the encoders cannot be shared."""
        if cfg.kd_share_encoder:
            raise ValueError(
                "--kd-share-encoder cannot be used with --criterion cross_lingual_kd, whose "
                "student and teacher read different sentences. Leave it out."
            )
        super().check_flags(cfg)

    def teacher_task(self, task: PivotTranslationTask) -> Any:
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

    def teacher_sample(self, sample: Dict[str, Any]) -> Dict[str, Any]:
        """The batch with the pivot's sentences as the source."""
        return {**sample, "net_input": {**sample["net_input"], **sample["pivot"]}}

    def positions(self, sample: Dict[str, Any]) -> Positions:
        """The real positions of a batch, and the links between its sources."""
        return replace(
            super().positions(sample),
            teacher_source=sample["pivot"]["src_tokens"].ne(self.pivot_padding_idx),
            links=sample.get("pivot_links"),
        )

    def load_state_dict(self, state_dict: Optional[Mapping[str, Tensor]], strict: bool = True):
        """As ``KDCriterion``'s; older checkpoints have the projection outside of the term."""
        new = {"projection.weight": "terms.0.projection.weight"}
        renamed = {new.get(key, key): value for key, value in (state_dict or {}).items()}
        return super().load_state_dict(renamed, strict)
