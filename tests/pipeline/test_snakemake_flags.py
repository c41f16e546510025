"""Flags and profiles for Snakemake with which it would not execute the steps of a run."""

import os

import pytest
from workflows import build, small_workflow

from fairseq_kd.pipeline import driver


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--bogus"], r"Snakemake does not accept --bogus: .*unrecognized arguments: --bogus"),
        (
            ["--executor", "nonsense"],
            r"Snakemake does not accept --executor nonsense: .*invalid ch",
        ),
        (
            ["--profile", "gone"],
            r"Snakemake does not accept --profile gone: .*no config.yaml fou",
        ),
        (["--touch"], r"Snakemake would not execute the steps, since --touch sets touch\. Leave "),
        (["--jobs", "0"], r", since --jobs 0 sets jobs: 0\. Leave that out\.$"),
        (["--executor", "touch"], r", since --executor touch sets executor: touch\. Leave that "),
        (["--delete-all-output"], r", since --delete-all-output sets delete-all-output\. Leave "),
    ],
)
def test_flags_that_snakemake_refuses_are_refused_before_output_is_moved(tmp_path, flags, message):
    workflow = small_workflow(tmp_path / "run")
    build(workflow)
    changed = small_workflow(tmp_path / "run", student_lines=6)
    with pytest.raises(ValueError, match=message):
        driver.run_workflow(changed, None, flags)
    assert not (tmp_path / "run" / "replaced").exists()


@pytest.mark.parametrize(
    ("line", "setting"),
    [("jobs: 0", "jobs: 0"), ("dry-run: true", "dryrun"), ("until: [x]", "until")],
)
def test_a_profile_with_which_snakemake_executes_nothing_is_refused(tmp_path, line, setting):
    workflow = small_workflow(tmp_path / "run")
    profile = tmp_path / "profile"
    profile.mkdir()
    (profile / "config.yaml").write_text(f"{line}\n")
    with pytest.raises(
        ValueError,
        match=rf"^Snakemake would not execute the steps, since --profile {profile} sets "
        rf"{setting}\. Leave that out\.$",
    ):
        driver.run_workflow(workflow, None, ["--profile", str(profile)])


APART = """\
from dataclasses import dataclass
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor
from snakemake_interface_executor_plugins.settings import CommonSettings
common_settings = CommonSettings(non_local_exec=True, implies_no_shared_fs=True,
    job_deploy_sources=True)
class Executor(RemoteExecutor):
    pass
"""


def test_an_executor_without_a_shared_file_system_is_refused(tmp_path, monkeypatch):
    plugin = tmp_path / "path" / "snakemake_executor_plugin_apart"
    plugin.mkdir(parents=True)
    (plugin / "__init__.py").write_text(APART)
    monkeypatch.setenv("PYTHONPATH", f"{plugin.parent}:{os.environ.get('PYTHONPATH', '')}")
    message = (
        r"^The executor apart gives the steps no folder in common, which they need\. Choose one "
        r"for a cluster with a shared file system, such as slurm, or run all steps on one machine "
        r"or in one pod, without an executor\.$"
    )
    with pytest.raises(ValueError, match=message):
        driver.run_workflow(small_workflow(tmp_path / "run"), None, ["--executor", "apart"])
