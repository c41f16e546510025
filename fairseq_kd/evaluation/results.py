"""The results of an evaluation as dataclasses, which ``evaluation.json`` holds field by field.

The report is made from an ``EvaluationResult`` and nothing else.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Union, get_args, get_origin, get_type_hints

from fairseq_kd.files.json_files import read_json

FAIRSEQ, FLOAT32, INT8 = "fairseq", "CTranslate2 float32", "CTranslate2 int8"  # on the CPU
FAIRSEQ_GPU, FLOAT16_GPU = "fairseq float16, GPU", "CTranslate2 float16, GPU"
INT8_GPU = "CTranslate2 int8, GPU"
BY_FAIRSEQ, IN_INT8 = (FAIRSEQ, FAIRSEQ_GPU), (INT8, INT8_GPU)  # of each device
METRICS = ("BLEU", "chrF2", "TER")  # of sacreBLEU; those of --scorer follow
TESTABLE = 10  # sentences; bootstrap resamples of fewer are too similar to separate systems


@dataclass(frozen=True)
class Setup:
    """What was evaluated, with which options, on which machine."""

    date: str  # YYYY-MM-DD
    version: str  # of fairseq_kd
    versions: str  # of the packages that can change a figure
    machine: str  # cores and processor
    threads: int  # of every measurement but latency
    latency_threads: int
    pair: List[str]  # source and target language
    subset: str
    sentences: int
    references: str  # their origin, as a phrase
    beam: int
    lenpen: float
    samples: int  # bootstrap resamples
    measured_on: List[str] = field(default_factory=lambda: ["cpu"])  # cpu, cuda
    translated_on: str = "cpu"


@dataclass(frozen=True)
class SystemResult:
    """A system's checkpoint and size."""

    name: str
    role: str  # teacher, student or control
    checkpoint: str  # name of the file
    sha256: str
    updates: int  # of its own training
    updates_behind: Optional[int]  # with those of its initial checkpoint; None if unknown
    parameters: Dict[str, int]  # by part of the model
    checkpoint_bytes: int
    float32_bytes: Optional[int]  # of the conversion, if there is one
    int8_bytes: Optional[int]
    refusal: Optional[str]  # why CTranslate2 does not run it

    @property
    def total_parameters(self) -> int:
        """Parameters of all parts."""
        return sum(self.parameters.values())


@dataclass(frozen=True)
class Score:
    """A metric's score, with the mean and half the 95 % interval of its bootstrap resamples.

    ``p`` is the probability of a difference from the baseline as large by chance; the baseline
    itself has none.
    """

    score: float
    mean: float
    ci: float
    p: Optional[float] = None


@dataclass(frozen=True)
class BinScores:
    """BLEU by system on some sentences of the set."""

    label: str
    sentences: int
    bleu: Dict[str, float]


@dataclass(frozen=True)
class ErrorRates:
    """Shares of sentences, 0 to 1, and words of all translations per word of the references."""

    empty: float
    copied: float
    repeating: float
    length_ratio: float
    detached: Optional[float] = None  # None in files of earlier versions
    memorised: Optional[float] = None  # None without --training


@dataclass(frozen=True)
class Quality:
    """Quality by system; an int8 student is a system of its own, named by ``int8_name``."""

    signatures: Dict[str, str]  # by metric; the command of --scorer
    scores: Dict[str, Dict[str, Score]]  # by system and metric
    p: Dict[str, Dict[str, Dict[str, float]]]  # by baseline, system and metric
    comet: Optional[Dict[str, float]]  # by system
    by_length: List[BinScores]  # of the source, in words
    by_rare: List[BinScores]  # share of rare words
    behaviour: Dict[str, ErrorRates]  # by system
    agreement: Dict[str, float]  # share of tokens predicted as by the teacher


@dataclass(frozen=True)
class MemoryUse:
    """Bytes of what is loaded, and the peak of the work, what is loaded included."""

    weights: int
    peak: int


@dataclass(frozen=True)
class TrainingMemory:
    """Peak bytes of one update, without and with distillation; None where not measured."""

    alone: Optional[int]
    distilled: Optional[int] = None


@dataclass(frozen=True)
class MemoryResult:
    """Memory of translating, by system and engine, and of training, by system."""

    inference: Dict[str, Dict[str, Optional[MemoryUse]]]
    training: Dict[str, TrainingMemory]
    trained_on: str = "cpu"


@dataclass(frozen=True)
class Latency:
    """Milliseconds to translate single sentences: median and 95th percentile.

    ``drift`` is the additional time of the slowest round, as a share of the fastest.
    """

    median_ms: float
    p95_ms: float
    drift: float


@dataclass(frozen=True)
class Throughput:
    """Sentences and target tokens (without the ends of sentences) per second."""

    sentences_per_s: float
    tokens_per_s: float


@dataclass(frozen=True)
class EngineSpeed(Latency):
    """Latency of a system in an engine, and its throughput in batches of 32 and of 128."""

    batch_32: Throughput
    batch_128: Throughput


@dataclass(frozen=True)
class SpeedResult:
    """Speed by system and engine.

    ``alone`` sentences were translated singly and ``together`` in batches, in ``rounds`` rounds.
    """

    systems: Dict[str, Dict[str, EngineSpeed]]
    rounds: int
    alone: int
    together: int


@dataclass(frozen=True)
class SentenceResult:
    """A sentence of the set, and its translations by system with their chrF, 0 to 100."""

    number: int  # in the set, from 1
    source: str
    reference: str
    translations: Dict[str, str]
    chrf: Dict[str, float]


@dataclass(frozen=True)
class Rating:
    """Means of human ratings from 1 to 5, and the share of sentences where it was preferred."""

    ratings: int
    fluency: Optional[float]
    adequacy: Optional[float]
    preferred: Optional[float]
    p: Optional[float] = None  # of a difference from the last student by chance; None for itself


@dataclass(frozen=True)
class RatingResult:
    """Human ratings of a part of the set."""

    raters: int
    sentences: int
    systems: Dict[str, Rating]


Columns = Dict[str, List[Optional[float]]]


@dataclass(frozen=True)
class TrainingCurves:
    """The command of a training, and columns of its log: ``update``, losses in bits, settings."""

    command: str
    training: Columns
    validation: Columns


@dataclass(frozen=True)
class EvaluationResult:
    """Everything that was measured."""

    made: Setup
    systems: List[SystemResult]  # the teacher first
    quality: Quality
    memory: Optional[MemoryResult]  # None if not measured
    speed: Optional[SpeedResult]  # None if not measured
    files: List[str]  # written, relative to the report's folder
    training: Dict[str, Optional[TrainingCurves]]  # by system; None without a log
    sentences: List[SentenceResult] = field(default_factory=list)  # of large sets, a part
    ratings: Optional[RatingResult] = None  # None without --ratings

    def to_json(self) -> Dict[str, Any]:
        """The content of ``evaluation.json``."""
        return _encoded(self)

    @classmethod
    def from_json(cls, content: Dict[str, Any]) -> "EvaluationResult":
        """Reads the content of ``evaluation.json``.

        Raises:
            KeyError: a field is missing.
        """
        return _decoded(cls, content)

    @property
    def teacher(self) -> SystemResult:
        """The teacher."""
        return self.systems[0]

    def with_role(self, role: str) -> List[SystemResult]:
        """The systems of a role."""
        return [system for system in self.systems if system.role == role]

    def score(self, name: str, metric: str = "BLEU") -> float:
        """A system's score."""
        return self.quality.scores[name][metric].score

    def score_kept(self, name: str, metric: str = "BLEU") -> Optional[float]:
        """A system's score as a share of the teacher's; None if the teacher has 0."""
        teacher = self.score(self.teacher.name, metric)
        return self.score(name, metric) / teacher if teacher > 0 else None

    def measured_engine(self, name: str, engines: Sequence[str]) -> str:
        """The first of some engines in which a system's speed was measured, else the first."""
        speeds = {} if self.speed is None else self.speed.systems.get(name, {})
        return next((each for each in engines if each in speeds), engines[0])

    def sentences_per_s(self, name: str, engine: str) -> Optional[float]:
        """A system's throughput in batches of 32; None if not measured."""
        speeds = {} if self.speed is None else self.speed.systems.get(name, {})
        return speeds[engine].batch_32.sentences_per_s if engine in speeds else None

    @property
    def testable(self) -> bool:
        """Whether the set has enough sentences for the paired bootstrap."""
        return self.made.sentences >= TESTABLE


def bleu_by_system(path: Path, repair: str) -> Dict[str, float]:
    """BLEU by system in a file ``evaluation.json`` of any version.

    Args:
        path: the file.
        repair: what to do if it is damaged, as a sentence.

    Raises:
        FileNotFoundError, ValueError: it is missing or damaged.
    """
    form = {"quality": {"scores": {str: {"BLEU": {"score": float}}}}}
    scores = read_json(path, form, repair)["quality"]["scores"]
    return {name: each["BLEU"]["score"] for name, each in scores.items()}


def fairseq_on(engine: str) -> str:
    """The engine of fairseq on the device of an engine."""
    return FAIRSEQ_GPU if engine.endswith("GPU") else FAIRSEQ


def int8_name(name: str) -> str:
    """The name of a system's int8 conversion among the scores."""
    return f"{name}, int8"


def _encoded(value: Any) -> Any:
    """Dataclasses as JSON objects, without fields that are None by default."""
    if dataclasses.is_dataclass(value):
        fields = {each: getattr(value, each.name) for each in dataclasses.fields(value)}
        return {
            key.name: _encoded(each)
            for key, each in fields.items()
            if each is not None or key.default is not None
        }
    if isinstance(value, dict):
        return {key: _encoded(each) for key, each in value.items()}
    return [_encoded(each) for each in value] if isinstance(value, list) else value


def _decoded(kind: Any, value: Any) -> Any:
    """The value of a type, from what ``_encoded`` made of it."""
    if value is None:
        return None
    if dataclasses.is_dataclass(kind):
        kinds = get_type_hints(kind)
        present = [each.name for each in dataclasses.fields(kind) if _is_read(each, value)]
        return kind(**{name: _decoded(kinds[name], value[name]) for name in present})
    origin, args = get_origin(kind), get_args(kind)
    if origin is Union:  # Optional
        return _decoded(args[0], value)
    if origin is dict:
        return {key: _decoded(args[1], each) for key, each in value.items()}
    return [_decoded(args[0], each) for each in value] if origin is list else value


def _is_read(key: "dataclasses.Field[Any]", value: Dict[str, Any]) -> bool:
    """Whether a field is read: it is there, or must be there."""
    return key.name in value or key.default is key.default_factory is dataclasses.MISSING


def compared_controls(result: EvaluationResult, student: SystemResult) -> List[SystemResult]:
    """The fairest control, and the best one where that was trained for longer and is better."""
    fairest = fairest_control(result, student)
    if fairest is None:
        return []
    scores = {each.name: result.score(each.name) for each in result.with_role("control")}
    better = [
        each
        for each in result.with_role("control")
        if _is_fair(each, student) and scores[each.name] > scores[fairest.name]
    ]
    return [fairest, *sorted(better, key=lambda each: scores[each.name])[-1:]]


def fairest_control(result: EvaluationResult, student: SystemResult) -> Optional[SystemResult]:
    """The control with which a student is compared, if there is one.

    Of those with at least as many updates behind their weights as the student, the best of those
    with the fewest; else the one with the most.
    """
    controls = result.with_role("control")
    fair = [each for each in controls if _is_fair(each, student)]
    if fair:
        return min(fair, key=lambda each: (each.updates_behind, -result.score(each.name)))
    return max(controls, key=lambda each: each.updates_behind or 0, default=None)


def _is_fair(control: SystemResult, student: SystemResult) -> bool:
    """Whether a control is known to have at least as many updates behind its weights."""
    counts = control.updates_behind, student.updates_behind
    return None not in counts and counts[0] >= counts[1]
