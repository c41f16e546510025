"""A real Slurm with two nodes on this machine, for tests: on loopback, with all files in a folder.

Each node claims cores, memory and GPUs that this machine does not have, so that it takes jobs of
the size of a cluster's. It runs in a process namespace of its own, so that it can lose its power:
all of its processes end at once.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

from harness import ENVIRONMENT

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged", "unshare")
SYSTEM = Path("/etc/slurm/slurm.conf")  # where jobs look: Snakemake's executor drops SLURM_CONF
NODES = ("n1", "n2")
CONF = """\
ClusterName=local
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmdPidFile={folder}/%n.pid
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdLogFile={folder}/%n.log
SlurmctldLogFile={folder}/slurmctld.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core,CR_LLN
SlurmdParameters=config_overrides
GresTypes=gpu
ReturnToService=2
KillWait=5
SlurmctldPort={ports[0]}
NodeName=DEFAULT CPUs=8 RealMemory=64000 Gres=gpu:a100:2
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]}
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]}
PartitionName=cpu Nodes=n1,n2 Default=YES State=UP
PartitionName=gpu Nodes=n1,n2 State=UP
"""


def missing():
    """The reason why no Slurm can be started here; "" if one can."""
    lacking = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    if lacking:
        return f"needs {', '.join(lacking)} (Debian: apt-get install slurm-wlm munge)"
    if os.geteuid() != 0:
        return "needs root, as which Slurm's daemons start jobs"
    if SYSTEM.exists() or SYSTEM.is_symlink():
        return f"this machine has a Slurm of its own: {SYSTEM}"
    try:
        socket.gethostbyname(socket.gethostname())
    except OSError:
        return "this machine's name has no address (add it to /etc/hosts)"
    namespace = ["unshare", "--pid", "--fork", "--mount-proc", "true"]
    if subprocess.run(namespace, capture_output=True).returncode != 0:
        return "needs process namespaces (unshare --pid), which this machine does not allow"
    return ""


def _path():
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


@contextmanager
def local_slurm(folder):
    """Starts it, and ends it after the block."""
    with ExitStack() as stack:
        yield LocalSlurm(folder, stack)


class LocalSlurm:
    """Two nodes, n1 and n2, with the partitions cpu and gpu."""

    def __init__(self, folder, stack):
        self.folder, self.nodes = folder, {}
        self.environment = {**ENVIRONMENT, "PATH": f"{ENVIRONMENT['PATH']}:/usr/sbin:/sbin"}
        self.environment["SLURM_CONF"] = str(folder / "slurm.conf")  # beside gres.conf
        (folder / "state").mkdir(parents=True)
        folder.chmod(0o755)
        key, conf = folder / "munge.key", folder / "slurm.conf"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        ports = [_free_port() for _ in range(3)]
        conf.write_text(CONF.format(host=socket.gethostname(), folder=folder, ports=ports))
        (folder / "gres.conf").write_text("Name=gpu Type=a100 File=/dev/null,/dev/zero\n")
        SYSTEM.parent.mkdir(exist_ok=True)
        SYSTEM.symlink_to(conf)
        stack.callback(SYSTEM.unlink)
        munge = [f"--{name}={folder}/munge.{name}" for name in ("socket", "pid-file", "log-file")]
        munge += [f"--seed-file={folder}/munge.seed", f"--key-file={key}"]
        munged = self._start("munged", "munged", "--foreground", "--force", *munge)
        stack.callback(self._end, munged)
        self.wait((folder / "munge.socket").exists, 20)
        stack.callback(self._end, self._start("slurmctld", "slurmctld", "-D"))
        stack.callback(lambda: [self.lose_power(name) for name in self.nodes])
        for name in NODES:
            self.start_node(name)
        self.wait(lambda: self.states() == {"n1": "idle", "n2": "idle"}, 60)

    def start_node(self, name):
        """Starts a node, which takes jobs from then on."""
        namespace = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
        self.nodes[name] = self._start(name, *namespace, "slurmd", "-D", "-N", name)

    def lose_power(self, name):
        """Ends all processes of a node at once."""
        self._end(self.nodes[name], signal.SIGKILL)

    def ask(self, *command):
        """The output of a command of Slurm; empty if it fails."""
        found = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        return found.stdout

    def states(self):
        """The state of each node."""
        lines = self.ask("sinfo", "-h", "-N", "-p", "cpu", "-o", "%N %T").splitlines()
        return dict(line.split() for line in lines)

    def running(self):
        """The id and the nodes of each running job, by the name of its step."""
        lines = self.ask("squeue", "-h", "-t", "running", "-o", "%i|%N|%k").splitlines()
        jobs = (line.split("|") for line in lines)
        return {comment.rpartition("_")[2]: (job, nodes) for job, nodes, comment in jobs}

    def wait(self, condition, seconds):
        """Waits for a condition, and returns its value."""
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < deadline, self.report()
            time.sleep(0.3)
        return value

    def report(self):
        """The jobs, the nodes, and the ends of the logs of Slurm."""
        paths = [*self.folder.glob("*.log"), *self.folder.glob("*.out")]
        logs = [f"{path}: {path.read_text(errors='replace')[-2000:]}" for path in paths]
        return "\n".join([self.ask("squeue", "--states=all"), self.ask("sinfo", "-N"), *logs])

    def _start(self, name, *command):
        with (self.folder / f"{name}.out").open("ab") as out:
            return subprocess.Popen(command, env=self.environment, stdout=out, stderr=out)

    def _end(self, process, number=signal.SIGTERM):
        process.send_signal(number)
        process.wait()


def _free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
