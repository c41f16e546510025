"""Decoding speed of fairseq-generate and fairseq-kd translate, with BLEU as a check.

    python benchmarks/decoding.py --teacher T.pt --data BIN --what "6+6 layers of 512"

Every round decodes the same sentences with fairseq-generate, with CTranslate2 in float32 and in
int8 (--compute-types), one after the other, so that other load on the machine affects all three,
and a ratio is taken within a round. Speeds are those that both print for decoding alone, without
loading and conversion. BLEU is on words as they are tokenised, against the set's own references.
"""

import argparse
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Dict, List, NamedTuple, Sequence
from unittest import mock

import numpy as np
import torch
from measuring import record
from sacrebleu.metrics import BLEU

from fairseq_kd.child_process import begin_worker, child
from fairseq_kd.decoding.decode import decode, merge_if_last
from fairseq_kd.decoding.engine_choice import choose_engine
from fairseq_kd.decoding.hypothesis_files import WHOLE, by_sentence
from fairseq_kd.decoding.options import TranslateOptions
from fairseq_kd.decoding.subset import Subset, read_subset, words_of
from fairseq_kd.decoding.translation_model import load_checkpoints, read_subset_for
from fairseq_kd.distilled_data.binarised_writer import PairWriter
from fairseq_kd.machine import cores

FAIRSEQ = "fairseq-generate"
MAX_LEN_A, MAX_LEN_B = 2, 20


class Decoded(NamedTuple):
    """The output and the speed of a system, in sentences per second."""

    speed: float
    texts: List[str]


def main() -> None:
    """Measures, prints and records."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--teacher", required=True, help="a checkpoint of fairseq")
    parser.add_argument("--what", required=True, help="its size, for the table")
    parser.add_argument("--data", required=True, type=Path, help="its binarised data")
    parser.add_argument("--pair", default="es-en")
    parser.add_argument("--subset", default="valid")
    parser.add_argument("--sentences", type=int, default=400, help="spread evenly over the subset")
    parser.add_argument("--beam", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=cores(), help="of every system")
    parser.add_argument("--compute-types", nargs="+", default=["float32", "int8"])
    parser.add_argument("--fairseq-batch", default="64", help="--batch-size of fairseq-generate")
    parser.add_argument("--fairseq-fp16", action="store_true", help="--fp16 of fairseq-generate")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sample = sample_of(args, Path(folder))
        rounds = [one_round(args, Path(folder), number) for number in range(args.rounds)]
    systems = [FAIRSEQ, *args.compute_types]
    case = f"{args.what}, {len(sample)} sentences, beam {args.beam}, "
    case += "on the GPU" if torch.cuda.is_available() else f"{args.threads} threads"
    case += f", {FAIRSEQ} in fp16" if args.fairseq_fp16 else ""
    for name in systems:
        speeds = [found[name].speed for found in rounds]
        record("decoding", f"{name}, {case}", "sentences/s", speeds)
    for name in args.compute_types:
        gains = [found[name].speed / found[FAIRSEQ].speed for found in rounds]
        record("decoding", f"{name} over {FAIRSEQ}, {case}", "times", gains)
    for name in systems:
        record("decoding", f"{name}, {case}", "BLEU", [bleu(rounds[0][name].texts, sample)])


def sample_of(args: argparse.Namespace, folder: Path) -> Subset:
    """Makes a data folder of the sentences to decode."""
    whole = read_subset(args.data, args.subset, tuple(args.pair.split("-")))
    for language in whole.pair:
        name = f"dict.{language}.txt"
        (folder / name).write_bytes((args.data / name).read_bytes())
    writer = PairWriter(folder, "test", whole)
    count = min(args.sentences, len(whole))
    for i in np.linspace(0, len(whole) - 1, count).astype(int):
        writer.add(whole.source[int(i)], whole.target[int(i)])
    writer.close()
    return read_subset(folder, "test", whole.pair)


def one_round(args: argparse.Namespace, folder: Path, number: int) -> Dict[str, Decoded]:
    """Decodes with every system; each round begins with another one."""
    found = {}
    for name in np.roll([FAIRSEQ, *args.compute_types], number).tolist():
        if name == FAIRSEQ:
            found[name] = by_fairseq(args, folder)
        else:
            options = TranslateOptions(
                teacher=args.teacher,
                data=folder,
                subset="test",
                out=folder / f"{name}-{number}",
                beam=args.beam,
                max_len_a=MAX_LEN_A,
                max_len_b=MAX_LEN_B,
                engine="ctranslate2",
                compute_type=name,
                workers=None if torch.cuda.is_available() else args.threads,
            )
            found[name] = by_ctranslate2(options, args.threads)
        speed = f"{found[name].speed:.1f} sentences/s"
        print(f"round {number + 1}, {name}: {speed}", file=sys.stderr)
    return found


def by_fairseq(args: argparse.Namespace, folder: Path) -> Decoded:
    """What fairseq-generate makes of the sentences of a data folder, and its speed."""
    source, target = args.pair.split("-")
    command = [FAIRSEQ, str(folder), "--user-dir", "user_dir", "--path", args.teacher]
    command += ["--gen-subset", "test", "--source-lang", source, "--target-lang", target]
    command += ["--batch-size", args.fairseq_batch, "--required-batch-size-multiple", "1"]
    command += ["--fp16"] if args.fairseq_fp16 else []
    command += ["--beam", str(args.beam), "--max-len-a", str(MAX_LEN_A)]
    printed = run([*command, "--max-len-b", str(MAX_LEN_B)], args.threads)
    speed = re.search(r"Translated .*\(([\d.,]+) sentences/s", printed)[1]
    lines = re.findall(r"^H-(\d+)\t\S+\t(.*)$", printed, re.M)
    texts = [tokens for _, tokens in sorted(lines, key=lambda line: int(line[0]))]
    return Decoded(float(speed.replace(",", "")), texts)


def by_ctranslate2(options: TranslateOptions, threads: int) -> Decoded:
    """What our engine makes of the sentences of a data folder, and its speed, in a new process."""
    one = (1, multiprocessing.get_context("spawn"), begin_worker, (os.getpid(),))
    of_child = mock.patch.dict(os.environ, OMP_NUM_THREADS=str(threads))
    with of_child, ProcessPoolExecutor(*one) as pool:
        speed = pool.submit(decoded_per_second, options).result()
    texts = [hypotheses[0].tokens for _, hypotheses in by_sentence(options.out / WHOLE)]
    return Decoded(speed, texts)


def decoded_per_second(options: TranslateOptions) -> float:
    """Decodes a data folder, as fairseq-kd translate does; returns sentences in a second."""
    import fairseq_kd.plugin  # noqa: F401  (the architectures of the models)

    teachers = load_checkpoints(options.teacher)
    subset = read_subset_for(teachers, options.data, options.subset)
    engine = choose_engine(
        options.engine,
        teachers,
        subset,
        options.search,
        device=options.device,
        compute_type=options.compute_type,
        workers=options.workers,
    )
    _, progress = decode(teachers, subset, engine, options.out, options.shard)
    merge_if_last(options.out)
    return progress.sentences_per_s


def run(command: Sequence[str], threads: int) -> str:
    """The output of a command on both streams."""
    output = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with child(command, env={**os.environ, "OMP_NUM_THREADS": str(threads)}, **output) as process:
        printed = process.communicate()[0]
    if process.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{printed[-2000:]}")
    return printed


def bleu(hypotheses: List[str], sample: Subset) -> float:
    """Of the words, as they are tokenised."""
    references = [sample.target_dictionary.string(each, "subword_nmt") for each in sample.target]
    texts = [words_of(each, "subword_nmt") for each in hypotheses]
    return BLEU(tokenize="none", force=True).corpus_score(texts, [references]).score


if __name__ == "__main__":
    main()
