"""How BLEU parts text into words: as sacreBLEU does for the target language, or as told."""

import re
from typing import Optional

TOKENIZERS = (  # those of sacreBLEU
    *("13a", "char", "flores101", "flores200", "intl", "ja-mecab", "ko-mecab", "none", "spm"),
    "zh",
)
PACKAGES = {"ja-mecab": "'sacrebleu[ja]'", "ko-mecab": "'sacrebleu[ko]'"}
TWO_LETTERS = {"chi": "zh", "jpn": "ja", "kor": "ko", "zho": "zh"}  # of ISO 639-2 and 639-3
HELP = (
    "how BLEU parts text into words, one of %(choices)s (default: as sacreBLEU does for the target "
    "language: zh for Chinese, ja-mecab for Japanese, ko-mecab for Korean, else 13a)"
)


def bleu_tokenizer(language: str, chosen: Optional[str]) -> str:
    """The tokenizer of BLEU, ready to be used.

    Args:
        language: of the target; of ``zh_CN``, ``zho_Hans`` or ``zh-Hans``, the language counts.
        chosen: what the user chose, or None.

    Raises:
        ValueError: a package that it needs is not installed.
    """
    from sacrebleu.metrics import BLEU

    code = re.split("[-_]", language)[0].lower()
    code = TWO_LETTERS.get(code, code)
    name = chosen or BLEU._TOKENIZER_MAP.get(code, BLEU.TOKENIZER_DEFAULT)
    try:
        BLEU(tokenize=name)
    except (ImportError, RuntimeError):
        package = PACKAGES.get(name, "sentencepiece")
        raise ValueError(
            f"BLEU of {language} by the tokenizer {name} needs a package that is not installed "
            f"(pip install {package}); or give another one by --sacrebleu-tokenize, such as char."
        ) from None
    return name
