"""The ladder from a teacher to a student: the size of a stage at a ratio, and the ratios.

A strategy determines which sizes shrink. At ratio r of a teacher with L layers, width d and h
heads:

    balanced      layers L * r                              width d * sqrt(r)   heads h * sqrt(r)
    depth         layers L * r                              width d             heads h
    width         layers L                                  width d * sqrt(r)   heads h * sqrt(r)
    deep-shallow  encoder L * sqrt(r), decoder L * r^2      width d * sqrt(r)   heads h * sqrt(r)

Heads keep their dimension, so that the width is a multiple of it and a stage can start from the
weights of the stage before, in which nothing is smaller. Only a single remaining head can get
narrower. The feed-forward width is proportional to the width. The ratio is not that of the
parameters: those of the layers fall faster, those of the embeddings more slowly.
"""

import math
from itertools import pairwise
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

STRATEGY, FACTOR = "balanced", 0.7  # defaults; the factor leads from a ratio to the next
SMALLEST_RATIO = 0.01  # of a search for a budget
MOST_STAGES = 100
MATRIX_UNIT = 8  # GPUs multiply matrices in blocks of it
BALANCED, AGGRESSIVE = 3, 4  # times fewer parameters in one step, at most
DEEPEST_CUT = 0.75  # of the layers of a side, in one step
NARROWEST_CUT = 0.5  # of the width


class Size(NamedTuple):
    """The size of a transformer; heads and feed-forward width are equal on both sides."""

    encoder_layers: int
    decoder_layers: int
    width: int
    heads: int
    feed_forward: int

    def __str__(self) -> str:
        return (
            f"{self.encoder_layers}+{self.decoder_layers} layers of width {self.width} with "
            f"{self.heads} head{'s' * (self.heads > 1)}"
        )


Exponents = Tuple[float, float, float]  # of the ratio: encoder layers, decoder layers, width
STRATEGIES: Dict[str, Exponents] = {
    "balanced": (1, 1, 0.5),
    "depth": (1, 1, 0),
    "width": (0, 0, 0.5),
    "deep-shallow": (0.5, 2, 0.5),
}


def shrink(teacher: Size, ratio: float, strategy: str) -> Size:
    """The size of a stage at a ratio of the teacher.

    Args:
        teacher: a size whose width is a multiple of its heads.
        ratio: in (0, 1]; 1 is the teacher itself.
        strategy: one of STRATEGIES.

    Raises:
        ValueError: the ratio is out of range, or the strategy is unknown.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"The strategy must be one of {', '.join(STRATEGIES)}, but is {strategy}.")
    if not 0 < ratio <= 1:
        raise ValueError(f"A stage's ratio must be greater than 0 and at most 1, but is {ratio}.")
    if ratio == 1:
        return teacher
    encoder, decoder, across = (ratio**exponent for exponent in STRATEGIES[strategy])
    layers = [max(1, _rounded(teacher[i] * each)) for i, each in enumerate((encoder, decoder))]
    if across == 1:
        return teacher._replace(encoder_layers=layers[0], decoder_layers=layers[1])
    heads = max(1, _rounded(teacher.heads * across))
    width = heads * _head_dimension(teacher, heads, teacher.width * across)
    return Size(layers[0], layers[1], width, heads, _feed_forward(teacher, width))


def _rounded(number: float) -> int:
    """The nearest whole number; halves, and floats just below them, round up."""
    return math.floor(number + 0.5 + 1e-9)


def _head_dimension(teacher: Size, heads: int, width: float) -> int:
    """The teacher's head dimension, made even; less if a single head exceeds the width."""
    whole = teacher.width // teacher.heads
    if heads > 1:
        return max(1, whole - whole % 2)
    unit = MATRIX_UNIT if width >= 256 and whole % MATRIX_UNIT == 0 else 2
    return max(1, min(whole - whole % 2, max(2, unit * _rounded(width / unit))))


def _feed_forward(teacher: Size, width: int) -> int:
    """The feed-forward width in the teacher's proportion, a multiple of MATRIX_UNIT."""
    scaled = teacher.feed_forward * width / teacher.width
    units = max(1, _rounded(scaled / MATRIX_UNIT))
    return min(teacher.feed_forward, MATRIX_UNIT * units)


def ratios_to(target: float, factor: float = FACTOR) -> List[float]:
    """The ratios of a ladder: 1, factor, factor^2, ..., target.

    A stage that is less than half a step above the target is left out.

    Args:
        target: the student's ratio, in (0, 1).
        factor: in (0, 1).

    Raises:
        ValueError: one of them is out of range.
    """
    for called, value in (("target", target), ("factor", factor)):
        if not 0 < value < 1:
            raise ValueError(f"The {called} must be between 0 and 1, but is {value}.")
    if math.log(target) / math.log(factor) > MOST_STAGES:
        raise ValueError(
            f"A factor of {factor} gives more than {MOST_STAGES} stages to {target}. Choose a "
            "smaller one, such as 0.75."
        )
    ratios = [1.0]
    while ratios[-1] * factor > target * (1 + 1e-9):
        ratios.append(float(f"{factor ** len(ratios):.4g}"))
    if len(ratios) > 1 and target / ratios[-1] > math.sqrt(factor):
        ratios.pop()
    return [*ratios, target]


def checked_ladder(ratios: Sequence[float]) -> List[float]:
    """Checks an explicit ladder; adds the teacher's 1.0 at its front.

    Raises:
        ValueError: it does not descend from 1 towards 0; the message has the nearest that does.
    """
    ladder = [float(ratio) for ratio in ratios]
    for ratio in ladder:
        if not 0 < ratio <= 1:
            raise ValueError(
                f"The ratios of a ladder must be greater than 0 and at most 1, but one is {ratio}. "
                + _nearest([1.0, *sorted({each for each in ladder if 0 < each < 1}, reverse=True)])
            )
    for before, after in pairwise(ladder):
        if after >= before:
            raise ValueError(
                f"The ratios of a ladder must go down, but {after} follows {before}. "
                + _nearest(sorted({1.0, *ladder}, reverse=True))
            )
    if set(ladder) <= {1.0}:
        raise ValueError(f"A ladder must have a stage below 1.0. {_nearest([1.0, FACTOR])}")
    return ladder if ladder[0] == 1 else [1.0, *ladder]


def ladder_sizes(teacher: Size, ratios: Sequence[float], strategy: str) -> List[Size]:
    """The sizes of a ladder, the teacher's first.

    Args:
        teacher: the size of the first stage.
        ratios: descending from 1.
        strategy: one of STRATEGIES.

    Raises:
        ValueError: two stages would be the same; the message has the nearest ladder that can be
            built.
    """
    sizes = [shrink(teacher, ratio, strategy) for ratio in ratios]
    for i in range(1, len(sizes)):
        if sizes[i] == sizes[i - 1]:
            same = f"The stages at {ratios[i - 1]} and {ratios[i]} would be the same"
            if sizes[i] == teacher:
                same = f"The stage at {ratios[i]} would be as large as the teacher"
            advice = _nearest(buildable(teacher, ratios, strategy))
            raise ValueError(f"{same} by the strategy {strategy}: {sizes[i]}. {advice}")
    return sizes


def buildable(teacher: Size, ratios: Sequence[float], strategy: str) -> List[float]:
    """The nearest ladder with distinct stages: of equal stages, only one is kept.

    Args:
        teacher: the size of the first stage.
        ratios: descending from 1.
        strategy: one of STRATEGIES.

    Raises:
        ValueError: nothing smaller than the teacher can be built by this strategy.
    """
    by_size: Dict[Size, float] = {}
    for ratio in ratios:
        by_size.setdefault(shrink(teacher, ratio, strategy), ratio)
    by_size[shrink(teacher, ratios[-1], strategy)] = ratios[-1]  # the student keeps the given ratio
    by_size[teacher] = 1.0
    if len(by_size) == 1:
        return [1.0, distinct_sizes(teacher, strategy)[0][0]]
    return list(by_size.values())


def distinct_sizes(teacher: Size, strategy: str) -> List[Tuple[float, Size]]:
    """All different sizes below the teacher, from large to small, each with its largest ratio.

    The ratios are whole thousandths, down to SMALLEST_RATIO.

    Raises:
        ValueError: there are none.
    """
    by_size: Dict[Size, float] = {}
    for thousandths in range(999, round(1000 * SMALLEST_RATIO) - 1, -1):
        by_size.setdefault(shrink(teacher, thousandths / 1000, strategy), thousandths / 1000)
    by_size.pop(teacher, None)
    if not by_size:
        others = ", ".join(each for each in STRATEGIES if each != strategy)
        raise ValueError(
            f"The strategy {strategy} cannot build anything smaller than {teacher}. Choose one of "
            f"{others}."
        )
    return [(ratio, size) for size, ratio in by_size.items()]


def _nearest(ratios: Sequence[float]) -> str:
    listed = ",".join(map(str, ratios if len(ratios) > 1 else [1.0, FACTOR]))
    return f"The nearest ladder that can be built is {listed}."


def warnings(
    ratios: Sequence[float],
    sizes: Sequence[Size],
    strategy: str,
    parameters: Optional[Sequence[int]] = None,
) -> List[str]:
    """A sentence for each step that is too steep to learn well.

    Args:
        ratios: those of the ladder, the teacher's first.
        sizes: those of its stages.
        strategy: the strategy that gave them.
        parameters: those of its stages; None if they are not known.
    """
    sentences = []
    for i in range(1, len(sizes)):
        times = parameters[i - 1] / parameters[i] if parameters else 1
        reasons = _steep(sizes[i - 1], sizes[i], times)
        if reasons:
            between = float(f"{math.sqrt(ratios[i - 1] * ratios[i]):.2g}")
            sentences.append(f"From {ratios[i - 1]} to {ratios[i]}, {' and '.join(reasons)}.")
            if shrink(sizes[0], between, strategy) not in sizes:
                sentences[-1] += (
                    f" A stage between, such as {between}, makes two easier steps of it."
                )
    return sentences


def _steep(before: Size, after: Size, times_fewer: float) -> List[str]:
    """The reasons why a step is steep; empty if it is not."""
    reasons = []
    if times_fewer > BALANCED:
        usual = f"{BALANCED} to {AGGRESSIVE} times is aggressive"
        reasons.append(f"parameters fall {times_fewer:.1f} times, where {usual}")
    for side, old, new in zip(("encoder", "decoder"), before[:2], after[:2], strict=True):
        if new < (1 - DEEPEST_CUT) * old:
            reasons.append(f"the {side} loses {old - new} of {old} layers")
    if after.width < NARROWEST_CUT * before.width:
        reasons.append(f"the width falls by more than half, from {before.width} to {after.width}")
    return reasons
