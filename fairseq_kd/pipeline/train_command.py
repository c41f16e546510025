"""The command of a training: fairseq-train, alone or under torchrun on one or several nodes."""

from dataclasses import dataclass, field
from typing import List, Sequence, Tuple

from fairseq_kd.fairseq_flags import Flags, as_arguments
from fairseq_kd.pipeline.options import StageOptions
from fairseq_kd.pipeline.workflow import Training

HALF = ("fp16", "memory-efficient-fp16")  # precisions of GPUs alone
# One task on each node of a Slurm job, where torchrun finds the others at the node of its script.
ON_EACH_NODE = ("srun", "--ntasks-per-node", "1", "--cpu-bind", "none", "--kill-on-bad-exit")
RENDEZVOUS = '--rdzv-endpoint "$SLURM_LAUNCH_NODE_IPADDR:$((20000 + SLURM_JOB_ID % 10000))"'
FIRST = "FIRST:29500"  # the same without Slurm, with the name of the first machine
# fairseq-train on CPUs, where it takes no ranks from torchrun.
WITH_RANK = (
    'exec fairseq-train "$@" --distributed-world-size "$WORLD_SIZE" --distributed-rank "$RANK" '
    "--distributed-init-method env:// --distributed-no-spawn --distributed-backend gloo "
    "--ddp-backend legacy_ddp"
)


@dataclass(frozen=True)
class TrainCommand:
    """A training by fairseq-train, which resumes if it was killed.

    Args:
        name: the name of its step.
        data: the folder of its data.
        save_dir: the folder of its checkpoints.
        user_dir: the plugin.
        gpus: with several it runs under torchrun.
        model: the flags of its languages and its model.
        flags: its other flags.
        nodes: with several it runs under torchrun on each of them, with so many GPUs on each.
    """

    name: str
    data: str
    save_dir: str
    user_dir: str
    gpus: int = 1
    model: Flags = field(default_factory=dict)
    flags: Flags = field(default_factory=dict)
    nodes: int = 1

    def all_flags(self) -> Flags:
        """All flags of fairseq-train; the last one of a name counts.

        Without ``--distributed-world-size 1``, a training for one GPU would use all visible GPUs,
        and with them larger batches.
        """
        return {**self._own_flags(), **self.model, **self.flags}

    def training(self) -> Training:
        """What the run must know of it."""
        given = {name: value for name, value in self.all_flags().items() if value is not False}
        return Training(
            needs_gpu=next((flag for flag in HALF if flag in given), None),
            on_cpu="cpu" in given,
            nodes=self.nodes,
        )

    def arguments(self) -> List[str]:
        """The arguments of fairseq-train."""
        parts = (self._own_flags(), self.model, self.flags)
        return [self.data, *(word for part in parts for word in as_arguments(part))]

    def process(self) -> Tuple[str, ...]:
        """The command line of the training itself."""
        if self.nodes > 1:
            found = f'exec torchrun {RENDEZVOUS} "$@"'
            several = (*ON_EACH_NODE, "--nodes", str(self.nodes), "bash", "-c", found)
            return (*several, *self._workers())
        return self._workers() if self.gpus > 1 else ("fairseq-train", *self.arguments())

    def argv(self) -> List[str]:
        """The command line that runs the training to its last update."""
        return StageOptions(name=self.name, command=self.process()).argv()

    def _workers(self) -> Tuple[str, ...]:
        """The command line of torchrun on each machine, without the address of the first one."""
        workers = ["torchrun", "--nproc_per_node", str(self.gpus)]
        if self.nodes > 1:
            workers += ["--nnodes", str(self.nodes), "--rdzv-backend", "c10d"]
            workers += ["--rdzv-id", self.name]
        with_rank = ["bash", "-c", WITH_RANK] if self.nodes > 1 and self._on_cpu() else []
        return (*workers, "--no-python", *with_rank, "fairseq-train", *self.arguments())

    def _on_cpu(self) -> bool:
        return self.all_flags().get("cpu", False) is not False

    def _own_flags(self) -> Flags:
        alone = {} if self.gpus * self.nodes > 1 else {"distributed-world-size": 1}
        return {"user-dir": self.user_dir, "save-dir": self.save_dir, **alone}


def on_each_machine(command: Sequence[str]) -> List[str]:
    """The line that each machine runs, of the recorded command of a training on several nodes."""
    torchrun, *others = command[command.index("torchrun") :]
    return [torchrun, "--rdzv-endpoint", FIRST, *others]
