"""Checks the flags of a training: it must succeed, resume, and write a checkpoint for the run.

The flags are parsed as fairseq-train parses them, every number is compared with its range, and
optimizer and learning-rate scheduler are built.
"""

import ast
import contextlib
import io
import json
import math
import shlex
from argparse import ArgumentTypeError, Namespace
from importlib.util import find_spec
from typing import Any, Dict, Iterator, NoReturn

from fairseq_kd.decoding.options import LENPEN
from fairseq_kd.fairseq_flags import RANGES, Flags, default_of, range_of
from fairseq_kd.flag_types import COUNT, UNPRINTABLE, Range, flag_name
from fairseq_kd.pipeline.train_command import TrainCommand
from fairseq_kd.pipeline.training_flags import CROSS_ENTROPY

ONE_FILE = "the next step reads one file with the usual name"
AT_RESTARTS = {  # flags with which a killed training cannot be resumed, with the reason
    **dict.fromkeys(
        ("no_save", "no_last_checkpoints", "no_save_optimizer_state"),
        "a killed training could not be resumed, and the next step could not start",
    ),
    **dict.fromkeys(
        ("restore_file", "continue_once", "optimizer_overrides"),
        "a training is resumed from its own folder; {start} to start from a checkpoint",
    ),
    **dict.fromkeys(
        ("reset_optimizer", "reset_lr_scheduler", "reset_meters", "reset_dataloader"),
        "it would apply at every restart; {start} to start from a checkpoint",
    ),
    "checkpoint_suffix": ONE_FILE,
    "write_checkpoints_asynchronously": "the last and the best checkpoint would not be written",
}
UNFIT = {  # flags of fairseq-train that a run does not support, with the reason
    **{name: why.format(start="set start: FILE") for name, why in AT_RESTARTS.items()},
    **dict.fromkeys(
        ("max_epoch", "stop_time_hours", "stop_min_lr"),
        "only max-update and patience end a training of a run",
    ),
    "pipeline_model_parallel": "model parallelism is not supported",
    "checkpoint_shard_count": ONE_FILE,
    "model_parallel_size": ONE_FILE,
    "use_sharded_state": ONE_FILE,
    "disable_validation": "the best checkpoint is chosen by validation",
    **dict.fromkeys(
        (
            *("log_file", "save_predictions", "tensorboard_logdir", "wandb_project"),
            *("aim_repo", "aim_run_hash", "azureml_logging"),
        ),
        "a run writes only to its own folder; its train.log has all figures as JSON",
    ),
    **dict.fromkeys(("use_plasma_view", "plasma_path"), "plasma servers are not supported"),
    "distributed_init_method": "the run sets the rendezvous address",
    **dict.fromkeys(
        ("encoder_layers_to_keep", "decoder_layers_to_keep"),
        "fairseq fails with it in a training; set start: inherit to start from layers of a model",
    ),
    "num_batch_buckets": "it is only for TPUs",
    "quantization_config_path": "quantization replaces the weights that the next step reads",
}
ALIASES = {"max_sentences": "batch_size", "max_sentences_valid": "batch_size_valid"}
LITERALS = ("lr", "update-freq", "adam-betas", "adamax-betas", "adafactor-eps", "lamb-betas")
SEARCH = {  # keys of --eval-bleu-args that fairseq's search reads, with ranges
    **dict.fromkeys(("unnormalized", "match_source_len", "sampling")),
    **dict.fromkeys(("max_len_a", "max_len_b", "unkpen", "no_repeat_ngram_size")),
    **dict.fromkeys(("sampling_topk", "diverse_beam_groups", "diversity_rate")),
    **dict.fromkeys(("temperature", "diverse_beam_strength"), Range(float, 1e-6, 1e6)),
    **{"beam": COUNT, "min_len": COUNT, "lenpen": LENPEN},
    "sampling_topp": Range(float, 1e-6, 1, also=(-1,)),
}
LOGGED_BY_FAIRSEQ = {"loss", "nll_loss", "ppl"}  # in label_smoothed_cross_entropy, and so in ours
GREATER_IS_BETTER = {"accuracy", "bleu", "agreement"}


def check_training_command(command: TrainCommand) -> Dict[str, Any]:
    """Parses a training command as fairseq-train will, and checks its flags.

    Returns:
        The parsed flags.

    Raises:
        ValueError: fairseq-train does not understand it, a number is out of its range, no run can
            have a flag, or the criterion would refuse its flags.
    """
    import fairseq_kd.plugin  # noqa: F401  (our criterions and architectures)

    flags = {name: value for name, value in command.all_flags().items() if value is not False}
    with training_refused(command.name):
        _check_literals(flags)
    args = _parsed(command)
    with training_refused(command.name):
        _check_values(args, flags, command.gpus)
        _check_distillation(args)
        _check_metric(args)
        _check_learning_rate(args)
    return vars(args)


def _parsed(command: TrainCommand) -> Namespace:
    """The flags of a training as the parser of fairseq-train reads them.

    Raises:
        ValueError: it does not understand the command.
    """
    from fairseq import options

    def refuse(message: str) -> NoReturn:
        raise ValueError(
            f"fairseq-train does not understand the training of {command.name}: {message}. "
            f"Its command would be: {shlex.join(command.process())}"
        )

    parser = options.get_training_parser()
    parser.error = refuse  # its own prints and exits
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return options.parse_args_and_arch(parser, command.arguments())
    except SystemExit:
        raise ValueError(
            f"The training of {command.name} contains --help, with which fairseq-train only "
            "prints its flags. Leave it out."
        ) from None


@contextlib.contextmanager
def training_refused(name: str) -> Iterator[None]:
    """Turns any failure in the block into an error about the training.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: anything else failed.
    """
    try:
        yield
    except Exception as error:  # fairseq raises AssertionError, KeyError, Exception and others
        message = " ".join(str(error).split()) or "it gives no reason"
        if not isinstance(error, (ValueError, FileNotFoundError)):
            message = f"{type(error).__name__}: {message}"
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(f"The training of {name} would be refused: {message}") from error


def _check_literals(flags: Flags) -> None:
    """Refuses values that fairseq would evaluate as Python, other than numbers and lists."""
    for name in LITERALS:
        value = str(flags.get(name, 0))
        try:
            parts = ast.literal_eval(value)
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            parts = value
        parts = parts if isinstance(parts, (list, tuple)) else [parts]
        if name == "update-freq" and not all(isinstance(part, int) for part in parts):
            raise ValueError(f"--{name} must be a whole number, or several, but is {value}.")
        if not all(isinstance(part, (int, float)) for part in parts):
            raise ValueError(
                f"--{name} must be a number, or several such as (0.9, 0.98), but is {value}."
            )
        if name.endswith("-betas") and name in flags and not all(0 <= part < 1 for part in parts):
            raise ValueError(f"--{name} must be two numbers from 0 to below 1, but is {value}.")


def _check_values(args: Namespace, flags: Flags, gpus: int) -> None:
    """Refuses numbers out of their range, and flags that no training of a run can have."""
    typed = {name.replace("-", "_"): f"--{name}" for name in flags}
    given = {ALIASES.get(name, name): flag for name, flag in typed.items()}
    for name, value in vars(args).items():
        flag = given.get(name, flag_name(name))
        if name in UNFIT and value != default_of(args, name):
            raise ValueError(f"{flag} is {value}, but {UNFIT[name]}. Leave it out.")
        if name in given and isinstance(value, str) and UNPRINTABLE.search(value):
            raise ValueError(f"{flag} must be text on one line, but is {value!r}.")
        if name in given and isinstance(value, str) and name in RANGES:  # fairseq reads it later
            value = _number(flag, value, RANGES[name])
        for each in value if isinstance(value, (list, tuple)) else [value]:
            numeric = isinstance(each, (int, float)) and not isinstance(each, bool)
            if name in given and numeric and not name.startswith("kd_"):
                range_of(name, type(each), default_of(args, name)).check(flag, each)
    for name in ("eval_bleu_args", "eval_bleu_detok_args"):
        flag = flag_name(name)
        settings = _json_object(flag, getattr(args, name, None) or "{}")
        if name == "eval_bleu_args":
            _check_search(flag, settings)
    _check_detokeniser(args)
    half = [flag for flag in ("fp16", "memory_efficient_fp16") if getattr(args, flag, False)]
    if args.cpu and half:
        raise ValueError(
            f"{flag_name(half[0])} needs a GPU, but --cpu is given. Leave one of them out."
        )
    if args.cpu and gpus > 1:
        raise ValueError(
            f"gpus is {gpus}, but --cpu is given, and each of several processes would train a "
            "model of its own on a CPU. Leave one of them out."
        )
    if args.max_tokens is None and args.batch_size is None:
        raise ValueError("it has neither --max-tokens nor --batch-size. Give one of them.")
    if args.validate_after_updates >= args.max_update:
        raise ValueError(
            f"--validate-after-updates is {args.validate_after_updates}, but the training ends at "
            f"update {args.max_update}, so that it writes no best checkpoint. Choose a smaller "
            "number."
        )
    sharded = args.zero_sharding != "none" or args.ddp_backend == "fully_sharded"
    if sharded and find_spec("fairscale") is None:
        raise ValueError(
            "--zero-sharding and --ddp-backend fully_sharded need a package that is not installed "
            "(pip install fairscale). Leave them out."
        )
    if args.cpu_offload and args.ddp_backend != "fully_sharded":
        raise ValueError("--cpu-offload needs --ddp-backend fully_sharded. Leave it out.")
    if args.log_format != "json":
        raise ValueError(
            f"--log-format is {args.log_format}, but progress and diagnosis read json. Leave it "
            "out."
        )


def _check_detokeniser(args: Namespace) -> None:
    """Refuses a detokeniser of the validation that fairseq does not have."""
    from fairseq.data.encoders import TOKENIZER_REGISTRY

    name = getattr(args, "eval_bleu_detok", None)
    if getattr(args, "eval_bleu", False) and name not in TOKENIZER_REGISTRY:
        known = ", ".join(sorted(TOKENIZER_REGISTRY))
        raise ValueError(f"--eval-bleu-detok must be one of {known}, but is {name}.")


def _json_object(flag: str, text: str) -> Dict[str, Any]:
    """The value of a flag that is an object of JSON."""
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError):
        settings = None
    if not isinstance(settings, dict):
        raise ValueError(f"{flag} must be keys and values in JSON, but is {text}.")
    return settings


def _check_search(flag: str, settings: Dict[str, Any]) -> None:
    """Refuses settings of fairseq's search that it does not know, or of another type or range."""
    from fairseq.dataclass.configs import GenerationConfig

    for name, value in settings.items():
        called = f"{flag} {name!r}"
        if name not in SEARCH:
            raise ValueError(f"{called} is not a setting of fairseq's search. Leave it out.")
        default = GenerationConfig.__dataclass_fields__[name].default
        if isinstance(default, bool):
            if not isinstance(value, bool):
                raise ValueError(f"{called} must be true or false, but is {value!r}.")
        else:
            right = SEARCH[name] or range_of(name, type(default), default)
            _number(called, json.dumps(value), right)


def _check_distillation(args: Namespace) -> None:
    """Runs the checks of our criterions that need no teacher, which may not be trained yet.

    Raises:
        ValueError: a flag is out of range, has no effect, or names too few or too many teachers.
    """
    from fairseq.criterions import CRITERION_REGISTRY

    from fairseq_kd.criterions.flag_checks import refuse_a_missing_tpu
    from fairseq_kd.criterions.multi_teacher_kd import MultiTeacherKDCriterion
    from fairseq_kd.teachers.sources import named_teachers

    refuse_a_missing_tpu(args)
    _check_stored_sentences(args)
    criterion = CRITERION_REGISTRY[args.criterion]
    if issubclass(criterion, MultiTeacherKDCriterion) and len(named_teachers(args)) == 1:
        (named,) = named_teachers(args)
        raise ValueError(
            f"--criterion {args.criterion} needs two or more teachers, but has only {named}. Name "
            "more by learns-from, or choose the criterion word_kd."
        )
    if hasattr(criterion, "check_flags"):
        criterion.check_flags(Namespace(**vars(args), _name=args.criterion))


def _check_stored_sentences(args: Namespace) -> None:
    """Refuses flags that change the sentences of a training that reads a store."""
    changing = ("truncate_source", "upsample_primary") if getattr(args, "kd_store", None) else ()
    for name in changing:
        if hasattr(args, name) and getattr(args, name) != default_of(args, name):
            raise ValueError(
                f"{flag_name(name)} changes the sentences or their numbers, but a store "
                "has them as in the data. Leave it out, or set soft-targets: live."
            )


def _check_metric(args: Namespace) -> None:
    """Refuses a metric that the validation does not log."""
    from fairseq.criterions import CRITERION_REGISTRY

    from fairseq_kd.criterions.base import KDCriterion

    metric, known = args.best_checkpoint_metric, {*LOGGED_BY_FAIRSEQ}
    criterion = CRITERION_REGISTRY[args.criterion]
    ours = issubclass(criterion, KDCriterion)
    if not ours and args.criterion != CROSS_ENTROPY:
        return
    known |= set(criterion.validation_metrics(args)) if ours else set()
    known |= {"accuracy"} if args.report_accuracy else set()
    known |= {"bleu"} if getattr(args, "eval_bleu", False) else set()
    if metric not in known:
        needs = {"bleu": " Set eval-bleu: true.", "accuracy": " Set report-accuracy: true."}
        raise ValueError(
            f"--best-checkpoint-metric must be one of {', '.join(sorted(known))}, but is {metric}."
            + needs.get(metric, "")
        )
    if (metric in GREATER_IS_BETTER) != args.maximize_best_checkpoint_metric:
        better = "greater" if metric in GREATER_IS_BETTER else "smaller"
        raise ValueError(
            f"--best-checkpoint-metric is {metric}, which is better the {better} it is, but "
            f"--maximize-best-checkpoint-metric is {'off' if better == 'greater' else 'on'}. "
            "Change one of them."
        )


def _check_learning_rate(args: Namespace) -> None:
    """Builds optimizer and scheduler; refuses an invalid learning rate at any update."""
    import torch
    from fairseq.optim import build_optimizer
    from fairseq.optim.lr_scheduler import build_lr_scheduler

    args = resolved(args)
    warmup = int(getattr(args, "warmup_updates", 0) or 0)
    updates = {0, 1, warmup // 2, warmup, warmup + 1, args.max_update // 2, args.max_update - 1}
    updates |= {args.max_update * part // 20 for part in range(1, 20)}
    named = ("optimizer", "lr_scheduler", "lr", "warmup_updates", "max_update", "total_num_update")
    flags = ", ".join(
        f"{flag_name(name)} {_typed(getattr(args, name))}"
        for name in named
        if getattr(args, name, None) is not None
    )
    try:
        parameter = torch.nn.Parameter(torch.zeros(1))
        parameter.grad = torch.zeros(1)
        optimizer = build_optimizer(args, [parameter])
        scheduler = build_lr_scheduler(args, optimizer)
        optimizer.step()
        scheduler.step_begin_epoch(1)
        rates = {each: scheduler.step_update(each) for each in sorted(updates)}
    except Exception as error:
        raise ValueError(f"{flags} give no learning rate: {error}. Change one of them.") from error
    for update, rate in rates.items():
        if isinstance(rate, complex) or not (rate >= 0 and math.isfinite(rate)):
            raise ValueError(f"{flags} give the learning rate {rate} at update {update}.")
        if rate == 0 and warmup < update <= 0.95 * args.max_update:
            raise ValueError(
                f"{flags} give the learning rate 0 from update {update} or earlier, long before "
                "the end of the training. Make the schedule as long as the training."
            )


def resolved(args: Namespace) -> Namespace:
    """The flags as fairseq resolves them: ``${group.name}`` is the value of another flag."""
    values = dict(vars(args))
    for name, value in values.items():
        if isinstance(value, str) and value.startswith("${"):
            values[name] = values.get(value.rstrip("}").rpartition(".")[2])
        elif isinstance(value, str) and name in RANGES:
            values[name] = _number(name, value, RANGES[name])
    return Namespace(**values)


def _number(flag: str, text: str, allowed: Range) -> Any:
    """The number in the text of a flag."""
    try:
        return allowed(text)
    except ArgumentTypeError as error:
        raise ValueError(f"{flag}: {error}.") from None


def _typed(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
