"""Evaluation on the CPU, on a GPU, and on both; here the GPU's engines compute on the CPU."""

import copy
import json
from importlib.util import find_spec
from types import SimpleNamespace

import pytest

from fairseq_kd import cli
from fairseq_kd.decoding.engine import EngineUnavailableError
from fairseq_kd.evaluation import memory, tables, variants
from fairseq_kd.evaluation.results import (
    FAIRSEQ,
    FAIRSEQ_GPU,
    FLOAT16_GPU,
    FLOAT32,
    INT8,
    INT8_GPU,
    EvaluationResult,
)
from fairseq_kd.evaluation.variants import (
    FAIRSEQ_FLOAT32_GPU,
    FLOAT32_GPU,
    MEASURED,
    RUNTIMES,
    Conversions,
    Devices,
    Runtime,
)

CPU, GPU = [FAIRSEQ, FLOAT32, INT8], [FAIRSEQ_GPU, FLOAT16_GPU, INT8_GPU]
STEP, MEASURE = memory.training_step, memory.measured
ON_CPU = {"float16": "float32", "int8_float16": "int8", "float32": "float32"}
needs_ctranslate2 = pytest.mark.skipif(find_spec("ctranslate2") is None, reason="CTranslate2")


@pytest.fixture
def with_gpu(monkeypatch):
    """A function after which torch, CTranslate2 or both seem to have a GPU."""

    def set_up(torch_can=True, reason=None, types=("float16", "int8_float16", "float32")):
        def check_gpu(_):
            if reason is not None:
                raise EngineUnavailableError(reason)

        ctranslate2 = SimpleNamespace(get_supported_compute_types=lambda _: set(types))
        monkeypatch.setitem(__import__("sys").modules, "ctranslate2", ctranslate2)
        monkeypatch.setattr(variants, "gpus", lambda _: 1)
        monkeypatch.setattr(variants, "check_gpu", check_gpu)
        monkeypatch.setattr(variants.torch.cuda, "is_available", lambda: torch_can)

    return set_up


@pytest.mark.parametrize(
    ("requested", "measured", "decoding"),
    [
        (None, ("cpu",), "cuda"),
        ("cpu", ("cpu",), "cpu"),
        ("cuda", ("cuda",), "cuda"),
        ("both", ("cpu", "cuda"), "cuda"),
    ],
)
def test_a_gpu_translates_unless_the_cpu_is_requested(with_gpu, requested, measured, decoding):
    with_gpu()
    assert Devices.of(requested)[:2] == (measured, decoding)


def test_without_a_gpu_everything_is_on_the_cpu(monkeypatch):
    monkeypatch.setattr(variants, "gpus", lambda _: 0)
    assert Devices.of(None) == (("cpu",), "cpu", tuple(CPU))


@pytest.mark.parametrize("requested", ["cuda", "both"])
def test_a_gpu_that_is_not_there_is_refused(evaluate_words, tmp_path, capsys, requested):
    assert cli.main(evaluate_words(tmp_path / "out", "--device", requested)) == 2
    assert capsys.readouterr().err == (
        f"fairseq-kd evaluate: --device is {requested}, but this torch can use no GPU. Leave it "
        "out.\n"
    )
    assert not (tmp_path / "out").exists()


def test_a_gpu_that_ctranslate2_cannot_use_is_left_to_fairseq(with_gpu, capsys):
    with_gpu(reason="CTranslate2 finds no cuBLAS of CUDA 12 for the GPU")
    devices = Devices.of(None)
    assert set(devices.engines) == {*CPU, FAIRSEQ_GPU, FAIRSEQ_FLOAT32_GPU}
    system = SimpleNamespace(name="teacher")
    assert Conversions({"teacher": "folder"}, {}, devices).exact(system).engine == (
        FAIRSEQ_FLOAT32_GPU
    )
    assert capsys.readouterr().err == (
        "CTranslate2 finds no cuBLAS of CUDA 12 for the GPU, so that it is measured on the CPU "
        "only\n"
    )


def test_a_type_that_the_gpu_lacks_is_not_measured(with_gpu):
    with_gpu(types=("float16", "float32"))
    assert INT8_GPU not in Devices.of("both").engines
    assert FLOAT16_GPU in Devices.of("both").engines


@pytest.mark.parametrize(
    ("requested", "converted", "exact", "int8"),
    [
        (None, True, FLOAT32_GPU, INT8),
        (None, False, FAIRSEQ_FLOAT32_GPU, None),
        ("cpu", True, FLOAT32, INT8),
        ("cpu", False, FAIRSEQ, None),
        ("both", True, FLOAT32_GPU, INT8),
        ("cuda", True, FLOAT32_GPU, INT8_GPU),
    ],
)
def test_quality_is_that_of_the_fastest_engine_in_float32(
    with_gpu, requested, converted, exact, int8
):
    with_gpu()
    system = SimpleNamespace(name="student")
    folders = {"student": "folder"} if converted else {}
    conversions = Conversions(folders, {}, Devices.of(requested))
    assert conversions.exact(system).engine == exact
    assert (conversions.int8(system) or (None, None))[1] == int8


def step_on_the_cpu(*args):
    return STEP(*args[:-1], "cpu")


def measured_on_the_cpu(prepare, _device):
    return MEASURE(prepare, "cpu")


@pytest.fixture(scope="session")
def both(evaluate_words, tmp_path_factory):
    """The figures of an evaluation on both devices, whose GPU is the CPU in other types."""
    out = tmp_path_factory.mktemp("both") / "out"
    with pytest.MonkeyPatch.context() as patch:
        for name, (device, compute_type) in list(RUNTIMES.items()):
            if device == "cuda":
                patch.setitem(RUNTIMES, name, Runtime("cpu", ON_CPU[compute_type]))
        every = (*CPU, *GPU, FLOAT32_GPU, FAIRSEQ_FLOAT32_GPU)
        devices = Devices(("cpu", "cuda"), "cpu", every)
        patch.setattr(Devices, "of", classmethod(lambda *_: devices))
        patch.setattr("fairseq_kd.evaluation.evaluation.with_gpus", lambda: "1 H200, 2 cores")
        patch.setattr("fairseq_kd.evaluation.memory.training_step", step_on_the_cpu)
        patch.setattr("fairseq_kd.evaluation.memory.measured", measured_on_the_cpu)
        assert cli.main(evaluate_words(out)) == 0
    return json.loads((out / "evaluation.json").read_text(encoding="utf-8"))


@needs_ctranslate2
def test_every_system_is_measured_on_both_devices(both):
    for part in (both["speed"]["systems"], both["memory"]["inference"]):
        for by_engine in part.values():
            assert list(by_engine) == [*CPU, *GPU]
            assert all(by_engine.values())
    assert both["made"]["measured_on"] == ["cpu", "cuda"]
    assert both["made"]["machine"] == "1 H200, 2 cores"
    assert both["memory"]["trained_on"] == "cuda"


@needs_ctranslate2
def test_a_speed_on_a_gpu_is_compared_with_fairseq_on_the_gpu(both):
    systems = both["speed"]["systems"]
    for name, engine, speed in (
        ("teacher", FAIRSEQ, 10.0),
        ("teacher", FAIRSEQ_GPU, 100.0),
        ("teacher", FLOAT16_GPU, 200.0),
        ("small", FLOAT16_GPU, 800.0),
    ):
        systems[name][engine]["batch_32"]["sentences_per_s"] = speed
    rows = {row[0]: row for row in tables.speed(EvaluationResult.from_json(both)).rows}
    assert rows[f"small, {FLOAT16_GPU}"][-2:] == ["4.0x", "8.0x"]
    assert rows[f"teacher, {FAIRSEQ_GPU}"][-2:] == ["1.0x", "1.0x"]


@needs_ctranslate2
def test_the_overview_takes_the_speed_of_the_gpu_where_the_cpu_was_not_measured(both):
    on_gpu = copy.deepcopy(both)
    for by_engine in on_gpu["speed"]["systems"].values():
        for engine in CPU:
            del by_engine[engine]
    on_gpu["speed"]["systems"]["small"][INT8_GPU]["batch_32"]["sentences_per_s"] = 4321.0
    rows = {row[0]: row for row in tables.overview(EvaluationResult.from_json(on_gpu)).rows}
    assert rows["small, int8"][8] == "4321.0"
    assert rows["teacher"][-2:] == ["1.0x", "1.0x"]


def test_the_engines_of_a_device_compute_on_it():
    devices = {device: {RUNTIMES[each].device for each in MEASURED[device]} for device in MEASURED}
    assert devices == {"cpu": {"cpu"}, "cuda": {"cuda"}}
