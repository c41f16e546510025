"""What a criterion refuses before the first update: values out of range, flags without effect."""

import math
from dataclasses import fields
from typing import Any

from torch import nn

from fairseq_kd.schedules import SHAPES, Schedule

DEFAULT_FINAL_TEMPERATURE = 2.0


def check_weights(cfg: Any) -> None:
    """Refuses weights out of range, and a distillation without teacher or without effect."""
    for flag, weight in (("--kd-alpha", cfg.kd_alpha), ("--kd-beta", cfg.kd_beta)):
        if not (weight >= 0 and math.isfinite(weight)):
            raise ValueError(f"{flag} must be 0 or greater, but is {weight}.")
    if cfg.kd_alpha == cfg.kd_beta == 0:
        raise ValueError(
            "--kd-alpha and --kd-beta are both 0, which leaves nothing to learn. Set one above 0."
        )
    if cfg.kd_alpha > 0 and not cfg.kd_teacher:
        raise ValueError(
            f"--kd-alpha is {cfg.kd_alpha}, but there is no teacher. Give its checkpoint by "
            "--kd-teacher, or set --kd-alpha 0 --kd-beta 1 to train without distillation."
        )


def check_nothing_distilled(cfg: Any, defaults: type) -> None:
    """Refuses, where alpha is 0, every flag of the distillation that is not at its default.

    Args:
        cfg: the flags.
        defaults: the dataclass that declares them.
    """
    for field in fields(defaults):
        value = getattr(cfg, field.name)
        ours = field.name.startswith("kd_") and field.name not in ("kd_alpha", "kd_beta")
        if ours and value != field.default:
            raise ValueError(
                f"--{field.name.replace('_', '-')} is {value}, but has no effect while --kd-alpha "
                "is 0. Leave it out, or set --kd-alpha above 0."
            )


def temperature_schedule(cfg: Any) -> Schedule:
    """The temperature over the updates, as the flags ask for it; refuses values that make none."""
    shape, final = cfg.kd_temperature_schedule, cfg.kd_temperature_final
    updates = cfg.kd_temperature_updates
    if shape not in SHAPES:
        raise ValueError(
            f"--kd-temperature-schedule must be one of {', '.join(SHAPES)}, but is {shape}."
        )
    for flag, value in (
        ("--kd-temperature", cfg.kd_temperature),
        ("--kd-temperature-final", final),
    ):
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{flag} must be greater than 0, but is {value}.")
    if shape == "constant":
        for flag, value in (
            ("--kd-temperature-final", final),
            ("--kd-temperature-updates", updates),
        ):
            if value is not None:
                raise ValueError(
                    f"{flag} is {value}, but has no effect with --kd-temperature-schedule "
                    "constant. Leave it out, or choose another schedule."
                )
        return Schedule(shape, cfg.kd_temperature, cfg.kd_temperature, 0)
    total = cfg.max_update if updates is None else updates
    if total <= 0:
        raise ValueError(
            f"--kd-temperature-schedule {shape} must know how many updates it lasts, but that is "
            f"{total}. Set --kd-temperature-updates or --max-update to a number above 0."
        )
    final = DEFAULT_FINAL_TEMPERATURE if final is None else final
    return Schedule(shape, cfg.kd_temperature, final, total)


def refuse_adaptive_softmax(model: nn.Module) -> None:
    """Refuses a student without logits over the whole vocabulary."""
    if getattr(getattr(model, "decoder", None), "adaptive_softmax", None) is not None:
        raise ValueError(
            "The student has an adaptive softmax, which gives no logits to compare with the "
            "teacher's. Train without --adaptive-softmax-cutoff."
        )
