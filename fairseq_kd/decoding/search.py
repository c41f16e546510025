"""Options of the search for translations: the flags of ``fairseq-generate``, checked."""

import argparse
from dataclasses import dataclass
from typing import Optional

from fairseq_kd.flag_types import BEAM, COUNT, SEED, TEMPERATURE, Range

DEFAULT_BEAM = 5
LENPEN = Range(float, -100, 100)


@dataclass(frozen=True)
class Search:
    """Options of beam search or sampling.

    The longest translation of a batch has max_len_a * (its longest source) + max_len_b tokens, with
    the end of sentence of the source.
    """

    beam: int = DEFAULT_BEAM  # 1 when sampling
    nbest: int = 1  # hypotheses or samples per sentence
    lenpen: float = 1.0  # hypotheses are ranked by log probability / length^lenpen
    max_len_a: float = 2.0
    max_len_b: int = 20
    sampling: bool = False  # from the model's distribution
    sampling_topk: Optional[int] = None  # from the k likeliest tokens; None for all
    sampling_topp: Optional[float] = None  # from the likeliest tokens of this total probability
    temperature: Optional[float] = None  # of the softmax, when sampling
    seed: Optional[int] = None  # of the samples

    def max_length(self, longest_source: int, positions: int) -> int:
        """The maximal number of tokens of a translation, without the end of sentence.

        Args:
            longest_source: tokens of the batch's longest source, with the end of sentence.
            positions: the number of positions of the decoder.
        """
        return max(1, min(int(self.max_len_a * longest_source + self.max_len_b), positions - 1))


def add_search_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags, with names and meanings of ``fairseq-generate``."""
    flags = parser.add_argument_group("search, as in fairseq-generate")
    flags.add_argument(
        "--beam", type=BEAM, help=f"beam width, at least --nbest (default: {DEFAULT_BEAM})"
    )
    flags.add_argument(
        "--nbest",
        type=BEAM,
        default=1,
        help="hypotheses per sentence; more than one for n-best, interpolation and MBR "
        " (default: %(default)s)",
    )
    flags.add_argument(
        "--lenpen", type=LENPEN, help="length penalty: < 1 favours shorter ones (default: 1)"
    )
    flags.add_argument(
        "--max-len-a",
        type=Range(float, 0, 1000),
        default=Search.max_len_a,
        help="longest translation: a * source tokens + b (default: %(default)s)",
    )
    flags.add_argument(
        "--max-len-b",
        type=Range(int, 0, 1_000_000),
        default=Search.max_len_b,
        help="the b in that (default: %(default)s)",
    )
    flags.add_argument(
        "--sampling",
        action="store_true",
        help="draw --nbest samples from the teacher's distribution instead of beam search",
    )
    flags.add_argument("--sampling-topk", type=COUNT, help="sample from the K likeliest tokens")
    flags.add_argument(
        "--sampling-topp",
        type=Range(float, 1e-6, 1, below=True),
        help="sample from the likeliest tokens of total probability P",
    )
    flags.add_argument(
        "--temperature", type=TEMPERATURE, help="of the softmax, when sampling (default: 1)"
    )
    flags.add_argument("--seed", type=SEED, help="of the samples (default: 1)")


def search_of(args: argparse.Namespace) -> Search:
    """The search of parsed flags.

    Raises:
        ValueError: a flag has no effect together with the others.
    """
    without_effect = ("sampling_topk", "sampling_topp", "temperature", "seed")
    why = "without --sampling. Add that, or leave it out."
    if args.sampling:
        without_effect, why = ("beam", "lenpen"), "with --sampling. Leave one of the two out."
    for name in without_effect:
        if getattr(args, name) is not None:
            raise ValueError(f"--{name.replace('_', '-')} has no effect {why}")
    if args.sampling_topk is not None and args.sampling_topp is not None:
        raise ValueError("--sampling-topk and --sampling-topp exclude each other. Give one.")
    common = {"nbest": args.nbest, "max_len_a": args.max_len_a, "max_len_b": args.max_len_b}
    if args.sampling:
        return Search(
            beam=1,
            sampling=True,
            sampling_topk=args.sampling_topk,
            sampling_topp=args.sampling_topp,
            temperature=1.0 if args.temperature is None else args.temperature,
            seed=1 if args.seed is None else args.seed,
            **common,
        )
    beam = max(args.beam or DEFAULT_BEAM, args.nbest)  # a beam cannot return more than its width
    return Search(beam=beam, lenpen=1.0 if args.lenpen is None else args.lenpen, **common)
