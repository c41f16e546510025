"""Shows the logs of running steps: progress lines as they change, other lines once.

A step appends its progress as records to ``NAME.progress``, beside ``NAME.log``, which holds the
same progress as lines for people.
"""

import os
import shutil
import stat
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Dict, Optional

from fairseq_kd.files.atomic_files import own_file
from fairseq_kd.files.names import on_terminal
from fairseq_kd.progress import Progress

LOG, RECORDS = ".log", ".progress"
SNAKEMAKE_LOG = "snakemake.log"  # Snakemake's own
POLL_SECONDS, QUIET_SECONDS = 0.3, 15.0
NO_REASON = "For further error details"  # Snakemake's end of a message, or all of it
KEPT_RECORDS = 100  # of each step, whose lines may still come


class Follower:
    """Follows the logs of a folder in a thread, while the context is open.

    On a terminal the progress is one line that is rewritten, abbreviated if several steps run;
    elsewhere each step has a new line every QUIET_SECONDS.

    Args:
        folder: the folder of the logs, whose earlier lines are not printed.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.read: Dict[Path, int] = {  # bytes of each file
            path: status.st_size for end in (LOG, RECORDS) for path, status in self._files(end)
        }
        self.records: Dict[str, Dict[str, Progress]] = {}  # by step and line
        self.running: Dict[str, Progress] = {}
        self.shown_at: Dict[str, float] = {}
        self.on_terminal = sys.stderr.isatty()
        self.open_line = False
        self.failure = ""  # the reason of a failure that Snakemake's log gives before its step
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
        for path, _ in sorted(self._files(LOG), key=lambda each: (each[1].st_mtime_ns, each[0])):
            text = self._new_text(path, ended)
            if path.name == SNAKEMAKE_LOG:
                self._show_failures(text)
            elif text:  # the record of a line was written before it
                self._read_records(path, ended)
                self._show(path.stem, text)

    def _read_records(self, log: Path, ended: bool) -> None:
        records = self.records.setdefault(log.stem, {})
        for line in [*records][:-KEPT_RECORDS]:
            del records[line]
        for record in self._new_text(log.with_suffix(RECORDS), ended).split("\n"):
            progress = Progress.of_record(record)
            if progress is not None:
                records[progress.line()] = progress

    def _files(self, end: str) -> "list[tuple[Path, os.stat_result]]":
        """The regular files of an ending in the folder: no step writes links or pipes."""
        files = []
        for path in self.folder.glob(f"*{end}"):
            with suppress(FileNotFoundError):
                status = path.lstat()
                if stat.S_ISREG(status.st_mode):
                    files.append((path, status))
        return files

    def _new_text(self, path: Path, ended: bool) -> str:
        """The whole lines that a file got since the last look, and at the end the rest."""
        begin = self.read.get(path, 0)
        with suppress(FileNotFoundError, ValueError), open(path, "rb", opener=own_file) as file:
            if os.fstat(file.fileno()).st_size != begin:
                file.seek(begin)
                new = file.read()
                whole = new if ended else new[: new.rfind(b"\n") + 1]
                self.read[path] = begin + len(whole)
                return whole.decode("utf-8", errors="replace")
        return ""

    def _show(self, step: str, text: str) -> None:
        """Prints the lines of a step; of its progress the latest, if it is the last line."""
        latest: Optional[Progress] = None
        for line in text.splitlines():
            latest = self.records[step].get(line)
            if latest is None:
                self._print(on_terminal(line))
        if latest is None:
            return
        self.running[step] = latest
        now = time.monotonic()
        if self.on_terminal:
            alone = len(self.running) == 1
            line = on_terminal(latest.line()) if alone or latest.ended else self._briefly()
            print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
            self.open_line = True
            if latest.ended and not alone:  # it stays, and the others continue below
                self._print_end()
        elif latest.ended or now - self.shown_at.get(step, -QUIET_SECONDS) >= QUIET_SECONDS:
            self.shown_at[step] = now
            self._print(on_terminal(latest.line()))
        if latest.ended:
            del self.running[step]

    def _briefly(self) -> str:
        """The progress of all running steps in one line, cut to the width of the terminal."""
        steps = [
            f"{step} {progress.percent}, {progress.time_left} left"
            for step, progress in self.running.items()
        ]
        return on_terminal("; ".join(steps))[: shutil.get_terminal_size().columns - 1]

    def _show_failures(self, text: str) -> None:
        """Prints what an executor reports of failed jobs, after which Snakemake may retry them."""
        for line in text.splitlines():
            key, _, value = line.strip().partition(": ")
            if key == "message":
                self.failure = value.partition(NO_REASON)[0].removesuffix("None")
            elif key == "output" and self.failure:
                self._print(on_terminal(f"{Path(value).stem}: {self.failure}"))
                self.failure = ""

    def _print(self, line: str) -> None:
        self._print_end()
        sys.stderr.write(f"{line}\n")  # print would write twice where output is unbuffered
        sys.stderr.flush()

    def _print_end(self) -> None:
        """Ends the line that is rewritten, if there is one."""
        if self.open_line:
            print(file=sys.stderr)
            self.open_line = False
