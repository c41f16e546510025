"""What a criterion refuses before the first update: values out of range, flags without effect."""

import importlib.util
import os
from dataclasses import fields
from typing import Any, Collection, Dict, Optional, Sequence

from fairseq.criterions import CRITERION_DATACLASS_REGISTRY
from torch import nn

from fairseq_kd.flag_types import UNPRINTABLE, Range
from fairseq_kd.losses import DIVERGENCES, TAIL_POWERS
from fairseq_kd.schedules import FOLLOWS_GAP, SHAPES, Schedule
from fairseq_kd.teachers.live import DTYPES

FAIRSEQ_RANGES = {  # of the flags that fairseq's own criterion has
    "label_smoothing": Range(float, 0, 1, below=True),
    "ignore_prefix_size": Range(int, 0, 1_000_000),
}
DEFAULT_FINAL_TEMPERATURE = 2.0
LOWEST_TEMPERATURE = 1 / TAIL_POWERS[-1]  # for which a store that is built now is accurate
TOKEN_TEMPERATURES = ("uniform", "confidence")
GATES = ("off", "probability")


def check_ranges(cfg: Any) -> None:
    """Refuses numbers out of their range, and text that is empty or has a line break.

    Args:
        cfg: the flags of a criterion, whose config's fields state their ranges.
    """
    for field in fields(CRITERION_DATACLASS_REGISTRY[cfg._name]):
        allowed, value = field.metadata.get("range"), getattr(cfg, field.name, None)
        allowed = allowed or FAIRSEQ_RANGES.get(field.name)
        if allowed is not None and value is not None:
            allowed.check(flag(field.name), value)
        ours = field.name.startswith("kd_") and isinstance(value, str)
        if ours and (not value.strip() or UNPRINTABLE.search(value)):
            raise ValueError(
                f"{flag(field.name)} must be text on one line and not empty, but is {value!r}."
            )


def refuse_a_missing_tpu(cfg: Any) -> None:
    """Refuses what ``fairseq-train`` makes of ``--bf16`` where there is no TPU to train on."""
    if cfg.tpu and importlib.util.find_spec("torch_xla") is None:
        raise ValueError(
            "fairseq-train takes --bf16 and --tpu for a training on TPUs, which needs torch_xla. "
            "On a GPU train with --fp16 or --amp, or by fairseq-hydra-train common.bf16=true."
        )


def distils(cfg: Any) -> bool:
    """Whether words of a teacher are learned, now or later."""
    return cfg.kd_alpha > 0 or bool(cfg.kd_alpha_final)


def check_weights(cfg: Any, others: Dict[str, float]) -> None:
    """Refuses a loss that is nothing.

    Args:
        cfg: the flags.
        others: the weights of further terms, by flag.
    """
    weights = {"--kd-alpha": cfg.kd_alpha, "--kd-beta": cfg.kd_beta, **others}
    if not any(weights.values()):
        *flags, last = weights
        raise ValueError(
            f"{', '.join(flags)} and {last} are {'all' if others else 'both'} 0, which leaves "
            "nothing to learn. Set one above 0."
        )


def check_one_teacher_source(cfg: Any, others: Dict[str, float]) -> None:
    """Refuses a distillation without a source of teacher knowledge, or with two.

    Args:
        cfg: the flags.
        others: the weights of further terms that need the teacher, by flag.
    """
    if cfg.kd_teacher and cfg.kd_store:
        raise ValueError(
            f"--kd-teacher is {cfg.kd_teacher} and --kd-store is {cfg.kd_store}, but only one of "
            "them can teach. Leave one out, or mix both by --criterion multi_teacher_kd."
        )
    check_some_teacher(cfg, others)


def check_some_teacher(cfg: Any, others: Dict[str, float]) -> None:
    """Refuses a distillation without a teacher, and flags of a teacher that does not run."""
    if not cfg.kd_teacher and not cfg.kd_store:
        weights = {"--kd-alpha": cfg.kd_alpha or cfg.kd_alpha_final, **others}
        distilling = [name for name, weight in weights.items() if weight]
        raise ValueError(
            f"{distilling[0]} is {weights[distilling[0]]}, but there is no teacher. Give its "
            "checkpoint by --kd-teacher or its store by --kd-store, or set "
            f"{' 0 '.join(distilling)} 0 --kd-beta 1 to train without distillation."
        )
    if not cfg.kd_teacher and cfg.kd_teacher_dtype != "student":
        raise ValueError(
            f"--kd-teacher-dtype is {cfg.kd_teacher_dtype}, but has no effect with --kd-store. "
            "Leave it out, or give the teacher by --kd-teacher."
        )


def check_one_live_teacher(cfg: Any) -> None:
    """Refuses sources of teacher knowledge that have no layers, or those of several models."""
    if cfg.kd_store:
        raise ValueError(
            f"--kd-store holds a teacher's words, but --criterion {cfg._name} also needs its "
            "layers. Give the teacher itself, by --kd-teacher."
        )
    path = cfg.kd_teacher or ""
    if os.pathsep in path and not os.path.exists(path):
        raise ValueError(
            f"--kd-teacher {path} names several teachers, but --criterion {cfg._name} reads the "
            "layers of one. Name one."
        )


def check_choices(cfg: Any) -> None:
    """Refuses unknown choices."""
    for name, choices in (
        ("kd_gate", GATES),
        ("kd_divergence", DIVERGENCES),
        ("kd_temperature_schedule", SHAPES),
        ("kd_weight_schedule", SHAPES),
        ("kd_token_temperature", TOKEN_TEMPERATURES),
        ("kd_teacher_dtype", DTYPES),
    ):
        check_choice(flag(name), getattr(cfg, name), choices)


def check_choice(name: str, value: str, choices: Collection[str]) -> None:
    """Refuses a value that is none of the choices of a flag."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, but is {value}.")


def check_nothing_distilled(cfg: Any, defaults: type, used: Sequence[str] = ()) -> None:
    """Refuses, where alpha is 0, every flag of the distillation that is not at its default.

    Args:
        cfg: the flags.
        defaults: the dataclass that declares them.
        used: the fields that have an effect nevertheless.
    """
    for field in fields(defaults):
        value = getattr(cfg, field.name)
        ours = field.name.startswith("kd_") and field.name not in ("kd_alpha", "kd_beta", *used)
        if ours and value != field.default:
            raise ValueError(
                f"{flag(field.name)} is {value}, but has no effect while --kd-alpha is 0. Leave it "
                "out, or set --kd-alpha above 0."
            )


def temperature_schedule(cfg: Any) -> Schedule:
    """The temperature over the updates, as the flags ask for it; refuses values that make none."""
    return _schedule(cfg, "kd_temperature", "kd_temperature", DEFAULT_FINAL_TEMPERATURE)


def check_token_temperature(cfg: Any, temperature: Schedule) -> None:
    """Refuses a temperature of each token that is 1 for all of them."""
    constant = temperature.shape == "constant"
    whole = {temperature.start} if constant else {temperature.start, temperature.final}
    if cfg.kd_token_temperature != "uniform" and whole == {1.0}:
        raise ValueError(
            f"--kd-token-temperature {cfg.kd_token_temperature} has no effect at --kd-temperature "
            "1, between which and 1 each token's temperature lies. Leave it out, or raise T."
        )


def check_store_temperatures(
    cfg: Any,
    temperature: Schedule,
    factors: Optional[Sequence[float]],
    limits: Optional[Sequence[float]] = None,
) -> None:
    """Refuses temperatures for which the tail of a store is not accurate.

    Args:
        cfg: the flags.
        temperature: over the updates.
        factors: what it is multiplied with for each teacher, the stores last; None: 1 for each.
        limits: from where on each store is accurate; None: as those that are built now.
    """
    stores = cfg.kd_store.split(os.pathsep) if cfg.kd_store else []
    ends = [temperature.start]
    ends += [] if temperature.shape == "constant" else [temperature.final]
    for i, store in enumerate(stores):
        lowest = min(ends) * (factors[i - len(stores)] if factors else 1.0)
        limit = limits[i] if limits else LOWEST_TEMPERATURE
        if lowest < limit * (1 - 1e-6):  # products of factors are rounded
            anew = "build the store anew, " if lowest >= LOWEST_TEMPERATURE else ""
            raise ValueError(
                f"--kd-store {store} is accurate for temperatures of {limit:g} and more, but T is "
                f"{lowest:g} at the lowest. Raise it, {anew}or train from --kd-teacher."
            )


def weight_schedule(cfg: Any, name: str) -> Schedule:
    """The weight ``kd_alpha`` or ``kd_beta`` over the updates; refuses values that make none."""
    start, final = getattr(cfg, name), getattr(cfg, f"{name}_final")
    if cfg.kd_weight_schedule != "constant" and cfg.kd_alpha_final is cfg.kd_beta_final is None:
        raise ValueError(
            f"--kd-weight-schedule is {cfg.kd_weight_schedule}, but neither --kd-alpha-final nor "
            "--kd-beta-final says where the weights go. Set one or both."
        )
    if cfg.kd_weight_schedule == "exponential" and final is not None and 0 in (start, final):
        raise ValueError(
            f"--kd-weight-schedule exponential cannot go from {start} to {final} by {flag(name)}: "
            "both must be above 0. Choose linear or cosine."
        )
    return _schedule(cfg, name, "kd_weight", start)


def _schedule(cfg: Any, name: str, kind: str, default_final: float) -> Schedule:
    """The schedule of the value ``name`` with the shape and the updates of its ``kind``."""
    shape, updates = getattr(cfg, f"{kind}_schedule"), getattr(cfg, f"{kind}_updates")
    final: Optional[float] = getattr(cfg, f"{name}_final")
    given = {f"{name}_final": final} if shape == "constant" else {}
    if shape in ("constant", FOLLOWS_GAP):
        given[f"{kind}_updates"] = updates
    for without_effect, value in given.items():
        if value is not None:
            raise ValueError(
                f"{flag(without_effect)} is {value}, but has no effect with "
                f"{flag(kind)}-schedule {shape}. Leave it out, or choose another schedule."
            )
    start, final = getattr(cfg, name), default_final if final is None else final
    if shape in ("constant", FOLLOWS_GAP):
        return Schedule(shape, start, final)
    total = cfg.max_update if updates is None else updates
    if total <= 0:
        raise ValueError(
            f"{flag(kind)}-schedule {shape} must know how many updates it lasts, but that is "
            f"{total}. Set {flag(kind)}-updates or --max-update to a number above 0."
        )
    return Schedule(shape, start, final, total)


def refuse_adaptive_softmax(model: nn.Module, called: str = "The student") -> None:
    """Refuses a model without logits over the whole vocabulary."""
    if getattr(getattr(model, "decoder", None), "adaptive_softmax", None) is not None:
        raise ValueError(
            f"{called} has an adaptive softmax, which gives no logits to compare with another "
            "model's. Train without --adaptive-softmax-cutoff."
        )


def flag(name: str) -> str:
    """A field of the configuration as the user types it."""
    return f"--{name.replace('_', '-')}"
