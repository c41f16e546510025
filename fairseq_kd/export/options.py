"""The options of ``fairseq-kd export``."""

from dataclasses import MISSING, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Optional

from fairseq_kd.command_line import Options, cache_field, codes_field, user_dir_field
from fairseq_kd.evaluation.options import sacrebleu_tokenize_field
from fairseq_kd.flag_types import (
    BEAM,
    THREADS,
    data_folder,
    file_path,
    number_field,
    one_line,
    option_field,
    subset_name,
)

QUANTIZATIONS = ("int8", "int8_float32", "int16", "float16", "float32")


@dataclass(frozen=True, kw_only=True)
class ExportOptions(Options):
    """The student, its files, and the contents of its card."""

    COMMAND = "export"
    student: str = option_field(
        MISSING, "the checkpoint", read=one_line, positional=True, metavar="S.pt"
    )
    out: Path = option_field(MISSING, "the folder to write", read=file_path)
    quantization: str = option_field(
        "int8", "type of the weights (default: %(default)s)", QUANTIZATIONS
    )
    data: Optional[Path] = option_field(
        None,
        "the folder that fairseq-preprocess wrote (default: that of the training)",
        read=data_folder,
    )
    subset: str = option_field(
        "test", "the subset to measure on (default: %(default)s)", read=subset_name
    )
    shortlist: bool = option_field(
        False,
        "also write a lexical shortlist, from the training set in DATA: CTranslate2 then chooses "
        "among the likely translations of a sentence's tokens, which is faster with a large "
        "vocabulary; it is left out if it loses more than 0.2 BLEU",
    )
    codes: Optional[Path] = codes_field()
    bpe: str = option_field(
        "subword_nmt",
        "how words were split (default: %(default)s)",
        ("subword_nmt", "sentencepiece", "none"),
    )
    tokenizer: str = option_field(
        "moses", "how text was tokenised (default: %(default)s)", ("moses", "none")
    )
    sacrebleu_tokenize: Optional[str] = sacrebleu_tokenize_field()
    beam: int = number_field(5, BEAM, "beam width (default: %(default)s)")
    threads: Optional[int] = number_field(
        None, THREADS, "threads of the measurement (default: one per core)"
    )
    license: str = option_field(
        "not stated", "licence of the model, for its card (default: %(default)s)", read=one_line
    )
    data_license: str = option_field(
        "not stated",
        "name, origin and licence of the training data, for the card (default: %(default)s)",
        read=one_line,
    )
    cache: Optional[Path] = cache_field("models converted in float32, to check the conversion")
    user_dir: Optional[str] = user_dir_field()

    def check(self) -> None:
        """Checks that every flag has an effect, and that the packages for them are installed.

        Raises:
            ValueError: naming the flag or the package.
        """
        from fairseq_kd.decoding.engine_choice import INSTALL

        if self.bpe == "none" and self.codes is not None:
            raise ValueError("--codes has no effect with --bpe none. Leave one of them out.")
        if find_spec("ctranslate2") is None:
            raise ValueError(f"The export needs CTranslate2, which is not installed ({INSTALL}).")
        if self.bpe == "sentencepiece" and find_spec("sentencepiece") is None:
            raise ValueError(
                "--bpe sentencepiece needs a package that is not installed "
                "(pip install sentencepiece)."
            )
