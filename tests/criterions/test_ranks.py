"""Processes that torchrun started on CPUs, where fairseq takes no ranks from it."""

import pytest


def test_a_training_that_would_ignore_the_ranks_of_torchrun_is_refused(setup, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    message = (
        r"^torchrun started 2 processes, but each would train a model of its own: on CPUs fair"
    )
    with pytest.raises(ValueError, match=message):
        setup("--criterion", "word_kd", "--kd-alpha", "0", "--kd-beta", "1")


def test_one_process_of_torchrun_trains(setup, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "0")
    setup("--criterion", "word_kd", "--kd-alpha", "0", "--kd-beta", "1")
