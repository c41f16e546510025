"""The search for translations, and the options of the commands that decode or import them."""

from dataclasses import MISSING, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Optional

from fairseq_kd.command_line import (
    Group,
    Options,
    cache_field,
    codes_field,
    teacher_language_field,
    teacher_pair,
    user_dir_field,
)
from fairseq_kd.flag_types import (
    BEAM,
    COUNT,
    SEED,
    TEMPERATURE,
    THREADS,
    Range,
    data_folder,
    file_path,
    flag_name,
    number_field,
    one_line,
    one_word,
    option_field,
    subset_name,
)
from fairseq_kd.shard import Shard

DEFAULT_BEAM = 5
LENPEN = Range(float, -100, 100)
SEARCH, ENGINE = Group("search, as in fairseq-generate"), Group("engine")
SPLITTING = Group("splitting of text")


@dataclass(frozen=True)
class Search:
    """Options of beam search or sampling.

    The longest translation of a batch has max_len_a * (its longest source) + max_len_b tokens, with
    the end of sentence of the source.
    """

    beam: int = DEFAULT_BEAM  # 1 when sampling
    nbest: int = 1  # hypotheses or samples per sentence
    lenpen: float = 1.0  # hypotheses are ranked by log probability / length^lenpen
    max_len_a: float = 2.0
    max_len_b: int = 20
    sampling: bool = False  # from the model's distribution
    sampling_topk: Optional[int] = None  # from the k likeliest tokens; None for all
    sampling_topp: Optional[float] = None  # from the likeliest tokens of this total probability
    temperature: Optional[float] = None  # of the softmax, when sampling
    seed: Optional[int] = None  # of the samples

    def max_length(self, longest_source: int, positions: int) -> int:
        """The maximal number of tokens of a translation, without the end of sentence.

        Args:
            longest_source: tokens of the batch's longest source, with the end of sentence.
            positions: the number of positions of the decoder.
        """
        return max(1, min(int(self.max_len_a * longest_source + self.max_len_b), positions - 1))


@dataclass(frozen=True, kw_only=True)
class TranslateOptions(Options):
    """The teacher, its data, the search for translations and the engine."""

    COMMAND = "translate"
    teacher: str = option_field(
        MISSING,
        "fairseq checkpoint; several are averaged",
        read=one_line,
        metavar="T.pt[:T2.pt]",
    )
    data: Path = option_field(MISSING, "the folder that fairseq-preprocess wrote", read=data_folder)
    subset: str = option_field("train", "the subset (default: %(default)s)", read=subset_name)
    out: Path = option_field(MISSING, "folder for the translations", read=file_path)
    shard: Shard = option_field(
        Shard(),
        "decode the I-th of N parts, such as on N machines; the last one to end merges them "
        "(parts in several folders: copy them into one and run fairseq-kd merge; default: all)",
        read=Shard.parse,
        metavar="I/N",
    )
    beam: Optional[int] = number_field(
        None, BEAM, f"beam width, at least --nbest (default: {DEFAULT_BEAM})", group=SEARCH
    )
    nbest: int = number_field(
        1,
        BEAM,
        "hypotheses per sentence; more than one for n-best, interpolation and MBR (default: "
        "%(default)s)",
        group=SEARCH,
    )
    lenpen: Optional[float] = number_field(
        None, LENPEN, "length penalty: < 1 favours shorter ones (default: 1)", group=SEARCH
    )
    max_len_a: float = number_field(
        Search.max_len_a,
        Range(float, 0, 1000),
        "longest translation: a * source tokens + b (default: %(default)s)",
        group=SEARCH,
    )
    max_len_b: int = number_field(
        Search.max_len_b,
        Range(int, 0, 1_000_000),
        "b of the longest translation, see --max-len-a (default: %(default)s)",
        group=SEARCH,
    )
    sampling: bool = option_field(
        False,
        "draw --nbest samples from the teacher's distribution instead of beam search",
        group=SEARCH,
    )
    sampling_topk: Optional[int] = number_field(
        None, COUNT, "sample from the K likeliest tokens", group=SEARCH
    )
    sampling_topp: Optional[float] = number_field(
        None,
        Range(float, 1e-6, 1, below=True),
        "sample from the likeliest tokens of total probability P",
        group=SEARCH,
    )
    temperature: Optional[float] = number_field(
        None, TEMPERATURE, "of the softmax, when sampling (default: 1)", group=SEARCH
    )
    seed: Optional[int] = number_field(None, SEED, "of the samples (default: 1)", group=SEARCH)
    engine: str = option_field(
        "auto",
        "fairseq is slower, and decodes every model and ensembles (default: auto, CTranslate2 "
        "where it can decode)",
        ("auto", "ctranslate2", "fairseq"),
        group=ENGINE,
    )
    device: str = option_field(
        "auto",
        "where to decode (default: auto, a GPU if there is one)",
        ("auto", "cpu", "cuda"),
        group=ENGINE,
    )
    compute_type: str = option_field(
        "auto",
        "int8, float32, float16, ..., as the engine supports (default: auto, float16 on GPUs; "
        "on CPUs int8 for CTranslate2 and float32 for fairseq)",
        read=one_word,
        group=ENGINE,
    )
    workers: Optional[int] = number_field(
        None,
        THREADS,
        "batches that CTranslate2 decodes at the same time (default: one per core or GPU)",
        group=ENGINE,
    )
    max_tokens: Optional[int] = number_field(
        None,
        COUNT,
        "source tokens of a batch, padding included; it can change the last digits of scores "
        "(default: the engine's)",
        group=ENGINE,
    )
    cache: Optional[Path] = cache_field("converted teachers", ENGINE)
    teacher_source_lang: Optional[str] = teacher_language_field("source")
    teacher_target_lang: Optional[str] = teacher_language_field("target")
    user_dir: Optional[str] = user_dir_field()

    def check(self) -> None:
        """Checks that the flags have an effect together.

        Raises:
            ValueError: naming a flag that has none.
        """
        teacher_pair(self)
        unused = ("sampling_topk", "sampling_topp", "temperature", "seed")
        why = "without --sampling. Add that, or leave it out."
        if self.sampling:
            unused, why = ("beam", "lenpen"), "with --sampling. Leave one of them out."
        for name in unused:
            if getattr(self, name) is not None:
                raise ValueError(f"{flag_name(name)} has no effect {why}")
        if self.engine == "fairseq" and self.compute_type.startswith("int"):
            raise ValueError(
                f"--compute-type {self.compute_type} needs CTranslate2, but --engine is fairseq. "
                "Leave one of them out."
            )
        if self.sampling_topk is not None and self.sampling_topp is not None:
            raise ValueError("--sampling-topk and --sampling-topp exclude each other. Give one.")

    @property
    def search(self) -> Search:
        """The options of the search."""
        common = {"nbest": self.nbest, "max_len_a": self.max_len_a, "max_len_b": self.max_len_b}
        if self.sampling:
            return Search(
                beam=1,
                sampling=True,
                sampling_topk=self.sampling_topk,
                sampling_topp=self.sampling_topp,
                temperature=1.0 if self.temperature is None else self.temperature,
                seed=1 if self.seed is None else self.seed,
                **common,
            )
        beam = max(self.beam or DEFAULT_BEAM, self.nbest)  # it returns no more than its width
        return Search(beam=beam, lenpen=1.0 if self.lenpen is None else self.lenpen, **common)


@dataclass(frozen=True, kw_only=True)
class SplittingOptions(Options):
    """How the text of the data was split into tokens."""

    tokenizer: str = option_field(
        "moses",
        "how the data were tokenised (default: %(default)s)",
        ("moses", "none"),
        group=SPLITTING,
    )
    bpe: str = option_field(
        "subword_nmt",
        "how their words were split (default: %(default)s)",
        ("subword_nmt", "sentencepiece", "none"),
        group=SPLITTING,
    )
    codes: Optional[Path] = codes_field(SPLITTING)
    workers: Optional[int] = number_field(
        None, THREADS, "processes that split text (default: one per core)", group=SPLITTING
    )

    def check(self) -> None:
        """Checks that every flag has an effect.

        Raises:
            ValueError: naming one that has none.
        """
        if self.codes is not None and self.bpe == "none":
            raise ValueError("--codes has no effect with --bpe none. Leave one of them out.")

    @property
    def is_split(self) -> bool:
        """Whether the text is split into the tokens of the data already."""
        return False


@dataclass(frozen=True, kw_only=True)
class TranslateTextOptions(Options):
    """A model of CTranslate2, what it reads beside the text, and the search."""

    COMMAND = "translate-text"
    ct2_model: Path = option_field(
        MISSING,
        "folder that a converter of CTranslate2 wrote, such as ct2-transformers-converter",
        read=file_path,
    )
    text: Path = option_field(
        MISSING, "plain sentences, one per line; .xz and .gz are read too", read=file_path
    )
    out: Path = option_field(MISSING, "folder for translations.jsonl", read=file_path)
    sentencepiece: Optional[Path] = option_field(
        None,
        "the SentencePiece model of the translation model (default: source.spm, "
        "sentencepiece.bpe.model, sentencepiece.model or spm.model in its folder)",
        read=file_path,
    )
    target_sentencepiece: Optional[Path] = option_field(
        None,
        "that of the target language, if it is another one (default: target.spm in the folder, "
        "else that of the source)",
        read=file_path,
    )
    source_prefix: Optional[str] = option_field(
        None,
        "symbols before each source, separated by spaces, such as __en__ of M2M-100 or eng_Latn "
        "of NLLB (default: none)",
        read=one_line,
        metavar="SYMBOLS",
    )
    source_suffix: Optional[str] = option_field(
        None,
        "symbols after each source; the end of sentence is added where the model needs it "
        "(default: none)",
        read=one_line,
        metavar="SYMBOLS",
    )
    target_prefix: Optional[str] = option_field(
        None,
        "symbols with which each translation begins, such as __de__ or deu_Latn (default: none)",
        read=one_line,
        metavar="SYMBOLS",
    )
    beam: Optional[int] = number_field(
        None, BEAM, f"beam width, at least --nbest (default: {DEFAULT_BEAM})"
    )
    nbest: int = number_field(1, BEAM, "hypotheses per sentence (default: %(default)s)")
    max_source_tokens: int = number_field(
        510,
        Range(int, 1, 100_000),
        "longest source that the model reads, in pieces; longer ones are left out, and "
        "translations are no longer (default: %(default)s)",
    )
    device: str = option_field("cpu", "where to translate (default: %(default)s)", ("cpu", "cuda"))
    compute_type: str = option_field(
        "auto",
        "int8, float32, float16, ... (default: auto, float16 on GPUs and int16 on CPUs)",
        read=one_word,
    )
    workers: Optional[int] = number_field(
        None, THREADS, "batches that are translated at the same time (default: one per core)"
    )

    def check(self) -> None:
        """Checks that the packages for it are installed.

        Raises:
            ValueError: naming the package.
        """
        for package in ("ctranslate2", "sentencepiece"):
            if find_spec(package) is None:
                raise ValueError(
                    f"translate-text needs {package}, which is not installed (pip install "
                    f"{package})."
                )

    @property
    def search_width(self) -> int:
        """The beam width."""
        return max(self.beam or DEFAULT_BEAM, self.nbest)


@dataclass(frozen=True, kw_only=True)
class ImportTranslationsOptions(SplittingOptions):
    """Translations by another system, and how the data were split."""

    COMMAND = "import-translations"
    hypotheses: Path = option_field(MISSING, "the file of translations", read=file_path)
    data: Path = option_field(MISSING, "the folder that fairseq-preprocess wrote", read=data_folder)
    subset: str = option_field("train", "the subset (default: %(default)s)", read=subset_name)
    out: Path = option_field(MISSING, "folder for the translations", read=file_path)
    format: str = option_field(
        "plain",
        "plain: line N translates sentence N; tsv: SOURCE, tab, TRANSLATION [, tab, SCORE]; nbest: "
        "N ||| TRANSLATION ||| FEATURES ||| SCORE, as Moses writes it; jsonl: an object with "
        "translation or translations, and perhaps id and score; fairseq: the H lines of "
        "fairseq-generate, which are split already (default: %(default)s)",
        ("plain", "tsv", "nbest", "jsonl", "fairseq"),
    )

    def check(self) -> None:
        """Checks that every flag has an effect.

        Raises:
            ValueError: naming one that has none.
        """
        super().check()
        if self.codes is not None and self.is_split:
            raise ValueError("--codes has no effect with --format fairseq. Leave one of them out.")

    @property
    def is_split(self) -> bool:
        """Whether the text is split into the tokens of the data already."""
        return self.format == "fairseq"


@dataclass(frozen=True, kw_only=True)
class MergeOptions(Options):
    """Where the shards are."""

    COMMAND = "merge"
    folder: Path = option_field(
        MISSING, "the --out folder of translate", read=file_path, positional=True, metavar="OUT"
    )
