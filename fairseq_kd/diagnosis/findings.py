"""Finds what went wrong in a training, from the figures of its log and its translations.

Each check returns a finding or None. Its thresholds were set on trainings that were made to fail
and on healthy ones; see docs/diagnosis.md.
"""

import math
from collections import Counter
from typing import List, Optional, Sequence, Tuple

from fairseq_kd.diagnosis.advice import Advice, Finding, consistent
from fairseq_kd.diagnosis.ending import ending
from fairseq_kd.diagnosis.training_run import TrainingRun
from fairseq_kd.term_weights import ALPHA, BETA, TERM_WEIGHTS
from fairseq_kd.training_log import Record

RISE = 1.5  # nll_loss over its lowest value so far
OVERFIT_BITS, OVERFIT_SHARE = 0.15, 0.03  # rise of validation nll_loss after its best
SAME_SHARE, SAME_OF = 0.2, 20  # of equal translations, of at least so many
UNIFORM_SHARE = 0.998  # of the highest possible entropy
DOMINANT_SHARE = 0.95  # of the loss
LEARNT_NOTHING = 0.72  # of log2 V: about what unigram frequencies give
FLAT_GAIN = 0.3  # relative gain of agreement from one third of the updates to the next
LOW_AGREEMENT, FAR_BITS = 50.0, 1.0
EXPLAIN_SLOWNESS = (
    *("blow-up", "loss scale at its minimum", "untrained teacher"),
    *("dominant term", "temperature"),
)
EARLY, MATURE = 0.3, 0.6  # shares of the updates after which slow progress and a gap are checked


LOWER_RATE = (
    Advice("lower --lr", "--lr", False),
    Advice("clip gradients by --clip-norm 1.0", "--clip-norm", False),
    Advice("warm up longer", "--warmup-updates"),
)


def findings(run: TrainingRun) -> List[Finding]:
    """All findings about a training, causes first; none for a healthy one.

    Effects of another finding are left out: a training that blew up is also slow. So is advice
    that contradicts the advice of a cause.
    """
    findings: List[Finding] = [*filter(None, [ending(run)])]
    if run.training:
        for check in (blow_up, learning_rate, uniform_teacher, untrained_teacher):
            findings += filter(None, [check(run)])
        findings += filter(None, [dominant_term(run), over_fitting(run)])
        if not any(each.name in EXPLAIN_SLOWNESS for each in findings):
            slow = slow_progress(run)
            findings += filter(None, [slow or capacity_gap(run)])
    findings += filter(None, [collapse(run)])
    return consistent(findings)


def blow_up(run: TrainingRun) -> Optional[Finding]:
    """The loss is not finite, or rises far above its lowest value."""
    for record in run.training:
        if not all(math.isfinite(record.get(key, 0.0)) for key in ("loss", "nll_loss", "gnorm")):
            return Finding(
                "blow-up",
                f"at update {record['update']:,}, the loss or its gradient is not finite.",
                (*LOWER_RATE, Advice("with --fp16, try --kd-teacher-dtype float32")),
            )
    rise = _largest_rise(run.training)
    if rise is None:
        return None
    lowest, highest = rise
    clipped = _mean(run.training, "clip")
    return Finding(
        "blow-up",
        f"nll_loss rose from {lowest['nll_loss']:.1f} bits at update {lowest['update']:,} to "
        f"{highest['nll_loss']:.1f} at update {highest['update']:,}; "
        f"{clipped:.0f} % of the gradients were clipped.",
        LOWER_RATE,
    )


def _largest_rise(records: Sequence[Record]) -> "Optional[Tuple[Record, Record]]":
    """The lowest nll_loss, and the highest later one if it is RISE times as high; else None."""
    lowest: Optional[Record] = None
    found: Optional[Tuple[Record, Record]] = None
    for record in (each for each in records if "nll_loss" in each):
        if lowest is None or record["nll_loss"] < lowest["nll_loss"]:
            lowest = record
        ratio = record["nll_loss"] / max(lowest["nll_loss"], 1.0)  # below 1 bit, noise is large
        if ratio > RISE and (found is None or record["nll_loss"] > found[1]["nll_loss"]):
            found = (lowest, record)
    return found


def learning_rate(run: TrainingRun) -> Optional[Finding]:
    """The loss blows up at a learning rate above that of the lowest loss."""
    rise = _largest_rise(run.training)
    if rise is None or "lr" not in rise[1]:
        return None
    lowest, highest = rise
    if highest["lr"] < lowest.get("lr", math.inf):
        return None
    return Finding(
        "learning rate",
        f"the loss was lowest at a rate of {lowest['lr']:.2g} and blew up at {highest['lr']:.2g}.",
        (
            Advice(f"an --lr well below {lowest['lr']:.1g}", "--lr", False),
            Advice(
                "5e-4 to 5e-3 is usual for transformers, 50 to 70 % of the teacher's for a student"
            ),
        ),
    )


def collapse(run: TrainingRun) -> Optional[Finding]:
    """Many translations are the same, or one word is most of all words."""
    for name, texts in run.outputs.items():
        if len(texts) < SAME_OF:
            continue
        text, count = Counter(texts).most_common(1)[0]
        words = Counter(word for each in texts for word in each.split())
        word, often = words.most_common(1)[0] if words else ("", 0)
        share = often / max(1, words.total())
        if count > SAME_SHARE * len(texts) or share > 0.5:
            return Finding(
                "collapse to one token",
                f'in {name}, {count} of {len(texts)} translations are "{_short(text)}", and the '
                f'word "{_short(word)}" is {share:.0%} of all words.',
                (
                    Advice("more --kd-beta and less --kd-alpha", "--kd-beta"),
                    Advice("a lower --kd-temperature", "--kd-temperature", False),
                    Advice("a lower --lr", "--lr", False),
                    Advice("check the translations of the teacher itself"),
                ),
            )
    return None


def uniform_teacher(run: TrainingRun) -> Optional[Finding]:
    """At the temperature, the teacher's distribution is uniform."""
    entropy = _last(run.validation or run.training, "teacher_entropy")
    if entropy is None or entropy < UNIFORM_SHARE * run.uniform_bits:
        return None
    temperature = _last(run.training, "temperature") or math.nan
    return Finding(
        "temperature",
        f"at temperature {temperature:g} the teacher's entropy is {entropy:.2f} of at most "
        f"{run.uniform_bits:.2f} bits: its distribution is uniform.",
        (Advice("a lower --kd-temperature, 1 as a start", "--kd-temperature", False),),
    )


def untrained_teacher(run: TrainingRun) -> Optional[Finding]:
    """The student agrees with its teacher, and is no better than a uniform distribution."""
    last = run.validation[-1] if run.validation else run.training[-1]
    agreement, nll_loss = last.get("agreement"), last.get("nll_loss")
    if None in (agreement, nll_loss):
        return None
    if not (agreement >= 90 and 0.9 * run.uniform_bits <= nll_loss < math.inf):
        return None
    return Finding(
        "untrained teacher",
        f"the student agrees with its teacher on {agreement:.0f} % of the tokens, and its nll_loss "
        f"is {nll_loss:.1f} bits, where a uniform distribution has {run.uniform_bits:.1f}.",
        (
            Advice("another --kd-teacher: this one is untrained, or was trained on other data"),
            Advice(
                "--kd-beta above 0, with which the student also learns from the references",
                "--kd-beta",
            ),
        ),
    )


def dominant_term(run: TrainingRun) -> Optional[Finding]:
    """One term is nearly all of the loss, though others have a weight."""
    last = run.training[-1]
    shares = {
        name: weight * _bits(last, name) / last["loss"]
        for name, weight in _weights(run).items()
        if f"{name}_loss" in last and 0 < last.get("loss", 0) < math.inf
    }
    name = max(shares, key=shares.__getitem__, default="")
    alpha, beta = _weight(run, "alpha", ALPHA), _weight(run, "beta", BETA)
    others = beta + alpha * (name != "kd")
    if not name or shares[name] <= DOMINANT_SHARE or others <= 0:
        return None
    flag = "--kd-alpha" if name == "kd" else f"--kd-{name}-weight"
    return Finding(
        "dominant term",
        f"{name}_loss is {last[f'{name}_loss']:.3g}, which with its weight "
        f"{_weights(run)[name]:g} is {shares[name]:.1%} of the loss.",
        (
            Advice(
                f"{flag} {_balanced(run, name):.1g} or less, with which it would be at most half "
                "of the loss",
                flag,
                False,
            ),
            Advice("--kd-log-gradients, which logs the gradient of each term"),
        ),
    )


def _weights(run: TrainingRun) -> "dict[str, float]":
    """The weights of the distillation terms, by their names in the log."""
    weights = {"kd": _weight(run, "alpha", ALPHA)} if run.distils else {}
    for name, default in TERM_WEIGHTS.items():
        weights[name] = run.number(f"--kd-{name}-weight", default)
    return weights


def _weight(run: TrainingRun, name: str, default: float) -> float:
    """Alpha or beta at the last update: from the log if scheduled, else from the command."""
    return run.training[-1].get(name, run.number(f"--kd-{name}", default))


def _balanced(run: TrainingRun, name: str) -> float:
    """The weight with which a term would equal the sum of all others."""
    last = run.training[-1]
    term = _bits(last, name)
    return max(last["loss"] - _weights(run)[name] * term, 0.0) / term


def _bits(record: Record, name: str) -> float:
    """A term in bits, the unit of the loss; the further terms are logged unconverted."""
    return record[f"{name}_loss"] / (1.0 if name == "kd" else math.log(2))


def over_fitting(run: TrainingRun) -> Optional[Finding]:
    """Validation loss rises while training loss falls."""
    records = [record for record in run.validation if "nll_loss" in record]
    if len(records) < 3:
        return None
    best = min(records, key=lambda record: record["nll_loss"])
    last = records[-1]
    lost = last["nll_loss"] - best["nll_loss"]
    before = _at(run.training, best["update"])
    gained = before.get("nll_loss", math.nan) - run.training[-1].get("nll_loss", math.nan)
    if lost < max(OVERFIT_BITS, OVERFIT_SHARE * best["nll_loss"]) or not gained > 0:
        return None
    return Finding(
        "over-fitting",
        f"validation nll_loss rose from {best['nll_loss']:.2f} at update {best['update']:,} to "
        f"{last['nll_loss']:.2f} at {last['update']:,}, while that of training fell by "
        f"{gained:.2f} bits.",
        (
            Advice("stop earlier (checkpoint_best.pt has the best update)", "--max-update", False),
            Advice("more --dropout", "--dropout"),
            Advice("more data, such as the teacher's translations of other text"),
            Advice("less --kd-beta", "--kd-beta", False),
        ),
    )


def slow_progress(run: TrainingRun) -> Optional[Finding]:
    """Many updates are done, and the loss is no lower than that of unigram frequencies."""
    ends = [records[-1] for records in (run.validation, run.training) if records]
    nll_loss = min(record.get("nll_loss", 0.0) for record in ends)
    if run.share_done() < EARLY or nll_loss < LEARNT_NOTHING * run.uniform_bits:
        return None
    rates = [record["lr"] for record in run.training if record.get("lr") is not None]
    highest = f"; the highest learning rate was {max(rates):.2g}" if rates else ""
    return Finding(
        "slow progress",
        f"after {run.training[-1]['update']:,} updates nll_loss is {nll_loss:.1f} bits, where a "
        f"uniform distribution has {run.uniform_bits:.1f}{highest}.",
        (
            Advice("a higher --lr (5e-4 to 5e-3 is usual for transformers) with a warm-up", "--lr"),
            Advice("larger batches (--update-freq)", "--update-freq"),
            Advice("more updates", "--max-update"),
        ),
    )


def capacity_gap(run: TrainingRun) -> Optional[Finding]:
    """The agreement with the teacher stalls at a low value, and the teacher is much better."""
    records = [record for record in run.training if "agreement" in record]
    if not run.distils or run.share_done() < MATURE or len(records) < 9:
        return None
    third = len(records) // 3
    before, now = (
        _mean(part, "agreement") for part in (records[-2 * third : -third], records[-third:])
    )
    if now > LOW_AGREEMENT or now > before * (1 + FLAT_GAIN):
        return None
    ahead = _teachers_lead(run)
    if ahead is not None and ahead < FAR_BITS:
        return None
    lead = "" if ahead is None else f" The teacher's nll_loss is {ahead:.1f} bits lower."
    return Finding(
        "capacity gap",
        f"the agreement with the teacher is {now:.0f} % in the last third of the updates, and was "
        f"{before:.0f} % in the one before.{lead}",
        (
            Advice(
                "a larger student, or smaller steps: distil an intermediate model first and the "
                "student from that"
            ),
            Advice("then more updates", "--max-update"),
        ),
    )


def _teachers_lead(run: TrainingRun) -> Optional[float]:
    """The student's best validation nll_loss minus the teacher's, in bits; None if unknown."""
    if run.teacher is None or not run.teacher.validation or not run.validation:
        return None
    theirs = min(record.get("nll_loss", math.inf) for record in run.teacher.validation)
    return min(record.get("nll_loss", math.inf) for record in run.validation) - theirs


def _last(records: Sequence[Record], key: str) -> Optional[float]:
    return next((record[key] for record in reversed(records) if key in record), None)


def _mean(records: Sequence[Record], key: str) -> float:
    values = [record[key] for record in records if key in record]
    return sum(values) / len(values) if values else 0.0


def _at(records: Sequence[Record], update: float) -> Record:
    """The record nearest to an update."""
    return min(records, key=lambda record: abs(record["update"] - update))


def _short(text: str) -> str:
    return text if len(text) <= 30 else f"{text[:30]}..."
