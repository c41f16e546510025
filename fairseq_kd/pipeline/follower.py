"""Prints what running steps write into their logs: other lines once, progress as it changes."""

import os
import re
import shutil
import stat
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Dict, Optional

from fairseq_kd.files.names import on_terminal
from fairseq_kd.files.whole_files import own_file

PROGRESS = re.compile(r"^.{1,60}?: +\d+% \|")
BRIEFLY = re.compile(r"^.{1,60}?: +(\d+%) \|.*?\| .*?, ([\d:]+) left.*")
FULL = ": 100% |"
POLL_SECONDS, QUIET_SECONDS = 0.3, 15.0


class Follower:
    """Follows the logs of a folder in a thread, while the context is open.

    On a terminal the progress is one line that is rewritten, abbreviated if several steps run;
    elsewhere each step has a new line every QUIET_SECONDS.

    Args:
        folder: the folder of the logs, whose earlier lines are not printed.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.seen: Dict[Path, int] = {path: each.st_size for path, each in self._logs().items()}
        self.shown_at: Dict[Path, float] = {}
        self.running: Dict[Path, str] = {}
        self.on_terminal = sys.stderr.isatty()
        self.open_line = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> "Follower":
        self._thread.start()
        return self

    def __exit__(self, *error) -> None:
        self._ended.set()
        self._thread.join()
        self._look(ended=True)
        self._print_end()

    def _follow(self) -> None:
        while not self._ended.wait(POLL_SECONDS):
            self._look()

    def _look(self, ended: bool = False) -> None:
        """Prints new lines, log by log in the order in which they were last written.

        So steps appear in their order even if one begins and ends between two polls.
        """
        logs = self._logs()
        for path in sorted(logs, key=lambda path: (logs[path].st_mtime_ns, path)):
            begin = self.seen.get(path, 0)
            if path.name == "snakemake.log" or logs[path].st_size == begin:
                continue
            with open(path, "rb", opener=own_file) as file:
                file.seek(begin)
                new = file.read()
            whole = new if ended else new[: new.rfind(b"\n") + 1]
            if whole:
                self.seen[path] = begin + len(whole)
                self._show(path, whole.decode("utf-8", errors="replace"))

    def _logs(self) -> Dict[Path, os.stat_result]:
        """The logs of the folder that are regular files: no step writes links or pipes."""
        logs: Dict[Path, os.stat_result] = {}
        for path in self.folder.glob("*.log"):
            with suppress(FileNotFoundError):
                status = path.lstat()
                if stat.S_ISREG(status.st_mode):
                    logs[path] = status
        return logs

    def _show(self, path: Path, text: str) -> None:
        progress: Optional[str] = None
        for line in map(on_terminal, text.splitlines()):
            if PROGRESS.match(line):
                progress = line
            else:
                progress = None
                self._print(line)
        if progress is None:
            return
        self.running[path] = progress
        now = time.monotonic()
        if self.on_terminal:
            alone, ended = len(self.running) == 1, FULL in progress
            line = progress if alone or ended else self._briefly()
            print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
            self.open_line = True
            if ended and not alone:  # it stays, while the others go on below
                self._print_end()
        elif now - self.shown_at.get(path, -QUIET_SECONDS) >= QUIET_SECONDS or FULL in progress:
            self.shown_at[path] = now
            self._print(progress)
        if FULL in progress:
            del self.running[path]

    def _briefly(self) -> str:
        """The progress of all running steps in one line, cut to the width of the terminal."""
        steps = (BRIEFLY.sub(rf"{path.stem} \1, \2 left", s) for path, s in self.running.items())
        return "; ".join(steps)[: shutil.get_terminal_size().columns - 1]

    def _print(self, line: str) -> None:
        self._print_end()
        sys.stderr.write(f"{line}\n")  # print would write twice where output is unbuffered
        sys.stderr.flush()

    def _print_end(self) -> None:
        """Ends the line that is rewritten, if there is one."""
        if self.open_line:
            print(file=sys.stderr)
            self.open_line = False
