"""The program beside an exported model that shows how to translate with it."""

HEAD = '''\
"""Translates standard input, a sentence a line: python translate.py < FILE

It needs: pip install {packages}
"""

import pathlib
import sys

import ctranslate2
{imports}
here = pathlib.Path(__file__).resolve().parent
'''
MOSES_IMPORT, BPE_IMPORT = "import sacremoses\n", "import subword_nmt.apply_bpe\n"
MODEL = "model = ctranslate2.Translator(str(here))\n"
INT16_MODEL = """\
types = ctranslate2.get_supported_compute_types("cpu")
computed = "int16" if "int16" in types else "float32"
model = ctranslate2.Translator(str(here), compute_type=computed)
"""  # left alone, CTranslate2 computes in int8 where a processor cannot in int16
MOSES = """\
tokeniser = sacremoses.MosesTokenizer("{source}")
detokeniser = sacremoses.MosesDetokenizer("{target}")
"""
BPE = """\
codes = open(here / "codes", encoding="utf-8")
bpe = subword_nmt.apply_bpe.BPE(codes)
"""
TRANSLATE = """\
for line in sys.stdin:
    tokens = {tokens}
    best = model.translate_batch([tokens], beam_size={beam})[0].hypotheses[0]
    words = {words}
    print({text}, flush=True)
"""


def translate_py(
    source: str, target: str, tokenizer: str, bpe: str, beam: int, quantization: str
) -> str:
    """The program.

    Args:
        source: the language that it reads.
        target: the language that it writes.
        tokenizer: ``moses`` or ``none``.
        bpe: ``subword_nmt`` (with a file ``codes`` beside the program) or ``none``.
        beam: width of the beam.
        quantization: of the weights.
    """
    moses, split = tokenizer == "moses", bpe == "subword_nmt"
    packages = ["ctranslate2"] + ["sacremoses"] * moses + ["subword-nmt"] * split
    line = "tokeniser.tokenize(line.strip(), return_str=True)" if moses else "line.strip()"
    joined = '" ".join(best)'
    return "".join(
        [
            HEAD.format(
                packages=" ".join(packages),
                imports=MOSES_IMPORT * moses + BPE_IMPORT * split,
            ),
            INT16_MODEL if quantization == "int16" else MODEL,
            MOSES.format(source=source, target=target) if moses else "",
            BPE if split else "",
            TRANSLATE.format(
                tokens=f"bpe.process_line({line}).split()" if split else f"{line}.split()",
                beam=beam,
                words=f'{joined}.replace("@@ ", "")' if split else joined,
                text="detokeniser.detokenize(words.split())" if moses else "words",
            ),
        ]
    )
