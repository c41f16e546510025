"""Named sizes of fairseq's own ``transformer`` for ``--arch``: teachers, and fast students.

They are sizes, not a new model: a checkpoint trained with one of them says ``transformer`` and its
numbers, so that ``fairseq-generate`` reads it without this plugin and CTranslate2 converts it. For
CTranslate2, too, encoder and decoder have equal head counts and one position of the layer norm:
before each block, which deep stacks need in order to train at all (Wang et al. 2019,
arXiv:1906.01787). Any number yields to fairseq's own flag, such as ``--encoder-layers``.
"""

from argparse import Namespace
from dataclasses import dataclass
from typing import Dict, Union

from fairseq.models import register_model_architecture
from fairseq.models.transformer import base_architecture
from omegaconf import DictConfig, OmegaConf


@dataclass(frozen=True)
class Architecture:
    """The size of a transformer.

    Args:
        encoder_layers, decoder_layers: numbers of layers.
        width: of the embeddings and all hidden states.
        heads: attention heads of every layer; the width is a multiple of it.
        feed_forward: inner width of the feed-forward blocks.
        purpose: one phrase for the documentation.
    """

    encoder_layers: int
    decoder_layers: int
    width: int
    heads: int
    feed_forward: int
    purpose: str

    def sizes(self) -> Dict[str, int]:
        """The options of fairseq that give a transformer this size."""
        layers = {"encoder": self.encoder_layers, "decoder": self.decoder_layers}
        common = {"embed_dim": self.width, "attention_heads": self.heads}
        common["ffn_embed_dim"] = self.feed_forward
        return {
            f"{side}_{option}": value
            for side, count in layers.items()
            for option, value in {"layers": count, **common}.items()
        }

    def apply(self, args: Union[Namespace, DictConfig]) -> None:
        """Fills in what the command line left open, and calls the result plain ``transformer``.

        Args:
            args: of fairseq-train; or the options of fairseq-hydra-train, where a name that is
                missing has the value None in omegaconf 2.0, and no default would be used.
        """
        if OmegaConf.is_config(args):
            given = {name: value for name, value in args.items() if value is not None}
            filled = Namespace(**{"base_layers": 0, **given})  # read by fairseq's trainer
            self.apply(filled)
            for name, value in vars(filled).items():
                args[name] = value
            return
        norms = {f"{side}_normalize_before": True for side in ("encoder", "decoder")}
        for name, value in {**self.sizes(), **norms}.items():
            setattr(args, name, getattr(args, name, value))
        base_architecture(args)
        args.arch = "transformer"
        if hasattr(args, "_name"):  # how fairseq-hydra-train calls it
            args._name = "transformer"


ARCHITECTURES: Dict[str, Architecture] = {
    "transformer_kd_teacher": Architecture(12, 12, 512, 8, 2048, "reference teacher"),
    "transformer_kd_student": Architecture(
        6, 6, 256, 4, 1024, "reference student: half the depth, width and heads"
    ),
    "transformer_kd_12_1": Architecture(
        12, 1, 512, 8, 2048, "deep encoder, one decoder layer (Kasai et al. 2021)"
    ),
    "transformer_kd_6_2": Architecture(6, 2, 256, 4, 1024, "deep encoder, shallow decoder"),
    "transformer_kd_6_3": Architecture(6, 3, 256, 4, 1024, "deep encoder, shallow decoder"),
    "transformer_kd_small_teacher": Architecture(
        3, 2, 160, 4, 640, "a teacher that two CPU cores train in minutes"
    ),
    "transformer_kd_small_intermediate": Architecture(
        3, 1, 136, 4, 544, "between the small teacher and student"
    ),
    "transformer_kd_small_student": Architecture(2, 1, 112, 4, 448, "student of the small teacher"),
    "transformer_kd_tiny_student": Architecture(
        1, 1, 80, 2, 320, "a fifth of the small teacher's parameters with a vocabulary of 4,000"
    ),
}

for _name, _architecture in ARCHITECTURES.items():
    register_model_architecture("transformer", _name)(_architecture.apply)
