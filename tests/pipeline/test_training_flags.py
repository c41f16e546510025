"""The command line of a stage: precedence of values, and commands that fairseq would refuse."""

import shutil
from dataclasses import replace

import pytest
from harness import USER_DIR

from fairseq_kd.criterions.flags import criterion_classes, flags_of
from fairseq_kd.decoding.subset import read_subset
from fairseq_kd.fairseq_flags import as_arguments
from fairseq_kd.pipeline.train_command import (
    ON_EACH_NODE,
    WITH_RANK,
    TrainCommand,
    on_each_machine,
)
from fairseq_kd.pipeline.training_check import check_training_command
from fairseq_kd.pipeline.training_flags import (
    CROSS_ENTROPY,
    TEACHERLESS,
    stage_flags,
)
from fairseq_kd.pipeline.workflow import Training

SIZE = {"arch": "transformer_kd_small_student"}
DISTILLED = {"criterion": "word_kd"}


def checked(settings, *layers, teacher_flags=None, name="middle", size=SIZE, gpus=1):
    """The settings of a stage as fairseq parses them."""
    teacher_flags = {"kd-teacher": "teacher.pt"} if teacher_flags is None else teacher_flags
    flags = stage_flags(settings, teacher_flags, *layers)
    return check_training_command(TrainCommand(name, "data", "out", USER_DIR, gpus, size, flags))


def test_the_stronger_of_two_values_wins():
    whole, stage = {"lr": 2, "dropout": 0.2, "kd-alpha": 0.5}, {"lr": 3}
    assert stage_flags(DISTILLED, {})["lr"] == 5e-4
    assert stage_flags(DISTILLED, {}, whole)["lr"] == 2
    flags = stage_flags(
        {**DISTILLED, "alpha": 0.9, "beta": 0.1}, {"kd-teacher": "t.pt"}, whole, stage
    )
    assert (flags["lr"], flags["dropout"]) == (3, 0.2)
    assert (flags["kd-alpha"], flags["kd-beta"]) == (0.5, 0.1)  # a flag wins over its setting


def test_nothing_wins_over_what_names_the_teacher_and_the_start():
    teacher_flags = {"kd-teacher": "t.pt", "finetune-from-model": "start.pt"}
    layer = {"kd-teacher": "other.pt", "finetune-from-model": "other.pt"}
    assert teacher_flags.items() <= stage_flags(DISTILLED, teacher_flags, layer).items()


def test_a_training_without_a_teacher_has_no_flags_of_one():
    settings = {"criterion": CROSS_ENTROPY, "alpha": 0.5, "temperature": 2, "patience": 3}
    flags = stage_flags(settings, {}, {"kd-divergence": "js"})
    assert not [flag for flag in flags if flag.startswith("kd-")]
    assert flags["patience"] == 3


def test_peers_learn_from_no_teacher_but_keep_their_own_flags():
    settings = {"criterion": "mutual_learning", "alpha": 0.5, "temperature": 2}
    flags = stage_flags(settings, {}, {"kd-divergence": "js", "kd-peers": 3})
    assert {flag for flag in flags if flag.startswith("kd-")} == {"kd-peers"}
    assert checked(settings, {"kd-peers": 3}, teacher_flags={})["kd_peers"] == 3


def test_a_temperature_stays_or_goes_from_one_to_another():
    constant = stage_flags({**DISTILLED, "temperature": 2}, {})
    assert (constant["kd-temperature"], "kd-temperature-schedule" in constant) == (2, False)
    for asked, schedule in (({}, "exponential"), ({"schedule": "cosine"}, "cosine")):
        flags = stage_flags({**DISTILLED, "temperature": {"from": 6, "to": 2, **asked}}, {})
        assert flags["kd-temperature"] == 6
        assert flags["kd-temperature-final"] == 2
        assert flags["kd-temperature-schedule"] == schedule
    assert "kd-temperature" not in stage_flags(DISTILLED, {})  # the criterion has its own


def test_a_polynomial_decay_ends_with_the_training():
    decay = {"lr-scheduler": "polynomial_decay", "max-update": 300}
    assert stage_flags(DISTILLED, {}, decay)["total-num-update"] == 300
    asked = stage_flags(DISTILLED, {}, {**decay, "total-num-update": 900})
    assert asked["total-num-update"] == 900
    assert "total-num-update" not in stage_flags(DISTILLED, {})


@pytest.mark.parametrize(
    ("asked", "updates"),
    [
        ({}, 4000),
        ({"max-update": 40000}, 4000),
        ({"max-update": 39990}, 3999),
        ({"max-update": 9}, 1),
        ({"max-update": 4}, 1),
        ({"max-update": 100, "warmup-updates": 70}, 70),
        ({"lr-scheduler": "cosine", "max-update": 100}, 10),
        ({"lr-scheduler": "fixed"}, None),
        ({"lr-scheduler": "tri_stage"}, None),  # it has --warmup-steps
    ],
)
def test_the_warm_up_is_4000_updates_or_a_tenth(asked, updates):
    assert stage_flags(DISTILLED, {}, asked).get("warmup-updates") == updates


def test_the_criterions_without_a_teacher_are_known_with_their_flags():
    criterions = {name: cls for name, cls in criterion_classes().items() if name != CROSS_ENTROPY}
    flags = {name: {flag[2:] for flag, _ in flags_of(cls)} for name, cls in criterions.items()}
    alone = {name: each for name, each in flags.items() if "kd-teacher" not in each}
    ours = {name: {flag for flag in each if flag.startswith("kd-")} for name, each in alone.items()}
    assert {CROSS_ENTROPY: set(), **ours} == {name: set(each) for name, each in TEACHERLESS.items()}


@pytest.mark.parametrize("wrong", ["1e5", 0, "many", 1.5])
def test_updates_are_a_whole_number(wrong):
    message = f"max-update must be a whole number above 0, but is {wrong}."
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        stage_flags(DISTILLED, {}, {"max-update": wrong})


def test_a_flag_alone_is_true_and_a_false_one_is_left_out():
    flags = {"fp16": True, "no-progress-bar": False, "lr": 1e-3, "adam-betas": "(0.9, 0.98)"}
    assert as_arguments(flags) == ["--fp16", "--lr", "0.001", "--adam-betas", "(0.9, 0.98)"]


def test_several_gpus_are_several_workers():
    training = TrainCommand("middle", "data", "out", "user_dir", flags={"fp16": True})
    alone = training.argv()
    assert alone[:5] == ["fairseq-kd", "stage", "middle", "--", "fairseq-train"]
    assert alone[5:10] == ["data", "--user-dir", "user_dir", "--save-dir", "out"]
    assert alone[10:] == ["--distributed-world-size", "1", "--fp16"]  # of however many it sees
    together = replace(training, gpus=4).argv()
    assert together[4:8] == ["torchrun", "--nproc_per_node", "4", "--no-python"]
    assert together[8:] == [*alone[4:10], "--fp16"]
    assert checked(DISTILLED, gpus=4)["arch"] == "transformer"


def test_several_nodes_are_one_torchrun_on_each():
    flags = {"fp16": True}
    training = TrainCommand("middle", "data", "out", "user_dir", gpus=4, flags=flags, nodes=2)
    command = training.argv()
    assert command[4:14] == [*ON_EACH_NODE, "--nodes", "2", "bash", "-c"]
    workers = ["torchrun", "--nproc_per_node", "4", "--nnodes", "2", "--rdzv-backend", "c10d"]
    workers += ["--rdzv-id", "middle", "--no-python", "fairseq-train", "data"]
    at = command.index("torchrun")
    assert command[at : at + len(workers)] == workers
    assert "--distributed-world-size" not in command
    by_hand = on_each_machine(command)
    assert by_hand == ["torchrun", "--rdzv-endpoint", "FIRST:29500", *command[at + 1 :]]
    assert training.training() == Training("fp16", False, 2)


def test_on_cpus_each_node_has_its_rank():
    training = TrainCommand("middle", "data", "out", "user_dir", flags={"cpu": True}, nodes=2)
    command = training.argv()
    at = command.index("--no-python")
    assert command[at + 1 : at + 6] == ["bash", "-c", WITH_RANK, "fairseq-train", "data"]
    alone = TrainCommand("middle", "data", "out", "user_dir", flags={"cpu": True})
    assert command[at + 4 :] == [
        w for w in alone.argv()[4:] if w not in ("1", "--distributed-world-size")
    ]


def test_a_training_records_whether_it_needs_a_gpu():
    flags = stage_flags(DISTILLED, {}, {"fp16": True, "cpu": False})
    training = TrainCommand("middle", "data", "out", "user_dir", flags=flags).training()
    assert training == Training("fp16", False)
    training = TrainCommand("middle", "data", "out", "user_dir", flags={"cpu": True}).training()
    assert training == Training(None, True)


def test_fairseq_understands_the_defaults_of_every_criterion_with_a_teacher():
    for criterion in ("word_kd", "feature_kd", "attention_kd", "hybrid_kd"):
        args = checked({"criterion": criterion, "temperature": {"from": 6, "to": 2}})
        assert (args["criterion"], args["kd_temperature_final"]) == (criterion, 2)
    args = checked({"criterion": "multi_teacher_kd"}, teacher_flags={"kd-teacher": "a.pt:b.pt"})
    assert args["warmup_updates"] == 4000
    for scheduler in ("polynomial_decay", "cosine", "fixed", "tri_stage", "step"):
        layer = {"lr-scheduler": scheduler, "max-update": 100}
        layer |= {"phase-ratio": "(0.1, 0.4, 0.5)"} if scheduler == "tri_stage" else {}
        assert (
            checked({"criterion": CROSS_ENTROPY}, layer, teacher_flags={})["lr_scheduler"]
            == scheduler
        )


def test_a_misspelt_flag_is_reported_with_its_stage():
    message = (
        r"^fairseq-train does not understand the training of middle: unrecognized arguments: "
        r"--kd-temperatur 2\. Its command would be: fairseq-train data --user-dir .*$"
    )
    with pytest.raises(ValueError, match=message):
        checked(DISTILLED, {"kd-temperatur": 2})


@pytest.mark.parametrize(
    ("settings", "layer", "message"),
    [
        (
            {"criterion": "word_dk"},
            {},
            "of middle: argument --criterion: invalid choice: 'word_dk'",
        ),
        (DISTILLED, {"lr-scheduler": "cosin"}, "argument --lr-scheduler: invalid choice: 'cosin'"),
        (DISTILLED, {"max-tokens": "many"}, "argument --max-tokens: invalid int value: 'many'"),
    ],
)
def test_a_wrong_value_is_reported_in_the_words_of_fairseq(settings, layer, message):
    with pytest.raises(ValueError, match=message):
        checked(settings, layer)


REFUSALS = {
    "no loss": ({**DISTILLED, "alpha": 0, "beta": 0}, {}, "both 0, so there is no loss"),
    "divergence": (DISTILLED, {"kd-divergence": "kl"}, "--kd-divergence must be one of forward_kl"),
    "no schedule": (
        DISTILLED,
        {"kd-temperature-final": 2},
        "--kd-temperature-final is 2.0, but has no effect with --kd-temperature-schedule constant",
    ),
    "nothing to distil": ({**DISTILLED, "alpha": 0}, {}, "no effect while --kd-alpha is 0"),
    "precision": (
        DISTILLED,
        {"kd-share-encoder": True, "kd-teacher-dtype": "bfloat16"},
        "one encoder serves both models. Leave --kd-teacher-dtype out.",
    ),
    "distance": (
        {"criterion": "feature_kd"},
        {"kd-feature-distance": "l1"},
        "--kd-feature-distance must be one of ",
    ),
    "layers": ({"criterion": "feature_kd"}, {"kd-feature-layers": "a"}, "--kd-feature-layers"),
    "heads": ({"criterion": "attention_kd"}, {"kd-attention-heads": "all"}, "--kd-attention-heads"),
    "kinds": ({"criterion": "hybrid_kd"}, {"kd-attention-kinds": "self"}, "--kd-attention-kinds"),
    "peers": ({"criterion": "mutual_learning"}, {"kd-peers": 1}, "--kd-peers must be a whole num"),
    "two sources": (DISTILLED, {"kd-store": "store"}, "only one source is allowed"),
    "one teacher": (
        {"criterion": "multi_teacher_kd"},
        {},
        "needs two or more teachers, but has only teacher.pt. Name more by learns-from",
    ),
}


@pytest.mark.parametrize("wrong", REFUSALS)
def test_what_a_criterion_would_refuse_is_reported_before_anything_is_trained(wrong):
    settings, layer, message = REFUSALS[wrong]
    with pytest.raises(ValueError, match=r"^The training of middle would be refused: ") as refused:
        checked(settings, layer)
    assert message in str(refused.value)


METRICS = [  # of a criterion: flags of it, a metric that it logs, and one that it does not
    ("mutual_learning", {"kd-peers": 3}, "nll_loss_2", "nll_loss_3"),
    ("mutual_learning", {}, "mutual_loss", "kd_loss"),
    ("multi_teacher_kd", {}, "teacher_weight_2", "teacher_weight_3"),
    ("feature_kd", {"kd-log-gradients": True}, "feature_loss", "gradient_word"),
    ("word_kd", {}, "kd_loss", "attention_loss"),
]


@pytest.mark.parametrize(("criterion", "flags", "logged", "other"), METRICS)
def test_the_best_checkpoint_is_chosen_by_what_the_criterion_logs(criterion, flags, logged, other):
    teachers = {"multi_teacher_kd": "a.pt:b.pt", "mutual_learning": None}.get(criterion, "a.pt")
    teacher_flags = {"kd-teacher": teachers} if teachers else {}
    layer = {**flags, "best-checkpoint-metric": logged}
    args = checked({"criterion": criterion}, layer, teacher_flags=teacher_flags)
    assert args["best_checkpoint_metric"] == logged
    message = rf"--best-checkpoint-metric must be one of .*\b{logged}\b.*, but is {other}\."
    layer["best-checkpoint-metric"] = other
    with pytest.raises(ValueError, match=message):
        checked({"criterion": criterion}, layer, teacher_flags=teacher_flags)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ({"kd-teacher-weights": "0.5,0.6"}, "--kd-teacher-weights must sum to 1"),
        ({"kd-teacher-mean": "median"}, "--kd-teacher-mean must be one of"),
        ({"kd-teacher-temperatures": "4"}, "has 1 numbers for 2 teachers"),
    ],
)
def test_weights_and_temperatures_of_several_teachers_are_checked(layer, message):
    with pytest.raises(ValueError, match=message):
        checked({"criterion": "multi_teacher_kd"}, layer, teacher_flags={"kd-teacher": "a.pt:b.pt"})


def test_layers_are_not_read_from_a_store():
    with pytest.raises(ValueError, match="--kd-store holds a teacher's distributions, but --crit"):
        checked({"criterion": "hybrid_kd"}, teacher_flags={"kd-store": "store"})


def test_every_command_that_loads_models_gets_the_plugin_of_the_run(workflow_of, tmp_path):
    (tmp_path / "own_plugin").mkdir()
    (tmp_path / "own_plugin" / "__init__.py").write_text("import fairseq_kd.plugin\n")
    text = "user-dir: own_plugin\nladder: [0.5]\neach: {start: inherit, soft-targets: store}"
    steps = workflow_of(text).steps
    given = {step.kind: step.commands[0] for step in steps}
    assert set(given) == {"store", "inherit", "train", "evaluate"}
    for kind, command in given.items():
        assert command[command.index("--user-dir") + 1] == "own_plugin", kind
    without = workflow_of(text.partition("\n")[2], "run=other").steps
    loading = [step.commands[0] for step in without if step.kind != "train"]
    assert loading
    assert not any("--user-dir" in command for command in loading)


def test_files_that_flags_name_are_read(workflow_of, data, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(data, folder / "bin")
    for path in list((folder / "bin").glob("valid.*")):
        shutil.copy(path, path.with_name(path.name.replace("valid", "dev")))
    (folder / "text").mkdir()
    sentences = len(read_subset(folder / "bin", "test", ("es", "en")))
    for name in ("text/test.es", "ref.en"):
        (folder / name).write_text("one\n" * sentences)
    (folder / "embeddings").write_text("1 48\none" + " 0.5" * 48 + "\n")  # of the student's width
    text = (
        f"data: {folder}/bin\nladder: [0.5]\nevaluate: {{reference: {folder}/ref.en}}\n"
        f"train: {{max-update: 9, valid-subset: dev, encoder-embed-path: {folder}/embeddings}}"
    )
    workflow = workflow_of(text)
    read = {step.name: set(step.reads) for step in workflow.steps}
    assert {f"{folder}/bin/dev.es-en.es.bin", f"{folder}/embeddings"} <= read["student"]
    assert f"{folder}/bin/valid.es-en.es.bin" not in read["student"]
    assert {f"{folder}/ref.en", f"{folder}/text/test.es"} <= read["evaluation"]
