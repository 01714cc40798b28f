"""The supplement's own validation: only figures of the published card pass or fail it."""

from pathlib import Path

import made

from visionquant.analysis import published_validation
from visionquant.analysis.published_validation import ExpectedMetric
from visionquant.analysis.study import Study, gather
from visionquant.settings import params


def by_metric(study: Study) -> dict[str, ExpectedMetric]:
    return {one.metric: one for one in published_validation.validations(study)}


def test_validation_passes_only_figures_of_the_published_card(tmp_path: Path) -> None:
    on_cpu = by_metric(made.study(tmp_path / "cpu", {"fp32": 1.0, "fp16": 0.4, "int8": 2.0, "nf4": 2.0}))
    assert {one.verdict for one in on_cpu.values()} == {"not comparable"}


def test_validation_within_and_differs_on_the_published_card(tmp_path: Path) -> None:
    found = by_metric(made.study(tmp_path, {"fp32": 1.0, "fp16": 0.4, "int8": 2.0, "nf4": 2.0}, made.CARD))
    assert found["vit_huge_fp16_speedup"].verdict == "within"
    assert found["dinov2_large_fp16_speedup"].verdict == "differs"
    assert "27.6 % off, 5 % allowed" in found["dinov2_large_fp16_speedup"].why
    assert found["average_memory_reduction_int8"].verdict == "differs"  # every made-up model allocates the same


def test_validation_without_records_is_not_measured(tmp_path: Path) -> None:
    project = made.project(tmp_path)
    empty = gather(project, params.load(project))
    assert {one.verdict for one in by_metric(empty).values()} == {"not measured"}
