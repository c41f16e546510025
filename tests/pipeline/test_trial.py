"""Each training of a run is tried on one sentence before any step runs."""

import tempfile
from pathlib import Path

import pytest

REFUSALS = {
    "a layer that the teacher lacks": (
        "ladder: [0.5]\neach: {criterion: feature_kd, train: {kd-feature-layers: '0:9'}}",
        r"student would be refused: --kd-feature-layers 0:9 names layer 9 of the teacher's encoder",
    ),
    "a layer that a model lacks which is not trained yet": (
        "ladder: [0.7, {ratio: 0.4, criterion: feature_kd, train: {kd-feature-layers: '0:9'}}]",
        r"student would be refused: --kd-feature-layers 0:9 names layer 9 of the teacher's encoder",
    ),
    "a metric that the criterion logs with another flag": (
        "ladder: [0.5]\ncontrols: []\neach: {train: {best-checkpoint-metric: gate}}",
        r"--best-checkpoint-metric is gate, which this training does not log\. It logs loss, ",
    ),
    "a peer of no size": (
        "ladder: [0.5]\neach: {criterion: mutual_learning, train: {kd-peer-overrides: a=b}}",
        r"student would be refused: --kd-peer-overrides ",
    ),
    "a frozen encoder that is not the teacher's": (
        "ladder: [0.5]\neach: {train: {kd-share-encoder: true}}",
        r"--kd-share-encoder needs a student with the encoder of --kd-teacher",
    ),
}


@pytest.mark.parametrize("wrong", REFUSALS)
def test_what_a_training_would_fail_on_is_refused(refuses, wrong):
    refuses(*REFUSALS[wrong])


def test_a_ladder_is_tried_with_untrained_models_and_leaves_nothing(
    workflow_of, tmp_path, monkeypatch, capfd
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    workflow = workflow_of("ladder: [0.7, 0.5, 0.3]\neach: {temperature: 8, soft-targets: store}")
    assert len([step for step in workflow.steps if step.kind == "train"]) == 4
    assert not any(Path(tmp_path / "temporary").iterdir())
    assert "nearly uniform" not in capfd.readouterr().err  # as untrained models are
