"""What the tests of refusals share."""

import re

import pytest

WORD_KD = ["--criterion", "word_kd"]


def refuses(setup, message, *flags, error=ValueError):
    """Whether flags of word_kd are refused by this sentence and no other."""
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        setup(*WORD_KD, *flags)
