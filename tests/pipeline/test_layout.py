"""The steps of a run file: inputs, outputs and required steps."""

import os

import pytest
import torch
from workflows import args, kinds, words

SMALL = "transformer_kd_small_student"


def test_a_teacher_that_is_given_is_read_and_one_that_is_trained_is_waited_for(
    workflow_of, large_teacher
):
    workflow = workflow_of("ladder: [0.7, 0.4]")
    assert list(kinds(workflow)) == ["stage-70", "student", "undistilled", "evaluation"]
    assert args(workflow, "stage-70")["kd_teacher"] == large_teacher
    assert large_teacher in workflow.step("stage-70").reads
    assert workflow.step("stage-70").after == []
    assert args(workflow, "student")["kd_teacher"] == "runs/run/stage-70/checkpoint_best.pt"
    assert workflow.step("student").after == ["stage-70"]
    assert large_teacher not in workflow.step("student").reads


def test_the_checkpoint_that_counts_can_be_the_last(workflow_of):
    workflow = workflow_of("ladder: [{ratio: 0.7, checkpoint: last}, 0.4]")
    assert workflow.step("stage-70").makes == ["runs/run/stage-70/checkpoint_last.pt"]
    assert args(workflow, "student")["kd_teacher"] == "runs/run/stage-70/checkpoint_last.pt"


def test_every_training_reads_the_data_that_were_given(workflow_of, data):
    workflow = workflow_of("ladder: [0.5]")
    for split in ("dict.es.txt", "train.es-en.es.bin", "valid.es-en.en.idx"):
        for name in ("student", "undistilled"):
            assert f"{data}/{split}" in workflow.step(name).reads


def test_only_the_evaluation_reads_the_test_set(workflow_of, data):
    workflow = workflow_of("ladder: [0.5]")
    reading = [step.name for step in workflow.steps if f"{data}/test.es-en.es.bin" in step.reads]
    assert reading == ["evaluation"]


def test_flags_of_a_stage_are_merged_with_those_of_each(workflow_of):
    each = "each: {train: {dropout: 0.2, lr: 0.004}}"
    workflow = workflow_of(f"ladder: [{{ratio: 0.5, train: {{lr: 0.002}}}}]\n{each}")
    student = args(workflow, "student")
    assert (student["dropout"], student["lr"]) == (0.2, [0.002])


def test_text_is_prepared_first_as_the_file_says(workflow_of, prepared):
    text = f"data: {{text: {prepared / 'text'}, source: es, target: en, merges: 300, max-words: 9}}"
    workflow = workflow_of(f"{text}\nladder: [{{arch: {SMALL}}}]")
    step = workflow.steps[0]
    assert (step.name, step.kind) == ("data", "prepare")
    assert step.commands[0] == [
        *("fairseq-kd", "prepare", "--text", str(prepared / "text"), "--source", "es"),
        *("--target", "en", "--merges", "300", "--max-words", "9", "--out", "runs/run/data"),
    ]
    assert str(prepared / "text" / "train.es") in step.reads
    assert "runs/run/data/bin/train.es-en.es.idx" in step.makes
    assert workflow.step("student").after == workflow.step("undistilled").after == ["data"]
    assert args(workflow, "student")["data"] == "runs/run/data/bin"
    assert args(workflow, "student")["share_all_embeddings"]


def test_several_teachers_teach_the_first_stage_together(workflow_of, teacher, large_teacher):
    workflow = workflow_of(f"teacher: [{large_teacher}, {teacher}]\nladder: [0.7, 0.4]")
    assert args(workflow, "stage-70")["kd_teacher"] == f"{large_teacher}{os.pathsep}{teacher}"
    assert {large_teacher, teacher} <= {*workflow.step("stage-70").reads}
    assert words(workflow, "evaluation")["--teacher"] == f"teacher-1={large_teacher}"


def test_a_stage_can_learn_from_any_before_it(workflow_of, large_teacher):
    ladder = "ladder: [0.7, 0.5, {ratio: 0.3, learns-from: [stage-70, teacher]}]"
    workflow = workflow_of(ladder)
    taught = f"runs/run/stage-70/checkpoint_best.pt{os.pathsep}{large_teacher}"
    assert args(workflow, "student")["kd_teacher"] == taught
    assert workflow.step("student").after == ["stage-70"]
    assert large_teacher in workflow.step("student").reads
    workflow = workflow_of("ladder: [0.7, 0.4]\neach: {learns-from: teacher}")
    assert args(workflow, "student")["kd_teacher"] == large_teacher


def test_keys_of_a_stage_win_over_those_of_each(workflow_of):
    ladder = "ladder: [0.7, {ratio: 0.4, temperature: 1, train: {lr: 3}}]"
    workflow = workflow_of(
        f"{ladder}\neach: {{temperature: 2, alpha: 0.6, train: {{lr: 2}}}}\nseed: 7"
    )
    first, second = (args(workflow, name) for name in ("stage-70", "student"))
    assert (first["kd_temperature"], second["kd_temperature"]) == (2, 1)
    assert (first["lr"], second["lr"]) == ([2], [3])
    assert first["kd_alpha"] == second["kd_alpha"] == 0.6
    assert first["seed"] == second["seed"] == workflow.seed == 7


# ---- where a training starts


def test_a_start_from_the_teachers_layers_is_written_first(workflow_of, large_teacher):
    workflow = workflow_of("ladder: [0.7, 0.4]\neach: {start: inherit}")
    assert list(kinds(workflow)) == [
        *("stage-70-start", "stage-70", "student-start", "student"),
        *("undistilled", "inherited", "evaluation"),
    ]
    assert words(workflow, "stage-70-start")["--teacher"] == large_teacher
    assert workflow.step("stage-70-start").reads == [large_teacher]
    said = words(workflow, "student-start")
    assert said["--teacher"] == "runs/run/stage-70/checkpoint_best.pt"
    student = args(workflow, "student")
    assert said["--encoder-embed-dim"] == str(student["encoder_embed_dim"])
    assert student["finetune_from_model"] == "runs/run/student-start/start.pt"
    assert workflow.step("student").after == ["stage-70", "student-start"]
    assert args(workflow, "undistilled")["finetune_from_model"] is None


def test_a_training_can_start_from_a_checkpoint_of_its_shape(workflow_of, teacher):
    size = "encoder-layers: 1, encoder-embed-dim: 16, encoder-ffn-embed-dim: 32"
    size += ", encoder-attention-heads: 2, encoder-normalize-before: true"
    size += f", {size.replace('encoder', 'decoder')}"
    stage = f"{{arch: transformer, start: {teacher}, train: {{{size}}}}}"
    workflow = workflow_of(f"ladder: [{stage}]")
    assert args(workflow, "student")["finetune_from_model"] == teacher
    assert teacher in workflow.step("student").reads
    with pytest.raises(
        ValueError, match=r"student is trained with --encoder-layers 2, but .*\.pt "
    ):
        workflow_of(f"ladder: [{stage.replace('encoder-layers: 1', 'encoder-layers: 2', 1)}]")


def test_a_stage_cannot_start_from_a_narrower_one(workflow_of):
    narrow = f"{{name: narrow, arch: {SMALL}, train: {{encoder-embed-dim: 16, "
    narrow += "encoder-attention-heads: 2, decoder-embed-dim: 16, decoder-attention-heads: 2}}"
    wide = f"{{arch: {SMALL}, start: inherit}}"
    message = (
        r"student cannot start from the layers of narrow: its encoder dimensions are 112, and "
        r"those of narrow are 16\. Set start: cold, or choose smaller sizes\."
    )
    with pytest.raises(ValueError, match=message):
        workflow_of(f"ladder: [{narrow}, {wide}]")


def test_it_is_compared_with_what_it_learns_from_and_not_with_the_stage_before(workflow_of):
    narrow = f"{{name: narrow, arch: {SMALL}, train: {{encoder-embed-dim: 16, "
    narrow += "encoder-attention-heads: 2, decoder-embed-dim: 16, decoder-attention-heads: 2}}"
    wide = f"{{name: wide, arch: {SMALL}}}"
    last = f"{{arch: {SMALL}, start: inherit, learns-from: wide}}"
    workflow = workflow_of(f"ladder: [{wide}, {narrow}, {last}]")
    assert words(workflow, "student-start")["--teacher"] == "runs/run/wide/checkpoint_best.pt"


def test_a_teacher_that_is_given_is_measured_too(workflow_of, teacher):
    message = (
        r"student cannot start from the layers of \S+\.pt: its encoder dimensions are 112, and "
    )
    with pytest.raises(ValueError, match=message):
        workflow_of(f"teacher: {teacher}\nladder: [{{arch: {SMALL}, start: inherit}}]")


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("decoder-ffn-embed-dim: 100", "its decoder feed-forward units are 448, and those of teac"),
        (
            "encoder-attention-heads: 2",
            "its encoder attention heads are 4, and those of teacher are 2",
        ),
        ("encoder-attention-heads: 8", "encoder dimensions of a head are 28, and those of teacher"),
    ],
)
def test_no_size_of_a_start_is_larger_than_its_teachers(workflow_of, flag, message):
    with pytest.raises(ValueError, match=message):
        workflow_of(
            f"teacher: {{arch: {SMALL}, train: {{{flag}}}}}\n"
            f"ladder: [{{arch: {SMALL}, start: inherit}}]"
        )


def test_a_stage_is_trained_with_the_sizes_of_its_inherited_start(workflow_of):
    above = f"{{name: above, arch: {SMALL}}}"
    stage = "{arch: transformer_kd_small_student, start: inherit, train: {encoder-layers: 1}}"
    workflow = workflow_of(f"ladder: [{above}, {stage}]")
    assert words(workflow, "student-start")["--encoder-layers"] == "1"
    assert args(workflow, "student")["encoder_layers"] == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            "activation-fn: gelu",
            "student is trained with --activation-fn relu, but its start has gelu",
        ),
        (
            "share-all-embeddings: false",
            "its --share-all-embeddings is on, and that of above is off",
        ),
    ],
)
def test_a_start_of_another_form_is_refused(workflow_of, flags, message):
    above = f"{{name: above, arch: {SMALL}, train: {{{flags}}}}}"
    with pytest.raises(ValueError, match=message):
        workflow_of(f"ladder: [{above}, {{arch: {SMALL}, start: inherit}}]")


def test_a_start_by_importance_on_data_reads_the_training_set(workflow_of, data, prepared):
    stages = f"ladder: [{{arch: {SMALL}, start: inherit, importance: data}}]\n"
    step = workflow_of(f"teacher: {{arch: transformer_kd_small_teacher}}\n{stages}").step(
        "student-start"
    )
    given = step.commands[0]
    chosen = ["--importance", "data", "--data", data, "--subset", "train"]
    assert given[given.index("--importance") :][:6] == chosen
    assert step.after == ["teacher"]
    sets = {path.rpartition("/")[2].partition(".")[0] for path in step.reads}
    assert sets == {"train", "dict"}
    text = f"data: {{text: {prepared / 'text'}, source: es, target: en, merges: 300}}\n"
    waits = workflow_of(f"{text}teacher: {{arch: transformer_kd_small_teacher}}\n{stages}")
    assert waits.step("student-start").after == ["teacher", "data"]
    stage = f"{{arch: {SMALL}, start: inherit, importance: data, train: {{train-subset: valid}}}}"
    other = workflow_of(f"teacher: {{arch: transformer_kd_small_teacher}}\nladder: [{stage}]")
    assert f"{data}/valid.es-en.es.bin" in other.step("student-start").reads
    assert words(other, "student-start")["--subset"] == "valid"
    with pytest.raises(ValueError, match="student has importance: data, which has no effect on a "):
        workflow_of(f"teacher: {{arch: {SMALL}}}\n{stages}")


# ---- what is compared


def test_controls_have_the_last_stages_size_without_a_teacher_or_without_the_ladder(
    workflow_of, large_teacher
):
    of_stage = "start: inherit, soft-targets: store, data: mixed, train: {max-update: 70}"
    stage = f"{{ratio: 0.4, {of_stage}}}"
    workflow = workflow_of(f"ladder: [0.7, {stage}]\ncontrols: [undistilled, one-step]")
    student, alone, direct = (args(workflow, n) for n in ("student", "undistilled", "one-step"))
    for each in (alone, direct):
        assert each["encoder_embed_dim"] == student["encoder_embed_dim"]
        assert each["max_update"] == 70
    assert alone["criterion"] == "label_smoothed_cross_entropy"
    assert alone["data"] != student["data"]
    assert alone["finetune_from_model"] is None
    assert direct["data"] == student["data"]
    assert direct["kd_store"] == "runs/run/teacher-store-mixed"
    assert words(workflow, "one-step-start")["--teacher"] == large_teacher


def test_the_inherited_control_starts_as_the_student_and_is_not_distilled(workflow_of):
    workflow = workflow_of("ladder: [0.7, 0.4]\neach: {start: inherit, soft-targets: store}")
    student, inherited = (args(workflow, name) for name in ("student", "inherited"))
    assert inherited["finetune_from_model"] == student["finetune_from_model"] is not None
    assert inherited["max_update"] == student["max_update"]
    assert inherited["criterion"] == "label_smoothed_cross_entropy"
    assert workflow.step("inherited").after == ["student-start"]


@pytest.mark.parametrize("own", ["max-update: 1000", "max-update: 1000, total-num-update: 1000"])
def test_the_total_control_has_the_updates_of_the_whole_line(workflow_of, own):
    train = own.replace("1000", "100") + ", lr-scheduler: polynomial_decay"
    workflow = workflow_of(
        "ladder: [{ratio: 0.7, train: {max-update: 30}}, 0.4]\neach: {start: inherit}\n"
        "controls: [undistilled, total]\n"
        f"teacher: {{arch: transformer_kd_small_teacher, train: {{{own}}}}}\ntrain: {{{train}}}"
    )
    total = args(workflow, "total")
    assert total["max_update"] == int(total["total_num_update"]) == 1000 + 30 + 100
    assert total["finetune_from_model"] is None
    assert total["criterion"] == "label_smoothed_cross_entropy"
    assert args(workflow, "undistilled")["max_update"] == 100
    command = " ".join(workflow.steps[-1].commands[0])
    assert "--control undistilled=runs/run/" in command
    assert "--control total=runs/run/total/checkpoint_best.pt" in command


@pytest.mark.parametrize("period", ["100", "100.0", "1e2", "'100'"])
def test_the_total_control_has_a_schedule_of_its_own_length(workflow_of, period):
    schedule = f"lr-scheduler: cosine, lr-period-updates: {period}, warmup-updates: 1"
    workflow = workflow_of(
        "ladder: [0.5]\neach: {start: inherit}\ncontrols: [total]\n"
        "teacher: {arch: transformer_kd_small_teacher, train: {max-update: 300}}\n"
        f"train: {{max-update: 100, {schedule}}}"
    )
    total = args(workflow, "total")
    assert float(total["lr_period_updates"]) == total["max_update"] == 400


def test_the_updates_of_a_start_that_is_given_count_for_the_total_control(
    workflow_of, large_teacher
):
    state = torch.load(large_teacher, weights_only=False)
    state["optimizer_history"][-1]["num_updates"] = 500
    torch.save(state, "trained.pt")
    workflow = workflow_of(
        "ladder: [0.5]\nteacher: trained.pt\neach: {start: inherit}\ncontrols: [total]"
    )
    assert args(workflow, "total")["max_update"] == 500 + 100


def test_the_total_control_is_refused_where_the_updates_of_the_line_are_not_known(
    workflow_of, large_teacher
):
    state = torch.load(large_teacher, weights_only=False)
    state["cfg"]["checkpoint"]["finetune_from_model"] = "gone.pt"
    torch.save(state, "trained.pt")
    message = (
        "the total number of updates of the weights that student starts from is not known: a che"
    )
    with pytest.raises(ValueError, match=message):
        workflow_of("ladder: [0.5]\nteacher: trained.pt\neach: {start: inherit}\ncontrols: [total]")


def test_all_models_are_evaluated_at_the_end(workflow_of, large_teacher, data):
    workflow = workflow_of(
        "ladder: [0.7, 0.4]\ncontrols: [undistilled, one-step]\n"
        "evaluate: {subset: valid, rounds: 1, no-memory: true}"
    )
    step = workflow.steps[-1]
    assert (step.name, step.kind) == ("evaluation", "evaluate")
    command = " ".join(step.commands[0])
    for name in ("stage-70", "student", "one-step"):
        assert f"--student {name}=runs/run/{name}/checkpoint_best.pt" in command
    said = words(workflow, "evaluation")
    assert said["--control"] == "undistilled=runs/run/undistilled/checkpoint_best.pt"
    assert said["--teacher"] == f"teacher={large_teacher}"
    assert (said["--data"], said["--out"]) == (data, "runs/run")
    assert (said["--subset"], said["--rounds"], said["--no-memory"]) == ("valid", "1", "")
    assert step.after == ["stage-70", "student", "undistilled", "one-step"]
    assert step.makes[-1] == "runs/run/report.html"
    assert list(kinds(workflow_of("ladder: [0.7]\ncontrols: []"))) == ["student", "evaluation"]
