"""Quality by sacreBLEU: BLEU, chrF and TER, with its own paired bootstrap."""

from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Sequence

import numpy as np
from sacrebleu.metrics import BLEU, CHRF, TER
from sacrebleu.metrics.base import Metric
from sacrebleu.significance import PairedTest, Result

METRICS = ("BLEU", "chrF2", "TER")  # as sacreBLEU names them
SIGNIFICANT_P = 0.05
TESTABLE = 10  # sentences; resamples of fewer are too much alike to tell systems apart
Figures = Dict[str, Any]


class Bin(NamedTuple):
    """Sentences of the test set that have something in common.

    Args:
        label: what that is, such as ``10-14``.
        sentences: their numbers.
    """

    label: str
    sentences: List[int]


def metrics(tokenizer: str = BLEU.TOKENIZER_DEFAULT) -> Dict[str, Metric]:
    """The metrics of sacreBLEU with its defaults, by their names in the report.

    Each counts a text's n-grams or edits once, however often it is compared: for one set of
    references only.

    Args:
        tokenizer: of BLEU.
    """
    measures = {"BLEU": BLEU(tokenize=tokenizer), "chrF2": CHRF(), "TER": TER()}
    return {name: _counting_once(metric) for name, metric in measures.items()}


def _counting_once(metric: Metric) -> Metric:
    count, counted = metric._extract_corpus_statistics, {}

    def remembered(hypotheses: Sequence[str], references: Any) -> Any:
        key = tuple(hypotheses)
        if key not in counted:
            counted[key] = count(hypotheses, references)
        return counted[key]

    metric._extract_corpus_statistics = remembered
    return metric


def paired_scores(
    texts: Mapping[str, Sequence[str]],
    references: Sequence[str],
    baseline: str,
    samples: int,
    measures: Mapping[str, Metric],
) -> Dict[str, Any]:
    """The scores of all systems, and how sure it is that they differ from one of them.

    Args:
        texts: plain translations by system.
        references: plain references.
        baseline: the system that the others are compared with.
        samples: bootstrap resamples.
        measures: ``metrics()``, the same for all comparisons with these references.

    Returns:
        ``signatures`` by metric, and ``systems``: by name and metric the ``score``, ``mean`` and
        ``ci`` (half the 95 % interval) of the resamples, and but for the baseline ``p``, the
        probability of a difference as large if there were none: 1 where resamples tell nothing.

    Source: Koehn 2004, W04-3250, by ``sacrebleu.significance``.
    """
    named = [(baseline, texts[baseline])]
    named += [(name, each) for name, each in texts.items() if name != baseline]
    test = PairedTest(named, measures, [references], test_type="bs", n_samples=samples)
    signatures, results = test()
    systems: Dict[str, Any] = {name: {} for name in texts}
    for metric in METRICS:
        for (name, _), result in zip(named, results[metric], strict=True):
            found = {"score": result.score, "mean": result.mean, "ci": result.ci}
            if result.p_value is not None:
                found["p"] = 1.0 if _says_nothing(result, results[metric][0]) else result.p_value
            systems[name][metric] = {key: float(value) for key, value in found.items()}
    return {
        "signatures": {metric: str(signatures[metric]) for metric in METRICS},
        "systems": systems,
    }


def _says_nothing(result: Result, baseline: Result) -> bool:
    """Whether all resamples differ alike, for which sacreBLEU gives the smallest p there is."""
    same = [result.score, result.mean, result.ci] == [baseline.score, baseline.mean, baseline.ci]
    return same or result.ci == baseline.ci == 0


def bleu_of_bins(
    texts: Mapping[str, Sequence[str]],
    references: Sequence[str],
    bins: Sequence[Bin],
    tokenizer: str = BLEU.TOKENIZER_DEFAULT,
) -> List[Figures]:
    """The BLEU of every system on each bin by itself, from sums of the sentences' statistics.

    Args:
        texts: plain translations by system.
        references: plain references.
        bins: of the sentences.
        tokenizer: of BLEU.
    """
    bleu = BLEU(tokenize=tokenizer)
    found: List[Figures] = [
        {"label": each.label, "sentences": len(each.sentences), "bleu": {}} for each in bins
    ]
    for name, hypotheses in texts.items():
        for result, each in zip(found, bins, strict=True):
            chosen = [hypotheses[i] for i in each.sentences]
            against = [references[i] for i in each.sentences]
            result["bleu"][name] = bleu.corpus_score(chosen, [against]).score
    return found


def equal_bins(
    values: Sequence[float], count: int, name: Callable[[float, float], str]
) -> List[Bin]:
    """Bins of about equally many sentences by a value of each; equal values are never parted.

    Args:
        values: one a sentence, at least 0.
        count: of bins at most.
        name: of a bin, from its smallest and its largest value.
    """
    places = np.linspace(0, 1, count + 1)[1:]
    bins, low = [], -1.0
    for edge in np.unique(np.quantile(values, places, method="lower")).tolist():
        chosen = [i for i, value in enumerate(values) if low < value <= edge]
        bins.append(Bin(name(min(values[i] for i in chosen), edge), chosen))
        low = edge
    return bins
