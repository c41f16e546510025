"""The BPE or SentencePiece model of a data folder, and tokens that a dictionary lacks."""

import html
from pathlib import Path
from typing import Dict, NamedTuple, Optional

from fairseq.data import Dictionary

from fairseq_kd.decoding.subset import Subset, check_splitting, splitting_of, words_of
from fairseq_kd.decoding.tokenising import MOSES, NONE, SENTENCEPIECE, SUBWORD_NMT, splitter
from fairseq_kd.files.names import why_no_file

MOST_UNKNOWN, MOST_UNKNOWN_WORDS = 0.05, 0.2  # shares of tokens, with and without splitting
COMPARED_SENTENCES, MOST_CHANGED = 100, 0.5  # of a data set, and their largest share
OWN_SPLITTING = "Give the --tokenizer, --bpe and --codes of the data."
AS_IT_IS = "Give plain text, or --tokenizer none and --bpe none, by which it is read as it is."


class Codes(NamedTuple):
    """The file that a subword method needs."""

    file: str  # its name beside the data, as fairseq-kd prepare writes it
    learned: str  # what it holds


CODES = {
    SUBWORD_NMT: Codes("codes", "the merges that subword-nmt learned"),
    SENTENCEPIECE: Codes("sentencepiece.model", "the model that SentencePiece learned"),
}


def find_codes(bpe: str, codes: Optional[Path], data: Path) -> Optional[Path]:
    """The file for splitting words: the user's, or that of fairseq-kd prepare or binarise-text.

    Args:
        bpe: a key of CODES, or NONE.
        codes: the user's; None for the one beside the data, or in their folder.
        data: the folder of the binarised data.

    Returns:
        None with NONE.

    Raises:
        FileNotFoundError: there is none.
    """
    if bpe == NONE:
        return None
    file, learned = CODES[bpe]
    if codes is not None:
        if not codes.is_file():
            raise FileNotFoundError(f"--codes {codes} {why_no_file(codes)}. Give {learned}.")
        return codes
    for path in (data.resolve().parent / file, data / file):
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"There is no file {file} beside {data}. Give {learned} by --codes, or --bpe none if the "
        "data are not split."
    )


def checked_codes(
    tokenizer: str, bpe: str, codes: Optional[Path], data: Subset, language: str
) -> Optional[Path]:
    """The file for splitting words of text as a data set was split.

    Args:
        tokenizer: MOSES or NONE.
        bpe: a key of CODES, or NONE.
        codes: the user's file, or None.
        data: the data set.
        language: of the text.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or the data were split otherwise.
    """
    check_splitting(data, bpe, "--bpe")
    codes = find_codes(bpe, codes, data.folder)
    splitter(tokenizer, bpe, codes, language)  # reads the file
    if tokenizer == MOSES:
        _check_tokenised(data, bpe, language)
    return codes


def _check_tokenised(data: Subset, bpe: str, language: str) -> None:
    """Refuses data that Moses did not tokenise: it leaves text that it has tokenised as it is.

    Raises:
        ValueError: it would change most of the sentences.
    """
    is_source = language == data.pair[0]
    dictionary = data.source_dictionary if is_source else data.target_dictionary
    sentences = data.source if is_source or data.target is None else data.target
    step = max(1, len(sentences) // COMPARED_SENTENCES)
    compared = [dictionary.string(sentences[i]) for i in range(0, len(sentences), step)]
    known = [tokens for tokens in compared if dictionary.unk_word not in tokens.split()]
    texts = [html.unescape(words_of(tokens, bpe)) for tokens in known]
    tokenise = splitter(MOSES, NONE, None, language)
    changed = [text for text in texts if html.unescape(tokenise(text)) != text]
    if len(changed) > MOST_CHANGED * len(texts):
        raise ValueError(
            f"--tokenizer moses would make {html.unescape(tokenise(changed[0]))!r:.70} of "
            f"{changed[0]!r:.70}, as {data.folder} has it. Give --tokenizer none, and text that is "
            "tokenised as the data were, if they were."
        )


def if_split(tokenizer: str, bpe: str) -> str:
    """What to do with text that is split into subwords already; "" if it is read as it is."""
    return "" if tokenizer == bpe == NONE else AS_IT_IS


class UnknownTokens:
    """Replaces and counts the tokens that a dictionary lacks.

    Args:
        dictionary: of the data.
        language: of the text.
        folder: of the data, for messages.
    """

    def __init__(self, dictionary: Dictionary, language: str, folder: Path):
        self.dictionary, self.language, self.folder = dictionary, language, folder
        self.tokens = self.unknown = 0
        self.examples: Dict[str, None] = {}  # unknown tokens, in order

    def known(self, tokens: str) -> str:
        """The tokens; those that the dictionary lacks are replaced by the unknown token."""
        known = []
        for token in tokens.split():
            self.tokens += 1
            if self.dictionary.indices.get(token, -1) < self.dictionary.nspecial:
                self.unknown += 1
                if len(self.examples) < 5:
                    self.examples[token] = None
                token = self.dictionary.unk_word
            known.append(token)
        return " ".join(known)

    def check(self, called: str, advice: str = OWN_SPLITTING) -> None:
        """Refuses text with too many unknown tokens.

        Args:
            called: the file of the text, with its flag.
            advice: what to do instead.

        Raises:
            ValueError: they are too many.
        """
        most = MOST_UNKNOWN if splitting_of(self.dictionary) else MOST_UNKNOWN_WORDS
        if self.unknown > most * self.tokens:
            raise ValueError(
                f"{called}: {self.unknown / self.tokens:.0%} of its tokens, such as "
                f"{' '.join(self.examples)}, are not in the dictionary of {self.language} in "
                f"{self.folder}. {advice}"
            )

    def text(self) -> str:
        """The share for a terminal, with examples."""
        share = f"unknown tokens: {self.unknown / max(1, self.tokens):.2%}"
        return f"{share}, such as {' '.join(self.examples)}" if self.examples else share
