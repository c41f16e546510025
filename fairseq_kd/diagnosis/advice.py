"""A finding with its advice, and how the advice of several findings is kept from contradicting."""

from typing import Dict, List, NamedTuple, Sequence, Tuple


class Advice(NamedTuple):
    """One thing to try.

    Args:
        text: what, without a full stop.
        flag: that it changes; "" if it changes none.
        more: whether it raises the value of the flag, or strengthens its effect; else it lowers it.
    """

    text: str
    flag: str = ""
    more: bool = True


class Finding(NamedTuple):
    """Something that went wrong.

    Args:
        name: of it, short.
        evidence: the figures or the line of the log that show it, in a sentence.
        advice: what to try, most promising first.
    """

    name: str
    evidence: str
    advice: Tuple[Advice, ...]

    @property
    def advice_text(self) -> str:
        """All of the advice, in a sentence."""
        return "; ".join(each.text for each in self.advice) + "."


def consistent(found: Sequence[Finding]) -> List[Finding]:
    """Findings without the advice that contradicts that of a finding before them.

    Args:
        found: causes first, for their advice counts.
    """
    directions: Dict[str, bool] = {}
    kept = []
    for finding in found:
        fits = [
            each
            for each in finding.advice
            if not each.flag or directions.get(each.flag, each.more) == each.more
        ]
        directions.update({each.flag: each.more for each in fits if each.flag})
        kept.append(finding._replace(advice=tuple(fits)))
    return kept
