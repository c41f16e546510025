"""Small models that fairseq-train makes."""

from forks import run_forked
from harness import TRAINING


def train_to_an_end(data, folder):
    """The checkpoint of a few hundred updates: its translations are poor, but end."""
    flags = ["--criterion", "label_smoothed_cross_entropy", "--max-update", "300", "--lr", "0.01"]
    flags += ["--encoder-embed-dim", "32", "--decoder-embed-dim", "32", "--disable-validation"]
    run_forked("fairseq-train", data, *TRAINING, *flags, "--save-dir", folder)
    return folder / "checkpoint_last.pt"
