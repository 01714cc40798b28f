"""The cost model: arithmetic that can be done by hand, and limits that leave a reason behind."""

import dataclasses
from pathlib import Path

import made
import pytest
import tiny

from visionquant.analysis import decision, published
from visionquant.core.errors import StudyError
from visionquant.core.paths import Project
from visionquant.settings import params
from visionquant.settings.sections import CostAssumptions

ASSUMED = CostAssumptions(
    load_images_per_s=1000.0,
    latency_limit_ms=100.0,
    utilisation=0.5,
    instance="g4dn.xlarge",
    hours_per_month=700.0,
    years=2.0,
    development_usd=7000.0,
    model="vit-base-224-production",
    precision="fp16",
    spread=0.2,
)


def test_a_bill_by_hand() -> None:
    """1000 images/s at 100 and 200 a second, half used: 20 and 10 instances; 700 dollars a month each."""
    found = decision.bill(100.0, 200.0, 1.0, ASSUMED)
    assert (found.instances, found.monthly, found.saved_monthly) == (10, 7000.0, 7000.0)
    assert found.saved == 24 * 7000.0
    assert found.total == 24 * 7000.0 + 7000.0
    assert found.roi_percent == pytest.approx(100 * (24 * 7000 - 7000) / 7000)
    assert found.break_even_months == 1.0


def test_what_saves_nothing_never_breaks_even() -> None:
    slower = decision.bill(200.0, 100.0, 1.0, ASSUMED)
    assert slower.saved_monthly == -7000.0
    assert slower.break_even_months is None
    base = decision.bill(100.0, 100.0, 1.0, ASSUMED, base=True)
    assert (base.total, base.roi_percent) == (20 * 700 * 24, None)


def test_instances_are_whole_and_at_least_one() -> None:
    assert decision.instances(ASSUMED, 2000.0) == 1
    assert decision.instances(ASSUMED, 1999.0) == 2
    assert decision.instances(ASSUMED, 1e9) == 1


def test_the_batch_size_is_the_best_within_the_limits(tmp_path: Path) -> None:
    study = made.study(tmp_path, {"fp32": 1.0, "fp16": 0.5, "int8": 1.0, "nf4": 1.0}, base_ms=100.0)
    within = study.params.cost.model_copy(update={"latency_limit_ms": 250.0})
    study = dataclasses.replace(study, params=study.params.model_copy(update={"cost": within}))
    found = decision.measured_capacity(study, study.measured, "dinov2-base-2023", "fp16")
    rates = {size: study.value("local", "dinov2-base-2023", "fp16", size, "throughput") for size in (1, 4)}
    assert found.batch_size == max(rates, key=lambda size: rates[size] or 0.0)
    small = within.model_copy(update={"memory_limit_mib": 1.0})
    less = dataclasses.replace(study, params=study.params.model_copy(update={"cost": small}))
    assert decision.measured_capacity(less, less.measured, "dinov2-base-2023", "fp16").why == "over 1 MiB"
    none = within.model_copy(update={"latency_limit_ms": 1.0})
    study = dataclasses.replace(study, params=study.params.model_copy(update={"cost": none}))
    assert decision.measured_capacity(study, study.measured, "dinov2-base-2023", "fp16") == decision.Capacity(
        why="over 1 ms"
    )


def test_a_swing_moves_the_way_that_it_should() -> None:
    middle, swings = decision.swings(
        ASSUMED, 1.0, decision.Capacity(100.0, 90.0, 110.0), decision.Capacity(200.0, 180.0, 220.0)
    )
    by_name = {one.name: one for one in swings}
    assert by_name["load_images_per_s"].at_low < middle < by_name["load_images_per_s"].at_high
    assert by_name["price_per_hour"].at_low < middle < by_name["price_per_hour"].at_high
    assert by_name["development_usd"].at_low > middle > by_name["development_usd"].at_high
    widths = [abs(one.at_high - one.at_low) for one in swings]
    assert widths == sorted(widths, reverse=True)


def test_every_instance_has_its_price_with_source_region_and_terms() -> None:
    found = published.load(Project(made.ROOT))
    assert {"p4d.24xlarge", "p3.8xlarge", "g4dn.xlarge"} <= set(found.prices)
    assert all(one.source and one.region and one.terms for one in found.prices.values())
    with pytest.raises(StudyError, match=r"no price for m1\.tiny; one of: p4d\.24xlarge"):
        found.price("m1.tiny")


def test_a_model_that_costs_names_must_exist() -> None:
    raw = tiny.settings()
    raw["cost"]["model"] = "vit-base-224-prodution"
    with pytest.raises(StudyError, match=r"cost\.model: no row named .* did you mean vit-base-224-production"):
        params.parse(raw)
