"""Quality by sacreBLEU, COMET and other programs: scores, their significance, BLEU of parts."""

import re
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence

import numpy as np
from sacrebleu.metrics import BLEU, CHRF, TER
from sacrebleu.metrics.base import Metric
from sacrebleu.significance import PairedTest, Result

from fairseq_kd.evaluation.external_metrics import ExternalMetric, Scorer
from fairseq_kd.evaluation.results import BinScores, Score
from fairseq_kd.files.names import why_no_file

SIGNIFICANT_P = 0.05
TOKENIZER_PACKAGES = {"ja-mecab": "'sacrebleu[ja]'", "ko-mecab": "'sacrebleu[ko]'"}
TWO_LETTERS = {"chi": "zh", "jpn": "ja", "kor": "ko", "zho": "zh"}  # of ISO 639-2 and 639-3
COMET_INSTALL = "pip install unbabel-comet"


def bleu_tokenizer(language: str, chosen: Optional[str]) -> str:
    """The tokenizer of BLEU: the chosen one, or sacreBLEU's for the target language.

    Args:
        language: of the target. A script or country, as in ``zh_CN`` or ``zho_Hans``, is ignored.
        chosen: by the user, or None.

    Raises:
        ValueError: a package that it needs is not installed, or its model cannot be downloaded.
    """
    code = re.split("[-_]", language)[0].lower()
    code = TWO_LETTERS.get(code, code)
    name = chosen or BLEU._TOKENIZER_MAP.get(code, BLEU.TOKENIZER_DEFAULT)
    try:
        BLEU(tokenize=name)
    except (ImportError, RuntimeError):
        package = TOKENIZER_PACKAGES.get(name, "sentencepiece")
        raise ValueError(
            f"BLEU of {language} by the tokenizer {name} needs a package that is not installed "
            f"(pip install {package}); or give another one by --sacrebleu-tokenize, such as char."
        ) from None
    except OSError as error:  # of a download
        raise ValueError(
            f"BLEU of {language} by the tokenizer {name} needs a model that sacreBLEU downloads, "
            f"which failed: {error}. Give another tokenizer by --sacrebleu-tokenize, such as 13a."
        ) from None
    return name


def metrics(
    tokenizer: str = BLEU.TOKENIZER_DEFAULT,
    scorers: Sequence[Scorer] = (),
    sources: Sequence[str] = (),
) -> Dict[str, Metric]:
    """The metrics by name, with sacreBLEU's defaults.

    Each caches the statistics of a text, so that a text is counted once for all comparisons. Use
    them with one set of references only.

    Args:
        tokenizer: of BLEU.
        scorers: programs of the user's own.
        sources: plain source sentences, which these read.
    """
    by_name = {"BLEU": BLEU(tokenize=tokenizer), "chrF2": CHRF(), "TER": TER()}
    external = {each.name: ExternalMetric(each, sources) for each in scorers}
    return {**{name: _with_cache(metric) for name, metric in by_name.items()}, **external}


def _with_cache(metric: Metric) -> Metric:
    count, cache = metric._extract_corpus_statistics, {}

    def cached(hypotheses: Sequence[str], references: Any) -> Any:
        key = tuple(hypotheses)
        if key not in cache:
            cache[key] = count(hypotheses, references)
        return cache[key]

    metric._extract_corpus_statistics = cached
    return metric


class Comparison(NamedTuple):
    """Scores of several systems, compared with a baseline.

    Args:
        signatures: of sacreBLEU, or the command of another program, by metric.
        scores: by system and metric.
    """

    signatures: Dict[str, str]
    scores: Dict[str, Dict[str, Score]]

    def p_values(self) -> Dict[str, Dict[str, float]]:
        """By system and metric; empty for the baseline."""
        return {
            name: {metric: each.p for metric, each in by_metric.items() if each.p is not None}
            for name, by_metric in self.scores.items()
        }


def paired_scores(
    texts: Mapping[str, Sequence[str]],
    references: Sequence[str],
    baseline: str,
    samples: int,
    metrics: Mapping[str, Metric],
) -> Comparison:
    """Scores all systems, and compares them with a baseline by paired bootstrap.

    Args:
        texts: plain translations by system.
        references: plain references.
        baseline: the system that the others are compared with.
        samples: bootstrap resamples.
        metrics: those of ``metrics()``, the same for all comparisons with these references.

    Returns:
        The scores. If all resamples have the same difference, p is 1.

    Source: Koehn 2004, W04-3250, by ``sacrebleu.significance``.
    """
    named = [(baseline, texts[baseline])]
    named += [(name, each) for name, each in texts.items() if name != baseline]
    test = PairedTest(named, metrics, [references], test_type="bs", n_samples=samples)
    signatures, results = test()
    scores: Dict[str, Dict[str, Score]] = {name: {} for name in texts}
    for metric in metrics:
        for (name, _), result in zip(named, results[metric], strict=True):
            p = result.p_value
            if p is not None:
                p = 1.0 if _is_constant(result, results[metric][0]) else float(p)
            score, mean, ci = (float(each) for each in (result.score, result.mean, result.ci))
            scores[name][metric] = Score(score, mean, ci, p)
    named_by = {name: getattr(metric, "command", "") for name, metric in metrics.items()}
    return Comparison({name: named_by[name] or str(signatures[name]) for name in metrics}, scores)


def _is_constant(result: Result, baseline: Result) -> bool:
    """Whether all resamples have the same difference, where sacreBLEU gives its smallest p."""
    same = [result.score, result.mean, result.ci] == [baseline.score, baseline.mean, baseline.ci]
    return same or result.ci == baseline.ci == 0


class Bin(NamedTuple):
    """A group of sentences: its label, such as ``10-14``, and their indices."""

    label: str
    sentences: List[int]


def equal_bins(
    values: Sequence[float], count: int, label: Callable[[float, float], str]
) -> List[Bin]:
    """Groups sentences by a value into bins of about equal size; equal values share a bin.

    Args:
        values: one per sentence, at least 0.
        count: of bins at most.
        label: of a bin, from its smallest and its largest value.
    """
    places = np.linspace(0, 1, count + 1)[1:]
    bins, low = [], -1.0
    for edge in np.unique(np.quantile(values, places, method="lower")).tolist():
        members = [i for i, value in enumerate(values) if low < value <= edge]
        bins.append(Bin(label(min(values[i] for i in members), edge), members))
        low = edge
    return bins


def bleu_of_bins(
    texts: Mapping[str, Sequence[str]],
    references: Sequence[str],
    bins: Sequence[Bin],
    tokenizer: str = BLEU.TOKENIZER_DEFAULT,
) -> List[BinScores]:
    """Corpus BLEU of every system on each bin.

    Args:
        texts: plain translations by system.
        references: plain references.
        bins: of the sentences.
        tokenizer: of BLEU.
    """
    bleu = BLEU(tokenize=tokenizer)

    def scored(sentences: List[int], hypotheses: Sequence[str]) -> float:
        chosen = [[each[i] for i in sentences] for each in (hypotheses, references)]
        return bleu.corpus_score(chosen[0], [chosen[1]]).score

    return [
        BinScores(
            each.label,
            len(each.sentences),
            {name: scored(each.sentences, hypotheses) for name, hypotheses in texts.items()},
        )
        for each in bins
    ]


def check_comet(model: Path) -> None:
    """Checks that COMET can be used, before anything is computed.

    Raises:
        FileNotFoundError: there is no such model.
        ValueError: COMET is not installed.
    """
    if not model.is_file():
        raise FileNotFoundError(
            f"--comet {model} {why_no_file(model)}. Give a checkpoint of COMET."
        )
    try:
        import comet  # noqa: F401
    except ImportError:
        message = f"--comet needs COMET, which is not installed ({COMET_INSTALL})."
        raise ValueError(message) from None


def comet_scores(
    model: Path,
    sources: Sequence[str],
    texts: Mapping[str, Sequence[str]],
    references: Sequence[str],
) -> Dict[str, float]:
    """The system score of every system by a COMET model, on the CPU.

    Args:
        model: its checkpoint, such as ``checkpoints/model.ckpt`` of wmt22-comet-da.
        sources: plain source sentences.
        texts: plain translations by system.
        references: plain references.

    Source: Rei et al. 2020, arXiv:2009.09025.
    """
    from comet import load_from_checkpoint

    scorer = load_from_checkpoint(str(model))
    scores = {}
    for name, hypotheses in texts.items():
        triples = zip(sources, hypotheses, references, strict=True)
        samples = [{"src": src, "mt": mt, "ref": ref} for src, mt, ref in triples]
        scores[name] = float(scorer.predict(samples, gpus=0).system_score)
    return scores
