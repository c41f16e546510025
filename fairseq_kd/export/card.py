"""The model card of an exported student: what it is, what it is worth, where it comes from."""

import datetime
import json
from typing import Any, Dict, List, NamedTuple, Sequence

from fairseq_kd import __version__
from fairseq_kd.evaluation.pages import code_block, markdown_table
from fairseq_kd.evaluation.tables import mib, wrapped
from fairseq_kd.export.lineage import Ancestor
from fairseq_kd.machine import machine, versions
from fairseq_kd.names import as_code, in_markdown

NOT_STATED = "not stated"


class Licences(NamedTuple):
    """What may be done with the model and its data, as the user states it.

    Args:
        model: the model's licence, such as MIT or CC-BY-4.0.
        data: of the training data: its name, origin and licence.
    """

    model: str = NOT_STATED
    data: str = NOT_STATED


class Measured(NamedTuple):
    """One form of the model, measured.

    Args:
        name: of the form.
        size_bytes: of its files.
        bleu: of the test set.
        median_ms, p95_ms: latency of a sentence alone.
        sentences_per_s: in batches of 32.
    """

    name: str
    size_bytes: int
    bleu: float
    median_ms: float
    p95_ms: float
    sentences_per_s: float


def card(
    pair: Sequence[str],
    quantization: str,
    forms: Sequence[Measured],
    made: Dict[str, Any],
    ancestors: Sequence[Ancestor],
    licences: Licences,
) -> str:
    """The card as Markdown, with the fields of a model card of Hugging Face at its head.

    Args:
        pair: source and target language.
        quantization: of the weights.
        forms: the checkpoint, then the export.
        made: ``subset``, ``sentences``, ``signature``, ``beam``, ``threads`` and ``computed_in``
            of the measurement.
        ancestors: the student first.
        licences: as the user states them.
    """
    source, target = pair
    fields = [
        "---",
        f"language: {json.dumps([source, target])}",
        f"license: {json.dumps(licences.model)}",
        "library_name: ctranslate2",
        "pipeline_tag: translation",
        "tags: [translation, distillation, ctranslate2, fairseq]",
        "model-index:",
        f"- name: {source}-{target} student",
        "  results:",
        "  - task: {type: translation}",
        f"    metrics: [{{type: bleu, value: {forms[1].bleu:.2f}}}]",
        "---",
    ]
    return "\n".join(
        [
            *fields,
            "",
            f"# A student for {source} to {target}",
            "",
            f"A translation model distilled by fairseq_kd {__version__}, converted for CTranslate2 "
            f"with {quantization} weights on {datetime.date.today()}.",
            "",
            "```bash",
            "python translate.py < FILE    # one sentence a line",
            "```",
            "",
            *_measured(forms, made, quantization),
            "",
            *_lineage(ancestors),
            "## Data and licences",
            "",
            f"- model: {in_markdown(licences.model)}",
            f"- training data: {in_markdown(licences.data)}",
            "",
        ]
    )


def _measured(forms: Sequence[Measured], made: Dict[str, Any], quantization: str) -> List[str]:
    base = forms[0].sentences_per_s
    rows = [
        [
            form.name,
            mib(form.size_bytes),
            f"{form.bleu:.1f}",
            f"{form.median_ms:.1f}",
            f"{form.p95_ms:.1f}",
            f"{form.sentences_per_s:.0f}",
            f"{form.sentences_per_s / base:.1f}x",
        ]
        for form in forms
    ]
    columns = ("form", "size", "BLEU", "median ms", "p95 ms", "sentences/s, 32", "speed")
    threads = "one thread" if made["threads"] == 1 else f"{made['threads']} threads"
    computed = ""
    if made["computed_in"] != quantization:
        computed = f" That processor cannot compute in {quantization}: it did in float32."
    subset = in_markdown(made["subset"])
    return [
        "## What it is worth",
        "",
        markdown_table(columns, rows),
        "",
        f"{made['sentences']:,} sentences of {subset}, beam {made['beam']}, BLEU "
        f"`{made['signature']}`. Latency of a sentence alone on one thread, and sentences a "
        f"second in batches of 32 on {threads}, warmed up, in turns, on {machine()}. {versions()}."
        f"{computed}",
    ]


def _lineage(ancestors: Sequence[Ancestor]) -> List[str]:
    lines = ["## Lineage", ""]
    for ancestor in ancestors:
        lines += [f"### {in_markdown(ancestor.role)}: {as_code(ancestor.path)}", ""]
        lines += [f"- {name}: {in_markdown(value)}" for name, value in ancestor.facts.items()]
        if not ancestor.facts:
            lines.append("- the file was not there when the student was exported")
        if ancestor.command:
            lines += ["", code_block(wrapped(ancestor.command))]
        lines.append("")
    return lines
