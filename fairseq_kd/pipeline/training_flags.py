"""The flags of a training in a run: defaults, settings of its stage, and learning-rate schedule."""

import re
from typing import Any, Mapping

from fairseq_kd.fairseq_flags import Flags
from fairseq_kd.flag_types import WHOLE

DEFAULTS: Flags = {
    "label-smoothing": 0.1,
    "dropout": 0.1,
    "optimizer": "adam",
    "adam-betas": "(0.9, 0.98)",
    "clip-norm": 1.0,
    "lr": 5e-4,
    "lr-scheduler": "inverse_sqrt",
    "max-update": 100000,
    "max-tokens": 4096,
    "save-interval-updates": 1000,
    "keep-interval-updates": 1,
    "no-epoch-checkpoints": True,
    "best-checkpoint-metric": "nll_loss",
    "update-epoch-batch-itr": "True",  # otherwise a restart would form different batches
    "no-progress-bar": True,
    "log-format": "json",
    "log-interval": 50,
}
WARMUP = 4000  # updates, or a tenth of a shorter training, and at least 1
WARMING = ("inverse_sqrt", "polynomial_decay", "cosine", "reduce_lr_on_plateau", "step")
SETTINGS = {  # keys of a stage that are flags of fairseq-train
    "criterion": "criterion",
    "alpha": "kd-alpha",
    "beta": "kd-beta",
    "curriculum": "curriculum",
    "patience": "patience",
}
CROSS_ENTROPY = "label_smoothed_cross_entropy"
PEERS = ("kd-peers", "kd-peer-overrides", "kd-mutual-weight", "kd-mutual-gradient")
TEACHERLESS = {  # criterions without a teacher, and those of our flags that they have
    CROSS_ENTROPY: (),
    "mutual_learning": (*PEERS, "kd-detach-ratio", "kd-chunk-tokens", "kd-compile"),
}
# The flags of fairseq-train that set the size of a transformer.
SIZES = tuple(
    f"{side}-{size}"
    for side in ("encoder", "decoder")
    for size in ("layers", "embed-dim", "ffn-embed-dim", "attention-heads")
)
LENGTHS = (  # flags of learning-rate schedules that count updates, the warm-up apart
    *("total-num-update", "lr-period-updates", "lr-deacy-period"),  # fairseq's spelling
    *("hold-steps", "decay-steps"),
)
NUMBER = re.compile(r"\d+(\.\d*)?([eE]\+?\d+)?")  # as YAML has it, or in quotes


def stage_flags(settings: Mapping[str, Any], teacher_flags: Flags, *layers: Flags) -> Flags:
    """The fairseq-train flags of a training.

    Args:
        settings: the keys of the stage: criterion, weights, temperature and so on.
        teacher_flags: the flags that name its teacher and initial weights; nothing overrides them.
        layers: flags that override defaults and settings; later ones override earlier ones.

    Raises:
        ValueError: max-update is not a number of updates.
    """
    flags = {flag: settings[key] for key, flag in SETTINGS.items() if key in settings}
    flags = {**flags, **teacher_flags, **_temperature(settings.get("temperature")), **DEFAULTS}
    for layer in (*layers, teacher_flags):
        flags.update(layer)
    if flags["optimizer"] != "adam" and not any("adam-betas" in layer for layer in layers):
        del flags["adam-betas"]
    if "total-num-update" not in flags and flags["lr-scheduler"] == "polynomial_decay":
        flags["total-num-update"] = flags["max-update"]
    if "warmup-updates" not in flags and flags["lr-scheduler"] in WARMING:
        flags["warmup-updates"] = max(1, min(WARMUP, _updates(flags) // 10))  # some divide by it
    if flags["criterion"] in TEACHERLESS:
        known = TEACHERLESS[flags["criterion"]]
        flags = {k: value for k, value in flags.items() if not k.startswith("kd-") or k in known}
    return flags


def _updates(flags: Flags) -> int:
    text = str(flags["max-update"])
    if not WHOLE.fullmatch(text) or int(text) <= 0:
        raise ValueError(f"max-update must be a whole number above 0, but is {text}.")
    return int(text)


def _temperature(setting: Any) -> Flags:
    if setting is None:
        return {}
    if not isinstance(setting, Mapping):
        return {"kd-temperature": setting}
    schedule = setting.get("schedule", "exponential")
    return {
        "kd-temperature": setting["from"],
        "kd-temperature-final": setting["to"],
        "kd-temperature-schedule": schedule,
    }


def stretched_schedule(flags: Flags, factor: float) -> Flags:
    """The lengths of a learning-rate schedule among the flags of a training, times a factor."""
    return {
        flag: round(float(flags[flag]) * factor)
        for flag in LENGTHS
        if NUMBER.fullmatch(str(flags.get(flag)))
    }
