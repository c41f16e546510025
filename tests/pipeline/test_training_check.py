"""A dry run detects flags with which a training would fail, and names the key or flag."""

import shutil
from pathlib import Path

import pytest
import torch

SMALL = "transformer_kd_small_student"
LADDER = "ladder: [0.5]\n"
SAVED = (
    "but a killed training could not be resumed, and the next step could not start. Leave it out."
)
NAMED = "but the next step reads one file with the usual name. Leave it out."
RESTART = (
    "but it would apply at every restart; set start: FILE to start from a checkpoint. Leave it"
)
ENDS = "but only max-update and patience end a training of a run. Leave it out."
OWN_FOLDER = (
    "but a run writes only to its own folder; its train.log has all figures as JSON. Leave it"
)
PLASMA = "but plasma servers are not supported. Leave it out."
TRAIN = {  # a flag under train, and its message
    "lr: 5e-4x": "--lr must be a number, or several such as (0.9, 0.98), but is 5e-4x.",
    "lr: -1": "--lr must be a number from 1e-12 to 1,000, but is -1.0.",
    "adam-betas: print(1)": "--adam-betas must be a number, or several such as (0.9, 0.98), but is",
    "adam-betas: 0.9": "--adam-betas must",
    "dropout: 2": "--dropout must be a number from 0 to below 1, but is 2.0.",
    "clip-norm: nan": "--clip-norm must be 0 or a number from 1e-30 to 1,000,000,000, but is nan.",
    "max-tokens: 0": "--max-tokens must be a whole number from 1 to 1,000,000,000, but is 0.",
    "max-tokens: 9": "--max-tokens is 9, but the set valid has a sentence of ",
    "max-tokens: 9000, required-batch-size-multiple: 64": "the set valid has only 22 sentence",
    "max-tokens-valid: 9": "--max-tokens-valid is 9, but the set valid has a sentence of ",
    "max-sentences: 0": "--max-sentences must be a whole number from 1 to ",
    "max-tokens: false": "it has neither --max-tokens nor --batch-size. Give one of them.",
    "update-freq: 0": "--update-freq must be a whole number from 1 to ",
    "warmup-updates: 0": "--warmup-updates 0, --max-update 100 give no learning rate: ",
    "lr-scheduler: tri_stage": "give no learning rate: please specify steps or phase_ratio. Change",
    "no-save: true": f"--no-save is True, {SAVED}",
    "no-last-checkpoints: true": f"--no-last-checkpoints is True, {SAVED}",
    "adam-betas: '(5, -3)'": "--adam-betas must be two numbers from 0 to below 1, but is (5, -3).",
    "use-sharded-state: true": f"--use-sharded-state is True, {NAMED}",
    "write-checkpoints-asynchronously: true": "--write-checkpoints-asynchronously is True, but the",
    "no-save-optimizer-state: true": f"--no-save-optimizer-state is True, {SAVED}",
    "disable-validation: true": "--disable-validation is True, but the best checkpoint is chosen",
    "restore-file: x.pt": "--restore-file is x.pt, but a training is resumed from its own folder;",
    "reset-optimizer: true": f"--reset-optimizer is True, {RESTART}",
    "reset-dataloader: true": f"--reset-dataloader is True, {RESTART}",
    "max-epoch: 3": f"--max-epoch is 3, {ENDS}",
    "stop-time-hours: 1": f"--stop-time-hours is 1.0, {ENDS}",
    "stop-min-lr: 1e-9": f"--stop-min-lr is 1e-09, {ENDS}",
    "checkpoint-suffix: x": f"--checkpoint-suffix is x, {NAMED}",
    "log-file: /tmp/x": f"--log-file is /tmp/x, {OWN_FOLDER}",
    "tensorboard-logdir: x": f"--tensorboard-logdir is x, {OWN_FOLDER}",
    "wandb-project: x": f"--wandb-project is x, {OWN_FOLDER}",
    "aim-repo: x": f"--aim-repo is x, {OWN_FOLDER}",
    "azureml-logging: true": f"--azureml-logging is True, {OWN_FOLDER}",
    "plasma-path: /x": f"--plasma-path is /x, {PLASMA}",
    "use-plasma-view: true": f"--use-plasma-view is True, {PLASMA}",
    "distributed-init-method: 'file:///x'": "but the run sets the rendezvous address. Le",
    "quantization-config-path: x": "but quantization replaces the weights that the next ",
    "help: true": "contains --help, with which fairseq-train only prints its flags. Leave it out.",
    "encoder-layers-to-keep: '0,1'": "but fairseq fails with it in a training; ",
    "num-batch-buckets: 2": "--num-batch-buckets is 2, but it is only for TPUs. Leave it out.",
    "cpu: true, fp16: true": "--fp16 needs a GPU, but --cpu is given. Leave one of them out.",
    "validate-after-updates: 100": "--validate-after-updates is 100, but the training ends at upd",
    "log-format: simple": "--log-format is simple, but progress and diagnosis read json. Leave it",
    "best-checkpoint-metric: nl_loss": "--best-checkpoint-metric must be one of agreement, ",
    "best-checkpoint-metric: ppl, maximize-best-checkpoint-metric: true": "which is better the sm",
    "eval-bleu: true, best-checkpoint-metric: bleu": "which is better the greater it is, but --max",
    "eval-bleu: true, eval-bleu-args: '{'": "--eval-bleu-args must be keys and values in JSON, ",
    "eval-bleu: true, eval-bleu-detok: nosuch": "--eval-bleu-detok must be one of ",
    "eval-bleu-args: '{\"beem\": 2}'": "'beem' is not a setting of fairseq's search. Leave it",
    "eval-bleu-args: '{\"beam\": 0}'": "--eval-bleu-args 'beam': it must be a whole number ",
    "eval-bleu-args: '{\"beam\": 1.5}'": "--eval-bleu-args 'beam': it must be a whole number ",
    'eval-bleu-args: \'{"lenpen": "x"}\'': "'lenpen': it must be a number from -100 to 100, but",
    "eval-bleu-args: '{\"sampling\": 1}'": "'sampling' must be true or false, but is 1.",
    'eval-bleu-args: \'{"lm_path": "x"}\'': "'lm_path' is not a setting of fairseq's search.",
    "eval-bleu: true, eval-bleu-args: '{\"min_len\": 9999}'": "min_len cannot be larger than max_l",
    "eval-bleu: true, eval-bleu-args: '{\"diverse_beam_groups\": 3}'": "requires --beam to be divi",
    "update-freq: '2.5'": "--update-freq must be a whole number, or several, but is 2.5.",
    "zero-sharding: os": "need a package that is not installed (pip install fairscale). Leave them",
    "cpu-offload: true": "--cpu-offload needs --ddp-backend fully_sharded. Leave it out.",
    "pipeline-model-parallel: true": "but model parallelism is not supported. Leave it out.",
    "adaptive-softmax-cutoff: '9,12'": "The student has an adaptive softmax, which gives no logits",
    "decoder-output-dim: 16": "mat1 and mat2 shapes cannot be multiplied",
    "lr-scheduler: polynomial_decay, total-num-update: 25": "the learning rate 0 from update 25",
    "train-subset: none": "holds no set none of es-en. Add it by fairseq-preprocess, or name",
    "valid-subset: 'valid,none'": "holds no set none of es-en.",
    "max-target-positions: 5": "sentence 1 of the set valid in ",
    "kd-temperature: 1e-40": "--kd-temperature must be a number from 0.01 to 100, but is 1e-40.",
    "bf16: true": "fairseq-train takes --bf16 and --tpu for a training on TPUs",
    "encoder-embed-path: none": "encoder-embed-path of student is none, which does not exist.",
}


@pytest.mark.parametrize("flag", TRAIN)
def test_a_flag_with_which_a_training_would_fail_is_refused(workflow_of, flag):
    flags = flag if "max-update" in flag else f"max-update: 100, {flag}"
    with pytest.raises((ValueError, FileNotFoundError)) as refused:
        workflow_of(f"{LADDER}train: {{{flags}}}")
    message = TRAIN[flag] if TRAIN[flag] != "--adam-betas must" else "--optimizer adam"
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_several_processes_on_cpus_are_refused(workflow_of):
    message = (
        r"gpus is 2, but --cpu is given, and each of several processes would train a model of its "
        r"own on a CPU\. Leave one of them out\.$"
    )
    with pytest.raises(ValueError, match=message):
        workflow_of(f"{LADDER}gpus: 2\ntrain: {{max-update: 100, cpu: true}}")


@pytest.mark.parametrize("flag", ["truncate-source: true", "upsample-primary: 2"])
def test_a_flag_that_changes_the_sentences_of_a_store_is_refused(workflow_of, flag):
    ladder = "ladder: [{ratio: 0.5, soft-targets: store}]\n"
    message = (
        f"--{flag.partition(':')[0]} changes the sentences or their numbers, but a store has t"
    )
    with pytest.raises(ValueError, match=message):
        workflow_of(f"{ladder}train: {{max-update: 100, {flag}}}")
    assert workflow_of(f"{LADDER}train: {{max-update: 100, {flag}}}").steps


def test_a_tag_that_the_dictionary_lacks_is_refused(workflow_of):
    ladder = "ladder: [{ratio: 0.5, data: mixed}]\n"
    message = (
        r"distilled\.distill-data: tag-distilled foo\S* is not in \S*dict\.es\.txt, and the dicti"
    )
    with pytest.raises(ValueError, match=message):
        workflow_of(f"{ladder}distilled: {{distill-data: {{tag-distilled: foo-bar}}}}")


def test_a_gold_set_that_is_not_there_is_refused(workflow_of):
    ladder = "ladder: [{ratio: 0.5, data: mixed}]\n"
    message = r"distilled\.distill-data: \S+ holds no none\.es-en\.es\. Give to --data .* gold-sub"
    with pytest.raises(FileNotFoundError, match=message):
        workflow_of(f"{ladder}distilled: {{distill-data: {{gold-subset: none}}}}")


def test_a_few_updates_are_a_training(workflow_of):
    for updates in (1, 4, 9):
        steps = workflow_of(f"{LADDER}train: {{max-update: {updates}}}").steps
        command = steps[0].commands[0]
        assert command[command.index("--warmup-updates") + 1] == "1"


def test_another_optimizer_is_given_none_of_adams_flags(workflow_of):
    (student,) = (
        step
        for step in workflow_of(f"{LADDER}train: {{max-update: 9, optimizer: sgd}}").steps
        if step.name == "student"
    )
    assert "--adam-betas" not in student.commands[0]


def test_flags_that_a_training_can_have_are_taken(workflow_of):
    flags = "lr-scheduler: polynomial_decay, update-freq: '2', patience: -1, max-tokens-valid: 900"
    flags += ", adam-betas: '(0.9, 0.999)', best-checkpoint-metric: bleu, eval-bleu: true"
    flags += """, eval-bleu-args: '{"beam": 1, "lenpen": -1, "sampling": false}'"""
    flags += ", maximize-best-checkpoint-metric: true, keep-last-epochs: 3, dropout: 0, fp16: true"
    assert workflow_of(f"{LADDER}train: {{max-update: 100, {flags}}}").steps


@pytest.fixture
def own_data(data, tmp_path):
    """A copy of the data, to take something away."""
    return Path(shutil.copytree(data, tmp_path / "own"))


def test_data_without_a_valid_set_are_refused(workflow_of, own_data):
    for path in own_data.glob("valid.*"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"own holds no set valid of es-en\. Add it by f"):
        workflow_of(f"data: {own_data}\n{LADDER}")


def test_a_second_valid_set_that_would_be_ignored_is_refused(workflow_of, own_data):
    for path in [*own_data.glob("valid.*")]:
        shutil.copy(path, own_data / path.name.replace("valid", "valid1"))
    with pytest.raises(ValueError, match=r"'valid1\S+'\] will be ignored\. Set --combine-val"):
        workflow_of(f"data: {own_data}\n{LADDER}")
    assert workflow_of(
        f"data: {own_data}\n{LADDER}train: {{max-update: 9, combine-val: true}}"
    ).steps


def test_a_long_validation_sentence_is_refused_unless_it_is_skipped(workflow_of):
    limit = "max-source-positions: 60, max-target-positions: 60, max-update: 100"
    message = r"sentence \d+ of the set valid in \S+ has \d+ and \d+ tokens, but the model reads 6"
    with pytest.raises(ValueError, match=message):
        workflow_of(f"{LADDER}train: {{{limit}}}")
    assert workflow_of(
        f"{LADDER}train: {{{limit}, skip-invalid-size-inputs-valid-test: true}}"
    ).steps


def test_more_words_than_there_are_cannot_be_stored(workflow_of):
    stage = "ladder: [{ratio: 0.5, soft-targets: store}]\n"
    with pytest.raises(ValueError, match=r"store\.topk must be below \d+, the size of the tar"):
        workflow_of(f"{stage}store: {{topk: 60000}}")


def test_words_that_were_split_otherwise_than_the_evaluation_says_are_refused(workflow_of):
    message = r"run\.yaml: evaluate: remove-bpe is sentencepiece, but the words of the data were sp"
    with pytest.raises(ValueError, match=message):
        workflow_of(f"{LADDER}evaluate: {{remove-bpe: sentencepiece}}")


@pytest.mark.parametrize("flag", ["comet", "reference"])
def test_a_file_that_the_evaluation_reads_must_be_there(workflow_of, flag):
    message = rf"the step evaluation is refused: --{flag} none does not exist\."
    with pytest.raises(FileNotFoundError, match=message):
        workflow_of(f"{LADDER}evaluate: {{{flag}: none}}")


# ---- teachers that are given


def changed(teacher, path, **task):
    """A copy of a teacher whose task has other options; None takes one away."""
    state = torch.load(teacher, weights_only=True)
    state["cfg"]["task"].update(task)
    torch.save(state, path)
    return path


def test_a_teacher_of_the_other_direction_is_refused(workflow_of, large_teacher, tmp_path):
    folder = Path(large_teacher).parent
    swapped = changed(large_teacher, folder / "swapped.pt", source_lang="en", target_lang="es")
    message = (
        r"run\.yaml: the teacher \S+ translates en-es, but the data are es-en \(the pair is sw"
    )
    with pytest.raises(ValueError, match=message):
        workflow_of(f"{LADDER}teacher: {swapped}")


def test_a_teacher_of_an_unknown_pair_is_refused(workflow_of, large_teacher, tmp_path):
    (tmp_path / "teachers").mkdir()
    unknown = changed(
        *(large_teacher, tmp_path / "teachers" / "unknown.pt"),
        **{"source_lang": None, "target_lang": None, "data": "nowhere"},
    )
    with pytest.raises((ValueError, FileNotFoundError), match=r"run\.yaml: the teacher \S+unkno"):
        workflow_of(f"{LADDER}teacher: {unknown}")


@pytest.mark.parametrize("linked", [False, True], ids=["same path", "link"])
def test_the_same_teacher_twice_is_refused(workflow_of, large_teacher, tmp_path, linked):
    other = large_teacher
    if linked:
        other = tmp_path / "linked.pt"
        other.symlink_to(large_teacher)
    with pytest.raises(ValueError, match=r"the teacher \S+ is given twice\. Name each once\."):
        workflow_of(f"{LADDER}teacher: [{large_teacher}, {other}]")
