"""The ``fairseq-train`` command line of a stage: defaults, and what a run file says over them."""

from typing import Any, List, Mapping, Sequence

from fairseq_kd.flag_types import WHOLE
from fairseq_kd.pipeline.run_file import Flags

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
WARMUP = 4000  # updates, or a tenth of a shorter training, and at least 1
WARMING = ("inverse_sqrt", "polynomial_decay", "cosine", "reduce_lr_on_plateau", "step")
SETTINGS = {  # of a stage, and the flags that they are
    "criterion": "criterion",
    "alpha": "kd-alpha",
    "beta": "kd-beta",
    "curriculum": "curriculum",
    "patience": "patience",
}
PLAIN = "label_smoothed_cross_entropy"
PEERS = ("kd-peers", "kd-peer-overrides", "kd-mutual-weight", "kd-mutual-gradient")
TEACHERLESS = {  # criterions that learn from no teacher, and the flags of ours that they know
    PLAIN: (),
    "mutual_learning": (*PEERS, "kd-detach-ratio", "kd-chunk-tokens", "kd-compile"),
}


# The flags of fairseq-train that set the size of a transformer.
SIZES = tuple(
    f"{side}-{size}"
    for side in ("encoder", "decoder")
    for size in ("layers", "embed-dim", "ffn-embed-dim", "attention-heads")
)


def stage_flags(settings: Mapping[str, Any], knowledge: Flags, *layers: Flags) -> Flags:
    """The flags of a training.

    Args:
        settings: of the stage: criterion, weights, temperature and so on.
        knowledge: the flags that name its teacher and its start; nothing wins over them.
        layers: flags that win over defaults and settings, the later ones over the earlier.

    Raises:
        ValueError: max-update is no number of updates.
    """
    flags = {flag: settings[key] for key, flag in SETTINGS.items() if key in settings}
    flags = {**flags, **knowledge, **_temperature(settings.get("temperature")), **DEFAULTS}
    for layer in (*layers, knowledge):
        flags.update(layer)
    if "total-num-update" not in flags and flags["lr-scheduler"] == "polynomial_decay":
        flags["total-num-update"] = flags["max-update"]
    if "warmup-updates" not in flags and flags["lr-scheduler"] in WARMING:
        flags["warmup-updates"] = max(1, min(WARMUP, _updates(flags) // 10))  # some divide by it
    if flags["criterion"] in TEACHERLESS:
        known = TEACHERLESS[flags["criterion"]]
        flags = {k: value for k, value in flags.items() if not k.startswith("kd-") or k in known}
    return flags


def _updates(flags: Flags) -> int:
    asked = str(flags["max-update"])
    if not WHOLE.fullmatch(asked) or int(asked) <= 0:
        raise ValueError(f"max-update must be a whole number above 0, but is {asked}.")
    return int(asked)


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
    """A training that can be killed and started again.

    On several GPUs it runs under torchrun. By itself ``fairseq-train`` takes all GPUs that it sees,
    which makes larger batches: a training of one GPU is told so.
    """
    launcher = ["torchrun", "--nproc_per_node", str(gpus), "--no-python"] if gpus > 1 else []
    workers = [] if gpus > 1 else ["--distributed-world-size", "1"]
    train = [*launcher, "fairseq-train", data, "--user-dir", user_dir, "--save-dir", save_dir]
    return ["fairseq-kd", "stage", name, "--", *train, *workers, *words]
