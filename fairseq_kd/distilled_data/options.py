"""The options of ``fairseq-kd prepare``, ``distill-data`` and ``binarise-text``."""

import math
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, Dict, Optional

from fairseq_kd.command_line import Group, Options
from fairseq_kd.decoding.options import SplittingOptions
from fairseq_kd.distilled_data.filters import FILTERS
from fairseq_kd.flag_types import (
    BPE,
    COUNT,
    THREADS,
    Range,
    data_folder,
    file_path,
    number_field,
    one_line,
    one_word,
    option_field,
    subset_name,
)

MERGES = 8000  # of prepare
SUBSETS = ("train", "valid", "test")  # of a data folder
MIXES = ("alone", "gold", "extra")
SELECTION = Group("selection")
THRESHOLDS = Group(
    "filters",
    "thresholds that a pair must meet; --max-...=inf and --min-...=-inf turn a filter off, but "
    "pairs without a word are always removed",
)
MIXING = Group("mixing with gold data")


def threshold_field(option: str) -> Any:
    """The flag of a filter, by its name among the options."""
    (one,) = (each for each in FILTERS if each.option == option)
    default = "none" if one.default is None else f"{one.default:g}"
    return number_field(None, one.range, f"{one.help} (default: {default})", group=THRESHOLDS)


@dataclass(frozen=True, kw_only=True)
class PrepareOptions(Options):
    """Parallel text, and how it is tokenised and split."""

    COMMAND = "prepare"
    text: Path = option_field(
        MISSING,
        "folder with train, valid and test, each with .SOURCE and .TARGET, such as train.es and "
        "train.en: plain sentences in UTF-8, one per line; .xz and .gz are read too",
        read=file_path,
    )
    source: str = option_field(MISSING, "the source language, such as es", read=one_line)
    target: str = option_field(MISSING, "the target language, such as en", read=one_line)
    out: Path = option_field(MISSING, "folder for the result", read=data_folder)
    merges: Optional[int] = number_field(
        None,
        Range(int, 1, 10_000_000),
        f"BPE merges, learned on both languages together (default: {MERGES})",
    )
    vocabulary: Optional[Path] = option_field(
        None,
        "folder with the codes, dict.SOURCE.txt and dict.TARGET.txt of a teacher, which are used "
        "instead of learning merges (default: none)",
        read=file_path,
    )
    max_words: int = number_field(
        0,
        Range(int, 0, 1_000_000),
        "leave out pairs in which a side has more words; 0 keeps all (default: %(default)s)",
    )
    workers: Optional[int] = number_field(
        None, THREADS, "processes that tokenise and split text (default: one per core)"
    )

    def check(self) -> None:
        """Checks that every flag has an effect.

        Raises:
            ValueError: naming one that has none.
        """
        if self.merges is not None and self.vocabulary is not None:
            raise ValueError(
                "--merges has no effect beside --vocabulary, which has codes. Leave one of them "
                "out."
            )
        if self.source == self.target:
            raise ValueError(f"--source and --target must differ, but both are {self.source}.")


@dataclass(frozen=True, kw_only=True)
class BinariseTextOptions(SplittingOptions):
    """Monolingual text, and the data whose dictionaries it is binarised with."""

    COMMAND = "binarise-text"
    text: Path = option_field(
        MISSING, "plain sentences, one per line; .xz and .gz are read too", read=file_path
    )
    data: Path = option_field(
        MISSING, "the data folder that fairseq-preprocess wrote", read=data_folder
    )
    out: Path = option_field(MISSING, "folder for the binarised text", read=file_path)


@dataclass(frozen=True, kw_only=True)
class DistillDataOptions(Options):
    """Which translations become a training set, and what is mixed with them."""

    COMMAND = "distill-data"
    translations: Path = option_field(
        MISSING, "the --out folder of fairseq-kd translate", read=file_path
    )
    data: Path = option_field(MISSING, "the data folder that was translated", read=data_folder)
    out: Path = option_field(MISSING, "folder for the training set", read=file_path)
    remove_bpe: str = option_field(
        "subword_nmt", "how words are split; used for scores only (default: %(default)s)", BPE
    )
    workers: Optional[int] = number_field(
        None, THREADS, "processes that compute similarities (default: one per core)"
    )
    select: str = option_field(
        "best",
        "the teacher's best hypothesis; all of them; the one nearest to the reference "
        "(arXiv:1606.07947); the one nearest to all others, minimum Bayes risk; or the one with "
        "the highest score of --scores (default: best)",
        ("best", "nbest", "interpolation", "mbr", "score"),
        group=SELECTION,
    )
    scores: Optional[Path] = option_field(
        None,
        "a score of each hypothesis by a program of your own, such as a quality estimation, one "
        "number per line in the order of hypotheses.txt: for --select score, and for --min-score "
        "in place of the teacher's (default: none)",
        read=file_path,
        group=SELECTION,
    )
    copies: Optional[int] = number_field(
        None,
        COUNT,
        "with nbest: maximal number of hypotheses per sentence (default: all)",
        group=SELECTION,
    )
    metric: Optional[str] = option_field(
        None,
        "similarity of two sentences, by sacreBLEU (default: bleu)",
        ("bleu", "chrf"),
        group=SELECTION,
    )
    min_words: Optional[float] = threshold_field("min_words")
    min_score: Optional[float] = threshold_field("min_score")
    max_length_ratio: Optional[float] = threshold_field("max_length_ratio")
    max_copied: Optional[float] = threshold_field("max_copied")
    max_repeated: Optional[float] = threshold_field("max_repeated")
    min_similarity: Optional[float] = threshold_field("min_similarity")
    max_duplicates: Optional[float] = threshold_field("max_duplicates")
    mix: str = option_field(
        "alone",
        "alone; gold: gold and distilled pairs in one training subset; extra: gold as train, "
        "distilled as train1, which fairseq-train reads together (and weights by "
        "--upsample-primary) (default: alone)",
        MIXES,
        group=MIXING,
    )
    gold_subset: Optional[str] = option_field(
        None, "the gold subset (default: train)", read=subset_name, group=MIXING
    )
    gold_data: Optional[Path] = option_field(
        None,
        "the data folder of the gold subset, if --data holds monolingual text (default: --data)",
        read=data_folder,
        group=MIXING,
    )
    upsample_gold: Optional[int] = number_field(
        None,
        Range(int, 1, 1000),
        "with gold: N copies of it (default: 1)",
        metavar="N",
        group=MIXING,
    )
    tag_distilled: Optional[str] = option_field(
        None,
        "with gold or extra: first token of distilled sources (default: none)",
        read=one_word,
        metavar="TOKEN",
        group=MIXING,
    )
    tag_gold: Optional[str] = option_field(
        None,
        "with gold: first token of gold sources (default: none)",
        read=one_word,
        metavar="TOKEN",
        group=MIXING,
    )

    def thresholds(self) -> Dict[str, float]:
        """The thresholds by the filters' names, without those that are off."""
        thresholds: Dict[str, float] = {}
        for each in FILTERS:
            given: Optional[float] = getattr(self, each.option)
            value = each.default if given is None else given
            if each.name == "words" and value == -math.inf:
                value = each.default  # pairs without a word are useless
            if value is not None:
                thresholds[each.name] = value
        return thresholds

    def check(self) -> None:
        """Checks that every flag has an effect.

        Raises:
            ValueError: naming a flag that has none.
        """
        if self.tag_distilled is not None and self.tag_distilled == self.tag_gold:
            raise ValueError(
                f"--tag-distilled and --tag-gold must differ, but both are {self.tag_gold}."
            )
        if self.select == "score" and self.scores is None:
            raise ValueError("--select score needs --scores. Give the file of the scores.")
        compares = self.select in ("interpolation", "mbr") or self.min_similarity is not None
        comparing = "--select interpolation or mbr, or --min-similarity"
        scored = self.select == "score" or self.min_score is not None
        mixed, together = self.mix != "alone", self.mix == "gold"
        for flag, value, useful, needs in (
            ("--scores", self.scores, scored, "--select score or --min-score"),
            ("--copies", self.copies, self.select == "nbest", "--select nbest"),
            ("--metric", self.metric, compares, comparing),
            ("--gold-subset", self.gold_subset, mixed, "--mix gold or extra"),
            ("--gold-data", self.gold_data, mixed, "--mix gold or extra"),
            ("--upsample-gold", self.upsample_gold, together, "--mix gold"),
            ("--tag-distilled", self.tag_distilled, mixed, "--mix gold or extra"),
            ("--tag-gold", self.tag_gold, together, "--mix gold"),
        ):
            if value is not None and not useful:
                raise ValueError(
                    f"{flag} has no effect without {needs}. Add that, or leave it out."
                )
