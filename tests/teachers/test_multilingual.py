"""Teachers that read language tokens: by each kind of task, in every way to learn from them."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from fairseq.tasks.translation import TranslationTask
from forks import run_forked
from harness import TRAINING, run
from multilingual import TASKS, generate

from fairseq_kd import cli
from fairseq_kd.checkpoints.reading import read_checkpoint
from fairseq_kd.decoding.hypothesis_files import by_sentence
from fairseq_kd.evaluation.results import EvaluationResult
from fairseq_kd.models.real_tokens import RealTokens
from fairseq_kd.sizing.teacher_structure import TeacherStructure
from fairseq_kd.teachers.languages import Languages
from fairseq_kd.teachers.live_teacher import LiveTeacher
from fairseq_kd.teachers.loading import load_teacher
from fairseq_kd.teachers.sentence_format import SentenceFormat, sentence_format, surrounded

SPANISH = Languages(("es", "en"))


def test_tokens_are_put_around_each_row_on_either_side_of_its_padding():
    left = torch.tensor([[1, 1, 7, 8, 2], [4, 5, 6, 7, 2]])
    right = torch.tensor([[7, 8, 2, 1, 1], [4, 5, 6, 7, 2]])
    assert surrounded(left, 1, [30], [2, 31], (0, 1)).tolist() == [
        [1, 1, 30, 7, 8, 2, 31],
        [30, 4, 5, 6, 7, 2, 31],
    ]
    assert surrounded(right, 1, [30], [31], (0, 1)).tolist() == [
        [30, 7, 8, 31, 1, 1],
        [30, 4, 5, 6, 7, 31],
    ]
    before = torch.tensor([[2, 7, 8, 1], [2, 4, 5, 6]])
    assert surrounded(before, 1, [2, 40], [], (1, 0)).tolist() == [
        [2, 40, 7, 8, 1],
        [2, 40, 4, 5, 6],
    ]


def test_wanted_targets_move_with_the_tokens_before_them():
    around = SentenceFormat((30,), (2,), (2, 40))
    net_input = {
        "src_tokens": torch.tensor([[7, 2]]),
        "src_lengths": torch.tensor([2]),
        "prev_output_tokens": torch.tensor([[2, 8, 9]]),
    }
    mask = torch.tensor([[True, False, True]])
    batch, real = around.batch(net_input, RealTokens.of_mask(mask))
    assert batch["src_tokens"].tolist() == [[30, 7, 2]]
    assert batch["src_lengths"].tolist() == [3]
    assert batch["prev_output_tokens"].tolist() == [[2, 40, 8, 9]]
    assert real.mask.tolist() == [[False, True, False, True]]
    assert real.positions.tolist() == [1, 3]


EXPECTED = {  # source before, source after, target before
    "m2m": (["__es__"], ["</s>"], ["</s>", "__en__"]),
    "replacing": ([], ["__en__"], ["__en__"]),
    "mbart": ([], ["</s>", "[es]"], ["[en]"]),
    "separate": ([], ["__en__"], ["__en__"]),
}


@pytest.mark.parametrize("kind", TASKS)
def test_a_model_reads_what_its_own_task_puts_around_a_sentence(multilingual, data, kind):
    model, task = load_teacher(multilingual(kind), "--teacher", SPANISH)
    around, whole = sentence_format(task), task.whole
    named = (
        [whole[0][token] for token in around.source_prefix],
        [whole[0][token] for token in around.source_suffix],
        [whole[1][token] for token in around.target_prefix],
    )
    assert named == EXPECTED[kind]
    assert len(model.encoder.embed_tokens.weight) == len(whole[0]) > len(task.source_dictionary)
    assert isinstance(task, TranslationTask)


@pytest.mark.parametrize("kind", TASKS)
def test_its_soft_targets_are_those_of_its_own_input_over_the_students_vocabulary(
    multilingual, setup, kind
):
    student = setup("--criterion", "label_smoothed_cross_entropy")
    model, task = load_teacher(multilingual(kind), "--teacher", SPANISH)
    around, pad = sentence_format(task), student.task.target_dictionary.pad()
    sample = student.batch(0, 3, 5)
    real = RealTokens.of_mask(sample["target"].ne(pad))
    teacher = LiveTeacher(model, task=task)
    logits = teacher.soft_targets(sample, real)[0 : len(real.positions)].logits
    expected = []
    for row in range(3):  # one sentence at a time, without padding
        source = [
            token for token in sample["net_input"]["src_tokens"][row].tolist() if token != pad
        ]
        target = [token for token in sample["target"][row].tolist() if token != pad]
        source = [*around.source_prefix, *source[:-1], *around.source_suffix]
        previous = [*around.target_prefix, *target[:-1]]
        with torch.no_grad():
            output = model(
                torch.tensor([source]), torch.tensor([len(source)]), torch.tensor([previous])
            )[0][0]
        expected.append(output[-len(target) :, : len(student.task.target_dictionary)])
    torch.testing.assert_close(logits, torch.cat(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", TASKS)
def test_translate_gives_token_for_token_what_fairseq_generate_gives(
    multilingual, data, tmp_path, kind
):
    path = multilingual(kind)
    flags = ("--max-len-a", "0", "--max-len-b", "12", "--beam", "3")
    words = ["--teacher", path, "--data", data, "--subset", "valid", "--engine", "fairseq"]
    words += ["--max-tokens", "1", *flags, "--out", str(tmp_path / "out")]
    assert cli.main(["translate", *words]) == 0
    ours = dict(_best(tmp_path / "out"))
    own = generate(kind, data, path, *flags)
    if kind == "separate":  # whose own task leaves the token of a language in a translation
        own = {n: " ".join(t for t in own[n].split() if t != "__en__") for n in own}
    assert len(own) > 20
    assert {number: ours[number] for number in own} == own


@pytest.mark.parametrize("kind", TASKS)
def test_ctranslate2_translates_as_fairseq_does(multilingual, data, cache, tmp_path, kind):
    words = ["--teacher", multilingual(kind), "--data", data, "--subset", "valid", "--beam", "1"]
    words += ["--max-len-a", "0", "--max-len-b", "12", "--compute-type", "float32"]
    words += ["--cache", str(cache)]
    found = {}
    for engine in ("fairseq", "ctranslate2"):
        out = tmp_path / engine
        flags = words if engine == "ctranslate2" else words[:-2]
        assert cli.main(["translate", *flags, "--engine", engine, "--out", str(out)]) == 0
        found[engine] = dict(_best(out))
    assert found["ctranslate2"] == found["fairseq"]


@pytest.mark.parametrize("kind", ["m2m", "mbart"])
def test_a_student_learns_the_same_from_it_and_from_its_store(multilingual, data, tmp_path, kind):
    path, store = multilingual(kind), tmp_path / "store"
    entries = len(load_teacher(path, "--teacher", SPANISH)[1].target_dictionary)
    words = ["--teacher", path, "--data", data, "--out", str(store), "--topk", str(entries - 1)]
    assert cli.main(["store", *words]) == 0
    flags = ["--criterion", "word_kd", "--max-update", "2", "--max-source-positions", "1000"]
    flags += ["--kd-temperature", "1"]
    losses = []
    for source in (["--kd-teacher", path], ["--kd-store", str(store)]):
        out = tmp_path / source[0].strip("-")
        log = run_forked(
            "fairseq-train", data, *TRAINING, *flags, *source, "--save-dir", out
        ).stdout
        losses.append([line for line in log.splitlines() if "valid_kd_loss" in line][-1])
    live, stored = (float(line.split('"valid_kd_loss": "')[1].split('"')[0]) for line in losses)
    assert live == pytest.approx(stored, rel=0.02)
    keys = read_checkpoint(tmp_path / "kd-teacher" / "checkpoint_last.pt")["model"]
    assert len(keys["encoder.embed_tokens.weight"]) == len(
        load_teacher(path, "--teacher", SPANISH)[1].source_dictionary
    )


def test_it_is_evaluated_with_its_own_tokens(multilingual, teacher, data, cache, tmp_path):
    words = ["--teacher", multilingual("m2m"), "--student", teacher, "--data", data]
    words += ["--subset", "valid", "--rounds", "0", "--bootstrap", "100", "--cache", str(cache)]
    words += ["--threads", "1"]  # which this process keeps
    assert cli.main(["evaluate", *words, "--out", str(tmp_path / "report")]) == 0
    text = (tmp_path / "report" / "evaluation.json").read_text()
    result = EvaluationResult.from_json(json.loads(text))
    assert result.quality.agreement["teacher"] == 1
    assert {"teacher", "student"} <= result.memory.training.keys()
    model, _ = load_teacher(multilingual("m2m"), "--teacher", SPANISH)
    assert result.systems[0].total_parameters == sum(each.numel() for each in model.parameters())


@pytest.mark.parametrize("kind", TASKS)
def test_a_student_starts_from_its_layers_as_a_plain_model(multilingual, data, tmp_path, kind):
    out = tmp_path / "start.pt"
    words = ["--teacher", multilingual(kind), "--arch", "transformer", "--out", str(out)]
    words += ["--teacher-source-lang", "es", "--teacher-target-lang", "en", "--"]
    for side in ("encoder", "decoder"):
        words += [f"--{side}-layers", "1", f"--{side}-embed-dim", "16"]
        words += [f"--{side}-ffn-embed-dim", "32", f"--{side}-attention-heads", "2"]
    assert cli.main(["inherit", *words]) == 0
    shutil.copytree(data, tmp_path / "bin")
    shutil.copy(Path(data) / "dict.es.txt", tmp_path)
    shutil.copy(Path(data) / "dict.en.txt", tmp_path)
    model, task = load_teacher(str(out))
    teacher, _ = load_teacher(multilingual(kind), "--teacher", SPANISH)
    rows = len(task.source_dictionary)
    torch.testing.assert_close(
        model.encoder.embed_tokens.weight, teacher.encoder.embed_tokens.weight[:rows]
    )
    assert sentence_format(task).is_plain


@pytest.mark.parametrize(
    "kind", ["m2m", *(pytest.param(kind, marks=pytest.mark.slow) for kind in [*TASKS][1:])]
)
def test_importance_is_measured_with_its_own_tokens(multilingual, data, tmp_path, setup, kind):
    out = tmp_path / "start.pt"
    words = ["--teacher", multilingual(kind), "--arch", "transformer", "--out", str(out)]
    words += ["--teacher-source-lang", "es", "--teacher-target-lang", "en"]
    words += ["--importance", "data", "--data", data, "--subset", "valid", "--"]
    for side in ("encoder", "decoder"):
        words += [f"--{side}-layers", "1", f"--{side}-embed-dim", "16"]
        words += [f"--{side}-ffn-embed-dim", "8", f"--{side}-attention-heads", "2"]
    assert cli.main(["inherit", *words]) == 0
    model, task = load_teacher(multilingual(kind), "--teacher", SPANISH)
    teacher, layer, seen = LiveTeacher(model, "float32", task), model.decoder.layers[0], []
    layer.fc2.register_forward_pre_hook(lambda fc2, inputs: seen.append(inputs[0][:, 0]))
    sentences = setup("--criterion", "label_smoothed_cross_entropy")
    for i in range(len(sentences.dataset)):
        sample = sentences.batch(i)
        teacher.soft_targets(sample, RealTokens.of_mask(torch.ones_like(sample["target"]).bool()))
    activity = torch.cat(seen).abs().double().mean(0) * layer.fc2.weight.norm(dim=0)
    kept = activity.topk(8).indices.sort().values
    state = read_checkpoint(out)
    assert torch.equal(state["model"]["decoder.layers.0.fc1.weight"], layer.fc1.weight[kept])


@pytest.mark.parametrize("kind", TASKS)
def test_plan_reads_its_structure(multilingual, kind):
    size = TeacherStructure.of_checkpoint(multilingual(kind)).size
    assert (size.encoder_layers, size.decoder_layers) == (1, 1)


def test_files_that_its_options_name_are_found_beside_it(multilingual, data, tmp_path):
    state = torch.load(multilingual("m2m"), weights_only=True)
    named = {"fixed_dictionary": "/gone/model_dict.txt", "lang_dict": "/gone/langs.txt"}
    vars(state["cfg"]["task"]).update(**named, langs=None, data="/gone")
    torch.save(state, tmp_path / "m2m.pt")
    shutil.copy(Path(data) / "dict.es.txt", tmp_path / "model_dict.txt")
    (tmp_path / "langs.txt").write_text("es\nen\nfr\n")
    _, task = load_teacher(str(tmp_path / "m2m.pt"), "--teacher", SPANISH)
    assert task.whole[0].symbols[-3:] == ["__es__", "__en__", "__fr__"]
    (tmp_path / "langs.txt").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"^/gone/langs\.txt, with which \S+ was trained, is"
    ):
        load_teacher(str(tmp_path / "m2m.pt"), "--teacher", SPANISH)


HOSTILE = {
    "languages that are a number": (
        {"langs": 7, "lang_pairs": 7},
        "name no languages. Give a file",
    ),
    "a style that is not known": ({"lang_tok_style": "odd"}, "that fairseq cannot use: 'odd'."),
    "a table that is a text": (
        {"langtoks": "main"},
        "has options that fairseq cannot use: 'str' ob",
    ),
    "no length": (
        {"max_source_positions": -5},
        "m2m.pt has the option max_source_positions, which must be a whole number from 1 to "
        "100,000, but is -5. Give a file that fairseq-train wrote.",
    ),
    "a length that is no number": ({"max_target_positions": True}, "to 100,000, but is True. Give"),
    "a list that is no text": ({"langs": None, "lang_dict": "langs.txt"}, "line 1, is not UTF-8"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_options_of_another_shape_are_refused(multilingual, data, tmp_path, kind):
    changes, message = HOSTILE[kind]
    state = torch.load(multilingual("m2m"), weights_only=True)
    vars(state["cfg"]["task"]).update(changes)
    torch.save(state, tmp_path / "m2m.pt")
    (tmp_path / "langs.txt").write_bytes(b"e\xff\n")
    with pytest.raises(ValueError, match=re.escape(message)):
        load_teacher(str(tmp_path / "m2m.pt"), "--teacher", SPANISH)


def test_a_name_that_is_too_long_for_a_file_is_not_there(multilingual, tmp_path):
    state = torch.load(multilingual("m2m"), weights_only=True)
    vars(state["cfg"]["task"]).update(langs=None, lang_dict="a" * 5000)
    torch.save(state, tmp_path / "m2m.pt")
    with pytest.raises(FileNotFoundError, match=f"^{'a' * 200}, with which {tmp_path}/m2m.pt was "):
        load_teacher(str(tmp_path / "m2m.pt"), "--teacher", SPANISH)


@pytest.mark.parametrize("name", ["../es", 'es");x(', "e\ns"])
@pytest.mark.parametrize("kind", ["m2m", "bilingual"])
def test_names_that_are_no_plain_names_are_refused(multilingual, teacher, kind, name):
    path = teacher if kind == "bilingual" else multilingual(kind)
    with pytest.raises(ValueError, match=r"\.$"):
        load_teacher(path, "--teacher", Languages(("es", "en"), (name, "en")))


REFUSED = {
    "m2m": (
        Languages(("de", "en")),
        "--teacher {path} does not know the language de. Give one of its own names: es, en, fr.",
    ),
    "separate": (
        Languages(("es", "fr")),
        "--teacher {path} has no model of es-fr, but of en-es, es-en. Give the languages by the "
        "names that it was trained with.",
    ),
    "mbart": (
        Languages(("es", "en"), ("es", "de")),
        "--teacher {path} does not know the language de. Give one of its own names: es, fr, en.",
    ),
    "replacing": (
        Languages(),
        "--teacher {path} translates several language pairs, such as es-en, en-es. Give "
        "--teacher-source-lang and --teacher-target-lang.",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_languages_that_a_model_does_not_translate_are_refused(multilingual, kind):
    languages, message = REFUSED[kind]
    path = multilingual(kind)
    with pytest.raises(ValueError, match=re.escape(message.format(path=path)) + "$"):
        load_teacher(path, "--teacher", languages)


@pytest.mark.parametrize("kind", ["m2m", "bilingual"])
@pytest.mark.parametrize("names", [("en", "es"), ("en", "en")])
def test_names_that_are_those_of_the_data_swapped_are_refused(multilingual, teacher, kind, names):
    path = teacher if kind == "bilingual" else multilingual(kind)
    message = (
        rf"^--teacher-source-lang and --teacher-target-lang say {'-'.join(names)}, but the data "
        rf"are es-en\. Give the names of es and en in --teacher {re.escape(path)}, in this order\.$"
    )
    with pytest.raises(ValueError, match=message):
        load_teacher(path, "--teacher", Languages(("es", "en"), names))


@pytest.mark.parametrize(
    ("data", "names", "mixed_up"),
    [
        (("es", "en"), ("es_XX", "en_XX"), False),
        (("es", "en"), ("en_XX", "es_XX"), True),
        (("es", "en"), ("en_XX", "en_XX"), True),
        (("es", "en"), ("spa_Latn", "eng_Latn"), False),
        (("zh", "yue"), ("zh_CN", "zh_HK"), False),
        (("zh_CN", "zh_TW"), ("zh_TW", "zh_CN"), True),
        (("zh_CN", "zh_TW"), ("zh_Hans", "zh_Hant"), False),
        (("zh_CN", "en"), ("en", "zh"), True),
        (("src", "tgt"), ("en", "en"), False),
        (None, ("en", "es"), False),
        (("es", "en"), None, False),
    ],
)
def test_swapped_names_are_noticed_whatever_their_regions(data, names, mixed_up):
    assert Languages(data, names).are_mixed_up() is mixed_up


def test_layers_of_a_model_that_reads_language_tokens_are_not_compared(multilingual, setup):
    path = multilingual("m2m")
    message = (
        f"--kd-teacher {path} reads language tokens beside each sentence, so that its positions "
        "cannot be compared with the student's. Distil by --criterion word_kd or "
        "multi_teacher_kd, from its store, or from its translations."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        setup("--criterion", "feature_kd", "--kd-teacher", path)


def test_one_language_alone_is_refused(data):
    words = [data, *TRAINING, "--criterion", "word_kd", "--kd-teacher", "t.pt"]
    words += ["--kd-teacher-source-lang", "es_XX"]
    result = run("fairseq-train", *words, "--user-dir", "user_dir", check=False)
    assert (
        "--kd-teacher-source-lang is given alone. Give --kd-teacher-source-lang and "
        "--kd-teacher-target-lang, or neither."
    ) in result.stderr


def test_a_plain_teacher_may_have_other_names_for_the_languages(teacher, data, tmp_path):
    folder = tmp_path / "bin"
    shutil.copytree(data, folder)
    for path in list(folder.glob("*")):
        renamed = path.name.replace("es-en.es", "spa-eng.spa").replace("es-en.en", "spa-eng.eng")
        renamed = renamed.replace("dict.es.", "dict.spa.").replace("dict.en.", "dict.eng.")
        path.rename(folder / renamed)
    _, task = load_teacher(teacher, "--teacher", Languages.of_data(folder, ("es", "en")))
    assert (task.cfg.source_lang, task.cfg.target_lang) == ("spa", "eng")


def _best(out):
    for number, hypotheses in by_sentence(out / "hypotheses.txt"):
        yield number, hypotheses[0].tokens
