"""How often a student's likeliest word is its teacher's, where both read the reference."""

from typing import Dict, Iterator, Sequence, Tuple

import torch
from fairseq.data import data_utils
from torch import Tensor

from fairseq_kd.evaluation.systems import System
from fairseq_kd.projection import real_hidden
from fairseq_kd.sequence.batches import length_sorted_batches
from fairseq_kd.sequence.subset import Subset

BATCH_TOKENS = 1000


@torch.no_grad()
def agreement(systems: Sequence[System], subset: Subset) -> Dict[str, float]:
    """The share of target tokens for which a system's likeliest word is the first system's.

    Teacher forcing: every model reads the reference up to the token. Ends of sentence count, pads
    do not. Sentences that some model cannot read are left out.

    Args:
        systems: the teacher first.
        subset: with references.

    Returns:
        0 to 1 by name; the teacher's own is 1.
    """
    agreed, tokens = {system.name: 0 for system in systems}, 0
    for net_input, real in _batches(systems, subset):
        choices = [_likeliest(system, net_input, real) for system in systems]
        tokens += int(real.sum())
        for system, words in zip(systems, choices, strict=True):
            agreed[system.name] += int((words == choices[0]).sum())
    return {name: count / max(1, tokens) for name, count in agreed.items()}


def _likeliest(system: System, net_input: Dict[str, Tensor], real: Tensor) -> Tensor:
    """(N,) the likeliest word at each real token."""
    hidden, weight, bias = real_hidden(system.model.model, net_input, real)
    logits = hidden if weight is None else torch.nn.functional.linear(hidden, weight, bias)
    return logits.argmax(-1)


def _batches(
    systems: Sequence[System], subset: Subset
) -> Iterator[Tuple[Dict[str, Tensor], Tensor]]:
    """Batches as the models read them, and (B, L) bool, True at target tokens that are no pads."""
    limits = [system.model.model.max_positions() for system in systems]
    longest = [min(int(limit[side]) for limit in limits) for side in (0, 1)]
    pads = subset.source_words.pad(), subset.target_words.pad()
    for numbers in length_sorted_batches(subset.target.sizes, BATCH_TOKENS):
        pairs = [(subset.source[int(i)].long(), subset.target[int(i)].long()) for i in numbers]
        pairs = [pair for pair in pairs if all(map(_fits, pair, longest))]
        if pairs:
            sources, targets = zip(*pairs, strict=True)
            eos = subset.target_words.eos()
            target = data_utils.collate_tokens(list(targets), pads[1])  # (B, L)
            previous = data_utils.collate_tokens(
                list(targets), pads[1], eos, move_eos_to_beginning=True
            )
            net_input = {
                "src_tokens": data_utils.collate_tokens(list(sources), pads[0], left_pad=True),
                "src_lengths": torch.tensor([len(each) for each in sources]),
                "prev_output_tokens": previous,
            }
            yield net_input, target.ne(pads[1])


def _fits(sentence: Tensor, longest: int) -> bool:
    return len(sentence) <= longest
