"""The options of ``fairseq-kd evaluate``."""

from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, List, Optional, Tuple

from fairseq_kd.command_line import (
    Group,
    Options,
    cache_field,
    teacher_language_field,
    teacher_pair,
    user_dir_field,
)
from fairseq_kd.decoding.options import LENPEN, Search
from fairseq_kd.files.names import why_no_file
from fairseq_kd.flag_types import (
    BEAM,
    BPE,
    COUNT,
    THREADS,
    Range,
    data_folder,
    file_path,
    number_field,
    one_line,
    option_field,
    subset_name,
)

TOKENIZERS = (  # of sacreBLEU
    *("13a", "char", "flores101", "flores200", "intl", "ja-mecab", "ko-mecab", "none", "spm"),
    "zh",
)
TEXT, MEASURING = Group("text and search"), Group("measuring")


def sacrebleu_tokenize_field(group: Optional[Group] = None) -> Any:
    """The flag ``--sacrebleu-tokenize``."""
    return option_field(
        None,
        "the tokenizer of BLEU, one of %(choices)s (default: sacreBLEU's for the target "
        "language: zh for Chinese, ja-mecab for Japanese, ko-mecab for Korean, else 13a)",
        TOKENIZERS,
        metavar="NAME",
        group=group,
    )


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(Options):
    """The systems that are compared, and the measurements."""

    COMMAND = "evaluate"
    teacher: str = option_field(
        MISSING, "the checkpoint of the teacher", read=one_line, metavar="T.pt"
    )
    student: Tuple[str, ...] = option_field(
        MISSING,
        "the checkpoint of a student, and its name in the report (default: student); may be "
        "repeated",
        read=one_line,
        metavar="[NAME=]S.pt",
        repeated=True,
    )
    control: Tuple[str, ...] = option_field(
        (),
        "the checkpoint of a student of the same size that was trained without distillation; "
        "may be repeated (default: none)",
        read=one_line,
        metavar="[NAME=]C.pt",
        repeated=True,
    )
    data: Path = option_field(MISSING, "the folder that fairseq-preprocess wrote", read=data_folder)
    subset: str = option_field("test", "the subset (default: %(default)s)", read=subset_name)
    out: Path = option_field(MISSING, "folder for the report", read=file_path)
    teacher_source_lang: Optional[str] = teacher_language_field("source")
    teacher_target_lang: Optional[str] = teacher_language_field("target")
    user_dir: Optional[str] = user_dir_field()
    reference: Optional[Path] = option_field(
        None,
        "file of plain references (default: text/SUBSET.LANG beside DATA, where "
        "fairseq-kd prepare puts it, else the binarised references, detokenised)",
        read=file_path,
        group=TEXT,
    )
    remove_bpe: str = option_field(
        "subword_nmt", "how words were split (default: %(default)s)", BPE, group=TEXT
    )
    tokenizer: str = option_field(
        "moses",
        "how text was tokenised, as in fairseq-generate (default: %(default)s)",
        ("moses", "none"),
        group=TEXT,
    )
    sacrebleu_tokenize: Optional[str] = sacrebleu_tokenize_field(TEXT)
    beam: int = number_field(
        5, BEAM, "beam width of every system (default: %(default)s)", group=TEXT
    )
    lenpen: float = number_field(
        1.0,
        LENPEN,
        "length penalty: < 1 favours shorter translations (default: %(default)s)",
        group=TEXT,
    )
    bootstrap: int = number_field(
        1000,
        Range(int, 100, 1_000_000),
        "resamples of the paired bootstrap (default: %(default)s)",
        metavar="N",
        group=TEXT,
    )
    scorer: Tuple[str, ...] = option_field(
        (),
        "also score by a program: a shell command that reads the files $SRC, $HYP and $REF, and "
        "prints a number for each line, higher for better; may be repeated (default: none)",
        read=one_line,
        metavar="NAME=COMMAND",
        repeated=True,
        group=TEXT,
    )
    training: Optional[Path] = option_field(
        None,
        "the folder of a binarised training set: also count the translations that are its target "
        "sentences and not the reference (default: none)",
        read=data_folder,
        group=TEXT,
    )
    rating_sheet: Optional[int] = number_field(
        None,
        COUNT,
        "also write OUT/rating-sheet.csv, with the translations of this many sentences, shuffled "
        "and without names, for human raters",
        metavar="N",
        group=TEXT,
    )
    ratings: Tuple[Path, ...] = option_field(
        (),
        "a rating sheet that was filled in, for the report; one per rater, may be repeated "
        "(default: none)",
        read=file_path,
        metavar="SHEET.csv",
        repeated=True,
        group=TEXT,
    )
    comet: Optional[Path] = option_field(
        None, "also score with this COMET model", read=file_path, metavar="MODEL.ckpt", group=TEXT
    )
    device: Optional[str] = option_field(
        None,
        "where to translate, and to measure speed and memory: cpu, cuda or both (default: "
        "translate on a GPU if there is one, measure on the CPU)",
        ("cpu", "cuda", "both"),
        group=MEASURING,
    )
    threads: Optional[int] = number_field(
        None,
        THREADS,
        "threads of every measurement but latency (default: one per core)",
        group=MEASURING,
    )
    latency_threads: int = number_field(
        1,
        THREADS,
        "threads for single sentences; small models gain nothing from several "
        "(default: %(default)s)",
        metavar="THREADS",
        group=MEASURING,
    )
    rounds: int = number_field(
        3,
        Range(int, 0, 1000),
        "rounds; the median is reported; 0: do not measure speed (default: %(default)s)",
        group=MEASURING,
    )
    latency_sentences: int = number_field(
        32,
        COUNT,
        "sentences of all lengths to translate one by one (default: %(default)s)",
        metavar="N",
        group=MEASURING,
    )
    batch_sentences: int = number_field(
        128,
        COUNT,
        "sentences to translate in batches of 32 and of 128 (default: %(default)s)",
        metavar="N",
        group=MEASURING,
    )
    no_memory: bool = option_field(False, "do not measure memory", group=MEASURING)
    cache: Optional[Path] = cache_field("models converted for CTranslate2", MEASURING)

    def check(self) -> None:
        """Checks the flags.

        Raises:
            FileNotFoundError, ValueError: a file does not exist, or a name is not allowed.
        """
        if self.comet is not None:
            from fairseq_kd.evaluation.scores import check_comet

            check_comet(self.comet)
        if self.reference is not None and not self.reference.is_file():
            raise FileNotFoundError(
                f"--reference {self.reference} {why_no_file(self.reference)}. Give the plain text "
                "of the references."
            )
        for path in self.ratings:
            if not path.is_file():
                raise FileNotFoundError(
                    f"--ratings {path} {why_no_file(path)}. Give a sheet that was filled in."
                )
        self.systems()
        self.scorers()
        teacher_pair(self)

    def systems(self) -> List[Any]:
        """The checkpoints with their names and roles.

        Raises:
            ValueError: a name is not allowed.
        """
        from fairseq_kd.evaluation.systems import NamedCheckpoint

        roles = {"teacher": [self.teacher], "student": self.student, "control": self.control}
        return [NamedCheckpoint.parse(role, each) for role in roles for each in roles[role]]

    def scorers(self) -> List[Any]:
        """The programs of ``--scorer``.

        Raises:
            ValueError: one has another form, or two have one name.
        """
        from fairseq_kd.evaluation.external_metrics import Scorer

        scorers = [Scorer.parse(each) for each in self.scorer]
        names = [each.name for each in scorers]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(f"--scorer {twice[0]} is given twice. Give each another name.")
        return scorers

    @property
    def search(self) -> Search:
        """The search of every system."""
        return Search(beam=self.beam, lenpen=self.lenpen)
