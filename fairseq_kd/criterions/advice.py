"""What a criterion tells once, at its first batch, and trains on all the same."""

import logging
import math

logger = logging.getLogger(__name__)
NEARLY = 0.9  # of the highest entropy


def advise_on_temperature(entropy_bits: float, temperature: float, words: int) -> None:
    """Warns of a temperature at which the teacher's distribution is nearly uniform.

    Args:
        entropy_bits: of that distribution, the mean over the tokens.
        temperature: T.
        words: of the vocabulary.
    """
    highest = math.log2(words)
    if temperature > 1 and entropy_bits > NEARLY * highest:
        logger.warning(
            "at temperature %.3g the teacher's distribution is nearly uniform: %.1f of at most "
            "%.1f bits a token. Lower --kd-temperature; begin with 1",
            temperature,
            entropy_bits,
            highest,
        )
