"""The model card of an exported student: metadata for the Hub, measurements, lineage, licences."""

import datetime
import json
import re
from typing import List, NamedTuple, Optional, Sequence

from fairseq_kd import __version__
from fairseq_kd.decoding.engine import VMAP
from fairseq_kd.evaluation.pages import code_block, markdown_table
from fairseq_kd.evaluation.tables import mib, wrapped
from fairseq_kd.export.lineage import Ancestor
from fairseq_kd.export.shortlist import MOST_BLEU_LOST, ShortlistTrial
from fairseq_kd.files.names import as_code, in_markdown
from fairseq_kd.machine import machine, versions

NOT_STATED = "not stated"
OTHER, UNKNOWN = "other", "unknown"
HUB_LICENCES = (  # noqa: SIM905  (https://huggingface.co/docs/hub/repositories-licenses)
    "apache-2.0 mit openrail openrail++ bigscience-openrail-m bigscience-bloom-rail-1.0 "
    "bigcode-openrail-m creativeml-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause "
    "bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 "
    "cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 "
    "cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 "
    "cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 "
    "eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc lppl-1.3c ms-pl mpl-2.0 "
    "odc-by odbl osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl"
).split()


def metadata(
    pair: Sequence[str], licence: str, subset: str, sentences: int, bleu: float, signature: str
) -> List[str]:
    """The lines of YAML at the beginning of a card.

    Args:
        pair: source and target language.
        licence: of the model, as the user states it; NOT_STATED if not.
        subset: the subset on which it was measured.
        sentences: of the subset.
        bleu: of the model.
        signature: of the BLEU.
    """
    name = f"{pair[0]}-{pair[1]} student"
    dataset = {"type": "parallel-text", "name": f"{subset}, {sentences} sentences"}
    metric = {"type": "bleu", "value": round(bleu, 2), "name": f"BLEU {signature}"}
    task = {"type": "translation", "name": f"Translation {pair[0]} to {pair[1]}"}
    return [
        "---",
        f"language: {json.dumps(list(pair))}",
        *_licence(licence),
        "library_name: ctranslate2",
        "pipeline_tag: translation",
        "tags: [translation, distillation, ctranslate2, fairseq]",
        "model-index:",
        f"- name: {json.dumps(name)}",
        "  results:",
        f"  - task: {json.dumps(task)}",
        f"    dataset: {json.dumps(dataset)}",
        f"    metrics: {json.dumps([metric])}",
        "---",
    ]


def _licence(stated: str) -> List[str]:
    """The Hub's identifier of a licence; another licence is ``other`` with its name."""
    if stated == NOT_STATED:
        return [f"license: {UNKNOWN}"]
    name = re.sub(r"-(only|or-later)$", "", stated.strip().lower())  # of SPDX
    if name in HUB_LICENCES:
        return [f"license: {name}"]
    return [f"license: {OTHER}", f"license_name: {json.dumps(stated)}"]


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

    subset: str  # the subset
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
    shortlist: Optional[ShortlistTrial] = None,
) -> str:
    """The card as Markdown, beginning with the metadata of a Hugging Face model card.

    Args:
        pair: source and target language.
        quantization: of the weights.
        measured: the checkpoint, then the export, then others.
        setup: of the measurement.
        ancestors: the student first.
        licences: as the user states them.
        shortlist: that was measured; None without one.
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
            *_shortlist(shortlist),
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


def _shortlist(trial: Optional[ShortlistTrial]) -> List[str]:
    if trial is None:
        return []
    tokens, candidates = trial.coverage
    size = f"{candidates:,.0f} of {trial.vocabulary:,} tokens, the mean of the sentences"
    made = f"made from {trial.pairs:,} sentence pairs of the training set"
    covered = f"{100 * tokens:.1f} % of the tokens of the references"
    speed = (
        f"{trial.speed_alone:.2f} times as fast as with the whole vocabulary one sentence at a "
        f"time, and {trial.speed_batched:.2f} times in batches of 32"
    )
    if trial.kept:
        text = (
            f"The model chooses among {size}, which `{VMAP}` lists by the tokens of the source, "
            f"{made}: {covered} are among them. BLEU changes by {-trial.bleu_lost:+.2f}, measured "
            f"one sentence at a time, and it is {speed}. `translate.py --whole-vocabulary` does "
            "without it; in a program of your own, `translate_batch(..., use_vmap=True)` uses it."
        )
    else:
        text = (
            f"A shortlist of {size}, {made}, is left out: it loses {trial.bleu_lost:.2f} BLEU, "
            f"more than {MOST_BLEU_LOST}. {covered} are among its candidates; it is {speed}."
        )
    return ["## Lexical shortlist", "", text, ""]


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
