"""The corpus of a run: a folder of fairseq-preprocess, or text that the first step prepares."""

import filecmp
from pathlib import Path
from typing import List, NamedTuple, Optional, Tuple

from fairseq_kd.distilled_data.options import SUBSETS, PrepareOptions
from fairseq_kd.files.names import plain_languages
from fairseq_kd.parallel_text import text_file
from fairseq_kd.pipeline.run_file import RunFile
from fairseq_kd.pipeline.workflow import LaidOutStep

BINARISED = (".bin", ".idx")
EVERY_SUBSET = ("",)  # beginnings of their names


class Corpus(NamedTuple):
    """A folder of binarised data sets and their dictionaries, as fairseq-train reads it.

    Args:
        folder: its path.
        pair: the languages, source first.
        step: the step that makes it; None if it exists already.
        vocabulary: the folder of the dictionaries that the step uses; None if it makes its own.
    """

    folder: str
    pair: Tuple[str, str]
    step: Optional[LaidOutStep]
    vocabulary: Optional[str] = None

    @property
    def after(self) -> List[str]:
        """The step that makes the corpus, as a list; empty if it exists already."""
        return [self.step.name] if self.step else []

    def reads(self, subsets: Tuple[str, ...] = ("train", "valid")) -> List[str]:
        """The dictionaries and files of some data sets; none if a step of the run makes them."""
        if self.step:
            return []
        names = sorted(path.name for path in Path(self.folder).iterdir() if path.is_file())
        read = [name for name in names if name.startswith(subsets) and name.endswith(BINARISED)]
        read += [name for name in names if name.startswith("dict.")]
        return [f"{self.folder}/{name}" for name in read]

    def text(self, subset: str) -> List[str]:
        """The plain text of a data set, where the evaluation looks for it, if it is there."""
        if self.step:
            return []
        folder = Path(self.folder).resolve().parent / "text"
        files = [folder / f"{subset}.{language}" for language in self.pair]
        return [str(path) for path in files if path.is_file()]

    def dictionaries(self) -> List[Path]:
        """The files of the source and the target dictionary."""
        folder = Path(self.vocabulary or self.folder)
        return [folder / f"dict.{language}.txt" for language in self.pair]

    def has_one_dictionary(self) -> bool:
        """Whether both languages share one dictionary, as in text that the run prepares."""
        if self.step and not self.vocabulary:
            return True
        files = self.dictionaries()
        return all(path.is_file() for path in files) and filecmp.cmp(*files, shallow=False)

    def check_split(self, name: str) -> None:
        """Checks that a data set exists.

        Raises:
            FileNotFoundError: it does not.
        """
        if self.step or any(Path(self.folder).glob(f"{name}.*.idx")):
            return
        raise FileNotFoundError(
            f"data: {self.folder} holds no {name} set, which the evaluation translates. Add it, or "
            "name another, as evaluate: {subset: valid}."
        )


def corpus_of(run: RunFile) -> Corpus:
    """The corpus that a run file describes.

    Raises:
        FileNotFoundError: its folder or its text is missing.
        ValueError: it holds several language pairs, or cannot be prepared here.
    """
    if isinstance(run.data, str):
        return Corpus(run.data, language_pair(Path(run.data)), None)
    data = run.data
    source, target = plain_languages((data["source"], data["target"]), f"{run.path}: data")
    pair = (source, target)
    if source == target:
        raise ValueError(f"{run.path}: data.source and data.target are both {source}.")
    vocabulary = data.get("vocabulary")
    reads = text_files(Path(data["text"]), pair)
    if vocabulary is not None:
        reads += _vocabulary_files(run, vocabulary, pair)
    out = str(run.folder / "data")
    makes = [f"{out}/bin/dict.{language}.txt" for language in pair]
    makes += [
        f"{out}/bin/{subset}.{'-'.join(pair)}.{language}.{end}"
        for subset in SUBSETS
        for language in pair
        for end in ("bin", "idx")
    ]
    options = PrepareOptions.of({**data, "out": out})
    step = LaidOutStep("data", "prepare", options, [], reads, makes, out)
    return Corpus(f"{out}/bin", pair, step, vocabulary)


def _vocabulary_files(run: RunFile, folder: str, pair: Tuple[str, str]) -> List[str]:
    """The BPE codes and dictionaries with which the text is prepared, usually a teacher's.

    Raises:
        FileNotFoundError: one of the files is missing.
        ValueError: the run file also gives a number of merges to learn.
    """
    if "merges" in run.data:
        raise ValueError(
            f"{run.path}: data.merges has no effect beside data.vocabulary, which has codes. Leave "
            "one of them out."
        )
    files = [Path(folder) / name for name in ("codes", *(f"dict.{each}.txt" for each in pair))]
    for path in files:
        if not path.is_file():
            raise FileNotFoundError(
                f"{run.path}: data.vocabulary: {path} is missing. Give a folder with the BPE codes "
                "and the dictionaries of a teacher."
            )
    return list(map(str, files))


def language_pair(data: Path) -> Tuple[str, str]:
    """The languages of a folder that fairseq-preprocess wrote.

    Raises:
        FileNotFoundError: the folder is missing, or holds no training set.
        ValueError: it holds several pairs.
    """
    if not data.is_dir():
        raise FileNotFoundError(
            f"data: {data} is not a folder. Give what fairseq-preprocess wrote."
        )
    pairs = {path.name.split(".")[1] for path in data.glob("train.*-*.*.idx")}
    if not pairs:
        from fairseq_kd.binarised import check_not_raw

        check_not_raw(data, "train")
    if len(pairs) != 1:
        has = f"holds {', '.join(sorted(pairs))}" if pairs else "holds no training set"
        kind = ValueError if pairs else FileNotFoundError
        raise kind(f"data: {data} {has}. Give what fairseq-preprocess wrote for one language pair.")
    source, target = plain_languages(pairs.pop().split("-", 1), f"data: {data}")
    return source, target


def text_files(folder: Path, pair: Tuple[str, str]) -> List[str]:
    """The files of a folder of text that ``fairseq-kd prepare`` reads.

    Raises:
        FileNotFoundError, ValueError: one is missing, or is a folder.
    """
    files = []
    for subset in SUBSETS:
        for language in pair:
            try:
                files.append(text_file(str(folder / f"{subset}.{language}")))
            except (FileNotFoundError, ValueError) as error:
                raise type(error)(f"data.text: {error}") from error
    return files
