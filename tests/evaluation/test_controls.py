"""The controls with which a report compares a student."""

import copy

from fairseq_kd.evaluation.report import cards
from fairseq_kd.evaluation.results import EvaluationResult, compared_controls, fairest_control


def test_a_gain_is_reported_over_a_control_of_as_many_updates_and_over_a_better_longer_one(
    measured,
):
    measured = copy.deepcopy(measured)
    systems, scores = measured["systems"], measured["quality"]["scores"]
    systems[1]["updates_behind"] = 2300
    for name, behind, bleu in (("short", 500, 9.0), ("as long", 2300, 5.0), ("longer", 5000, 7.0)):
        systems.append({**systems[2], "name": name, "updates_behind": behind})
        scores[name] = copy.deepcopy(scores["left alone"])
        scores[name]["BLEU"]["score"] = bleu
    for count, names in ((6, ["as long", "longer"]), (5, ["as long"]), (4, ["short"])):
        result = EvaluationResult.from_json({**measured, "systems": systems[:count]})
        student = result.systems[1]
        assert [each.name for each in compared_controls(result, student)] == names
        assert fairest_control(result, student).name == names[0]
        texts = [text for _, text in cards(result) if text.startswith("BLEU over")]
        assert [text.split(",")[0] for text in texts] == [f"BLEU over {name}" for name in names]
