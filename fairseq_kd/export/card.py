"""The model card of an exported student: measurements, lineage and licences."""

import datetime
from typing import List, NamedTuple, Sequence

from fairseq_kd import __version__
from fairseq_kd.evaluation.pages import code_block, markdown_table
from fairseq_kd.evaluation.tables import mib, wrapped
from fairseq_kd.export.hub import NOT_STATED, metadata
from fairseq_kd.export.lineage import Ancestor
from fairseq_kd.files.names import as_code, in_markdown
from fairseq_kd.machine import machine, versions


class Licences(NamedTuple):
    """The licences, as the user states them.

    Args:
        model: licence of the model, such as MIT or CC-BY-4.0.
        data: name, origin and licence of the training data.
    """

    model: str = NOT_STATED
    data: str = NOT_STATED


class Measured(NamedTuple):
    """Figures of the checkpoint or of the export.

    Args:
        name: of the row.
        size_bytes: of the files.
        bleu: on the test set.
        median_ms, p95_ms: latency of single sentences.
        sentences_per_s: in batches of 32.
    """

    name: str
    size_bytes: int
    bleu: float
    median_ms: float
    p95_ms: float
    sentences_per_s: float


class MeasurementSetup(NamedTuple):
    """How an export was measured."""

    subset: str  # the split
    sentences: int
    signature: str  # of BLEU
    beam: int
    threads: int  # of throughput
    compute_type: str  # of CTranslate2


def _origin(ancestors: Sequence[Ancestor]) -> str:
    """What the model is: distilled, if it has a teacher in its lineage."""
    taught = any(each.role.startswith(("teacher", "distilled")) for each in ancestors)
    return "A translation model distilled by fairseq_kd" if taught else "A translation model"


def card(
    pair: Sequence[str],
    quantization: str,
    measured: Sequence[Measured],
    setup: MeasurementSetup,
    ancestors: Sequence[Ancestor],
    licences: Licences,
) -> str:
    """The card as Markdown, beginning with the metadata of a Hugging Face model card.

    Args:
        pair: source and target language.
        quantization: of the weights.
        measured: the checkpoint, then the export.
        setup: of the measurement.
        ancestors: the student first.
        licences: as the user states them.
    """
    source, target = pair
    bleu = measured[1].bleu
    fields = metadata(pair, licences.model, setup.subset, setup.sentences, bleu, setup.signature)
    return "\n".join(
        [
            *fields,
            "",
            f"# A student for {source} to {target}",
            "",
            f"{_origin(ancestors)}, converted for CTranslate2 by fairseq_kd {__version__} with "
            f"{quantization} weights on {datetime.date.today()}.",
            "",
            "```bash",
            "python translate.py < FILE    # one sentence per line",
            "```",
            "",
            *_measured(measured, setup, quantization),
            "",
            *_lineage(ancestors),
            "## Data and licences",
            "",
            f"- model: {in_markdown(licences.model)}",
            f"- training data: {in_markdown(licences.data)}",
            "",
        ]
    )


def _measured(
    measured: Sequence[Measured], setup: MeasurementSetup, quantization: str
) -> List[str]:
    base = measured[0].sentences_per_s
    rows = [
        [
            each.name,
            mib(each.size_bytes),
            f"{each.bleu:.1f}",
            f"{each.median_ms:.1f}",
            f"{each.p95_ms:.1f}",
            f"{each.sentences_per_s:.0f}",
            f"{each.sentences_per_s / base:.1f}x",
        ]
        for each in measured
    ]
    columns = ("model", "size", "BLEU", "median ms", "p95 ms", "sentences/s, 32", "speed")
    threads = "one thread" if setup.threads == 1 else f"{setup.threads} threads"
    note = ""
    if setup.compute_type != quantization:
        note = f" This processor cannot compute in {quantization}: float32 was used."
    return [
        "## Measurements",
        "",
        markdown_table(columns, rows),
        "",
        f"{setup.sentences:,} sentences of {in_markdown(setup.subset)}, beam {setup.beam}, BLEU "
        f"`{setup.signature}`. Latency of single sentences on one thread, and sentences per second "
        f"in batches of 32 on {threads}; measured in turns after a warm-up, on {machine()}. "
        f"{versions()}.{note}",
    ]


def _lineage(ancestors: Sequence[Ancestor]) -> List[str]:
    lines = ["## Lineage", ""]
    for ancestor in ancestors:
        lines += [f"### {in_markdown(ancestor.role)}: {as_code(ancestor.path)}", ""]
        lines += [f"- {name}: {in_markdown(value)}" for name, value in ancestor.facts.items()]
        if not ancestor.facts:
            lines.append("- the file did not exist when the student was exported")
        if ancestor.command:
            lines += ["", code_block(wrapped(ancestor.command))]
        lines.append("")
    return lines
