"""The plan: which rounds are missing, and what earlier records of the same hardware tell of their cost."""

from pathlib import Path

import made
import pytest

from visionquant.bench import pair_fingerprint, plan
from visionquant.bench.command import Matrix
from visionquant.core import files
from visionquant.core.machine import Environment
from visionquant.core.paths import Project
from visionquant.records.record import Record
from visionquant.settings import params as parameters
from visionquant.settings.params import Params
from visionquant.weights.sources import Manifest

MODEL, OTHER = "vit-base-224-production", "dino-vitb16-production"
SIZES = (1, 4, 8)
Study = tuple[Project, Params]


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """The committed settings without a limit of time, on the machine of the records made here, with their code."""
    project = made.project(tmp_path)
    on(monkeypatch)
    return project, parameters.load(project, ["study.minutes=null"])


def on(patch: pytest.MonkeyPatch, machine: Environment = made.CPU, code: str = "c0de" * 16) -> None:
    """Plan on a machine, with code of this digest."""
    state = made.record(MODEL, "fp32", []).code.model_copy(update={"measuring_sha256": code})
    patch.setattr(plan, "probe", lambda device: machine)
    patch.setattr(pair_fingerprint, "state", lambda root, precision: state)


def sampled(study: Study, sizes: tuple[int, ...], rounds: int = 10, ms: float = 100.0, model: str = MODEL) -> Record:
    """FP32 of a model with so many rounds of these batch sizes, written where a run looks for it."""
    project, params = study
    manifest = Manifest(model=model, weights="seeded", source="made up", config_sha256="0")
    files.save(project.manifest(model), manifest)
    times = {size: [[ms * size] * 4] * rounds for size in sizes}
    one = made.record(model, "fp32", [made.cell(size, each, base=each) for size, each in times.items()])
    used = one.settings.weights.model_copy(update={"manifest_sha256": manifest.sha256()})
    settings = one.settings.model_copy(update={"weights": used, "protocol": params.protocol})
    return made.write(project.record(model, "fp32"), one.model_copy(update={"settings": settings}))


def missing(study: Study, model: str = MODEL, params: Params | None = None) -> dict[int, int]:
    """Rounds of FP32 that a run would take, by batch size."""
    params = params or study[1]
    found = plan.foreseen(study[0], params, Matrix.of(params, [model], ["fp32"], SIZES))
    return {size: count for one in found for size, count in one.rounds.items() if count}


def test_without_any_record_time_is_unknown_and_memory_is_arithmetic(study: Study) -> None:
    (found,) = plan.foreseen(*study, Matrix.of(study[1], [MODEL], ["fp32"], SIZES))
    assert found.rounds == {1: 10, 4: 4, 8: 4}
    assert found.seconds is None
    assert found.weights_bytes == pytest.approx(4 * 86.4e6, rel=0.01)
    assert found.text == f"{MODEL}: batch 1: 10 rounds, batch 4: 4 rounds, batch 8: 4 rounds; time unknown"
    assert plan.summary([found]).startswith("18 rounds of 1 models; 1 models were never measured on this hardware")
    assert plan.summary([]) == "nothing to measure"


def test_only_what_a_run_would_keep_counts_as_done(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same settings, weights, machine and code; of what is under way the rounds so far."""
    project = study[0]
    sampled(study, (1,), rounds=4)
    assert missing(study) == {1: 6, 4: 4, 8: 4}
    sampled(study, (1, 4))
    assert missing(study) == {8: 4}
    for other in ({"code": "beef" * 16}, {"machine": made.CPU.model_copy(update={"torch": "2.11.0"})}):
        on(monkeypatch, **other)
        assert missing(study) == {1: 10, 4: 4, 8: 4}
    on(monkeypatch)
    assert missing(study, params=parameters.load(project, ["protocols.quick.slot_passes=9"])).keys() == {1, 4, 8}
    manifest = Manifest(model=MODEL, weights="seeded", source="made up", config_sha256="1")
    files.save(project.manifest(MODEL), manifest)
    assert missing(study) == {1: 10, 4: 4, 8: 4}


def test_minutes_decide_what_fits_and_the_plan_says_what_is_left_out(study: Study) -> None:
    """A round of 100 ms passes takes seconds: in a minute ten of batch size 1 and none of 8 fit."""
    sampled(study, (1,), rounds=1)
    params = parameters.load(study[0], ["study.minutes=1"])
    (found,) = plan.foreseen(study[0], params, Matrix.of(params, [MODEL], ["fp32"], SIZES))
    assert found.left_out.keys() >= {8}
    assert "don't fit into study.minutes 1" in found.left_out[8]
    assert found.text.count("batch 8: 4 rounds of about") == 1
    assert found.seconds is not None
    assert found.seconds <= 60


def test_another_models_record_tells_the_time_by_arithmetic(study: Study) -> None:
    """dino-vitb16 has the multiply-accumulates of vit-base-224, so it costs what that costs."""
    sampled(study, (1,), rounds=1)
    both = plan.foreseen(*study, Matrix.of(study[1], [MODEL, OTHER], ["fp32"], (1,)))
    own, other = (one.seconds for one in both)
    assert own is not None
    assert other == pytest.approx(own * 10 / 9, rel=0.3)
