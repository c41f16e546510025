"""COMET, where a model of it lies on the disk."""

from pathlib import Path
from typing import Dict, Mapping, Sequence

INSTALL = "pip install unbabel-comet"


def check_comet(model: Path) -> None:
    """Refuses what cannot be used, before anything is computed.

    Raises:
        FileNotFoundError: there is no such model.
        ValueError: COMET is not installed.
    """
    if not model.is_file():
        raise FileNotFoundError(f"--comet {model} does not exist. Give a checkpoint of COMET.")
    try:
        import comet  # noqa: F401
    except ImportError:
        raise ValueError(f"--comet needs COMET, which is not installed ({INSTALL}).") from None


def comet_scores(
    model: Path,
    sources: Sequence[str],
    texts: Mapping[str, Sequence[str]],
    references: Sequence[str],
) -> Dict[str, float]:
    """The system score of every system by a COMET model, computed on the CPU.

    Args:
        model: its checkpoint, such as ``checkpoints/model.ckpt`` of wmt22-comet-da.
        sources: plain source sentences.
        texts: plain translations by system.
        references: plain references.

    Source: Rei et al. 2020, arXiv:2009.09025.
    """
    from comet import load_from_checkpoint

    scorer = load_from_checkpoint(str(model))
    return {
        name: float(scorer.predict(_samples(sources, each, references), gpus=0).system_score)
        for name, each in texts.items()
    }


def _samples(
    sources: Sequence[str], hypotheses: Sequence[str], references: Sequence[str]
) -> "list[dict[str, str]]":
    return [
        {"src": source, "mt": hypothesis, "ref": reference}
        for source, hypothesis, reference in zip(sources, hypotheses, references, strict=True)
    ]
