"""What is imported, cast and chosen before a fork, so that each replicate need not."""

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from visionquant.bench import loading, pair_worker, reference
from visionquant.bench.backends import convert
from visionquant.core import machine
from visionquant.core.paths import Project
from visionquant.settings.params import Params
from visionquant.weights import checkpoint

PRELOAD = """
import json, os, sys
from visionquant.bench import pair_worker, torch_flags
torch_flags.quiet("cuda")
pair_worker.preload("cuda", {"eager"})
before = len(os.listdir("/proc/self/task"))
pair_worker.preload("cuda", {"bnb", "eager", "mixed", "ort"})
loaded = [name in sys.modules for name in ("bitsandbytes", "torch._dynamo", "torch._inductor.compile_fx")]
threads, known = len(os.listdir("/proc/self/task")) - before, set(sys.modules)
import bitsandbytes
late = [name for name in set(sys.modules) - known if name.startswith(("torch._dynamo", "torch._inductor"))]
print(json.dumps([loaded, threads, late]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads under /proc")
def test_what_bitsandbytes_takes_long_for_is_imported_before_a_gpus_replicates_and_bitsandbytes_is_not() -> None:
    done = subprocess.run([sys.executable, "-c", PRELOAD], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded, threads, late = json.loads(done.stdout)
    assert loaded == [False, True, True]
    assert threads == 0
    assert len(late) < 20  # of more than five hundred


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Params]:
    return tiny.project(tmp_path_factory.mktemp("study"), tiny.settings())


def network(study: tuple[Project, Params]) -> Any:
    project, params = study
    spec = params.models["tiny-vit"]
    return loading.load(project, "tiny-vit", spec, checkpoint.download(project, params, "tiny-vit"), "sdpa", 0)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "nf4", "mixed-sensitive"])
def test_for_a_gpu_weights_are_cast_once_and_come_out_the_same(study: tuple[Project, Params], precision: str) -> None:
    """``builder`` runs in the process that replicates are forked from; a mixed policy keeps some layers in FP32."""
    _, params = study
    row, net = params.precisions[precision], network(study)
    plain, cast = copy.deepcopy(net), copy.deepcopy(net)
    backend = convert.backend_of(row.engine)
    backend.builder(net, row, "cuda", (3, 32, 32))
    half = precision in ("fp16", "int8", "nf4")
    assert {one.dtype for one in net.parameters()} == {torch.float16 if half else torch.float32}
    backend.cast(cast, row, "cpu")
    found, expected = (convert.convert(one, row, "cpu").state_dict() for one in (cast, plain))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(found[name], value), name


def test_the_smallest_and_largest_batch_size_of_the_study_are_profiled(
    study: tuple[Project, Params], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of them this command measures."""
    project, params = study
    machine.declare(project, machine.probe("cpu"))
    checkpoint.download(project, params, "tiny-vit")
    reference.make(project, params, "tiny-vit")
    real = pair_worker.serve

    def serve(*arguments: Any) -> Any:
        (tmp_path / "profiled.json").write_text(json.dumps(sorted(arguments[-1])))
        return real(*arguments)

    monkeypatch.setattr(pair_worker, "serve", serve)
    for asked, profiled in (([2], [1, 2]), ([3], [1, 3])):
        tiny.measure(project, params, "tiny-vit", "fp32", asked)
        assert json.loads((tmp_path / "profiled.json").read_text()) == profiled
