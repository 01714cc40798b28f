"""A model made ready once: its networks are kept to the last bit, and what can not be had is no pair's end."""

import json
import os
import signal
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import scripted
import tiny
import torch

from visionquant.bench import fidelity, host, inputs, prepared, sampling, torch_flags, worker
from visionquant.bench.backends import convert
from visionquant.bench.backends.eager import Eager
from visionquant.bench.command import Matrix, blank
from visionquant.bench.prepared import BenchModel, Reference
from visionquant.core import machine
from visionquant.core.paths import Project
from visionquant.records import record as records
from visionquant.settings.params import Params
from visionquant.settings.precision import FloatPrecision
from visionquant.weights import checkpoint
from visionquant.weights.sources import HubFile, Manifest

MODEL = "tiny-vit"
KEPT = ("fp16", "bf16", "int8", "int8-outliers", "nf4", "mixed-sensitive", "fp32_onnxruntime", "int8_onnxruntime")
PRELOAD = """
import json, os, sys
from visionquant.bench import prepared, torch_flags
torch_flags.quiet("cuda")
prepared.preload("cuda", {"eager"})
before = len(os.listdir("/proc/self/task"))
prepared.preload("cuda", {"bnb", "eager", "mixed", "ort"})
loaded = [name in sys.modules for name in ("bitsandbytes", "torch._dynamo", "torch._inductor.compile_fx")]
threads, known = len(os.listdir("/proc/self/task")) - before, set(sys.modules)
import bitsandbytes
late = [name for name in set(sys.modules) - known if name.startswith(("torch._dynamo", "torch._inductor"))]
print(json.dumps([loaded, threads, late]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads under /proc")
def test_what_bitsandbytes_takes_long_for_is_imported_before_a_gpus_processes_and_bitsandbytes_is_not() -> None:
    done = subprocess.run([sys.executable, "-c", PRELOAD], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded, threads, late = json.loads(done.stdout)
    assert loaded == [False, True, True]
    assert threads == 0
    assert len(late) < 20  # of more than five hundred


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Params]:
    raw = tiny.settings((MODEL,), ("fp32", "nf4"))
    raw["study"]["batch_sizes"] = [1]
    raw["protocols"]["tiny"] |= {"rounds": 1, "blocks": 1}
    project, params = tiny.project(tmp_path_factory.mktemp("study"), raw)
    machine.declare(project, machine.probe("cpu"))
    checkpoint.download(project, params, MODEL)
    return project, params


@pytest.fixture(scope="module")
def source(study: tuple[Project, Params], tmp_path_factory: pytest.TempPathFactory) -> BenchModel:
    project, params = study
    torch_flags.quiet("cpu")
    prepared.preload("cpu", {"bnb", "eager", "mixed"})
    manifest = checkpoint.download(project, params, MODEL)
    asked = blank(project, params, (MODEL, "fp32"), manifest, machine.probe("cpu"))
    return BenchModel(project, MODEL, asked.settings, manifest, tmp_path_factory.mktemp("kept"))


@pytest.fixture(scope="module")
def reference(source: BenchModel) -> Reference:
    return prepared.load(source)


def outputs(source: BenchModel, precision: str, row: Any) -> np.ndarray:
    """Features of the fidelity images in a process of a round."""

    def task() -> np.ndarray:
        torch_flags.apply(row, source.protocol)
        images = inputs.batch(4, source.preprocessing())
        with torch.inference_mode():
            net = prepared.network_of(source, precision, row, images[:1])
            return fidelity.features_of(net(images.to(convert.dtype_of(row, "cpu")))).float().numpy()

    return worker.in_fork(task)


@pytest.mark.parametrize("precision", ["fp32", *KEPT])
def test_a_network_that_was_kept_says_what_it_said_before_to_the_last_bit(
    study: tuple[Project, Params], source: BenchModel, reference: Reference, precision: str
) -> None:
    row = study[1].precisions[precision]
    if why := convert.backend_of(row.engine).unsupported("cpu"):
        pytest.skip(why)
    facts = prepared.convert_pair(source, precision, row, reference)
    quantised = not isinstance(row, FloatPrecision)
    assert source.kept(precision).is_file() == (quantised or precision == "fp32")
    before = outputs(source, precision, row)
    assert np.array_equal(before, facts.expected.features)
    if quantised:
        source.kept(precision).unlink()
        assert np.array_equal(outputs(source, precision, row), before)  # converted from the FP32 weights again


def test_a_network_that_can_not_be_kept_is_converted_again(
    study: tuple[Project, Params], source: BenchModel, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, row = Eager.convert, study[1].precisions["int8"]

    def unpicklable(*given: Any) -> Any:
        net = real(*given)
        net.note = lambda: None
        return net

    monkeypatch.setattr(Eager, "convert", unpicklable)
    facts = prepared.convert_pair(source, "other", row, reference)
    assert not list(source.folder.glob("other*"))
    assert np.array_equal(outputs(source, "other", row), facts.expected.features)


def test_without_a_reference_a_pair_is_timed_all_the_same(
    study: tuple[Project, Params], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared, "_reference", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    project, params = study
    with scripted.others():
        assert sampling.sample(project, params, Matrix.of(params)).rounds == 1
    for precision in ("fp32", "nf4"):
        record = records.read_samples(project.samples(MODEL, precision))
        assert record.fidelity is None
        assert record.fidelity_reason == (
            "FP32: the process was killed (signal 9), as the kernel does when memory runs out"
        )
        assert record.conversion is not None
        assert (record.cells[0].status, len(record.cells[0].rounds)) == ("ok", 1)


def test_a_model_that_does_not_fit_into_memory_is_not_loaded(
    source: BenchModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without committed counts the files of a model say how large it is."""
    monkeypatch.setattr(prepared, "_load", lambda *_: None)
    monkeypatch.setattr(prepared, "_reference", lambda *_: Reference(None, "", None))
    file = HubFile(name="model.safetensors", bytes=7 * 2**30, sha256="0")
    manifest = Manifest(model="mine", weights="pretrained", source="", files=(file,), config_sha256="")
    large = BenchModel(source.project, "mine", source.settings, manifest, source.folder)
    monkeypatch.setattr(host, "available_bytes", lambda: 8 * 2**30)
    assert prepared.load(large).outputs is None
    monkeypatch.setattr(host, "available_bytes", lambda: 7 * 2**30)
    with pytest.raises(worker.Failed, match=r"foreseen: weights of 7\.0 GiB, 7\.0 GiB free"):
        prepared.load(large)
