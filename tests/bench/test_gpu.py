"""What only a graphics card can show: two clocks, device memory, FP32 without TF32, and fork safety under CUDA."""

import pytest
import tiny

from visionquant.bench import sampling, worker
from visionquant.bench.command import Matrix
from visionquant.core.paths import Project
from visionquant.records import record as records
from visionquant.records.cell import BASELINE, KERNELS, PLACEBO
from visionquant.settings.params import Params, parse

pytestmark = pytest.mark.gpu
FLOORS = {"fp32": 0.999999, "fp16": 0.99, "int8": 0.99, "int8-outliers": 0.99, "nf4": 0.9}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Params]:
    """All precisions in turns; the process that forks never opens the card: torch does not see all that does."""
    raw = tiny.settings(("tiny-vit",), tuple(FLOORS))
    raw["study"]["device"] = "cuda"
    project, _ = tiny.project(tmp_path_factory.mktemp("gpu"), raw)
    params = parse(raw)
    sampling.sweep(project, params, Matrix.of(params))
    assert worker.driver_answer() == worker.CUDA_NOT_INITIALIZED
    return project, params


@pytest.mark.parametrize("precision", FLOORS)
def test_a_pair_on_the_card(study: tuple[Project, Params], precision: str) -> None:
    project, params = study
    record = records.write(project.record("tiny-vit", precision))
    assert record.environment.device == "cuda"
    assert record.environment.gpu
    assert record.environment.driver
    assert record.fidelity is not None
    assert record.fidelity.cosine is not None
    assert record.fidelity.cosine > FLOORS[precision]
    assert record.conversion is not None
    assert (record.conversion.quantized_modules > 0) is (precision not in ("fp32", "fp16"))
    assert record.cells[0].rounds[0].gpu is not None
    assert record.cells[0].rounds[0].gpu.sampler_share < 0.02
    assert len(record.cells) == 2
    for cell in record.cells:
        assert cell.status in tiny.MEASURED, cell.reason
        assert len(cell.rounds) >= params.protocol.rounds
        for one in cell.rounds:
            beside = KERNELS if precision == BASELINE else ()
            assert {slot.arm for slot in one.slots} == {BASELINE, PLACEBO, precision, *beside}
            for slot in one.slots:
                assert slot.gpu_ms is not None
                assert all(0 < gpu <= wall * 1.05 for gpu, wall in zip(slot.gpu_ms, slot.wall_ms, strict=True))
                assert (slot.window is None) is (slot.arm in KERNELS)
        assert cell.launch is not None
        assert cell.launch.kernels > 0
        assert cell.launch.gpu_busy_ms > 0
        assert cell.audit is not None
        assert cell.audit.fault == ""
        assert cell.audit.kept > 0
        assert cell.memory is not None
        assert cell.memory.allocated_after is not None
        assert cell.memory.peak_allocated is not None
        assert cell.memory.peak_reserved is not None
        assert cell.memory.workspace is not None
        assert cell.memory.workspace >= 2**20
        assert cell.memory.stored_weights <= cell.memory.allocated_after <= cell.memory.peak_allocated
        assert cell.memory.peak_allocated <= cell.memory.peak_reserved


def test_fp32_is_not_tf32(study: tuple[Project, Params]) -> None:
    """A product that TF32 rounds to ten bits keeps its twenty-three in an arm's process."""
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
