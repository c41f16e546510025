"""Settings of a run file without effect are refused, and no others."""

import pytest

SMALL = "transformer_kd_small_student"
PLAIN = "criterion: label_smoothed_cross_entropy"
IMPORTED = "distilled: {import-translations: {hypotheses: t.en}}"
WITHOUT_EFFECT = {
    "a weight": (f"ladder: [0.7, {{ratio: 0.4, {PLAIN}, alpha: 0.5}}]", "student has alpha, which"),
    "a temperature": (
        f"ladder: [0.5]\neach: {{{PLAIN}, temperature: 2}}",
        r"each has temperature, which has no effect with the criterion label_smoothed_cross_entropy"
        r": it has no teacher\. Leave it out, or choose a criterion such as word_kd\.",
    ),
    "soft targets": (
        f"ladder: [{{ratio: 0.5, {PLAIN}, soft-targets: store}}]",
        "student has soft-targets",
    ),
    "a teacher": (f"ladder: [{{ratio: 0.5, {PLAIN}, learns-from: teacher}}]", "has learns-from"),
    "a flag of it": (
        f"ladder: [{{ratio: 0.5, {PLAIN}, train: {{kd-alpha: 1}}}}]",
        "student has train.kd-alpha, which",
    ),
    "one of all": (
        f"ladder: [0.5]\neach: {{{PLAIN}}}\ntrain: {{kd-alpha: 1}}",
        "it has train.kd-alpha, which has no effect",
    ),
    "one of the teacher": (
        "ladder: [0.5]\nteacher: {arch: transformer, train: {kd-alpha: 1}}",
        "the teacher has train.kd-alpha, which has no effect",
    ),
    "languages of a teacher that is trained": (
        "ladder: [0.5]\nteacher: {arch: transformer}\n"
        "teacher-languages: {source: es_XX, target: en_XX}",
        r"teacher-languages has no effect on a teacher that the run trains\. Leave it out\.",
    ),
    "languages of a teacher in a section": (
        "ladder: [0.5]\nevaluate: {teacher-source-lang: es_XX}",
        "has teacher-source-lang, which the key teacher-languages sets",
    ),
    "a teacher of peers": (
        "ladder: [{ratio: 0.5, criterion: mutual_learning, learns-from: teacher}]",
        r"student has learns-from, which has no effect with the criterion mutual_learning: it has",
    ),
    "a flag that peers lack": (
        "ladder: [{ratio: 0.5, criterion: mutual_learning, train: {kd-alpha: 1}}]",
        "student has train.kd-alpha, which",
    ),
    "a store": (
        "ladder: [0.5]\nstore: {topk: 8}",
        r"store has no effect without soft-targets: store in a stage\. "
        r"Add that, or leave store out\.",
    ),
    "translations": (
        "ladder: [0.5]\ndistilled: {shards: 2}",
        "distilled has no effect without dat",
    ),
    "own translations": (
        "ladder: [0.5]\nown-translations: {beam: 2}",
        r"own-translations has no effect without data: own in a stage\. Add that, or leave "
        r"own-translations out\.",
    ),
    "own translations of nothing": (
        "ladder: [{ratio: 0.5, data: own}]",
        "student has data: own, the translations of the model that it starts from, but start is "
        r"cold\. Set it to the name of an earlier stage, or to a checkpoint\.",
    ),
    "own translations of a part of the teacher": (
        "ladder: [{ratio: 0.5, start: inherit, data: own}]",
        r"but start is inherit\. Set it to the name of an earlier stage",
    ),
    "own translations without a teacher": (
        f"ladder: [{{ratio: 0.5, name: word}}, {{ratio: 0.5, start: word, data: own, {PLAIN}}}]",
        "student has data: own, from which label_smoothed_cross_entropy would learn its own "
        r"errors\. Choose a criterion with a teacher, such as word_kd\.",
    ),
    "a key of the run among own translations": (
        "ladder: [{ratio: 0.5, name: word}, {ratio: 0.5, start: word, data: own}]\n"
        "own-translations: {teacher: t.pt}",
        "own-translations has teacher, which the key start sets",
    ),
    "copies of the references beside own translations": (
        "ladder: [{ratio: 0.5, name: word}, {ratio: 0.5, start: word, data: own, "
        "train: {upsample-primary: 2}}]",
        "student has upsample-primary, which has no effect on data: own",
    ),
    "a mixture of nothing": (
        "ladder: [{ratio: 0.5, data: mixed}]\ndistilled: {distill-data: {mix: alone}}",
        "student has data: mixed, but distilled.distill-data.mix is alone. Set data: distilled, or",
    ),
    "another training set than the translations": (
        "ladder: [{ratio: 0.5, data: distilled}]\neach: {train: {train-subset: test}}",
        "student has data: distilled, whose training set is called train, but train-subset is test",
    ),
    "a choice among one": (
        "ladder: [{ratio: 0.5, data: mixed}]\ndistilled: {distill-data: {select: mbr}}",
        "distilled.distill-data.select is mbr, which needs several translations of a sentence. Add",
    ),
    "a choice by scores among one": (
        "ladder: [{ratio: 0.5, data: mixed}]\n"
        "distilled: {distill-data: {select: score, scores: s.txt}}",
        "distilled.distill-data.select is score, which needs several translations of a sentence.",
    ),
    "a choice among one of another system": (
        f"ladder: [{{ratio: 0.5, data: mixed}}]\n{IMPORTED[:-1]}, "
        "distill-data: {select: interpolation}}",
        "translations of a sentence, but a file of the format plain has one. Leave it out.",
    ),
    "a filter of scores that are not there": (
        f"ladder: [{{ratio: 0.5, data: mixed}}]\n{IMPORTED[:-1]}, distill-data: {{min-score: 1}}}}",
        "distilled.distill-data.min-score needs scores, but a file of the format plain has none.",
    ),
    "a filter that no score of the teacher passes": (
        "ladder: [{ratio: 0.5, data: mixed}]\ndistilled: {distill-data: {min-score: 0.5}}",
        "distilled.distill-data.min-score is 0.5, but the scores of the teacher are log2 probabili",
    ),
    "a weight of one set": (
        "ladder: [{ratio: 0.5, data: mixed, train: {upsample-primary: 3}}]",
        "student has upsample-primary, which has no effect on data: mixed, a single training set.",
    ),
    "two sets without a weight": (
        "ladder: [{ratio: 0.5, data: mixed}]\ndistilled: {distill-data: {mix: extra}}",
        "student needs train: {upsample-primary: N}, the copies of the references beside the tran",
    ),
    "a strategy": (
        f"ladder: [{{arch: {SMALL}}}]\nstrategy: depth",
        "strategy has no effect without a stage with a ratio",
    ),
    "a factor": ("ladder: [0.5]\nfactor: 0.5", "factor has no effect without target or parameters"),
    "one step again": (
        "ladder: [0.5]\ncontrols: [one-step]",
        "the control one-step would be the same as the training of student, which learns from the "
        "teach",
    ),
    "an inherited control of a cold student": (
        "ladder: [0.5]\ncontrols: [inherited]",
        "the control inherited would be the same as undistilled, since student starts from ra",
    ),
    "a total control of a cold student": (
        "ladder: [0.5]\ncontrols: [undistilled, total]",
        "the control total would be the same as undistilled",
    ),
    "importance for a cold student": (
        "ladder: [{ratio: 0.5, importance: data}]",
        r"student has importance: data, which has no effect without start: inherit\. Add that, or",
    ),
    "importance for cold students": (
        "ladder: [0.5]\neach: {importance: data}",
        r"each has importance: data, which has no effect without start: inherit\. Add that, or l",
    ),
    "a folder": (
        "ladder: [0.5]\ntrain: {save-dir: here}",
        "train has save-dir, which the key run s",
    ),
    "a seed": (
        "ladder: [0.5]\neach: {train: {seed: 2}}",
        r"each\.train has seed, which the key seed sets\. Leave it out there\.",
    ),
    "another teacher": (
        "ladder: [{ratio: 0.5, train: {kd-teacher: t.pt}}]",
        "student: train has kd-teacher, which the key learns-from sets",
    ),
    "another store": (
        "ladder: [{ratio: 0.5, soft-targets: store, train: {kd-store: s}}]",
        "student: train has kd-store, which the key soft-targets sets",
    ),
    "another pair": (
        "ladder: [0.5]\ntrain: {source-lang: en, target-lang: es}",
        r"train has source-lang, which the key data sets\. Leave it out there\.",
    ),
    "other GPUs": (
        "ladder: [0.5]\nteacher: {arch: transformer, train: {distributed-world-size: 2}}",
        "teacher.train has distributed-world-size, which the key gpus sets",
    ),
    "the folder of the report": (
        "ladder: [0.5]\nevaluate: {out: here}",
        r"evaluate has out, which the key run sets\. Leave it out there\.",
    ),
    "another plugin of the report": (
        "ladder: [0.5]\nevaluate: {user-dir: own}",
        "evaluate has user-dir, which the key user-dir sets",
    ),
    "another teacher of the report": (
        "ladder: [0.5]\nevaluate: {teacher: t.pt}",
        "evaluate has teacher, which the key teacher sets",
    ),
    "a shard of translations": (
        "ladder: [{ratio: 0.5, data: distilled}]\ndistilled: {translate: {shard: 1/2}}",
        r"distilled\.translate has shard, which the key shards sets",
    ),
    "other translations": (
        "ladder: [{ratio: 0.5, data: distilled}]\ndistilled: {distill-data: {translations: t}}",
        r"distilled\.distill-data has translations, which the key run sets",
    ),
    "gold pairs among translations": (
        "ladder: [{ratio: 0.5, data: distilled}]\ndistilled: {distill-data: {mix: gold}}",
        r"distilled\.distill-data has mix, which the key data sets",
    ),
    "another size": (
        "ladder: [0.5]\ntrain: {encoder-layers: 3}",
        r"encoder-layers is 3 in the training of student, whose ratio of 0\.5 sets the size",
    ),
}


@pytest.mark.parametrize("setting", WITHOUT_EFFECT)
def test_a_setting_without_effect_is_refused(refuses, setting):
    refuses(*WITHOUT_EFFECT[setting])


@pytest.mark.parametrize(
    "text",
    [
        "ladder: [{ratio: 0.5, criterion: mutual_learning, train: {kd-peers: 3}}]",
        f"ladder: [0.7, {{ratio: 0.4, {PLAIN}}}]\neach: {{temperature: 2}}",  # of the others
        f"ladder: [0.7, {{ratio: 0.4, {PLAIN}, start: inherit, learns-from: teacher}}]",
        f"ladder: [0.7, {{ratio: 0.4, {PLAIN}, data: distilled}}]\ndistilled: {{shards: 2}}",
        "ladder: [{ratio: 0.5, soft-targets: store}]\nstore: {topk: 8}\nstrategy: width",
        "target: 0.5\nfactor: 0.5\nstrategy: width",
        "ladder: [0.7, 0.4]\ncontrols: [one-step]",
        "ladder: [0.5]\nteacher: {arch: transformer, train: {encoder-layers: 3}}",
    ],
)
def test_a_setting_with_an_effect_is_taken(workflow_of, text):
    assert workflow_of(text).steps[-1].name == "evaluation"


def test_a_run_file_runs_no_program(workflow_of):
    message = (
        r"run\.yaml: evaluate has scorer, which runs a program, and a run file must not\. Leave it "
        "out, and run fairseq-kd evaluate with --scorer yourself"
    )
    with pytest.raises(ValueError, match=message):
        workflow_of("ladder: [0.5]\nevaluate: {scorer: 'X=touch x'}")
