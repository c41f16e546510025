"""The program beside an exported model that shows how to translate with it."""

from typing import NamedTuple, Optional

from fairseq_kd.hashes import SUMS

HEAD = '''\
"""Translates standard input, a sentence a line: python translate.py < FILE

It needs: pip install {packages}
"""

import hashlib
import pathlib
import sys

import ctranslate2
{imports}
here = pathlib.Path(__file__).resolve().parent
for line in (here / "{sums}").read_text(encoding="utf-8").splitlines():
    digest, name = line.split("  ", 1)
    if hashlib.sha256((here / name).read_bytes()).hexdigest() != digest:
        sys.exit(f"{{here / name}} is damaged: it is not what {sums} says. Copy the folder anew.")

'''
MOSES_IMPORT = "import sacremoses\n"
MODEL = "model = ctranslate2.Translator(str(here))\n"
INT16_MODEL = """\
types = ctranslate2.get_supported_compute_types("cpu")
computed = "int16" if "int16" in types else "float32"
model = ctranslate2.Translator(str(here), compute_type=computed)
"""  # left alone, CTranslate2 computes in int8 where a processor cannot in int16
MOSES = """\
tokeniser = sacremoses.MosesTokenizer({source!r})
detokeniser = sacremoses.MosesDetokenizer({target!r})
"""
BPE = """\
codes = open(here / "codes", encoding="utf-8")
bpe = subword_nmt.apply_bpe.BPE(codes)
"""
PIECES = """\
pieces = sentencepiece.SentencePieceProcessor(model_file=str(here / "sentencepiece.model"))
"""
TRANSLATE = """\
sys.stdin.reconfigure(encoding="utf-8", errors="replace")
sys.stdout.reconfigure(encoding="utf-8")
for line in sys.stdin:
    tokens = {tokens}
    best = model.translate_batch([tokens], beam_size={beam})[0].hypotheses[0]
    words = {words}
    print({text}, flush=True)
"""


class Splitter(NamedTuple):
    """How a program splits words and puts them together again.

    Args:
        split: expression that makes tokens of ``{line}``.
        join: expression that makes a line of the tokens ``best``.
        file: what it reads, beside the program; None if nothing.
        learned: what that is, for people.
        package: what it needs.
        imports, setup: its lines at the head of the program.
    """

    split: str
    join: str
    file: Optional[str] = None
    learned: str = ""
    package: str = ""
    imports: str = ""
    setup: str = ""


SPLITTERS = {
    "subword_nmt": Splitter(
        split="bpe.process_line({line}).split()",
        join='" ".join([*best, ""]).replace("@@ ", "").strip()',
        file="codes",
        learned="the merges that subword-nmt learned",
        package="subword-nmt",
        imports="import subword_nmt.apply_bpe\n",
        setup=BPE,
    ),
    "sentencepiece": Splitter(
        split="pieces.encode({line}, out_type=str)",
        join="pieces.decode(best)",
        file="sentencepiece.model",
        learned="the model that SentencePiece learned",
        package="sentencepiece",
        imports="import sentencepiece\n",
        setup=PIECES,
    ),
    "none": Splitter(split="{line}.split()", join='" ".join(best)'),
}


def translate_py(
    source: str, target: str, tokenizer: str, bpe: str, beam: int, quantization: str
) -> str:
    """The program.

    Args:
        source: the language that it reads.
        target: the language that it writes.
        tokenizer: ``moses`` or ``none``.
        bpe: one of SPLITTERS; its file is to lie beside the program.
        beam: width of the beam.
        quantization: of the weights.
    """
    moses, splitter = tokenizer == "moses", SPLITTERS[bpe]
    packages = ["ctranslate2", "sacremoses" * moses, splitter.package]
    line = "tokeniser.tokenize(line.strip(), return_str=True)" if moses else "line.strip()"
    return "".join(
        [
            HEAD.format(
                packages=" ".join(filter(None, packages)),
                imports=MOSES_IMPORT * moses + splitter.imports,
                sums=SUMS,
            ),
            INT16_MODEL if quantization == "int16" else MODEL,
            MOSES.format(source=source, target=target) if moses else "",
            splitter.setup,
            TRANSLATE.format(
                tokens=splitter.split.format(line=line),
                beam=beam,
                words=splitter.join,
                text="detokeniser.detokenize(words.split())" if moses else "words",
            ),
        ]
    )
