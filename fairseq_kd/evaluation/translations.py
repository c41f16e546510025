"""Translates the test set with every system, and keeps what was translated for the next run."""

import dataclasses
import sys
from pathlib import Path
from typing import List, Tuple

from fairseq_kd.evaluation.plain_text import Detokeniser
from fairseq_kd.evaluation.variants import INT8, Variant
from fairseq_kd.sequence.batches import length_sorted_batches
from fairseq_kd.sequence.decoding import ShardDecoder
from fairseq_kd.sequence.engine import Engine
from fairseq_kd.sequence.hypotheses import by_sentence
from fairseq_kd.sequence.plan import plan_id
from fairseq_kd.sequence.search import Search
from fairseq_kd.sequence.shards import WHOLE, check_shard
from fairseq_kd.sequence.subset import Subset
from fairseq_kd.shard import Shard
from fairseq_kd.whole_files import make_folder, written_whole


def translated(
    variant: Variant, engine: Engine, subset: Subset, search: Search, out: Path
) -> List[str]:
    """The tokens of a system's best translation of every sentence, in the set's order.

    What was decoded is kept in ``out/decoded``, under a name that changes with the checkpoint, the
    data, the engine and the search, so that a run that was killed goes on where it was.

    Args:
        variant: what translates.
        engine: by which it does.
        subset: what is translated.
        search: how.
        out: the evaluation's folder.
    """
    whole, plan = decoded_file(variant, engine, subset, search, out)
    if whole.is_file():
        check_shard(whole, plan)
    else:
        make_folder(whole.parent)
        print(f"{variant.system.name}: {engine.summary}", file=sys.stderr)
        batches = length_sorted_batches(subset.source_lengths, engine.batch_tokens)
        max_source = int(variant.system.model.model.max_positions()[0])
        ShardDecoder(subset, batches, max_source, whole.parent, Shard(), plan).run(engine)
    return [hypotheses[0].tokens for _, hypotheses in by_sentence(whole)]


def decoded_file(
    variant: Variant, engine: Engine, subset: Subset, search: Search, out: Path
) -> Tuple[Path, str]:
    """Where ``translated`` keeps what it decodes, and what stands for how it is decoded."""
    plan = plan_id(
        {
            **subset.hashes,
            "system": variant.system.sha256,
            **engine.identity,
            **dataclasses.asdict(search),
            "max_tokens": engine.batch_tokens,
        }
    )
    return out / "decoded" / f"{file_stem(variant)}-{plan}" / WHOLE, plan


def file_stem(variant: Variant) -> str:
    """How the files of a variant's translations are called."""
    return variant.system.slug + (".int8" if variant.engine == INT8 else "")


def translation_file(variant: Variant, out: Path) -> Path:
    """Where ``write_translations`` writes."""
    return out / "translations" / f"{file_stem(variant)}.txt"


def write_translations(
    variant: Variant, tokens: List[str], detokenise: Detokeniser, out: Path
) -> List[str]:
    """Writes ``out/translations/NAME.txt``, plain text for sacrebleu and for eyes; returns it."""
    texts = [detokenise(each) for each in tokens]
    path = translation_file(variant, out)
    make_folder(path.parent)
    with written_whole(path) as file:
        file.writelines(f"{text}\n" for text in texts)
    return texts
