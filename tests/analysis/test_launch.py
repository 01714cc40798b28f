"""Published time against operations: the host's rate, the floors, and what explains a cell."""

import statistics

import made
import pytest

from visionquant.analysis import launch_bound
from visionquant.analysis.study import Study

FACTORS = {"fp32": 1.0, "fp16": 0.5, "int8": 2.0, "nf4": 3.0}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return made.study(tmp_path_factory.mktemp("study"), FACTORS)


def test_the_hosts_rate_is_read_off_the_models_that_leave_the_gpu_idle(study: Study) -> None:
    found = launch_bound.floors(study)
    idle = found.idle
    assert set(idle) == {
        "dino-vits16-production", "deit-small-distilled-224", "mobilevit-small-edge", "mobilevit-xxs-edge",
        "deit-tiny-ultra-efficient",
    }  # fmt: skip
    rates = []
    for model in idle:
        facts = study.facts(model)
        assert facts is not None
        rates += [
            1e3 * (study.published.value("latency_median", model, p) or 0.0) / facts.operations[p]
            for p in launch_bound.FLOATS
        ]
    assert found.host_us == pytest.approx(statistics.median(rates))


def test_the_work_is_arithmetic_or_reading_the_weights_whichever_takes_longer(study: Study) -> None:
    published = study.published
    assert published.peaks.gpu == study.params.report.reference_gpu
    assert published.floor_ms(10**9, 0, "fp32") == pytest.approx(2e9 / 44.1e12 * 1e3)
    assert published.floor_ms(10**9, 0, "fp16") == pytest.approx(2e9 / 88.2e12 * 1e3)
    assert published.floor_ms(1, 672 * 10**6, "fp32") == pytest.approx(1.0)


def test_readings_follow_from_the_floors(study: Study) -> None:
    cells = launch_bound.floors(study).cells
    assert (cells.groupby("model").precision.agg(list).map(tuple) == ("fp32", "fp16")).all()
    assert cells.model.nunique() == 16
    for one in cells.itertuples():
        assert one.us_per_operation == pytest.approx(1e3 * one.published_ms / one.operations)
        near = one.published_ms <= 1.25 * one.host_ms
        expected = "neither"
        if near and one.work_ms <= one.published_ms / 2:
            expected = "launch-bound"
        elif not near:
            expected = "beyond the host"
        assert one.reading == expected
    readings = cells.set_index(["model", "precision"]).reading
    assert readings["vit-base-224-production", "fp16"] == "launch-bound"
    assert readings["vit-huge-patch14-2020", "fp32"] == "beyond the host"
