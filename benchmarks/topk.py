"""Accuracy loss of K: the KL divergence from a teacher to its stored distribution.

usage: python benchmarks/topk.py --teacher CHECKPOINT --data DATA [--subset valid] [--what WORDS]

For every target token: KL(p || p_K) in bits, p the teacher's distribution at T, p_K the one that a
record gives back, its tail spread evenly; and what share of p the 64 likeliest words have. Appends
the mean over the tokens to benchmarks/results.csv; the spread is the middle half of the tokens.
"""

import argparse
import logging
import math

import torch
from measuring import record

from fairseq_kd import plugin  # noqa: F401  (registers our architectures)
from fairseq_kd.losses import TopK
from fairseq_kd.models.real_tokens import RealTokens
from fairseq_kd.teachers.live_teacher import LiveTeacher
from fairseq_kd.teachers.loading import load_teacher
from fairseq_kd.teachers.store_records import pack, unpack
from fairseq_kd.teachers.teacher_data import task_on

SENTENCES_AT_ONCE = 16
LIKELIEST = 64


def kl_bits(z: torch.Tensor, k: int, temperature: float) -> torch.Tensor:
    """KL(p || p_K) of each row of logits."""
    kept = unpack(pack(TopK.of_logits(z, k)), z.size(-1), z.device).distribution_(temperature)
    log_p = (z / temperature).log_softmax(-1)
    log_share = kept.log_p[:, -1:] - math.log(z.size(-1) - k)
    log_p_k = log_share.expand_as(log_p).scatter(-1, kept.ids, kept.log_p[:, :-1])
    return (log_p.exp() * (log_p - log_p_k)).sum(-1) / math.log(2)


def share_of_likeliest(z: torch.Tensor, temperature: float) -> torch.Tensor:
    """Percent of p that the LIKELIEST words of each row of logits have."""
    return 100 * (z / temperature).softmax(-1).topk(LIKELIEST).values.sum(-1)


def main() -> None:
    """Measures and records."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--subset", default="valid")
    parser.add_argument("--what", default="", help="of the teacher, for the table")
    parser.add_argument(
        "--k", type=int, nargs="*", default=[8, 16, 32, 64, 128], help="words of a store, or none"
    )
    args = parser.parse_args()
    logging.disable(logging.INFO)
    model, task = load_teacher(args.teacher, "--teacher")
    teacher, task = LiveTeacher(model), task_on(task, args.data)
    task.load_dataset(args.subset)
    dataset, pad = task.dataset(args.subset), task.target_dictionary.pad()
    temperatures = (1.0, 2.0, 4.0)
    cases = [(k, t) for t in temperatures for k in args.k]
    found = {case: [] for case in cases}
    shares = {t: [] for t in temperatures}
    for start in range(0, len(dataset), SENTENCES_AT_ONCE):
        numbers = range(start, min(start + SENTENCES_AT_ONCE, len(dataset)))
        sample = dataset.collater([dataset[number] for number in numbers])
        z = teacher.soft_targets(sample, RealTokens.of_mask(sample["target"].ne(pad)))[:].logits
        for case in cases:
            found[case].append(kl_bits(z, *case))
        for t in temperatures:
            shares[t].append(share_of_likeliest(z, t))
    size = f"V={len(task.target_dictionary)}"
    of = f"{size}, {args.what}" if args.what else size
    for (k, temperature), rows in found.items():
        bits = torch.cat(rows).double()
        name = f"KL(p || p_K), K={k}, T={temperature:g}, {of}"
        record("topk", name, "bits a token", bits.tolist(), middle=bits.mean().item())
    for t, rows in shares.items():
        share = torch.cat(rows)
        name = f"share of the {LIKELIEST} likeliest words, T={t:g}, {of}"
        record("topk", name, "percent", share.tolist(), middle=share.mean().item())


if __name__ == "__main__":
    main()
