"""The options of the commands of a run: ``progressive``, ``stage`` and ``step``."""

from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import List, Optional, Tuple

from fairseq_kd.command_line import Group, Options
from fairseq_kd.flag_types import (
    Range,
    file_path,
    number_field,
    one_line,
    one_word,
    option_field,
)

NOT_EXECUTED = Group(exclusive=True)


@dataclass(frozen=True, kw_only=True)
class ProgressiveOptions(Options):
    """The run file, changes of it, and how its steps are executed."""

    COMMAND = "progressive"
    file: Path = option_field(
        MISSING, "the description of the run", read=file_path, positional=True, metavar="RUN.yaml"
    )
    until: Optional[str] = option_field(
        None, "execute this step and those that it needs", read=one_line, metavar="STEP"
    )
    changes: Tuple[str, ...] = option_field(
        (),
        "overrides the file, such as --set seed=2 --set train.lr=1e-3; may be repeated",
        read=one_line,
        flag="--set",
        repeated=True,
        metavar="KEY=VALUE",
    )
    jobs: int = number_field(
        1,
        Range(int, 1, 1000),
        "steps at the same time on this machine, each with its share of the cores and with "
        "one GPU (default: %(default)s, with all cores and GPUs)",
        metavar="N",
    )
    dry_run: bool = option_field(
        False,
        "show the steps that would be executed, why, and their commands",
        group=NOT_EXECUTED,
    )
    shell: Optional[Path] = option_field(
        None,
        "write the run as a bash script, and execute nothing",
        read=file_path,
        metavar="OUT.sh",
        group=NOT_EXECUTED,
    )
    verify: bool = option_field(
        False,
        "hash all outputs of finished steps; without it, files of 16 MiB and more count as "
        "unchanged while size and modification time are the same",
    )
    profile: Optional[str] = option_field(
        None,
        "a Snakemake profile, whose executor runs the steps, such as Slurm",
        read=one_line,
        metavar="DIR",
    )
    snakemake_flags: Tuple[str, ...] = option_field(
        (),
        "after --: further flags for Snakemake, such as -- --executor slurm --jobs 8",
        positional=True,
        nargs="*",
        metavar="-- FLAG",
    )

    def all_snakemake_flags(self) -> List[str]:
        """All flags for Snakemake."""
        profile = ["--profile", str(Path(self.profile).resolve())] if self.profile else []
        return [*profile, *self.snakemake_flags]

    def check(self) -> None:
        """Checks that every flag has an effect.

        Raises:
            ValueError: naming one that has none, because nothing is executed.
        """
        flags = self.all_snakemake_flags()
        if self.snakemake_flags and not self.snakemake_flags[0].startswith("-"):
            word = self.snakemake_flags[0]
            raise ValueError(f"{word} is not a flag of Snakemake. Did you mean --until {word}?")
        if {"-n", "--dry-run", "--dryrun"} & set(flags):
            raise ValueError("-- -n of Snakemake is --dry-run here, before --. Give that instead.")
        if self.jobs != 1 and (self.dry_run or self.shell):
            raise ValueError("--jobs has no effect with --dry-run or --shell. Leave it out.")
        if flags and (self.dry_run or self.shell):
            given = " ".join(flags)
            raise ValueError(f"{given} has no effect with --dry-run or --shell. Leave it out.")
        if self.shell is not None and self.verify:
            raise ValueError("--verify has no effect with --shell. Leave it out.")


@dataclass(frozen=True, kw_only=True)
class StageOptions(Options):
    """One training, and its command."""

    COMMAND = "stage"
    name: str = option_field(
        MISSING, "its name in the progress line", read=one_line, positional=True, metavar="NAME"
    )
    command: Tuple[str, ...] = option_field(
        MISSING, "the training command, after --", positional=True, nargs="+", metavar="COMMAND"
    )

    def check(self) -> None:
        """Checks that the command can be recorded.

        Raises:
            ValueError: a word of it is not UTF-8.
        """
        for word in self.command:
            if any("\ud800" <= each <= "\udfff" for each in word):
                raise ValueError(f"The word {word!r} of the command is not UTF-8. Rename the path.")


@dataclass(frozen=True, kw_only=True)
class StepOptions(Options):
    """One step of a run."""

    COMMAND = "step"
    workflow: Path = option_field(
        MISSING,
        "the workflow of the run",
        read=file_path,
        positional=True,
        metavar="RUN/workflow.json",
    )
    sha256: str = option_field(
        MISSING,
        "the hash of the workflow; commands of any other workflow are not executed",
        read=one_word,
        metavar="HEX",
    )
    name: str = option_field(MISSING, "the step", read=one_line, positional=True, metavar="STEP")
