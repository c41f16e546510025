"""The example program ``translate.py``, which translates with an exported model."""

from typing import NamedTuple, Sequence, Tuple

from fairseq_kd.decoding.engine import VMAP
from fairseq_kd.decoding.options import Search
from fairseq_kd.files.hashes import SUMS

HEAD = '''\
"""Translates standard input, one sentence per line: python translate.py < FILE

Requires: pip install {packages}
"""

import argparse
import hashlib
import json
import pathlib
import sys
import time

import ctranslate2
{imports}
parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
help = "append speed, latency and errors as a JSON line, for every 1,000 sentences and at the end"
parser.add_argument("--stats", metavar="FILE", help=help)
{shortlist}options = parser.parse_args()
try:
    stats = open(options.stats, "a", encoding="utf-8") if options.stats else None
except OSError as error:
    sys.exit(f"--stats {{options.stats}} cannot be written: {{error.strerror}}. Give another file.")
here = pathlib.Path(__file__).resolve().parent
sums = here / "{sums}"
lines = sums.read_text(encoding="utf-8", errors="replace").splitlines() if sums.is_file() else []
digests = {{name: digest for digest, _, name in (line.partition("  ") for line in lines)}}
for name in {files!r}:
    path = here / name
    if name not in digests:
        sys.exit(f"{{sums}} is missing or damaged: it must name {{name}}. Copy it again.")
    if not path.is_file():
        sys.exit(f"{{path}} is missing. Copy it again.")
    if hashlib.sha256(path.read_bytes()).hexdigest() != digests[name]:
        sys.exit(f"{{path}} is damaged: its hash differs from {sums}. Copy it again.")

'''
WHOLE_VOCABULARY = """\
help = "choose among all tokens, not among the candidates of the sentence in {vmap}: slower"
parser.add_argument("--whole-vocabulary", action="store_true", help=help)
"""
MOSES_IMPORT = "import sacremoses\n"
MODEL = "model = ctranslate2.Translator(str(here))\n"
INT16_MODEL = """\
types = ctranslate2.get_supported_compute_types("cpu")
computed = "int16" if "int16" in types else "float32"
model = ctranslate2.Translator(str(here), compute_type=computed)
"""  # by default, CTranslate2 computes in int8 on a processor without int16
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
TRANSLATE = '''\
longest = {longest}  # tokens of a sentence that the model can read
if sys.stdin is None or sys.stdout is None:
    sys.exit("Standard input and output must be open.")
sys.stdin.reconfigure(encoding="utf-8-sig", errors="replace", newline="\\n")
sys.stdout.reconfigure(encoding="utf-8")
latencies_ms, cut, failed, start = [], 0, 0, time.monotonic()


def write_stats():
    """Appends a line about the sentences since the last one to the file of --stats."""
    count, seconds = len(latencies_ms), time.monotonic() - start
    if stats is None or not count:
        return
    ordered = sorted(latencies_ms)
    shares = {{"median_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99}}
    percentiles = {{name: round(ordered[int(share * count)], 2) for name, share in shares.items()}}
    record = {{
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "sentences": count,
        "seconds": round(seconds, 3),
        "sentences_per_s": round(count / seconds, 2),
        **percentiles,
        "cut": cut,
        "failed": failed,
    }}
    try:
        print(json.dumps(record), file=stats, flush=True)
    except OSError as error:
        print(f"--stats {{options.stats}} cannot be written: {{error.strerror}}", file=sys.stderr)


for number, line in enumerate(sys.stdin, 1):
    began = time.monotonic()
    if "\\ufffd" in line:
        print(f"line {{number}}: bytes that are not UTF-8 are replaced", file=sys.stderr)
    tokens = {tokens}
    if len(tokens) > longest:
        print(f"line {{number}}: cut to {{longest}} of {{len(tokens)}} tokens", file=sys.stderr)
        tokens, cut = tokens[:longest], cut + 1
    try:
        result = model.translate_batch(
            [tokens],
            beam_size={beam},
            max_input_length=0,
            max_decoding_length={length},{vmap}
        )
        best = result[0].hypotheses[0]
    except RuntimeError as error:
        print(f"line {{number}}: not translated: {{error}}", file=sys.stderr)
        best, failed = [], failed + 1
    words = {words}
    text = {text}
    latencies_ms.append(1000 * (time.monotonic() - began))
    if len(latencies_ms) == 1000:
        write_stats()
        latencies_ms, cut, failed, start = [], 0, 0, time.monotonic()
    try:
        print(text, flush=True)
    except OSError as error:
        sys.stdout = None  # which Python would write to again at the end
        if isinstance(error, BrokenPipeError):  # the reader closed the pipe
            sys.exit(1)
        sys.exit(f"line {{number}}: standard output cannot be written ({{error.strerror}})")
write_stats()
'''


class Splitter(NamedTuple):
    """Code of the program that splits words and joins them again.

    Args:
        split: expression for the tokens of ``{line}``.
        join: expression for the text of the tokens ``best``.
        package: that it needs.
        imports, setup: lines at the top of the program.
    """

    split: str
    join: str
    package: str = ""
    imports: str = ""
    setup: str = ""


SPLITTERS = {
    "subword_nmt": Splitter(
        split="bpe.process_line({line}).split()",
        join='" ".join([*best, ""]).replace("@@ ", "").strip()',
        package="subword-nmt",
        imports="import subword_nmt.apply_bpe\n",
        setup=BPE,
    ),
    "sentencepiece": Splitter(
        split="pieces.encode({line}, out_type=str)",
        join="pieces.decode(best)",
        package="sentencepiece",
        imports="import sentencepiece\n",
        setup=PIECES,
    ),
    "none": Splitter(split="{line}.split()", join='" ".join(best)'),
}


def translate_py(
    pair: Tuple[str, str],
    tokenizer: str,
    bpe: str,
    quantization: str,
    search: Search,
    positions: Tuple[int, int],
    files: Sequence[str] = ("model.bin",),
) -> str:
    """The source code of the program.

    Args:
        pair: source and target language.
        tokenizer: ``moses`` or ``none``.
        bpe: one of SPLITTERS; its file must be beside the program.
        quantization: of the weights.
        search: beam and maximum length.
        positions: maximum tokens of encoder and decoder, including the end of sentence.
        files: that it reads, whose hashes are in SHA256SUMS. With a lexical shortlist among them,
            it uses that unless its flag ``--whole-vocabulary`` is given.
    """
    shortlist = VMAP in files
    moses, splitter = tokenizer == "moses", SPLITTERS[bpe]
    packages = ["ctranslate2", "sacremoses" * moses, splitter.package]
    line = "tokeniser.tokenize(line.strip(), return_str=True)" if moses else "line.strip()"
    return "".join(
        [
            HEAD.format(
                packages=" ".join(filter(None, packages)),
                imports=MOSES_IMPORT * moses + splitter.imports,
                shortlist=WHOLE_VOCABULARY.format(vmap=VMAP) * shortlist,
                sums=SUMS,
                files=tuple(files),
            ),
            INT16_MODEL if quantization == "int16" else MODEL,
            MOSES.format(source=pair[0], target=pair[1]) if moses else "",
            splitter.setup,
            TRANSLATE.format(
                tokens=splitter.split.format(line=line),
                beam=search.beam,
                longest=positions[0] - 1,
                length=_length(search, positions[1]),
                vmap="\n            use_vmap=not options.whole_vocabulary," * shortlist,
                words=splitter.join,
                text="detokeniser.detokenize(words.split())" if moses else "words",
            ),
        ]
    )


def _length(search: Search, positions: int) -> str:
    """The expression for ``search.max_length`` of ``tokens``, which have no end of sentence."""
    longest = f"int({search.max_len_a:g} * (len(tokens) + 1)) + {search.max_len_b}"
    return f"min({longest}, {positions - 1})"
