"""BLEU lost and speed gained by lexical shortlists of several sizes, of a trained student.

    python benchmarks/shortlist_bleu.py --data BIN [--links LINKS...] S.pt

BIN holds the student's training set, from whose alignments by the student's attention the
shortlists follow; or from LINKS, the outputs of eflomal-align for the split training text, whose
union is taken. int8. BLEU is on words as they are tokenised, of single sentences, each with its own
candidates. Times are those of the processor for 64 sentences, one at a time and in batches of 32, a
batch on every core: other load on the machine hardly changes them. Appends to
benchmarks/results.csv.
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from typing import Dict, Iterator, List

import numpy as np
from measuring import ratios, record, translation_parser
from sacrebleu.metrics import BLEU
from torch import Tensor

import fairseq_kd.plugin  # noqa: F401  (the architectures of the models)
from fairseq_kd.decoding.conversion import INT8, write_converted
from fairseq_kd.decoding.ctranslate2_engine import CTranslate2Engine
from fairseq_kd.decoding.engine import VMAP, Batch
from fairseq_kd.decoding.options import Search
from fairseq_kd.decoding.subset import Subset, words_of
from fairseq_kd.evaluation.speed import spread_over_lengths
from fairseq_kd.evaluation.systems import NamedCheckpoint, System, common_subset, load_named
from fairseq_kd.export.shortlist import (
    alignments_of,
    pairs_to_align,
    shortlist_of,
    training_set,
)
from fairseq_kd.machine import cores

SIZES = ((30, 100), (60, 300))  # candidates of each source token, and of every sentence
WHOLE, SENTENCES = "whole vocabulary", 64


def main() -> None:
    """Measures, prints and records."""
    parser = translation_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--links", nargs="+", type=Path, default=[], help="of eflomal-align")
    parser.add_argument("student", type=Path, metavar="S.pt")
    args = parser.parse_args()
    system = load_named(NamedCheckpoint("student", "student", str(args.student)), "S.pt")
    subset = common_subset([system], args.data, args.subset)
    training = training_set(system, subset)
    found = [
        *(links_of(args.links, training) if args.links else alignments(system, training, subset))
    ]
    aligner = "eflomal" if args.links else "attention"
    name = f"{args.student.stem}, V={len(subset.target_dictionary)}"
    with tempfile.TemporaryDirectory() as work:
        folders = {WHOLE: Path(work) / "whole"}
        write_converted(system.checkpoint, subset, folders[WHOLE], INT8)
        for each, everywhere in SIZES:
            case = f"{each}+{everywhere} by {aligner}, {name}"
            shortlist = shortlist_of(found, training, everywhere, each)
            folders[case] = Path(shutil.copytree(folders[WHOLE], Path(work) / f"{each}"))
            shortlist.write(folders[case] / VMAP, subset)
            coverage = shortlist.coverage(subset)
            record("shortlist", case, "candidates", [coverage.candidates])
            record("shortlist", case, "% of references", [100 * coverage.tokens])
        measure(folders, system, subset, args)


def measure(
    folders: Dict[str, Path], system: System, subset: Subset, args: argparse.Namespace
) -> None:
    """BLEU and speed of the models against that of the whole vocabulary."""
    engines = {name: engine(folders[name], system, subset, args) for name in folders}
    scores = {name: bleu(engines[name], subset) for name in folders}
    sentences = spread_over_lengths(subset.source, system.max_source, SENTENCES)
    ordered = sorted(sentences, key=len)
    for size in (1, 32):
        batches = [ordered[start : start + size] for start in range(0, len(ordered), size)]
        times = processor_seconds(engines, batches, args.rounds)
        for name in folders:
            if name != WHOLE:
                case = f"{name}, batches of {size}"
                record("shortlist", case, "processor time ratio", ratios(times, WHOLE, name))
    for name in folders:
        if name != WHOLE:
            record("shortlist", name, "BLEU lost", [scores[WHOLE] - scores[name]])
    record("shortlist", f"{WHOLE}, {name.split(', ', 1)[1]}", "BLEU", [scores[WHOLE]])


def alignments(system: System, training: Subset, measured: Subset) -> Iterator[np.ndarray]:
    """The alignments by the student's attention."""
    model = system.checkpoint.model
    return alignments_of(model, training, pairs_to_align(model, training, measured))


def links_of(paths: List[Path], training: Subset) -> Iterator[np.ndarray]:
    """The union of alignments in the format of ``eflomal-align``, as token ids."""
    texts = [path.read_text(encoding="utf-8").splitlines() for path in paths]
    for index, lines in enumerate(zip(*texts, strict=True)):
        source, target = training.source[index].numpy(), training.target[index].numpy()
        links = sorted({tuple(map(int, link.split("-"))) for link in " ".join(lines).split()})
        at = np.array(links, dtype=np.int64).reshape(-1, 2)
        yield np.stack((source[at[:, 0]], target[at[:, 1]]), axis=1).astype(np.int64)


def engine(
    folder: Path, system: System, subset: Subset, args: argparse.Namespace
) -> CTranslate2Engine:
    """The engine of a model: a batch on every core."""
    return CTranslate2Engine(
        folder,
        subset.source_dictionary,
        system.checkpoint.max_target,
        Search(beam=args.beam),
        device="cpu",
        compute_type=INT8,
        workers=cores(),
        shortlist=(folder / VMAP).is_file(),
    )


def bleu(each: CTranslate2Engine, subset: Subset) -> float:
    """BLEU of single sentences, each with its own candidates."""
    sources = (Batch(0, [source.long()]) for source in subset.source)
    texts = [words_of(best.tokens, "subword_nmt") for ((best,),) in each.translate(sources)]
    references = [subset.target_dictionary.string(each, "subword_nmt") for each in subset.target]
    return BLEU(tokenize="none", force=True).corpus_score(texts, [references]).score


def processor_seconds(
    engines: Dict[str, CTranslate2Engine], batches: List[List[Tensor]], rounds: int
) -> Dict[str, List[float]]:
    """The time of all cores that each engine needs for all batches, in turns after a warm-up."""
    seconds: Dict[str, List[float]] = {name: [] for name in engines}
    for turn in range(rounds + 1):
        for name, each in engines.items():
            start = time.process_time()
            for _ in each.translate(Batch(0, batch) for batch in batches):
                pass
            if turn:
                seconds[name].append(time.process_time() - start)
    return seconds


if __name__ == "__main__":
    main()
