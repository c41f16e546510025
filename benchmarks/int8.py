"""BLEU loss of int8: weights up to 127, CTranslate2's own, and up to 64, ours.

    python benchmarks/int8.py --data BIN S.pt...

Every model translates the set in float32 and in both kinds of int8; what is recorded is the loss of
BLEU to float32, its median and spread over the models. On processors with VNNI both should be
zero. BLEU is on words as they are tokenised, against the set's own references.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Dict, List

from measuring import record, translation_parser
from sacrebleu.metrics import BLEU

import fairseq_kd.plugin  # noqa: F401  (the architectures of the models)
from fairseq_kd.decoding.conversion import FLOAT32, INT8, converted, default_cache
from fairseq_kd.decoding.ctranslate2_engine import CTranslate2Engine
from fairseq_kd.decoding.options import Search
from fairseq_kd.decoding.subset import words_of
from fairseq_kd.evaluation.results import FAIRSEQ
from fairseq_kd.evaluation.systems import NamedCheckpoint, common_subset, load_named
from fairseq_kd.evaluation.translations import translated
from fairseq_kd.evaluation.variants import Variant
from fairseq_kd.machine import cores

EXACT, THEIRS, OURS = "float32", "int8, weights up to 127", "int8, weights up to 64"
KINDS = {EXACT: (FLOAT32, FLOAT32), THEIRS: (FLOAT32, INT8), OURS: (INT8, INT8)}


def main() -> None:
    """Measures, prints and records."""
    parser = translation_parser(__doc__)
    parser.add_argument("models", nargs="+", type=Path, metavar="S.pt")
    args = parser.parse_args()
    scores = [bleu_by_kind(path, args) for path in args.models]
    for kind in (THEIRS, OURS):
        lost = [found[EXACT] - found[kind] for found in scores]
        record("int8", f"{kind}, {len(lost)} models, {args.subset}", "BLEU lost", lost)


def bleu_by_kind(path: Path, args: argparse.Namespace) -> Dict[str, float]:
    """BLEU of a model in every kind."""
    system = load_named(NamedCheckpoint("student", "student", str(path)), "S.pt")
    subset = common_subset([system], args.data, args.subset)
    references = [subset.target_dictionary.string(each, "subword_nmt") for each in subset.target]
    conversion = converted(system.checkpoint, subset, default_cache())
    found: Dict[str, float] = {}
    for kind, (form, compute_type) in KINDS.items():
        engine = CTranslate2Engine(
            conversion / form,
            subset.source_dictionary,
            system.checkpoint.model.max_decoder_positions(),
            Search(beam=args.beam),
            device="cpu",
            compute_type=compute_type,
            workers=cores(),
        )
        with tempfile.TemporaryDirectory() as work:
            variant = Variant(system, FAIRSEQ)
            tokens = translated(variant, engine, subset, Path(work))
        texts: List[str] = [words_of(each, "subword_nmt") for each in tokens]
        metric = BLEU(tokenize="none", force=True)
        found[kind] = metric.corpus_score(texts, [references]).score
        print(f"{path}, {kind}: {found[kind]:.2f} BLEU", flush=True)
    return found


if __name__ == "__main__":
    main()
