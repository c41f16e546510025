"""Prepares parallel text for fairseq-train: Moses tokenisation, joint BPE, binarisation."""

import io
import shutil
import subprocess
import sys
from collections import Counter, deque
from contextlib import redirect_stderr
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple

from fairseq_kd.child_process import child, own_programs
from fairseq_kd.decoding.tokenising import MOSES, NONE, SUBWORD_NMT, split_lines, splitter
from fairseq_kd.distilled_data.options import MERGES, SUBSETS, PrepareOptions
from fairseq_kd.files.atomic_files import check_room
from fairseq_kd.files.hashes import sha256_of
from fairseq_kd.files.names import on_terminal, plain_languages
from fairseq_kd.files.recorded_folders import make_once
from fairseq_kd.parallel_text import lines_of, text_file, write_clean
from fairseq_kd.process_pool import in_chunks, in_processes
from fairseq_kd.progress import ProgressLine

PREPARED_FILE, CODES = "prepared.json", "codes"
CHUNK = 2000  # lines of a task
LOG_LINES = 20  # of fairseq-preprocess that are shown if it fails


class _Conversion(NamedTuple):
    """A conversion of the lines of all files in a folder.

    Args:
        called: what it does, for progress.
        reads: the folder.
        writes: the folder of the results.
        tokenizer, bpe: as of ``split_lines``.
    """

    called: str
    reads: str
    writes: str
    tokenizer: str
    bpe: str


TOKENISE = _Conversion("tokenise", "text", "tokens", MOSES, NONE)
SPLIT = _Conversion("split", TOKENISE.writes, "bpe", NONE, SUBWORD_NMT)


class PreparedText:
    """A folder with the kept text, its tokens, the BPE merges, and the binarised sets.

    ``text/`` holds the sentences as they were written, ``bpe/`` their tokens, ``codes`` the merges,
    and ``bin/`` what fairseq-train reads. Line N of all files of a set is the same pair.

    Args:
        options: of ``fairseq-kd prepare``.
        workers: processes that tokenise and split.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a name or a file of the vocabulary is not what it must be.
    """

    def __init__(self, options: PrepareOptions, workers: int):
        self.options, self.workers = options, workers
        self.pair = plain_languages((options.source, options.target), "The command line")
        self.files = [
            Path(text_file(str(options.text / f"{subset}.{language}")))
            for subset in SUBSETS
            for language in self.pair
        ]
        self.codes, self.dictionaries = self._vocabulary()

    def make(self) -> None:
        """Writes the folder, or prints that it exists.

        Raises:
            ValueError: the text is damaged or out of step, or the folder is damaged or was made of
                something else.
            OSError: it cannot be written; ``write_errors.explained`` says why.
        """
        out = self.options.out
        if make_once(out, PREPARED_FILE, self._made_of(), self._write):
            with (out / "bin" / f"dict.{self.pair[1]}.txt").open("rb") as dictionary:
                print(f"{out}/bin: a dictionary of {sum(1 for _ in dictionary)} entries")

    def _vocabulary(self) -> Tuple[Optional[Path], List[Path]]:
        """The merges and dictionaries of a teacher, if they are used."""
        folder = self.options.vocabulary
        if folder is None:
            return None, []
        codes, *dictionaries = (folder / name for name in (CODES, *self._dictionary_names()))
        for path in (codes, *dictionaries):
            if not path.is_file():
                raise FileNotFoundError(
                    f"--vocabulary: {path} is missing or not a file. Give a folder with the BPE "
                    "codes and the dictionaries of a teacher."
                )
        splitter(MOSES, SUBWORD_NMT, codes, self.pair[0])
        return codes, dictionaries

    def _dictionary_names(self) -> List[str]:
        return [f"dict.{language}.txt" for language in self.pair]

    def _made_of(self) -> Dict[str, str]:
        options = self.options
        made_of = {
            "languages": "-".join(self.pair),
            "text": sha256_of(self.files),
            "max_words": str(options.max_words),
        }
        if self.codes is None:
            made_of["merges"] = str(options.merges or MERGES)
        else:
            made_of["vocabulary"] = sha256_of([self.codes, *self.dictionaries])
        return made_of

    def _write(self, work: Path) -> Dict[str, int]:
        """Writes the files, and returns the number of pairs of each set for the record."""
        kept, words = {}, Counter()
        for name in ("text", TOKENISE.writes, SPLIT.writes):
            (work / name).mkdir()
        for subset in SUBSETS:
            kept[subset], count = write_clean(
                str(self.options.text / subset),
                str(work / "text" / subset),
                self.pair,
                self.options.max_words,
            )
            print(f"{subset}: {kept[subset]} of {count} pairs kept", flush=True)
        names = [(subset, f"{subset}.{language}") for subset in SUBSETS for language in self.pair]
        for subset, name in names:
            for line in self._convert(work, TOKENISE, name, kept[subset]):
                if subset == "train" and self.codes is None:
                    words.update(line.split(" "))
        codes = work / CODES
        if self.codes is None:
            self._learn(words, codes)
        else:
            print(f"splitting by the BPE merges of {self.options.vocabulary}", flush=True)
            shutil.copyfile(self.codes, codes)
        for subset, name in names:
            deque(self._convert(work, SPLIT, name, kept[subset]), maxlen=0)
        shutil.rmtree(work / TOKENISE.writes)
        self._binarise(work)
        return kept

    def _convert(self, work: Path, conversion: _Conversion, name: str, lines: int) -> Iterator[str]:
        """Writes the converted lines of a file, and yields them.

        Args:
            work: the folder.
            conversion: what is done.
            name: of the file that is read, and of the one that is written.
            lines: how many there are.
        """
        codes = None if conversion.bpe == NONE else work / CODES
        language = name.rpartition(".")[2]
        tasks = (
            partial(split_lines, conversion.tokenizer, conversion.bpe, codes, language, chunk)
            for chunk in in_chunks(lines_of(str(work / conversion.reads / name)), CHUNK)
        )
        workers = min(self.workers, -(-lines // CHUNK))
        with (
            (work / conversion.writes / name).open("w", encoding="utf-8", newline="\n") as file,
            ProgressLine(f"{conversion.called} {name}", lines, "lines") as progress,
        ):
            for line in chain.from_iterable(in_processes(tasks, workers)):
                file.write(f"{line}\n")
                progress.add(1)
                yield line

    def _learn(self, words: Counter, codes: Path) -> None:
        """Learns the merges of both languages together, from the counts of words.

        Raises:
            ValueError: there are none.
        """
        from subword_nmt.learn_bpe import learn_bpe

        merges = self.options.merges or MERGES
        print(f"learning {merges} BPE merges on both languages together", flush=True)
        counts = io.StringIO("".join(f"{word} {count}\n" for word, count in words.items()))
        output, its_progress = io.StringIO(), io.StringIO()
        if any(len(word) > 1 for word in words):
            with redirect_stderr(its_progress):
                learn_bpe(counts, output, merges, is_dict=True)
        codes.write_text(output.getvalue(), encoding="utf-8")
        learned = output.getvalue().count("\n") - 1  # the first line is the version
        if learned < 1:
            raise ValueError(
                f"--text {self.options.text} has no pair of characters that occurs twice in the "
                "words of train, so that there is nothing for BPE to learn. Give more text, or "
                "words that are not split into characters."
            )
        if learned < merges:
            print(f"learned {learned} merges: no other pair of symbols occurs twice", flush=True)

    def _binarise(self, work: Path) -> None:
        """Runs fairseq-preprocess.

        Raises:
            ValueError: it failed; with the end of its output.
        """
        source, target = self.pair
        command = ["fairseq-preprocess", "--source-lang", source, "--target-lang", target]
        if self.dictionaries:
            flags = zip(("--srcdict", "--tgtdict"), map(str, self.dictionaries), strict=True)
            command += chain.from_iterable(flags)
        else:
            command.append("--joined-dictionary")
        for subset in SUBSETS:
            command += [f"--{subset}pref", str(work / "bpe" / subset)]
        command += ["--destdir", str(work / "bin"), "--workers", str(self.workers)]
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        text = {"encoding": "utf-8", "errors": "replace"}
        with child(command, env=own_programs(), **output, **text) as process:
            log, _ = process.communicate()
        if process.returncode:
            check_room(work)  # a full disk is the usual reason
            print(on_terminal("\n".join(log.splitlines()[-LOG_LINES:])), file=sys.stderr)
            raise ValueError(f"fairseq-preprocess failed with status {process.returncode}.")
