"""The tokens that a model reads before and after a sentence, such as those of its language.

A batch of fairseq's task ``translation`` holds, for a pair w and v of sentences, the source
``w_1 .. w_n eos``, the previous tokens ``eos v_1 .. v_m`` and the target ``v_1 .. v_m eos``. Tasks
of multilingual models put tokens of languages there, which are no part of the student's vocabulary:

    translation_multi_simple_epoch    [src] w eos      eos [tgt] v     (M2M-100)
    translation_from_pretrained_bart  w eos [src]      [tgt] v         (mBART)
    multilingual_translation          w [tgt]          [tgt] v

each as its options say. The output after ``v_k`` is a distribution of ``v_(k+1)`` in all of them.
"""

from dataclasses import dataclass
from typing import Any, Dict, FrozenSet, NamedTuple, Sequence, Tuple

import torch
from fairseq.data import Dictionary
from fairseq.tasks import FairseqTask
from torch import Tensor

from fairseq_kd.models.real_tokens import RealTokens

EOS = Dictionary().eos()


@dataclass(frozen=True)
class SentenceFormat:
    """Token ids around a sentence, in the dictionaries of a model.

    Args:
        source_prefix: before the source.
        source_suffix: after the source, in the place of its end of sentence.
        target_prefix: before the previous tokens, in the place of the end of sentence there.
        end: what ends the output of the decoder.
        pad: padding.
        symbols: the language tokens of the source and of the target dictionary, in the order of
            their ids, which follow those of the vocabulary.
    """

    source_prefix: Tuple[int, ...] = ()
    source_suffix: Tuple[int, ...] = (EOS,)
    target_prefix: Tuple[int, ...] = (EOS,)
    end: int = EOS
    pad: int = Dictionary().pad()
    symbols: Tuple[Tuple[str, ...], Tuple[str, ...]] = ((), ())

    @property
    def is_plain(self) -> bool:
        """Whether a model reads sentences as the task ``translation`` gives them."""
        return not any(self.symbols) and self == SentenceFormat(pad=self.pad)

    @property
    def more_source(self) -> int:
        """How many tokens a source becomes longer."""
        return len(self.source_prefix) + len(self.source_suffix) - 1

    @property
    def more_target(self) -> int:
        """How many tokens the decoder's input becomes longer."""
        return len(self.target_prefix) - 1

    def source(self, tokens: Tensor) -> Tensor:
        """A batch of sources (B, S) with the end of sentence, as (B, S + more_source)."""
        return surrounded(tokens, self.pad, self.source_prefix, self.source_suffix, (0, 1))

    def previous_tokens(self, tokens: Tensor) -> Tensor:
        """Previous tokens (B, L) that begin with the end of sentence, as (B, L + more_target)."""
        return surrounded(tokens, self.pad, self.target_prefix, (), (1, 0))

    def inputs(self, net_input: Dict[str, Any]) -> Dict[str, Any]:
        """Inputs for the model: fairseq's of the task ``translation``, with the tokens around."""
        if self.is_plain:
            return net_input
        return {
            **net_input,
            "src_tokens": self.source(net_input["src_tokens"]),
            "src_lengths": net_input["src_lengths"] + self.more_source,
            "prev_output_tokens": self.previous_tokens(net_input["prev_output_tokens"]),
        }

    def batch(
        self, net_input: Dict[str, Any], real: RealTokens
    ) -> Tuple[Dict[str, Any], RealTokens]:
        """``inputs`` of a batch, and its target tokens that are wanted, where they are in it."""
        return self.inputs(net_input), real.shifted(self.more_target)


PLAIN = SentenceFormat()


class Affixes(NamedTuple):
    """The tokens of a ``SentenceFormat`` as symbols, for a program that reads symbols."""

    source_prefix: Tuple[str, ...] = ()
    source_suffix: Tuple[str, ...] = ()
    target_prefix: Tuple[str, ...] = ()  # none, where the program begins a translation itself

    @property
    def stripped(self) -> FrozenSet[str]:
        """The symbols of the target language, which are no part of a translation."""
        return frozenset(self.target_prefix) - {Dictionary().eos_word}


def surrounded(
    tokens: Tensor, pad: int, before: Sequence[int], after: Sequence[int], cut: Tuple[int, int]
) -> Tensor:
    """Puts tokens around each row of a batch; padding stays on its side. No device is waited for.

    Args:
        tokens: (B, W) ids, padded on the left or on the right.
        pad: the id of padding.
        before: ids to put before each row.
        after: ids to put after each row.
        cut: how many tokens each row loses at its beginning and at its end.

    Returns:
        (B, W + len(before) + len(after) - sum(cut)).
    """
    width = tokens.size(1) + len(before) + len(after) - sum(cut)
    real = tokens.ne(pad)
    lengths = real.sum(1, keepdim=True)
    start = torch.where(real[:, :1], 0, tokens.size(1) - lengths)  # padding on the left
    column = torch.arange(width, device=tokens.device) - start  # (B, width), from each row's begin
    kept = lengths - sum(cut)
    at = (column - len(before) + cut[0] + start).clamp(0, tokens.size(1) - 1)
    inside = (column >= len(before)) & (column < len(before) + kept)
    result = torch.where(inside, tokens.gather(1, at), pad)
    for number, token in enumerate(before):
        result = torch.where(column == number, token, result)
    for number, token in enumerate(after):
        result = torch.where(column == len(before) + kept + number, token, result)
    return result


def sentence_format(task: FairseqTask) -> SentenceFormat:
    """That of the model of a checkpoint, by the task that ``load_teacher`` gives."""
    return getattr(task, "sentence_format", PLAIN)


def refuse_language_tokens(name: str, around: SentenceFormat, what: str) -> None:
    """Refuses a model that reads language tokens, where positions or layers are compared.

    Args:
        name: how errors name the checkpoint.
        around: its format.
        what: what cannot be done with it, a clause.

    Raises:
        ValueError: saying how such a teacher can be used.
    """
    if not around.is_plain:
        raise ValueError(
            f"{name} reads language tokens beside each sentence, so that {what}. Distil by "
            "--criterion word_kd or multi_teacher_kd, from its store, or from its translations."
        )
