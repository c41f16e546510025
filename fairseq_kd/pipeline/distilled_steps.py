"""The steps that make distilled training sets: translations, and the sets that are made of them."""

import os
from typing import Any, List, Mapping, Optional, Sequence

from fairseq_kd.decoding.options import (
    ImportTranslationsOptions,
    MergeOptions,
    TranslateOptions,
)
from fairseq_kd.distilled_data.options import BinariseTextOptions, DistillDataOptions
from fairseq_kd.parallel_text import text_file
from fairseq_kd.pipeline.corpus import EVERY_SUBSET, Corpus
from fairseq_kd.pipeline.run_file import RunFile
from fairseq_kd.pipeline.run_models import Model
from fairseq_kd.pipeline.workflow import LaidOutStep, in_shards, last_part

TRANSLATIONS, IMPORTED = "teacher-translations", "imported-translations"
MONOLINGUAL = "monolingual-text"
SECTION, GREEDY = "own-translations", {"beam": 1}
UNFILTERED = dict.fromkeys(("max-length-ratio", "max-copied", "max-repeated"), "inf")


def distilled_steps(
    run: RunFile, corpus: Corpus, teachers: Sequence[Model], kind: str, user_dir: Optional[str]
) -> List[LaidOutStep]:
    """The steps that make a training set of translations, as ``distilled`` of the run file says.

    Args:
        run: the run file.
        corpus: the corpus of the run.
        teachers: the models that translate together.
        kind: distilled, or mixed with the references; the last step has this name.
        user_dir: the run's own plugin, if it has one.

    Raises:
        FileNotFoundError, ValueError: a file is missing, or a flag is unknown or out of its range.
    """
    section, steps, translated = run.get("distilled", {}), [], corpus
    if "binarise-text" in section:
        out = str(run.folder / MONOLINGUAL)
        with run.section("distilled.binarise-text"):
            steps.append(text_step(corpus, section["binarise-text"], out))
        translated = Corpus(out, corpus.pair, steps[0])
    if "import-translations" in section:
        out = str(run.folder / IMPORTED)
        with run.section("distilled.import-translations"):
            steps.append(import_step(translated, section["import-translations"], out))
    else:
        out = str(run.folder / TRANSLATIONS)
        given, shards = section.get("translate", {}), section.get("shards", 1)
        with run.section("distilled.translate"):
            steps += translation_steps(teachers, translated, given, shards, out, user_dir)
    with run.section("distilled.distill-data"):
        flags = section.get("distill-data", {})
        steps.append(distilled_step(translated, corpus, flags, out, str(run.folder / kind)))
    return steps


def own_steps(
    run: RunFile, corpus: Corpus, model: Model, name: str, user_dir: Optional[str]
) -> List[LaidOutStep]:
    """The steps that make a training set of a student's own translations, all of them.

    Args:
        run: the run file.
        corpus: the corpus of the run, whose training set the student translates.
        model: the student as its training starts; greedy search by default.
        name: the name of that training.
        user_dir: the run's own plugin, if it has one.

    Raises:
        ValueError: ``own-translations`` has an unknown flag, or a value out of its range.
    """
    out = str(run.folder / f"{name}-own")
    translations, section = f"{out}-translations", {**GREEDY, **run.get(SECTION, {})}
    with run.section(SECTION):
        steps = translation_steps([model], corpus, section, 1, translations, user_dir)
    return [*steps, distilled_step(corpus, corpus, UNFILTERED, translations, out)]


def text_step(corpus: Corpus, section: Mapping[str, Any], out: str) -> LaidOutStep:
    """The step that binarises monolingual text.

    Args:
        corpus: the corpus of the run.
        section: ``distilled.binarise-text`` of the run file.
        out: the folder of the binarised text; the step has its name.

    Raises:
        FileNotFoundError: there is no such text.
        ValueError: the section has an unknown flag, or a value out of its range.
    """
    options = BinariseTextOptions.of({"data": corpus.folder, "out": out, **section})
    given = [text_file(str(options.text)), *([str(options.codes)] if options.codes else [])]
    side = f"{out}/train.{'-'.join(corpus.pair)}.{corpus.pair[0]}"
    makes = [f"{out}/text.json", f"{side}.bin", f"{side}.idx"]
    reads = [*corpus.reads(EVERY_SUBSET), *given]
    return LaidOutStep(last_part(out), "prepare", options, corpus.after, reads, makes, out)


def translation_steps(
    teachers: Sequence[Model],
    corpus: Corpus,
    section: Mapping[str, Any],
    shards: int,
    out: str,
    user_dir: Optional[str],
) -> List[LaidOutStep]:
    """The steps that translate the training set; the last one completes the translations.

    Args:
        teachers: the models that decode together, as an ensemble.
        corpus: whose training set is translated.
        section: ``distilled.translate`` of the run file.
        shards: how many steps share the work.
        out: the folder of the translations; the last step has its name.
        user_dir: the run's own plugin, if it has one.

    Raises:
        ValueError: the section has an unknown flag, or a value out of its range.
    """
    checkpoints = os.pathsep.join(each.checkpoint for each in teachers)
    flags = {"user-dir": user_dir, "teacher": checkpoints, **teachers[0].language_flags()}
    flags |= {"data": corpus.folder, "out": out}
    after = [*corpus.after, *(name for each in teachers for name in each.after)]
    reads = [*corpus.reads(), *(path for each in teachers for path in each.reads())]
    makes = [f"{out}/hypotheses.txt"]
    merge = MergeOptions.of({"folder": out})
    whole = LaidOutStep(last_part(out), "translate", merge, after, reads, makes, out, 1)
    return in_shards(whole, TranslateOptions, {**flags, **section}, shards)


def import_step(corpus: Corpus, section: Mapping[str, Any], out: str) -> LaidOutStep:
    """The step that imports the translations of another system.

    Args:
        corpus: whose training set was translated.
        section: ``distilled.import-translations`` of the run file.
        out: the folder of the translations; the step has its name.

    Raises:
        ValueError: the section has an unknown flag, or a value out of its range.
    """
    options = ImportTranslationsOptions.of({"data": corpus.folder, "out": out, **section})
    given = [str(path) for path in (options.hypotheses, options.codes) if path is not None]
    makes, reads = [f"{out}/hypotheses.txt"], [*corpus.reads(), *given]
    return LaidOutStep(last_part(out), "translate", options, corpus.after, reads, makes, out)


def distilled_step(
    translated: Corpus, corpus: Corpus, section: Mapping[str, Any], translations: str, out: str
) -> LaidOutStep:
    """The step that makes a training set of translations.

    Args:
        translated: whose training set was translated.
        corpus: the corpus of the run.
        section: ``distilled.distill-data`` of the run file.
        translations: their folder.
        out: the folder of the set: ``distilled``, or ``mixed`` with gold pairs.

    Raises:
        ValueError: the section has an unknown flag, or a value out of its range.
    """
    flags = {"translations": translations, "data": translated.folder, "out": out}
    if last_part(out) == "mixed":
        flags |= {"mix": "gold", **({} if translated is corpus else {"gold-data": corpus.folder})}
    options = DistillDataOptions.of({**flags, "select": "best", **section})
    makes, reads = [f"{out}/manifest.json"], corpus.reads(EVERY_SUBSET)
    reads += [str(options.scores)] if options.scores else []
    return LaidOutStep(
        last_part(out), "distill", options, [last_part(translations)], reads, makes, out
    )
