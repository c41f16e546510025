"""The structure of a teacher, and the models of its stages: options, size and vocabulary.

A stage is a plain ``transformer`` with the teacher's options, as far as CTranslate2 converts them,
and of another size. Its parameters are counted by building it as fairseq does, on the meta device.
"""

import copy
from argparse import Namespace
from functools import cached_property
from types import SimpleNamespace
from typing import Any, Dict, List, Optional, Sequence, Tuple

from fairseq.data import Dictionary
from fairseq.models import ARCH_CONFIG_REGISTRY, build_model
from torch import nn

from fairseq_kd.checkpoints.reading import options_of, read_model
from fairseq_kd.evaluation.size import parameters_by_part
from fairseq_kd.fairseq_flags import Flags, as_arguments
from fairseq_kd.flag_types import flag_name
from fairseq_kd.models.architectures import Architecture
from fairseq_kd.models.structure import on_meta_device
from fairseq_kd.models.transformer_options import POSITIONS, check_heads, is_transformer, model_args
from fairseq_kd.sizing.ladder import Size
from fairseq_kd.teachers.loading import check_family
from fairseq_kd.teachers.multilingual import leave_one_pair

STAGE_ARCH = "transformer"
CONVERTIBLE_ACTIVATIONS = ("gelu", "gelu_accurate", "gelu_fast", "relu", "swish")
NOT_CONVERTIBLE = ("no_token_positional_embeddings", "no_cross_attention", "cross_self_attention")
SPECIAL_SYMBOLS = 4  # beginning, padding, end, unknown
VocabSizes = Tuple[Optional[int], Optional[int]]


class TeacherStructure:
    """The options and the size of a teacher, from which stages are built.

    Args:
        args: the options that build the teacher; its architecture provides missing ones.
        vocab_sizes: entries of the source and the target dictionary, special symbols included;
            None if not known yet.
        called: the teacher's name in error messages.

    Raises:
        ValueError: the teacher is not a transformer, its heads do not divide its width, or it
            shares embeddings over two dictionaries.
    """

    def __init__(self, args: Namespace, vocab_sizes: VocabSizes, called: str):
        if not is_transformer(args.arch):
            raise ValueError(
                f"{called} has the architecture '{args.arch}', but must be a transformer of "
                "fairseq, whose layers, width and heads a ladder shrinks."
            )
        self.args, self.vocab_sizes, self.called = _completed(args), vocab_sizes, called
        args = self.args
        check_heads(called, args)
        if args.share_all_embeddings and vocab_sizes[0] != vocab_sizes[1]:
            raise ValueError(
                f"{called} has --share-all-embeddings, which needs one dictionary for both "
                f"languages, but they have {vocab_sizes[0]:,} and "
                f"{vocab_sizes[1]:,} entries."
            )
        self._counted: Dict[Size, Dict[str, int]] = {}

    @classmethod
    def of_checkpoint(cls, path: str, flag: str = "--teacher") -> "TeacherStructure":
        """The structure of a trained teacher; its data are not needed.

        Args:
            path: the checkpoint, as the user typed it.
            flag: the flag or key of the checkpoint.

        Raises:
            FileNotFoundError: it does not exist.
            ValueError: it is not a checkpoint of a fairseq transformer.
        """
        called = f"{flag} {path}"
        state = read_model(path, called)
        leave_one_pair(state, called)
        check_family(called, state)
        args = Namespace(**options_of(state, "model"))
        args.arch = getattr(args, "arch", None) or args._name
        embeddings = [f"{side}.embed_tokens.weight" for side in ("encoder", "decoder")]
        missing = [name for name in embeddings if name not in state["model"]]
        if missing:
            raise ValueError(f"{called} has no plain word embeddings: {missing[0]} is missing.")
        source, target = (len(state["model"][name]) for name in embeddings)
        return cls(args, (source, target), called)

    @classmethod
    def of_arch(
        cls,
        arch: str,
        source_entries: Optional[int],
        target_entries: Optional[int],
        model_flags: Sequence[str] = (),
    ) -> "TeacherStructure":
        """The structure of a teacher that is not trained yet.

        Args:
            arch: a named transformer of fairseq or of this plugin.
            source_entries: entries of the source dictionary, special symbols included; None if
                not known yet.
            target_entries: those of the target dictionary.
            model_flags: flags of fairseq-train for the model, such as --share-all-embeddings.

        Raises:
            ValueError: fairseq cannot build it, or it is not a transformer.
        """
        args, _ = model_args(arch, Namespace(), model_flags)
        return cls(args, (source_entries, target_entries), f"--arch {arch}")

    @cached_property
    def size(self) -> Size:
        """The teacher's size; if its sides differ, the smaller width and head dimension."""
        args = self.args
        widths = (args.encoder_embed_dim, args.decoder_embed_dim)
        heads = (args.encoder_attention_heads, args.decoder_attention_heads)
        each = min(width // count for width, count in zip(widths, heads, strict=True))
        count = min(widths) // each
        feed_forward = min(args.encoder_ffn_embed_dim, args.decoder_ffn_embed_dim)
        return Size(args.encoder_layers, args.decoder_layers, count * each, count, feed_forward)

    @cached_property
    def changes(self) -> List[str]:
        """Sentences about options in which stages differ from the teacher, and why."""
        args, sentences = self.args, []
        heads = [getattr(args, f"{side}_attention_heads") for side in ("encoder", "decoder")]
        widths = [getattr(args, f"{side}_embed_dim") for side in ("encoder", "decoder")]
        if heads[0] != heads[1] or widths[0] != widths[1]:
            sentences.append(
                f"The teacher's encoder has width {widths[0]} and {heads[0]} heads, its decoder "
                f"width {widths[1]} and {heads[1]} heads. CTranslate2 needs equal ones: stages are "
                f"of the smaller width, with heads of the smaller kind."
            )
        changes = self._option_changes()
        if args.encoder_normalize_before != args.decoder_normalize_before:
            sentences.append(
                "The teacher's encoder and decoder normalize at different places, which CTranslate2"
                " does not convert: stages normalize before each block."
            )
        for key in (key for key in changes if key in ("activation_fn", *NOT_CONVERTIBLE)):
            was, now = getattr(args, key), changes[key]
            flag = flag_name(key) + (f" {was}" if now else "")
            sentences.append(
                f"CTranslate2 does not convert the teacher's {flag}: stages are "
                + (f"built with {now}." if now else "built without.")
            )
        return sentences

    def _option_changes(self) -> Dict[str, Any]:
        """Options of the teacher that stages change so that CTranslate2 converts them."""
        args = self.args
        norms = ("encoder_normalize_before", "decoder_normalize_before")
        changes: Dict[str, Any] = {}
        if args.encoder_normalize_before != args.decoder_normalize_before:
            changes.update({norm: True for norm in norms if not getattr(args, norm)})
        if args.activation_fn not in CONVERTIBLE_ACTIVATIONS:
            changes["activation_fn"] = "relu"
        return {**changes, **{key: False for key in NOT_CONVERTIBLE if getattr(args, key)}}

    def flags(self, size: Size) -> Flags:
        """The fairseq-train flags of a stage, its architecture first."""
        return {"arch": STAGE_ARCH, **self._stage_options(size)[1]}

    def parts(self, size: Size) -> Dict[str, int]:
        """The parameters of a stage: embeddings, encoder and decoder.

        Raises:
            ValueError: the vocabulary is not known yet.
        """
        if size not in self._counted:
            self._counted[size] = parameters_by_part(on_meta_device(lambda: self.build(size)[0]))
        return self._counted[size]

    def parameters(self, size: Size) -> int:
        """The parameters of a stage in all; shared ones count once.

        Raises:
            ValueError: the vocabulary is not known yet.
        """
        return sum(self.parts(size).values())

    def embedding_parameters(self, size: Size) -> int:
        """The parameters of embeddings, learned positions and output projection.

        Raises:
            ValueError: the vocabulary is not known yet.
        """
        return self.parts(size)["embeddings"]

    @cached_property
    def teacher_parts(self) -> Dict[str, int]:
        """The parameters of the teacher itself, which may differ from those of an equal stage."""
        return parameters_by_part(on_meta_device(lambda: self._built(self.args)))

    def build(self, size: Size) -> "tuple[nn.Module, Namespace]":
        """A stage with random weights, and the options that build it."""
        args, _ = self._stage_options(size)
        return self._built(args), args

    @cached_property
    def dictionaries(self) -> Tuple[Dictionary, Dictionary]:
        """Made-up dictionaries of the teacher's sizes.

        Raises:
            ValueError: the vocabulary is not known yet.
        """
        if None in self.vocab_sizes:
            raise ValueError(
                f"The parameters of {self.called} and its stages depend on the vocabulary, which "
                "is not known yet. Prepare the text, or give the size of its dictionaries."
            )
        source, target = (_dictionary(count) for count in self.vocab_sizes)
        return source, target

    def _stage_options(self, size: Size) -> Tuple[Namespace, Flags]:
        sizes = Architecture(*size, purpose="a stage").sizes()
        flags = {option.replace("_", "-"): value for option, value in sizes.items()}
        options = Namespace(**{**vars(self.args), **self._option_changes()})
        args, form = model_args(STAGE_ARCH, options, as_arguments(flags))
        return args, {**form, **flags}

    def _built(self, args: Namespace) -> nn.Module:
        source, target = self.dictionaries
        task = SimpleNamespace(source_dictionary=source, target_dictionary=target)
        args = copy.deepcopy(args)
        args.encoder_embed_path = args.decoder_embed_path = None  # read where a training begins
        return build_model(args, task)


def _completed(args: Namespace) -> Namespace:
    """The options with all defaults of their architecture, also those added since the training."""
    args = Namespace(**vars(args))
    for key, value in POSITIONS.items():
        setattr(args, key, getattr(args, key, None) or value)
    ARCH_CONFIG_REGISTRY[args.arch](args)
    return args


def _dictionary(entries: int) -> Dictionary:
    dictionary = Dictionary()
    numbers = range(SPECIAL_SYMBOLS, entries)
    words = [f"word{number}" for number in numbers]  # add_symbol takes ten times as long
    dictionary.symbols += words
    dictionary.count += [1] * len(words)
    dictionary.indices.update(zip(words, numbers, strict=True))
    return dictionary
