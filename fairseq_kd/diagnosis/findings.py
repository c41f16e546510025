"""What can go wrong in a training, and the evidence for each.

Every check looks at figures of a stage and either finds something or says nothing. Thresholds
were set on real runs that failed on purpose and on healthy ones; see docs/diagnosis.md.
"""

import math
from collections import Counter
from typing import List, Optional, Sequence, Tuple

from fairseq_kd.diagnosis.advice import Advice, Finding, consistent
from fairseq_kd.diagnosis.ending import ending
from fairseq_kd.diagnosis.stage import Stage
from fairseq_kd.training_log import Record

RISE = 1.5  # times its lowest value that nll_loss may reach again
OVERFIT_BITS, OVERFIT_SHARE = 0.15, 0.03  # that validation may lose after its best
SAME_SHARE, SAME_OF = 0.2, 20  # of equal translations, among at least so many
UNIFORM_SHARE = 0.998  # of the highest possible entropy
DOMINANT_SHARE = 0.95  # of the loss
LEARNT_NOTHING = 0.72  # of log2 V: about what the frequencies of words alone give
FLAT_GAIN = 0.3  # of agreement, relative, from one third of the updates to the next
LOW_AGREEMENT, FAR_BITS = 50.0, 1.0
EXPLAIN_SLOWNESS = (
    *("blow-up", "loss scale at its minimum", "teacher that knows nothing"),
    *("term that dominates", "temperature"),
)
EARLY, MATURE = 0.3, 0.6  # shares of the updates before which slowness and a gap are not judged


LOWER_RATE = (
    Advice("lower --lr", "--lr", False),
    Advice("clip gradients by --clip-norm 1.0", "--clip-norm", False),
    Advice("warm up longer", "--warmup-updates"),
)


def findings(stage: Stage) -> List[Finding]:
    """All that is wrong with a stage; nothing for a healthy one.

    What follows from something else that was found is not named again: a training that blew up is
    also slow. Causes come first: the advice of an effect is left out where it contradicts theirs.
    """
    found: List[Finding] = [*filter(None, [ending(stage)])]
    if stage.training:
        for check in (blow_up, learning_rate, uniform_teacher, empty_teacher):
            found += filter(None, [check(stage)])
        found += filter(None, [dominant_term(stage), over_fitting(stage)])
        if not any(each.name in EXPLAIN_SLOWNESS for each in found):
            slow = slow_progress(stage)
            found += filter(None, [slow or capacity_gap(stage)])
    found += filter(None, [collapse(stage)])
    return consistent(found)


def blow_up(stage: Stage) -> Optional[Finding]:
    """The loss is no number, or rises far above what it was."""
    for record in stage.training:
        if not all(math.isfinite(record.get(key, 0.0)) for key in ("loss", "nll_loss", "gnorm")):
            return Finding(
                "blow-up",
                f"at update {record['update']:,}, the loss or its gradient is no finite number.",
                (*LOWER_RATE, Advice("with --fp16, try --kd-teacher-dtype float32")),
            )
    rise = _largest_rise(stage.training)
    if rise is None:
        return None
    lowest, highest = rise
    clipped = _mean(stage.training, "clip")
    return Finding(
        "blow-up",
        f"nll_loss rose from {lowest['nll_loss']:.1f} bits at update {lowest['update']:,} to "
        f"{highest['nll_loss']:.1f} at update {highest['update']:,}; "
        f"{clipped:.0f} % of the gradients were clipped.",
        LOWER_RATE,
    )


def _largest_rise(records: Sequence[Record]) -> "Optional[Tuple[Record, Record]]":
    """The lowest nll_loss and a later one that is RISE times as high; None if there is none."""
    lowest: Optional[Record] = None
    found: Optional[Tuple[Record, Record]] = None
    for record in (each for each in records if "nll_loss" in each):
        if lowest is None or record["nll_loss"] < lowest["nll_loss"]:
            lowest = record
        ratio = record["nll_loss"] / max(lowest["nll_loss"], 1.0)  # below a bit, noise is large
        if ratio > RISE and (found is None or record["nll_loss"] > found[1]["nll_loss"]):
            found = (lowest, record)
    return found


def learning_rate(stage: Stage) -> Optional[Finding]:
    """The loss rises while the rate does."""
    rise = _largest_rise(stage.training)
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
                "of transformers, 5e-4 to 5e-3 is usual, of a student 50 to 70 % of its teacher's"
            ),
        ),
    )


def collapse(stage: Stage) -> Optional[Finding]:
    """Sentences are translated alike, or one word makes most of what is said."""
    for name, texts in stage.outputs.items():
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
                f'word "{_short(word)}" makes {share:.0%} of all words.',
                (
                    Advice("more --kd-beta and less --kd-alpha", "--kd-beta"),
                    Advice("a lower --kd-temperature", "--kd-temperature", False),
                    Advice("a lower --lr", "--lr", False),
                    Advice("look at what the teacher itself translates"),
                ),
            )
    return None


def uniform_teacher(stage: Stage) -> Optional[Finding]:
    """At its temperature, the teacher says the same of every word."""
    entropy = _last(stage.validation or stage.training, "teacher_entropy")
    if entropy is None or entropy < UNIFORM_SHARE * stage.uniform_bits:
        return None
    temperature = _last(stage.training, "temperature") or math.nan
    return Finding(
        "temperature",
        f"at temperature {temperature:g} the teacher's entropy is {entropy:.2f} of at most "
        f"{stage.uniform_bits:.2f} bits: every word seems as likely as any other.",
        (Advice("a lower --kd-temperature, 1 to begin with", "--kd-temperature", False),),
    )


def empty_teacher(stage: Stage) -> Optional[Finding]:
    """The student says what its teacher says, and that is no better than chance."""
    last = stage.validation[-1] if stage.validation else stage.training[-1]
    agreement, nll_loss = last.get("agreement"), last.get("nll_loss")
    if agreement is None or agreement < 90 or nll_loss < 0.9 * stage.uniform_bits:
        return None
    return Finding(
        "teacher that knows nothing",
        f"the student agrees with its teacher on {agreement:.0f} % of the tokens, and its nll_loss "
        f"is {nll_loss:.1f} bits, when guessing gives {stage.uniform_bits:.1f}.",
        (
            Advice("another --kd-teacher: this one is not trained, or was trained on other data"),
            Advice(
                "--kd-beta above 0, by which the student learns from the references, too",
                "--kd-beta",
            ),
        ),
    )


def dominant_term(stage: Stage) -> Optional[Finding]:
    """One term makes nearly all of the loss, though others have a weight."""
    last = stage.training[-1]
    shares = {
        name: weight * _bits(last, name) / last["loss"]
        for name, weight in _weights(stage).items()
        if f"{name}_loss" in last and last["loss"] > 0
    }
    name = max(shares, key=shares.__getitem__, default="")
    alpha, beta = (_weight(stage, each, usual) for each, usual in (("alpha", 0.8), ("beta", 0.2)))
    others = beta + alpha * (name != "kd")
    if not name or shares[name] <= DOMINANT_SHARE or others <= 0:
        return None
    flag = "--kd-alpha" if name == "kd" else f"--kd-{name}-weight"
    return Finding(
        "term that dominates",
        f"{name}_loss is {last[f'{name}_loss']:.3g}, which with its weight "
        f"{_weights(stage)[name]:g} makes {shares[name]:.1%} of the loss.",
        (
            Advice(
                f"{flag} {_balanced(stage, name):.1g}, with which it would make half of the loss, "
                "or less",
                flag,
                False,
            ),
            Advice("--kd-log-gradients, which shows what each term teaches"),
        ),
    )


def _weights(stage: Stage) -> "dict[str, float]":
    """The weights of the terms that come from the teacher, by their names in the log."""
    weights = {"kd": _weight(stage, "alpha", 0.8)} if stage.distils else {}
    for name, default in (("feature", 0.1), ("attention", 0.05)):
        weights[name] = stage.number(f"--kd-{name}-weight", default)
    return weights


def _weight(stage: Stage, name: str, default: float) -> float:
    """Alpha or beta at the last update: the log has it where it is scheduled, else the command."""
    return stage.training[-1].get(name, stage.number(f"--kd-{name}", default))


def _balanced(stage: Stage, name: str) -> float:
    """The weight with which a term would be as large as all others together."""
    last = stage.training[-1]
    term = _bits(last, name)
    return max(last["loss"] - _weights(stage)[name] * term, 0.0) / term


def _bits(record: Record, name: str) -> float:
    """A term in the unit of the loss; the log has distances of states and attention as they are."""
    return record[f"{name}_loss"] / (1.0 if name == "kd" else math.log(2))


def over_fitting(stage: Stage) -> Optional[Finding]:
    """Validation gets worse while training gets better."""
    records = [record for record in stage.validation if "nll_loss" in record]
    if len(records) < 3:
        return None
    best = min(records, key=lambda record: record["nll_loss"])
    last = records[-1]
    lost = last["nll_loss"] - best["nll_loss"]
    before = _at(stage.training, best["update"])
    gained = before["nll_loss"] - stage.training[-1]["nll_loss"]
    if lost < max(OVERFIT_BITS, OVERFIT_SHARE * best["nll_loss"]) or gained <= 0:
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


def slow_progress(stage: Stage) -> Optional[Finding]:
    """A good part of the updates is done, and the model knows little but how often words come."""
    ends = [records[-1] for records in (stage.validation, stage.training) if records]
    nll_loss = min(record.get("nll_loss", 0.0) for record in ends)
    if stage.share_done() < EARLY or nll_loss < LEARNT_NOTHING * stage.uniform_bits:
        return None
    rate = max((record.get("lr", 0.0) for record in stage.training), default=0.0)
    return Finding(
        "slow progress",
        f"after {stage.training[-1]['update']:,} updates nll_loss is {nll_loss:.1f} bits, when "
        f"guessing gives {stage.uniform_bits:.1f}; the highest learning rate was {rate:.2g}.",
        (
            Advice("a higher --lr (of transformers, 5e-4 to 5e-3 is usual) with a warm-up", "--lr"),
            Advice("larger batches (--update-freq)", "--update-freq"),
            Advice("more updates", "--max-update"),
        ),
    )


def capacity_gap(stage: Stage) -> Optional[Finding]:
    """The agreement stalls while the teacher is far ahead."""
    records = [record for record in stage.training if "agreement" in record]
    if not stage.distils or stage.share_done() < MATURE or len(records) < 9:
        return None
    third = len(records) // 3
    before, now = (
        _mean(part, "agreement") for part in (records[-2 * third : -third], records[-third:])
    )
    if now > LOW_AGREEMENT or now > before * (1 + FLAT_GAIN):
        return None
    ahead = _teachers_lead(stage)
    if ahead is not None and ahead < FAR_BITS:
        return None
    told = "" if ahead is None else f" The teacher's nll_loss is {ahead:.1f} bits lower."
    return Finding(
        "capacity gap",
        f"the agreement with the teacher is {now:.0f} % in the last third of the updates, and was "
        f"{before:.0f} % in the one before.{told}",
        (
            Advice(
                "a larger student, or smaller steps: distil an intermediate model first and the "
                "student from that"
            ),
            Advice("then more updates", "--max-update"),
        ),
    )


def _teachers_lead(stage: Stage) -> Optional[float]:
    """How many bits the teacher's best validation is below the student's."""
    if stage.teacher is None or not stage.teacher.validation or not stage.validation:
        return None
    theirs = min(record.get("nll_loss", math.inf) for record in stage.teacher.validation)
    return min(record.get("nll_loss", math.inf) for record in stage.validation) - theirs


def _last(records: Sequence[Record], key: str) -> Optional[float]:
    return next((record[key] for record in reversed(records) if key in record), None)


def _mean(records: Sequence[Record], key: str) -> float:
    values = [record[key] for record in records if key in record]
    return sum(values) / len(values) if values else 0.0


def _at(records: Sequence[Record], update: float) -> Record:
    """The record that is nearest to an update."""
    return min(records, key=lambda record: abs(record["update"] - update))


def _short(text: str) -> str:
    return text if len(text) <= 30 else f"{text[:30]}..."
