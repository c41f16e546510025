"""Small models that fairseq-train makes."""

from forks import run_forked, run_new
from harness import TRAINING


def train_to_an_end(data, folder):
    """The checkpoint of a few hundred updates: its translations are poor, but end."""
    flags = ["--criterion", "label_smoothed_cross_entropy", "--max-update", "300", "--lr", "0.01"]
    flags += ["--encoder-embed-dim", "32", "--decoder-embed-dim", "32", "--disable-validation"]
    flags += ["--save-interval", "999", "--log-interval", "100"]  # it is saved when it ends
    run_forked("fairseq-train", data, *TRAINING, *flags, "--save-dir", folder)
    return folder / "checkpoint_last.pt"


def train_on_two_workers(data, save_dir, *flags, port):
    """Runs fairseq-train in two processes that share a training.

    Without GPUs fairseq does not take its rank from torchrun: it must be told.
    """
    worker = (
        'exec fairseq-train "$@" --distributed-world-size 2 --distributed-rank "$RANK" '
        "--distributed-init-method env:// --distributed-no-spawn"
    )
    distributed = ["--distributed-backend", "gloo", "--ddp-backend", "legacy_ddp"]
    return run_new(
        *["torchrun", "--nproc_per_node", "2", "--master_port", port, "--no-python"],
        *["bash", "-c", worker, "bash", data, *TRAINING, "--user-dir", "user_dir"],
        *["--save-dir", save_dir, *flags, *distributed],
    )
