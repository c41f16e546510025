"""Findings of a diagnosis, and their advice without contradictions."""

from typing import Dict, List, NamedTuple, Sequence, Tuple


class Advice(NamedTuple):
    """A change to try.

    Args:
        text: description without a full stop.
        flag: that it changes; "" if it changes none.
        more: whether it raises the flag's value or strengthens its effect; else it lowers it.
    """

    text: str
    flag: str = ""
    more: bool = True


class Finding(NamedTuple):
    """A problem of a training.

    Args:
        name: in a few words.
        evidence: a sentence with the figures or the line of the log that show it.
        advice: the most promising first.
    """

    name: str
    evidence: str
    advice: Tuple[Advice, ...]

    @property
    def advice_text(self) -> str:
        """All advice in one sentence."""
        return "; ".join(each.text for each in self.advice) + "."


def consistent(findings: Sequence[Finding]) -> List[Finding]:
    """Leaves out advice that contradicts the advice of an earlier finding.

    Args:
        findings: causes first, because their advice is kept.
    """
    directions: Dict[str, bool] = {}
    kept = []
    for finding in findings:
        fits = [
            each
            for each in finding.advice
            if not each.flag or directions.get(each.flag, each.more) == each.more
        ]
        directions.update({each.flag: each.more for each in fits if each.flag})
        kept.append(finding._replace(advice=tuple(fits)))
    return kept
