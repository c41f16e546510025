"""The parts of a fairseq model: structure, capture, layer maps, peers, architectures."""

from fairseq_kd.checkpoints import safe_loading  # noqa: F401  (a model is built of options that are data)
from fairseq_kd.models import fast_path  # noqa: F401  (which is off from now on)
from fairseq_kd.models.architectures import ARCHITECTURES, Architecture

__all__ = ["ARCHITECTURES", "Architecture"]
