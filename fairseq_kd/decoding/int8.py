"""int8 weights whose products never overflow.

On x86 processors without VNNI, bytes are multiplied by an instruction (``vpmaddubsw``) that adds
two products of an unsigned activation ``a <= 255`` and a signed weight ``w`` in 16 bits, and cuts
off what does not fit. CTranslate2 scales every row of weights to ``|w| <= 127``, so that sums are
cut off wherever weights and activations are both large. With ``|w| <= 64`` none can be:
``2 * 255 * 64 = 32,640 <= 32,767``. That costs one of the eight bits, on every processor alike, so
that a model translates on each of them as it did where it was measured.

The remedy is OpenVINO's: "Saturation (overflow) Issue Workaround",
https://docs.openvino.ai/latest/pot_saturation_issue.html.
"""

from typing import Any

import numpy as np
from ctranslate2.converters import FairseqConverter
from ctranslate2.specs.model_spec import NumpyVariable, Variable, visit_spec

FLOATS = ("float32", "float16", "bfloat16")
LARGEST = 64  # weight, so that two products with 255 fit into 16 bits


def overflows(compute_type: str, device: str) -> bool:
    """Whether a computation of CTranslate2 may overflow with weights up to 127, and gets ours.

    Args:
        compute_type: one of CTranslate2's.
        device: cpu or cuda; a GPU multiplies int8 without overflow.
    """
    return device == "cpu" and compute_type.startswith("int8")


class Int8Converter(FairseqConverter):
    """Converts a fairseq model for CTranslate2 with weights between -LARGEST and LARGEST."""

    def _load(self) -> Any:
        spec = super()._load()
        spec.validate()  # gives weights of every origin one type
        visit_spec(spec, _quantise)
        return spec


def _quantise(layer: Any, path: str, value: Any) -> None:
    """Puts int8 rows and their scales in place of a weight that CTranslate2 would quantise.

    What it would not, such as a bias, gets float32.
    """
    name = path.rpartition("/")[2]
    if not isinstance(value, Variable) or value.dtype not in FLOATS:
        return
    if not hasattr(layer, f"{name}_scale"):
        setattr(layer, name, value.to("float32"))
    else:
        weights, scales = int8_rows(value.to("float32").numpy())
        setattr(layer, name, NumpyVariable(weights))
        setattr(layer, f"{name}_scale", NumpyVariable(scales))


def int8_rows(weights: np.ndarray) -> "tuple[np.ndarray, np.ndarray]":
    """Rows of int8 and their scales: ``round(scale * weights)``, ``scale = LARGEST / max |row|``.

    Args:
        weights: (rows, columns), float32.

    Returns:
        ``(int8 of the same shape, float32 scales of the rows)``; a row of zeros has the scale 1.
    """
    largest = np.abs(weights).max(axis=1)
    scales = (LARGEST / np.where(largest > 0, largest, LARGEST)).astype(np.float32)
    return np.rint(weights * scales[:, None]).astype(np.int8), scales
