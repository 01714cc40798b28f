"""What only a graphics card can show: two clocks, device memory, FP32 without TF32, and fork safety under CUDA."""

import pytest
import tiny

from visionquant.bench import reference, worker
from visionquant.core import machine
from visionquant.core.paths import Project
from visionquant.settings.params import Params, parse
from visionquant.weights import checkpoint

pytestmark = pytest.mark.gpu
FLOORS = {"fp32": 0.999999, "fp16": 0.99, "int8": 0.99, "int8-outliers": 0.99, "nf4": 0.9}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Params]:
    raw = tiny.settings(("tiny-vit",), tuple(FLOORS))
    raw["study"]["device"] = "cuda"
    project, _ = tiny.project(tmp_path_factory.mktemp("gpu"), raw)
    params = parse(raw)
    machine.declare(project, machine.probe("cuda"))
    checkpoint.download(project, params, "tiny-vit")
    reference.make(project, params, "tiny-vit")
    return project, params


@pytest.mark.parametrize("precision", FLOORS)
def test_a_pair_on_the_card(study: tuple[Project, Params], precision: str) -> None:
    project, params = study
    record = tiny.measure(project, params, "tiny-vit", precision)
    assert record.environment.device == "cuda"
    assert record.environment.gpu
    assert record.environment.driver
    assert record.fidelity is not None
    assert record.fidelity.cosine is not None
    assert record.fidelity.cosine > FLOORS[precision]
    assert record.conversion is not None
    assert (record.conversion.quantized_modules > 0) is (precision not in ("fp32", "fp16"))
    for cell in record.cells:
        assert cell.status in tiny.MEASURED, cell.reason
        assert sum(len(one.wall_ms) for one in cell.replicates) == params.protocol.iterations
        for one in cell.replicates:
            assert one.gpu_ms is not None
            assert len(one.gpu_ms) == len(one.wall_ms)
            assert all(0 < device <= wall * 1.05 for device, wall in zip(one.gpu_ms, one.wall_ms, strict=True))
            assert one.conditions.gpu is not None
            assert one.conditions.gpu.sampler_share < 0.02
            assert len(one.cold_ms) == 1
            assert one.sentinel.host is not None
        assert cell.launch is not None
        assert cell.launch.kernels > 0
        assert cell.launch.gpu_busy_ms > 0
        assert cell.audit is not None
        assert cell.audit.fault == ""
        assert cell.memory is not None
        assert cell.memory.allocated_after is not None
        assert cell.memory.peak_allocated is not None
        assert cell.memory.peak_reserved is not None
        assert cell.memory.workspace is not None
        assert cell.memory.workspace >= 2**20
        assert cell.memory.stored_weights <= cell.memory.allocated_after <= cell.memory.peak_allocated
        assert cell.memory.peak_allocated <= cell.memory.peak_reserved


@pytest.mark.parametrize("precision", ["fp16", "int8-outliers"])
def test_the_process_that_forks_never_touches_the_card(study: tuple[Project, Params], precision: str) -> None:
    """The driver is asked, for torch does not see all that opens it; so does each process before it forks."""
    project, params = study
    tiny.measure(project, params, "tiny-vit", precision, again=True)
    assert worker.driver_answer() == worker.CUDA_NOT_INITIALIZED


def test_fp32_is_not_tf32(study: tuple[Project, Params]) -> None:
    """A product that TF32 rounds to ten bits keeps its twenty-three in a replicate's own process."""
    from visionquant.bench import torch_flags

    _, params = study

    def worst() -> float:
        import torch

        torch_flags.apply(params.precisions["fp32"], params.protocol)
        generator = torch.Generator().manual_seed(0)
        a, b = (torch.randn(256, 256, generator=generator) for _ in range(2))
        exact = a.double() @ b.double()
        return float(((a.cuda() @ b.cuda()).double().cpu() - exact).abs().max())

    assert worker.in_fork(worst) < 1e-3
