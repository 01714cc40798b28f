"""The plan: what is missing, and what earlier records of the same hardware tell of it."""

from pathlib import Path

import made
import pytest

from visionquant.bench import pair_fingerprint, plan
from visionquant.bench.command import Matrix
from visionquant.core import files
from visionquant.core.machine import Environment
from visionquant.core.paths import Project
from visionquant.records import record as records
from visionquant.records.record import Record
from visionquant.settings import params as parameters
from visionquant.settings.params import Params
from visionquant.weights.sources import Manifest

MODEL, OTHER = "vit-base-224-production", "dino-vitb16-production"
SIZES = (1, 4, 8)


@pytest.fixture
def study(tmp_path: Path) -> tuple[Project, Params]:
    project = made.project(tmp_path)
    return project, parameters.load(project)


def record(model: str = MODEL, ms: float = 100.0, sizes: tuple[int, ...] = (1,)) -> Record:
    return made.record(model, "fp32", [made.cell(size, [[ms * size] * 3] * 3) for size in sizes])


def estimate(study: tuple[Project, Params], history: list[Record], sizes: tuple[int, ...] = SIZES) -> plan.PlannedPair:
    return plan.estimate(study[0], study[1].protocol, (MODEL, "fp32"), sizes, history)


def test_without_any_record_time_is_unknown_and_memory_is_arithmetic(study: tuple[Project, Params]) -> None:
    found = estimate(study, [])
    assert found.batch_sizes == SIZES
    assert found.seconds is None
    assert found.memory == pytest.approx(4 * 86.4e6, rel=0.01)
    assert plan.summary([found]) == (
        "3 cells to measure; 1 pairs were never measured on this hardware: time unknown; largest process about 0.3 GiB"
    )


def test_only_what_a_run_would_keep_counts_as_done(
    study: tuple[Project, Params], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same settings, weights, machine and code; of a pair under way what is written down so far."""
    project, params = study
    manifest = Manifest(model=MODEL, weights="seeded", source="made up", config_sha256="0")
    files.save(project.manifest(MODEL), manifest)
    one = record(sizes=(1,))
    used = one.settings.weights.model_copy(update={"manifest_sha256": manifest.sha256()})
    one = one.model_copy(update={"settings": one.settings.model_copy(update={"weights": used})})
    under_way = one.model_copy(update={"cells": record(sizes=(1, 4)).cells})
    records.write(project.record(MODEL, "fp32"), one)

    def kept(code: str = "c0de" * 16, machine: Environment = made.CPU, with_params: Params = params) -> set[int]:
        monkeypatch.setattr(plan, "probe", lambda device: machine)
        monkeypatch.setattr(
            pair_fingerprint,
            "state",
            lambda root, precision: one.code.model_copy(update={"measuring_sha256": code}),
        )
        planned = plan.of_study(project, with_params, Matrix.of(with_params, [MODEL], ["fp32"], SIZES))
        return set(SIZES) - {size for pair in planned for size in pair.batch_sizes}

    assert kept() == {1}
    files.save(project.progress(MODEL, "fp32"), records.PartialRecord(record=under_way))
    assert kept() == {1, 4}
    assert kept(code="beef" * 16) == set()
    assert kept(machine=made.CPU.model_copy(update={"torch": "2.11.0"})) == set()
    other = params.protocols["quick"].model_copy(update={"iterations": 999})
    assert kept(with_params=params.model_copy(update={"protocols": {**params.protocols, "quick": other}})) == set()
    files.save(project.manifest(MODEL), manifest.model_copy(update={"config_sha256": "1"}))
    assert kept() == set()


def test_seconds_are_what_the_protocol_spends(study: tuple[Project, Params]) -> None:
    """Nine passes at least, the budget where that is more, nothing for what is foreseen over the limit."""
    protocol = study[1].protocol
    assert protocol.budget_s is not None
    assert protocol.limit_s is not None
    fast, slow, hopeless = 10.0, 1000 * protocol.limit_s / 10, 1000 * protocol.limit_s
    for ms, expected in ((fast, protocol.budget_s), (slow, 9 * slow / 1e3), (hopeless, 0.0)):
        one = record(ms=ms)
        overhead = one.elapsed_s - sum(cell.timed_s() for cell in one.cells)
        assert estimate(study, [one], (1,)).seconds == pytest.approx(expected + overhead)


def test_another_models_record_tells_the_time_by_arithmetic(study: tuple[Project, Params]) -> None:
    """dino-vitb16 has the multiply-accumulates of vit-base-224, so its times are those."""
    own, other = record(MODEL), record(OTHER)
    by_own = estimate(study, [own]).seconds
    assert estimate(study, [other]).seconds == pytest.approx(by_own, rel=0.01)
