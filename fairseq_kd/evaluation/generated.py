"""What ``fairseq-generate`` printed, as translations."""

import re
from pathlib import Path
from typing import Dict, List

from fairseq_kd.parallel_text import lines_of


def translations(path: Path) -> Dict[int, str]:
    """The detokenised hypotheses that ``fairseq-generate`` printed so far, by their numbers."""
    text = "\n".join(lines_of(str(path)))
    lines = re.findall(r"^D-([0-9]{1,18})\t\S+\t(.*)$", text, re.M)
    return dict(sorted((int(number), hypothesis) for number, hypothesis in lines))


def read_translations(path: Path) -> List[str]:
    """The detokenised hypotheses that ``fairseq-generate`` printed, in the test set's order.

    Raises:
        ValueError: one is missing.
    """
    found = translations(path)
    if not found or list(found) != list(range(len(found))):
        raise ValueError(
            f"{path} does not hold a translation of every sentence. Remove it and translate again, "
            "with --required-batch-size-multiple 1."
        )
    return list(found.values())
