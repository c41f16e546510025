"""The largest student within a budget: parameters, bytes on disk, or time for a sentence."""

import re
from typing import Callable, List, NamedTuple, Tuple, Union

from fairseq_kd.sizing.ladder import (
    SMALLEST_RATIO,
    Size,
    buildable,
    distinct_rungs,
    ratios_to,
)
from fairseq_kd.sizing.structure import Blueprint

UNITS = {"": 1, "K": 1_000, "M": 1_000_000, "B": 1_000_000_000}


class Budget(NamedTuple):
    """What a student may cost.

    Args:
        flag: how the user named it.
        limit: the most that it may be.
        cost: of a size.
        unit: of the limit and the cost, such as ms.
    """

    flag: str
    limit: float
    cost: Callable[[Size], float]
    unit: str

    def shown(self, cost: float) -> str:
        """A cost with its unit."""
        if isinstance(cost, int):
            return f"{cost:,} {self.unit}"
        return f"{cost:,.1f} {self.unit}" if cost >= 1 else f"{cost:.2g} {self.unit}"


def parameter_budget(blueprint: Blueprint, limit: int, flag: str = "--parameters") -> Budget:
    """So many parameters of the model that fairseq builds."""
    return Budget(flag, limit, blueprint.parameters, "parameters")


def count_of(text: Union[int, str], flag: str = "--parameters") -> int:
    """A number of parameters as it is written: 600000, 600K, 10M, 1.5B.

    Raises:
        ValueError: it is none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMB]?)", str(text).replace(",", "").upper())
    if found is None or float(found[1]) == 0:
        raise ValueError(f"{flag} must be a number such as 600000 or 10M, but is {text}.")
    return round(float(found[1]) * UNITS[found[2]])


def ladder_within(
    blueprint: Blueprint,
    parameters: Union[int, str],
    strategy: str,
    factor: float,
    flag: str = "parameters",
) -> List[float]:
    """The ratios of a ladder to the largest rung with at most so many parameters.

    Args:
        blueprint: of the teacher.
        parameters: as ``count_of`` reads them.
        strategy: how rungs shrink.
        factor: from one rung to the next.
        flag: how the user named the number.

    Raises:
        ValueError: it is no number, too small for every rung, or large enough for the teacher.
    """
    limit = count_of(parameters, flag)
    return ladder_to(blueprint, parameter_budget(blueprint, limit, flag), strategy, factor)


def ladder_to(blueprint: Blueprint, budget: Budget, strategy: str, factor: float) -> List[float]:
    """The ratios of a ladder that ends with the largest rung within a budget.

    Args:
        blueprint: of the teacher.
        budget: for the last rung.
        strategy: how rungs shrink.
        factor: from one rung to the next; a rung that would be like its neighbour is left out.

    Raises:
        ValueError: the budget is too small for every rung, or large enough for the teacher.
    """
    ratio, _ = largest_within(blueprint, budget, strategy)
    return buildable(blueprint.size, ratios_to(ratio, factor), strategy)


def largest_within(blueprint: Blueprint, budget: Budget, strategy: str) -> Tuple[float, float]:
    """The ratio of the largest rung within a budget, and what it costs, by bisection.

    Raises:
        ValueError: the budget is too small for every rung, or large enough for the teacher.
    """
    candidates = distinct_rungs(blueprint.size, strategy)  # from large to small
    fits, cost = len(candidates) - 1, budget.cost(candidates[-1][1])
    if cost > budget.limit:
        raise ValueError(_too_small(blueprint, budget, strategy, cost))
    too_large = -1  # the teacher, which is costed last: it is the dearest
    while fits - too_large > 1:
        middle = (fits + too_large) // 2
        found = budget.cost(candidates[middle][1])
        if found <= budget.limit:
            fits, cost = middle, found
        else:
            too_large = middle
    if fits == 0:
        whole = budget.cost(blueprint.size)
        if whole <= budget.limit:
            raise ValueError(
                f"{budget.flag} allows {budget.shown(budget.limit)}, and the teacher has no more "
                f"than {budget.shown(whole)}. The nearest ladder that can be built is "
                f"1.0,{candidates[0][0]}, with {budget.shown(cost)}."
            )
    return candidates[fits][0], cost


def _too_small(blueprint: Blueprint, budget: Budget, strategy: str, cost: float) -> str:
    ratio, size = distinct_rungs(blueprint.size, strategy)[-1]
    ladder = buildable(blueprint.size, ratios_to(ratio), strategy)
    embeddings = blueprint.embedding_parameters(size)
    return (
        f"{budget.flag} allows {budget.shown(budget.limit)}, but the smallest rung that the "
        f"strategy {strategy} builds at a ratio of at least {SMALLEST_RATIO} has "
        f"{budget.shown(cost)}: {size}, with {embeddings:,} parameters in its embeddings alone. "
        f"The nearest ladder that can be built is {','.join(map(str, ladder))}."
    )
