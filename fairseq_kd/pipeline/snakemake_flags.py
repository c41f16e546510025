"""Checks flags and profiles for Snakemake, as Snakemake itself reads them."""

import json
import os
import shlex
import sys
from typing import List, Optional, Sequence, Tuple

from fairseq_kd.child_process import run
from fairseq_kd.pipeline.slurm import state_flags

# Snakemake without the modules of .snakemake/pip-deployments, which it would import as its plugins
# from the folder that it is started in.
WITH_SNAKEMAKE = """\
import os, sys
start = os.getcwd()
os.chdir("/")
import snakemake
sys.path[:] = filter(os.path.isabs, sys.path)
os.chdir(start)
from snakemake.cli import main, parse_args
"""
# Settings with which Snakemake does something else than to execute the steps, some for ever.
OTHER_MODES = (
    *("dryrun", "touch", "unlock", "lint", "summary", "detailed_summary", "list_rules"),
    *("list_target_rules", "list_changes", "list_input_changes", "list_params_changes"),
    *("list_untracked", "list_conda_envs", "dag", "rulegraph", "filegraph", "d3dag", "report"),
    *("archive", "delete_all_output", "delete_temp_output", "cleanup_metadata", "cleanup_shadow"),
    *("print_compilation", "generate_unit_tests", "export_cwl", "containerize", "batch"),
    *("conda_create_envs_only", "conda_cleanup_envs", "container_cleanup_images"),
    *("edit_notebook", "draft_notebook", "until", "omit_from", "immediate_submit"),
)
PARSER = f"""{WITH_SNAKEMAKE}
_, args = parse_args(sys.argv[1:])
other = [name for name in {OTHER_MODES} if getattr(args, name, None)]
other += [f"executor: {{args.executor}}"] if args.executor in ("dryrun", "touch") else []
other += [f"{{name}}: 0" for name in ("jobs", "cores") if getattr(args, name) == 0]
states = getattr(args, "slurm_status_command", None)
states = states if isinstance(states, str) else None
found = {{"other": other, "executor": args.executor, "states": states}}
if args.executor:
    from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry
    settings = ExecutorPluginRegistry().get_plugin(args.executor).common_settings
    found["apart"] = settings.implies_no_shared_fs
import json
print(json.dumps(found))
"""


def checked_flags(flags: Sequence[str]) -> Tuple[List[str], Optional[str]]:
    """Refuses flags and profiles that Snakemake does not take, before any output is moved.

    Returns:
        Further flags, without which an executor would not learn that its jobs ended, and the
        executor that they all name, if any.

    Raises:
        ValueError: with Snakemake's last line; or it would not execute the steps, or not with a
            shared file system.
    """
    if not flags and not os.environ.get("SNAKEMAKE_PROFILE"):
        return [], None
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    parsed = run([sys.executable, "-P", "-c", PARSER, *flags], env=environment)
    if parsed.returncode:
        lines = parsed.stderr.strip().splitlines() or ["no message"]
        raise ValueError(f"Snakemake does not accept {shlex.join(flags)}: {lines[-1]}")
    settings = json.loads(parsed.stdout.splitlines()[-1])
    if settings["other"]:
        raise ValueError(
            f"Snakemake would not execute the steps, since {shlex.join(flags) or 'its profile'} "
            f"sets {settings['other'][0].replace('_', '-')}. Leave that out."
        )
    if settings.get("apart"):
        raise ValueError(
            f"The executor {settings['executor']} gives the steps no folder in common, which they "
            "need. Choose one for a cluster with a shared file system, such as slurm, or run all "
            "steps on one machine or in one pod, without an executor."
        )
    further, lines = state_flags(settings["executor"], settings["states"])
    print(*(f"{line}\n" for line in lines), sep="", end="", file=sys.stderr)
    return further, settings["executor"]
