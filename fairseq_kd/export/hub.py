"""The metadata of a model card, as the Hugging Face Hub reads it."""

import json
import re
from typing import List, Sequence

NOT_STATED = "not stated"
OTHER, UNKNOWN = "other", "unknown"
LICENCES = (  # noqa: SIM905  (https://huggingface.co/docs/hub/repositories-licenses)
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
        subset: the split on which it was measured.
        sentences: of the split.
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
    if name in LICENCES:
        return [f"license: {name}"]
    return [f"license: {OTHER}", f"license_name: {json.dumps(stated)}"]
