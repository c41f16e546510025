"""Checks that data sets, dictionaries and teachers fit the trainings, before any step runs.

The task, data sets and model of each training are built, if its data already exist.
"""

import os
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple

from fairseq_kd.decoding.options import SplittingOptions, TranslateOptions
from fairseq_kd.distilled_data.options import BinariseTextOptions, DistillDataOptions
from fairseq_kd.files.temporary_folders import temporary_folder
from fairseq_kd.pipeline.layout import Layout
from fairseq_kd.pipeline.run_file import RunFile
from fairseq_kd.pipeline.start_check import START
from fairseq_kd.pipeline.training_check import resolved, training_refused
from fairseq_kd.pipeline.trial import Trials

FILES = ("encoder_embed_path", "decoder_embed_path", START)  # read where a training begins


def check_fit(run: RunFile, layout: Layout, trainings: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuses data, teachers and files with which a later step would fail.

    Args:
        run: the run file.
        layout: all of its steps.
        trainings: the parsed fairseq-train flags of each training, by step.

    Raises:
        FileNotFoundError: a file or a set is missing.
        ValueError: a training would fail on its data sets, or a teacher does not fit the data.
    """
    from fairseq_kd.teachers.sentence_format import sentence_format

    made = {path for step in layout.steps for path in step.makes}
    builder = TrainingBuilder(layout.corpus.folder)
    built = {}
    for name, training in trainings.items():
        for key in FILES:
            path = training.get(key)
            if path and path not in made and not Path(path).is_file():
                raise FileNotFoundError(
                    f"{run.path}: {key.replace('_', '-')} of {name} is {path}, which does not "
                    "exist. Give a file."
                )
        built[name] = builder.check(name, training)
    pivot = any(training.get("kd_pivot_lang") for training in trainings.values())
    if isinstance(run.teacher, list):
        tasks = []
        for path in run.teacher:
            called, languages = f"{run.path}: the teacher", run.teacher_languages
            model, task = _loaded(layout, path, called, not pivot, languages)
            _check_teacher(run, path, model, sentence_format(task), trainings, built)
            tasks.append(task)
        _check_languages(run, layout, tasks)
        _check_language_tokens(run, layout, tasks)
    for path in run.get("compare", {}).values():
        _loaded(layout, path, f"{run.path}: compare:", not pivot)
    _check_vocabulary(run, layout)
    _check_evaluation(run, layout)
    with temporary_folder() as folder:
        trials = Trials(layout, trainings, folder)
        for name, training in trainings.items():
            if built[name]:
                trials.run(name, training)


def _check_languages(run: RunFile, layout: Layout, tasks: Sequence[Any]) -> None:
    """Refuses names of languages that no teacher uses."""
    from fairseq_kd.teachers.compatibility import language_pair
    from fairseq_kd.teachers.multilingual import TeacherTask

    names, ours = run.teacher_languages, layout.corpus.pair
    own = [language_pair(each) for each in tasks if not isinstance(each, TeacherTask)]
    if names not in (None, ours) and len(own) == len(tasks) and set(own) == {ours}:
        raise ValueError(
            f"{run.path}: teacher-languages has no effect, since the teacher itself names its "
            f"languages {' and '.join(ours)}. Leave it out."
        )


def _check_language_tokens(run: RunFile, layout: Layout, tasks: Sequence[Any]) -> None:
    """Refuses teachers that cannot translate together, or of which no layers can be chosen."""
    from fairseq_kd.teachers.loading import teacher_languages
    from fairseq_kd.teachers.sentence_format import sentence_format

    together = any(
        isinstance(step.command, TranslateOptions) and os.pathsep in step.command.teacher
        for step in layout.steps
    )
    if together and len({sentence_format(task) for task in tasks}) > 1:
        raise ValueError(
            f"{run.path}: the teachers read different language tokens, so that they cannot "
            "translate together, as data: distilled and mixed need. Give teachers of one kind, or "
            "data: gold."
        )
    for command in (step.command for step in layout.steps if step.kind == "inherit"):
        known = command.teacher_source_lang or command.importance == "data"
        if not known and command.teacher in run.teacher:  # which reads no data to find the pair
            teacher_languages(command.teacher, f"{run.path}: the teacher")


def _check_teacher(
    run: RunFile,
    path: str,
    model: Any,
    around: Any,
    trainings: Mapping[str, Mapping[str, Any]],
    built: Mapping[str, Any],
) -> None:
    """Refuses a teacher whose positions are too few for a training that it teaches."""
    from fairseq_kd.teachers.compatibility import check_positions

    for name, training in trainings.items():
        if built[name] and path in (training.get("kd_teacher") or "").split(os.pathsep):
            check_positions(f"{run.path}: the teacher {path}", model, built[name][0], around)


def _loaded(
    layout: Layout,
    path: str,
    called: str,
    same_vocabulary: bool,
    names: Optional[Tuple[str, str]] = None,
) -> Tuple[Any, Any]:
    """A model from a checkpoint and its task, which must have the dictionaries of the run's data.

    Args:
        layout: of the run.
        path: the checkpoint.
        called: how errors name it.
        same_vocabulary: whether it must have the data's dictionaries.
        names: of the run's languages in the model, if they are others.
    """
    from fairseq_kd.teachers.compatibility import check_same_vocabulary
    from fairseq_kd.teachers.languages import Languages
    from fairseq_kd.teachers.loading import load_teacher

    languages = Languages(layout.corpus.pair, names, True, str(layout.corpus.folder))
    model, task = load_teacher(path, called, languages)
    own = (task.source_dictionary, task.target_dictionary)
    source, target = dictionaries_of(layout) or own
    pair = dict(zip(("source_lang", "target_lang"), layout.corpus.pair, strict=True))
    ours = SimpleNamespace(
        cfg=SimpleNamespace(data=layout.corpus.folder, **pair),
        source_dictionary=source,
        target_dictionary=target,
        described="the data are",
        advice="data of its languages",
    )
    if same_vocabulary:
        check_same_vocabulary(f"{called} {path}", task, ours)
    return model, task


def _check_vocabulary(run: RunFile, layout: Layout) -> None:
    """Refuses options that do not fit the dictionaries, if these already exist."""
    dictionaries = dictionaries_of(layout)
    if dictionaries is None:
        return
    source, target = dictionaries
    for step in layout.steps:
        if step.kind == "store" and step.command.topk >= len(target):
            raise ValueError(
                f"{run.path}: store.topk must be below {len(target)}, the size of the target "
                f"dictionary, but is {step.command.topk}."
            )
    from fairseq_kd.decoding.subset import check_splitting

    subset = SimpleNamespace(source_dictionary=source, target_dictionary=target)
    sections = {"evaluate": "evaluate", "distill": "distilled.distill-data"}
    for step in layout.steps:
        if isinstance(step.command, SplittingOptions):
            with run.section(f"distilled.{step.command.COMMAND}"):
                _check_text(layout, step.command, subset)
        if step.kind in sections:
            with run.section(sections[step.kind]):
                check_splitting(subset, step.command.remove_bpe, "remove-bpe")
                if step.kind == "distill":
                    _check_mixing(layout, step.command, source)


def _check_text(layout: Layout, options: SplittingOptions, subset: Any) -> None:
    """Refuses another splitting of words than that of the data, and text that is not of the set."""
    from fairseq_kd.decoding.external_translations import Import
    from fairseq_kd.decoding.subset import check_splitting
    from fairseq_kd.decoding.subwords import find_codes
    from fairseq_kd.distilled_data.source_text import SourceText

    if not options.is_split:
        check_splitting(subset, options.bpe, "bpe")
        if options.codes is not None or layout.corpus.step is None:
            find_codes(options.bpe, options.codes, Path(layout.corpus.folder))
    if options.data.is_dir():  # else a step makes it
        reader = SourceText if isinstance(options, BinariseTextOptions) else Import
        reader(options, layout.corpus.pair, 1).check_beginning()


def _check_mixing(layout: Layout, options: DistillDataOptions, source: Any) -> None:
    """Refuses tags that the source dictionary lacks, and a gold set that does not exist."""
    from fairseq_kd.decoding.subset import read_subset
    from fairseq_kd.distilled_data.binarised_writer import tag_id

    corpus = layout.corpus
    for flag, tag in (("tag-distilled", options.tag_distilled), ("tag-gold", options.tag_gold)):
        if tag is not None:
            tag_id(source, corpus.dictionaries()[0], tag, flag)
    if options.gold_subset is not None and Path(corpus.folder).is_dir():
        read_subset(Path(corpus.folder), options.gold_subset, corpus.pair, "gold-subset")


def _check_evaluation(run: RunFile, layout: Layout) -> None:
    """Refuses a tokenizer of BLEU that is not installed, and references of another set."""
    from fairseq_kd.decoding.subset import read_subset
    from fairseq_kd.evaluation.scores import bleu_tokenizer
    from fairseq_kd.evaluation.translations import read_references

    folder = Path(layout.corpus.folder)
    for step in layout.steps:
        if step.kind != "evaluate":
            continue
        options = step.command
        try:
            bleu_tokenizer(layout.corpus.pair[1], options.sacrebleu_tokenize)
            if options.reference is not None and folder.is_dir():
                subset = read_subset(folder, options.subset, layout.corpus.pair)
                read_references(options.reference, subset)
        except ValueError as error:
            raise ValueError(f"{run.path}: evaluate: {error}") from None


def dictionaries_of(layout: Layout) -> "Tuple[Any, Any] | None":
    """The source and the target dictionary; None while the text is not prepared."""
    from fairseq_kd.dictionaries import read_dictionary

    files = layout.corpus.dictionaries()
    if not all(path.is_file() for path in files):
        return None
    source, target = (read_dictionary(path, distinct=False) for path in files)
    return source, target


class TrainingBuilder:
    """Builds the tasks, data sets and models of trainings, if their data already exist.

    Args:
        data: the folder of the run's data. Training sets that the run makes share its validation
            set and dictionaries.
    """

    def __init__(self, data: str):
        self.data = data
        self._tasks: Dict[str, Any] = {}

    def check(self, name: str, training: Mapping[str, Any]) -> Optional[Tuple[Any, Any]]:
        """Builds one training.

        Args:
            name: of the training.
            training: its flags, as ``check_training_command`` returns them.

        Returns:
            Its task and its model, on the meta device; None while its data do not exist.

        Raises:
            FileNotFoundError: a set is missing.
            ValueError: the training would fail on its sets or its model.
        """
        args = resolved(Namespace(**{**training, "data": self.data}))
        if not Path(self.data).is_dir():
            return None
        with training_refused(name):
            task = self._task(args)
            model = _model(args, task)
            _check_sets(args, task, model)
        return task, model

    def _task(self, args: Namespace) -> Any:
        from fairseq import tasks

        known = _task_flags(args)
        key = repr([(name, value) for name, value in vars(args).items() if name in known])
        if key not in self._tasks:
            self._tasks[key] = tasks.setup_task(args)
        return self._tasks[key]


def _task_flags(args: Namespace) -> Sequence[str]:
    """The names of the flags that a task is built from."""
    from fairseq.tasks import TASK_DATACLASS_REGISTRY

    config = TASK_DATACLASS_REGISTRY.get(args.task)
    return [*config.__dataclass_fields__, "task"] if config else list(vars(args))


def _model(args: Namespace, task: Any) -> Optional[Any]:
    """A transformer without memory for its weights; None for another architecture."""
    from fairseq_kd.models.structure import on_meta_device
    from fairseq_kd.models.transformer_options import check_heads, is_transformer

    if not is_transformer(args.arch):
        return None
    check_heads("the model", args)
    args = Namespace(**{**vars(args), "encoder_embed_path": None, "decoder_embed_path": None})
    return on_meta_device(lambda: task.build_model(args))


def _check_sets(args: Namespace, task: Any, model: Optional[Any]) -> None:
    """Refuses data sets that are missing, or have sentences on which the training would fail."""
    from fairseq.data.data_utils import raise_if_valid_subsets_unintentionally_ignored
    from fairseq.utils import resolve_max_positions

    raise_if_valid_subsets_unintentionally_ignored(SimpleNamespace(dataset=args, task=args))
    limits = task.max_positions()
    if model is not None:
        limits = resolve_max_positions(limits, model.max_positions())
    valid = args.valid_subset.split(",")
    for subset in (*valid, args.train_subset):
        sizes = _sizes(task, subset, args.data, combine=subset == args.train_subset)
        if sizes is None:
            continue
        readable = (sizes[0] <= limits[0]) & (sizes[1] <= limits[1])
        if subset in valid and not readable.all() and not args.skip_invalid_size_inputs_valid_test:
            number = int((~readable).argmax())
            raise ValueError(
                f"sentence {number + 1} of the set {subset} in {args.data} has {sizes[0][number]} "
                f"and {sizes[1][number]} tokens, but the model reads {limits[0]} and {limits[1]}. "
                "Shorten it, raise max-source-positions and max-target-positions, or set train: "
                "{skip-invalid-size-inputs-valid-test: true}."
            )
        if not readable.any():
            raise ValueError(
                f"the set {subset} in {args.data} has no sentence that the model can read: it "
                f"reads at most {limits[0]} source and {limits[1]} target tokens. Raise "
                "max-source-positions and max-target-positions."
            )
        _check_batches(args, subset, sizes.max(0)[readable], subset in valid)


def _check_batches(args: Namespace, subset: str, lengths: Any, validates: bool) -> None:
    """Refuses batches that are smaller than a sentence, and sets that are smaller than a batch."""
    longest, multiple = int(lengths.max()), args.required_batch_size_multiple
    flag, most = "--max-tokens", args.max_tokens
    if validates and args.max_tokens_valid not in (None, most):  # which is its default
        flag, most = "--max-tokens-valid", args.max_tokens_valid
    if most is not None and longest > most:
        raise ValueError(
            f"{flag} is {most}, but the set {subset} has a sentence of {longest} tokens. Raise it, "
            "or lower max-source-positions and max-target-positions."
        )
    if len(lengths) < multiple and (most is None or len(lengths) * longest <= most):
        raise ValueError(
            f"the set {subset} has only {len(lengths)} sentences, and fairseq drops a last batch "
            f"that is not a multiple of {multiple}. Add sentences, or set train: "
            "{required-batch-size-multiple: 1}."
        )


def _sizes(task: Any, subset: str, folder: str, combine: bool) -> Optional[Any]:
    """(2, n) tokens of the source and target sentences; None if the data set has no sizes."""
    import numpy as np

    if subset not in task.datasets:
        try:
            task.load_dataset(subset, combine=combine)
        except FileNotFoundError:
            pair = f"{task.cfg.source_lang}-{task.cfg.target_lang}"
            raise FileNotFoundError(
                f"{folder} holds no set {subset} of {pair}. Add it by fairseq-preprocess, or name "
                f"another by train: {{{'train' if combine else 'valid'}-subset: NAME}}."
            ) from None
    dataset = task.datasets[subset]
    sides = [getattr(dataset, f"{side}_sizes", None) for side in ("src", "tgt")]
    return None if any(side is None for side in sides) else np.array(sides)
