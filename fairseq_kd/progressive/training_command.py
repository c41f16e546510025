"""The ``fairseq-train`` command line of a stage: defaults, and what a run file says over them."""

import contextlib
import io
import shlex
from typing import Any, Dict, List, Mapping, Optional, Sequence

from fairseq_kd.progressive.run_file import Flags

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
    "update-epoch-batch-itr": "True",  # or a restart cuts other batches than it would have had
    "no-progress-bar": True,
    "log-format": "json",
    "log-interval": 50,
}
WARMUP = 4000  # updates, or a tenth of a shorter training
SETTINGS = {  # of a stage, and the flags that they are
    "criterion": "criterion",
    "alpha": "kd-alpha",
    "beta": "kd-beta",
    "curriculum": "curriculum",
    "patience": "patience",
}
PLAIN = "label_smoothed_cross_entropy"


def stage_flags(settings: Mapping[str, Any], knowledge: Flags, *layers: Flags) -> Flags:
    """The flags of a training.

    Args:
        settings: of the stage: criterion, weights, temperature and so on.
        knowledge: the flags that name its teacher and its start; nothing wins over them.
        layers: flags that win over defaults and settings, the later ones over the earlier.
    """
    flags = {flag: settings[key] for key, flag in SETTINGS.items() if key in settings}
    flags = {**flags, **knowledge, **_temperature(settings.get("temperature")), **DEFAULTS}
    for layer in (*layers, knowledge):
        flags.update(layer)
    if "total-num-update" not in flags and flags.get("lr-scheduler") == "polynomial_decay":
        flags["total-num-update"] = flags["max-update"]
    if "warmup-updates" not in flags and flags.get("lr-scheduler") != "fixed":
        flags["warmup-updates"] = min(WARMUP, int(flags["max-update"]) // 10)
    if flags["criterion"] == PLAIN:
        flags = {flag: value for flag, value in flags.items() if not flag.startswith("kd-")}
    return flags


def _temperature(asked: Any) -> Flags:
    if asked is None:
        return {}
    if not isinstance(asked, Mapping):
        return {"kd-temperature": asked}
    schedule = asked.get("schedule", "exponential")
    return {
        "kd-temperature": asked["from"],
        "kd-temperature-final": asked["to"],
        "kd-temperature-schedule": schedule,
    }


def as_words(flags: Flags) -> List[str]:
    """Flags as they are typed: ``true`` is a flag alone, ``false`` leaves it out."""
    words: List[str] = []
    for flag, value in flags.items():
        if value is not False:
            words += [f"--{flag}"] if value is True else [f"--{flag}", str(value)]
    return words


def training_command(
    name: str, data: str, save_dir: str, words: Sequence[str], user_dir: str, gpus: int
) -> List[str]:
    """A training that can be killed and started again, under torchrun if it has several GPUs."""
    launcher = ["torchrun", "--nproc_per_node", str(gpus), "--no-python"] if gpus > 1 else []
    train = [*launcher, "fairseq-train", data, "--user-dir", user_dir, "--save-dir", save_dir]
    return ["fairseq-kd", "stage", name, "--", *train, *words]


def check_training_command(command: List[str]) -> Dict[str, Any]:
    """What fairseq makes of a training command, read as it will be read when its turn comes.

    Raises:
        ValueError: fairseq does not understand it.
    """
    from fairseq import options

    import fairseq_kd.plugin  # noqa: F401  (our criterions and architectures)

    words = command[command.index("fairseq-train") + 1 :]
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told), contextlib.redirect_stdout(told):
            return vars(options.parse_args_and_arch(options.get_training_parser(), words))
    except SystemExit:
        wrong: Optional[str] = told.getvalue().rpartition("error: ")[2].strip()
        raise ValueError(
            f"fairseq-train does not understand the training of {command[2]}: {wrong}. "
            f"Its command would be: {shlex.join(command[4:])}"
        ) from None
