"""How terms over source positions or attention cells are made to add up like target tokens.

fairseq divides the gradient of a whole update by its number of target tokens, however the batch was
split. A mean over the source positions of a batch, times its target tokens, would depend on which
sentences share that batch. So the mean is taken within each sentence and multiplied by that
sentence's target tokens:

    sum_b tokens_b * (mean over the real positions of sentence b)

After fairseq's division this is the mean over sentences, weighted by their length. It does not
depend on padding, order, batch split, ``--update-freq`` or workers, and over target positions it is
the plain mean over the real target tokens.
"""

from torch import Tensor


def position_weights(real: Tensor, tokens: Tensor) -> Tensor:
    """What a single real position of each sentence counts: ``tokens_b / number of them``.

    Args:
        real: (B, ...) bool, True at real positions or cells.
        tokens: (B,) number of real target tokens.

    Returns:
        (B,) float32; 0 for a sentence without a real position or token.
    """
    return tokens.float() / real.flatten(1).sum(1).clamp(min=1)
