"""The student's data folder: checks of its inputs, its files, and its manifest."""

import json
import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any, Dict, List, Optional

from fairseq_kd import __version__
from fairseq_kd.decoding.decode import IMPORTED, read_settings, settings_id
from fairseq_kd.decoding.hypothesis_files import WHOLE, check_shard
from fairseq_kd.decoding.subset import Subset, check_splitting, read_subset
from fairseq_kd.distilled_data.binarised_writer import (
    PairWriter,
    copy_the_rest,
    hash_of_other_subsets,
    tag_id,
)
from fairseq_kd.distilled_data.filters import FILTERS, PairFilters
from fairseq_kd.distilled_data.manifest import MANIFEST_FILE, read_manifest, write_manifest
from fairseq_kd.distilled_data.pairs import PairCounts, ScoredPair, scored_pairs, sentences_of
from fairseq_kd.distilled_data.selection import SelectionOptions
from fairseq_kd.files.atomic_files import atomic_folder, check_apart
from fairseq_kd.files.hashes import check_unchanged, sha256_of, sums_of
from fairseq_kd.files.locks import lock_beside, locked
from fairseq_kd.files.names import why_no_file
from fairseq_kd.progress import ProgressLine

SCORE_COLUMNS = ("sentence", "hypothesis", *(each.name for each in FILTERS), "removed_by")


@dataclass(frozen=True)
class MixOptions:
    """How distilled and gold pairs are mixed."""

    how: str = "alone"  # gold: both in one subset; extra: gold as train, distilled as train1
    gold_subset: str = "train"  # the subset of the gold pairs
    upsample_gold: int = 1  # copies of each gold pair in one subset
    tag_distilled: Optional[str] = None  # first token of distilled sources
    tag_gold: Optional[str] = None  # first token of gold sources
    gold_data: Optional[Path] = None  # the folder of the gold pairs; None for the translated one


class DistilledSet:
    """A data folder for ``fairseq-train``, made of decoded translations.

    Args:
        translations: the folder of ``translate``.
        data: the data folder that was translated.
        out: the folder to make.
        choice: options of the selection.
        thresholds: of the filters, by name.
        mix: options of mixing with gold data.
        workers: processes.
        scores: a file with a score of each hypothesis; None for the teacher's.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the translations are damaged or not of this data, or a tag is not in the source
            dictionary.
    """

    def __init__(
        self,
        translations: Path,
        data: Path,
        out: Path,
        choice: SelectionOptions,
        thresholds: Dict[str, float],
        mix: MixOptions,
        workers: int,
        scores: Optional[Path] = None,
    ):
        inputs = {"--translations": translations, "--data": data, "--gold-data": mix.gold_data}
        check_apart(out, inputs)
        self.out, self.choice, self.mix, self.workers = out, choice, mix, workers
        self.scores = scores
        if scores is not None and not scores.is_file():
            raise FileNotFoundError(
                f"--scores {scores} {why_no_file(scores)}. Give a file of numbers."
            )
        self.bank = PairFilters(thresholds)
        self.hypotheses = translations / WHOLE
        self.settings = read_settings(translations)
        self.subset = read_subset(data, self.settings["subset"], tuple(self.settings["pair"]))
        self._check_origin()
        check_splitting(self.subset, choice.remove_bpe)
        if choice.select != "best" and self.settings["nbest"] == 1:
            raise ValueError(
                f"--select {choice.select} has no effect: {translations} holds one hypothesis per "
                "sentence. Translate again with --nbest 5, or leave it out."
            )
        if (
            "teacher_score" in thresholds
            and scores is None
            and self.settings.get("scored") is False
        ):
            raise ValueError(
                f"--min-score needs scores, but not every translation in {translations} has one. "
                "Leave it out."
            )
        least = thresholds.get("teacher_score")
        own = scores is None and self.settings.get("engine") != IMPORTED
        if least is not None and own and least > 0:
            raise ValueError(
                f"--min-score is {least:g}, but the scores of the teacher are log2 probabilities, "
                "which are at most 0. Lower it, or give --scores."
            )
        compares = choice.select == "interpolation" or choice.compare
        if compares and self.subset.target is None:
            raise ValueError(
                f"{data} has no references of {self.subset.name} for interpolation and "
                "--min-similarity to compare with. Leave them out."
            )
        self.gold = None if mix.how == "alone" else self._read_gold(mix.gold_data or data)
        side = self.subset.source_dictionary, self.subset.dictionary_file(self.subset.pair[0])
        self.tags = {
            flag: [] if tag is None else [tag_id(*side, tag, flag)]
            for flag, tag in (("--tag-distilled", mix.tag_distilled), ("--tag-gold", mix.tag_gold))
        }

    def _check_origin(self) -> None:
        """Checks that the hypotheses are complete and belong to this data."""
        if not self.hypotheses.is_file():
            raise FileNotFoundError(
                f"{self.hypotheses} is missing. Finish fairseq-kd translate, all its shards."
            )
        check_shard(self.hypotheses, settings_id(self.settings))
        for name in ("source_dictionary", "target_dictionary", "source"):
            if self.subset.hashes[name] != self.settings[name]:
                what = name.replace("_", " ")
                raise ValueError(
                    f"The {what} of {self.subset.name} in {self.subset.folder} is not the one that "
                    f"{self.hypotheses.parent} was decoded from. Give to --data the folder that "
                    "was translated, unchanged."
                )

    def _read_gold(self, data: Path) -> Subset:
        gold = read_subset(data, self.mix.gold_subset, self.subset.pair, "--gold-subset")
        if gold.target is None and self.mix.gold_data is None and gold.name == self.subset.name:
            raise ValueError(
                f"--mix {self.mix.how} needs pairs with references, and {data} has monolingual "
                "text. Give --gold-data, the data folder of the bitext."
            )
        if gold.target is None:
            raise ValueError(
                f"--gold-subset {gold.name} has no target side in {data}. Give a subset with both."
            )
        for language in self.subset.pair:
            files = [each.dictionary_file(language) for each in (self.subset, gold)]
            if sha256_of(files[:1]) != sha256_of(files[1:]):
                raise ValueError(
                    f"{files[1]} is not the dictionary of --data, {files[0]}. Binarise the text "
                    f"with those of --gold-data, by fairseq-kd binarise-text --data {data}."
                )
        if gold.continuation is not None:
            raise ValueError(
                f"{data} has {gold.continuation} beside {gold.name}, which fairseq-train reads as "
                f"one set, but --mix {self.mix.how} takes {gold.name} alone. Binarise both as one "
                "subset of another name, and give that to --gold-subset."
            )
        return gold

    @cached_property
    def made_of(self) -> Dict[str, Any]:
        """The inputs that determine the folder, as JSON types."""
        gold_files = [] if self.gold is None else self.gold.both_sides
        made_of = {
            "decoding": self.settings,
            "hypotheses": sha256_of([self.hypotheses]),
            "references": sha256_of(self.subset.files(self.subset.pair[1])),
            "gold": sha256_of(gold_files),
            "other_splits": hash_of_other_subsets(self.subset, "train"),
            "choice": asdict(self.choice),
            "thresholds": {name: str(value) for name, value in self.bank.thresholds.items()},
            "mix": {name: each for name, each in asdict(self.mix).items() if name != "gold_data"},
            "versions": {"fairseq_kd": __version__, "sacrebleu": metadata.version("sacrebleu")},
        }
        if self.scores is not None:
            made_of["scores"] = sha256_of([self.scores])
        return json.loads(json.dumps(made_of))

    def make(self) -> None:
        """Makes the folder atomically, and prints the counts of pairs.

        Raises:
            ValueError: another folder is in its place, or a damaged one, or another process makes
                it, or no pair is left.
            OSError: a file cannot be written.
        """
        with locked(lock_beside(self.out), f"--out {self.out}", self.out, finished=True):
            self._make()

    def _make(self) -> None:
        manifest = read_manifest(self.out)
        if manifest is not None and self._is_of_these(manifest["made_of"]):
            check_unchanged(self.out, manifest["files"])
            print(f"{self.out} already exists", file=sys.stderr)
            return
        if self.subset.name != "train":
            print(
                f"{self.out} will have a training set made of {self.subset.name}: do not validate "
                "or test on that",
                file=sys.stderr,
            )
        if not self.subset.has_split("valid"):
            print(
                f"{self.subset.folder} has no valid set, so {self.out} will have none: add one to "
                "train with, or train with --disable-validation",
                file=sys.stderr,
            )
        with atomic_folder(self.out) as work:
            summary = self._fill(work)
        print(summary)
        print(
            f"{self.out} is ready for fairseq-train; {MANIFEST_FILE} in it lists inputs and options"
        )

    def _is_of_these(self, made_of: Dict[str, Any]) -> bool:
        """Whether a folder was made of these inputs; earlier versions kept no ``other_splits``."""
        return {"other_splits": self.made_of["other_splits"], **made_of} == self.made_of

    def _fill(self, work: Path) -> str:
        """Writes the files, and returns the counts of pairs as text."""
        (work / "text").mkdir()
        copy_the_rest(self.subset, "train", work)
        train = PairWriter(work, "train", self.subset)
        gold_pairs = self._add_gold(train)
        distilled = train
        if self.mix.how == "extra":
            train.close()
            distilled = PairWriter(work, "train1", self.subset)
        counts = self._add_distilled(distilled, work)
        if not counts.kept:
            print(counts.text(self.bank))
            raise ValueError("The filters left no pair. Loosen the thresholds.")
        distilled.close()
        manifest = {
            "made_of": self.made_of,
            **counts.report(self.bank),
            "gold_pairs": gold_pairs,
            "files": sums_of(work),
        }
        write_manifest(work, manifest)
        return counts.text(self.bank)

    def _add_gold(self, writer: PairWriter) -> int:
        """Adds all copies of the gold pairs, and returns their number."""
        if self.gold is None:
            return 0
        copies = self.mix.upsample_gold
        with ProgressLine("gold", copies * len(self.gold), "pairs") as progress:
            for _ in range(copies):
                for source, target in zip(self.gold.source, self.gold.target, strict=True):
                    writer.add(self._tagged("--tag-gold", source.tolist()), target.tolist())
                    progress.add(1)
        return writer.pairs

    def _tagged(self, flag: str, source: List[int]) -> List[int]:
        """A source after the tag of a flag, if one was given."""
        tag = self.tags[flag]
        if tag and tag[0] in source:
            dictionary = self.subset.source_dictionary
            raise ValueError(
                f"{flag} {dictionary[tag[0]]} also occurs in this sentence: "
                f"{dictionary.string(source)}. Give a token that does not occur in any sentence, "
                "such as madeupword0000."
            )
        return tag + source

    def _add_distilled(self, writer: PairWriter, work: Path) -> PairCounts:
        """Adds the pairs that the filters keep, as ids and as text, and writes all scores."""
        source_dictionary = self.subset.source_dictionary
        target_dictionary = self.subset.target_dictionary
        unknown = (source_dictionary.unk(), target_dictionary.unk())
        counts = PairCounts(len(self.subset), unknown)
        names = [f"text/train.{language}" for language in self.subset.pair]
        sentences = sentences_of(self.subset, self.hypotheses, self.scores)
        with ExitStack() as stack:
            *texts, scores = (
                stack.enter_context((work / name).open("w", encoding="utf-8", newline="\n"))
                for name in (*names, "scores.tsv")
            )
            print(*SCORE_COLUMNS, sep="\t", file=scores)
            progress = stack.enter_context(ProgressLine("distilled", len(self.subset), "sentences"))
            progress.show(0)  # minimum Bayes risk may take minutes for the first sentences
            for each in scored_pairs(sentences, self.choice, self.bank, self.workers):
                counts.add(each)
                progress.show(each.sentence.number + 1, f"{counts.kept:,} pairs kept")
                print(_score_line(each), file=scores)
                if each.removed_by is None:
                    tokens = each.sentence.hypotheses[each.rank].tokens
                    source = self.subset.source[each.sentence.number].tolist()
                    target = [target_dictionary.indices[token] for token in tokens.split()]
                    tagged = self._tagged("--tag-distilled", source)
                    writer.add(tagged, [*target, target_dictionary.eos()])
                    counts.keep(each, (source, target))
                    print(each.sentence.source, file=texts[0])
                    print(tokens, file=texts[1])
        return counts


def _score_line(pair: ScoredPair) -> str:
    scores = (f"{score:.4g}" for score in pair.scores)
    return "\t".join([str(pair.sentence.number), str(pair.rank), *scores, pair.removed_by or "-"])
