"""What an evaluation is told to do."""

from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional

from fairseq_kd.evaluation.systems import Named
from fairseq_kd.sequence.search import Search


@dataclass(frozen=True)
class Options:
    """The flags of ``fairseq-kd evaluate``.

    Args:
        systems: the teacher first.
        data: the folder that fairseq-preprocess wrote.
        subset: the split to translate.
        out: the folder of the report.
        reference: plain references, or None to look for them.
        remove_bpe, tokenizer: as in fairseq-generate.
        sacrebleu_tokenize: the tokenizer of BLEU, or None for that of the target language.
        search: of every system.
        samples: bootstrap resamples.
        comet: a checkpoint of COMET, or None.
        threads: of every measurement but latency.
        latency_threads: of that.
        rounds: of every measurement of speed; 0 for none.
        alone: sentences of the measurement of latency.
        together: sentences of the measurement of throughput.
        memory: whether memory is measured.
        cache: folder for converted models; None for the usual one.
    """

    systems: List[Named]
    data: Path
    subset: str
    out: Path
    reference: Optional[Path]
    remove_bpe: str
    tokenizer: str
    sacrebleu_tokenize: Optional[str]
    search: Search
    samples: int
    comet: Optional[Path]
    threads: int
    latency_threads: int
    rounds: int
    alone: int
    together: int
    memory: bool
    cache: Optional[Path]
