"""What a criterion tells once, at its first batch, and trains on all the same."""

import logging
import math

from fairseq_kd.losses import LossTerms

logger = logging.getLogger(__name__)
NEARLY = 0.9  # of the highest entropy


class TemperatureAdvice:
    """Warns, at the first batch, of a temperature at which the teacher is nearly uniform."""

    def __init__(self) -> None:
        self.given = False

    def __call__(self, terms: LossTerms, tokens: int, words: int) -> None:
        """Looks at the first batch that has a token.

        Args:
            terms: the sums of the loss over its tokens.
            tokens: how many these are.
            words: of the vocabulary.
        """
        if self.given or tokens == 0:
            return
        self.given = True
        entropy_bits = terms.entropy.item() / tokens / math.log(2)
        temperature, highest = terms.temperature.item() / tokens, math.log2(words)
        if temperature > 1 and entropy_bits > NEARLY * highest:
            logger.warning(
                "at temperature %.3g the teacher's distribution is nearly uniform: %.1f of at most "
                "%.1f bits a token. Lower --kd-temperature; begin with 1",
                temperature,
                entropy_bits,
                highest,
            )
