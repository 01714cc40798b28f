"""The samples of a study: what is there is kept, what is missing or stale is taken, alone and with FP32 beside it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import scripted
import tiny

from visionquant.bench import pair_fingerprint, prepared, sampling, schedule
from visionquant.bench.command import Command, Matrix
from visionquant.bench.model_samples import ModelSamples
from visionquant.bench.sampling import Outcome
from visionquant.core import machine
from visionquant.core.errors import CodeChanged, MachineMismatch
from visionquant.core.paths import Project
from visionquant.records import record as records
from visionquant.records.cell import PLACEBO, Round
from visionquant.settings.params import Params, parse
from visionquant.weights import checkpoint

MODEL, PRECISIONS, SIZES = "tiny-vit", ("fp32", "nf4"), (1, 2)
LATE = {"nf4": 99, "bf16": 6}  # slots in which others disturb them
Key = tuple[str, str, int]
Change = Callable[[dict[str, Any]], Any]


def raw_settings(change: Change = lambda raw: None, models: tuple[str, ...] = (MODEL,)) -> dict[str, Any]:
    raw = tiny.settings(models, PRECISIONS)
    raw["protocols"]["tiny"] |= {"rounds": 2, "rounds_of_batches": 1, "blocks": 1}
    change(raw)
    return raw


def ready(root: Path, raw: dict[str, Any]) -> tuple[Project, Params]:
    project, params = tiny.project(root, raw)
    machine.declare(project, machine.probe("cpu"))
    for model in params.study.models:
        checkpoint.download(project, params, model)
    return project, params


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One model: two rounds at batch size 1 and one at 2."""
    root = tmp_path_factory.mktemp("complete")
    with scripted.others():
        assert sample(ready(root, raw_settings())) == Outcome(rounds=3, wait={}, complete=True)
    return root


@pytest.fixture
def project(complete: Path, tmp_path: Path) -> Project:
    """A copy of it."""
    shutil.copytree(complete, tmp_path, dirs_exist_ok=True)
    return Project(tmp_path)


def sample(study: tuple[Project, Params], matrix: Matrix | None = None, again: bool = False, **command: Any) -> Outcome:
    return sampling.sample(*study, matrix or Matrix.of(study[1], again=again), Command(**command))


def taken(study: tuple[Project, Params]) -> dict[Key, list[Round]]:
    """The rounds on disk."""
    paths = sorted((study[0].local / "samples").glob("*"))
    read = [records.read_samples(path) for path in paths]
    return {(one.model, one.precision, cell.batch_size): list(cell.rounds) for one in read for cell in one.cells}


def counts(study: tuple[Project, Params]) -> dict[Key, int]:
    return {key: len(rounds) for key, rounds in taken(study).items()}


def arms(asked: list[tuple[str, str]]) -> list[str]:
    return [name for what, name in asked if what == "warm"]


def bytes_of(project: Project, precision: str) -> bytes:
    return project.samples(MODEL, precision).read_bytes()


def test_an_interruption_after_any_round_loses_none_and_none_is_taken_twice(tmp_path: Path) -> None:
    study, seen, had = ready(tmp_path, raw_settings()), list[tuple[Any, ...]](), dict[Key, list[Round]]()
    prepared = list[str]()

    def interrupting(*told: Any) -> None:
        seen.append(told[:4])
        raise KeyboardInterrupt

    with scripted.others():
        for _ in range(3):
            with pytest.raises(KeyboardInterrupt):
                sample(study, observer=tiny.observer(round=interrupting, preparing=prepared.append))
            now = taken(study)
            assert all(now[key][: len(rounds)] == rounds for key, rounds in had.items())
            had = now
            assert study[0].prepared.exists()
        assert sample(study) == Outcome(rounds=0, wait={}, complete=True)
    assert prepared == [MODEL]  # once, and kept for the commands that go on
    assert not study[0].prepared.exists()
    assert [told[1:3] for told in seen] == [(1, 1), (1, 2), (2, 1)]
    assert {key: [one.number for one in rounds] for key, rounds in had.items()} == {
        (MODEL, name, size): [1, 2][: 3 - size] for name in PRECISIONS for size in SIZES
    }


def test_a_round_of_every_model_comes_before_the_next_in_a_seeded_order_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of models that take no time: what a visit does is the other tests' affair."""
    raw = raw_settings(lambda raw: raw["protocols"]["tiny"].update(rounds=8), tuple(tiny.CONFIGS))
    study, orders = ready(tmp_path, raw), []
    for _ in range(2):
        order: list[tuple[int, str]] = []

        def visit(self: ModelSamples, targets: Any, _: Any, order: Any = order) -> Any:
            order += [(size, self.model) for size in targets]
            return {size: {} for size in targets}

        def lacks(self: ModelSamples, size: int, target: int, _: bool, order: Any = order) -> list[str]:
            return ["fp32"] * (order.count((size, self.model)) < target)

        with monkeypatch.context() as patch:
            patch.setattr(ModelSamples, "visit", visit)
            patch.setattr(ModelSamples, "lacks", lacks)
            sample(study)
        orders.append([tuple(order[i : i + 5]) for i in range(0, 45, 5)])
        assert len(order) == 45
    assert orders[0] == orders[1]
    sizes = [1] * 8 + [2]
    for size, one in zip(sizes, orders[0], strict=True):
        assert sorted(one) == sorted((size, model) for model in tiny.CONFIGS)
    assert len(set(orders[0][:8])) > 4


def test_what_is_complete_is_left_alone_without_a_process(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared, "preload", lambda *_: pytest.fail("preloaded"))
    before = {name: bytes_of(project, name) for name in PRECISIONS}
    with scripted.others() as asked:
        assert sample((project, parse(raw_settings()))) == Outcome(rounds=0, wait={}, complete=True)
    assert asked == []
    assert {name: bytes_of(project, name) for name in PRECISIONS} == before


def test_again_takes_what_it_names_anew(project: Project) -> None:
    study, before = (project, parse(raw_settings())), bytes_of(project, "fp32")
    old = taken(study)
    with scripted.others() as asked:
        assert sample(study, Matrix.of(study[1], None, ["nf4"], [2], again=True)).rounds == 1
    now = taken(study)
    assert sorted(arms(asked)) == ["fp32", "nf4", PLACEBO]
    assert {key for key in now if now[key] != old[key]} == {(MODEL, "nf4", 2)}
    assert bytes_of(project, "fp32") == before


def nf4(raw: dict[str, Any]) -> None:
    raw["precisions"]["nf4"]["blocksize"] = 128


@pytest.mark.parametrize(
    ("change", "rounds", "measured", "again"),
    [
        (nf4, 3, {"nf4"}, ["nf4"]),
        (lambda raw: raw["protocols"]["tiny"].update(slot_passes=3), 3, {"nf4"}, ["fp32", "nf4"]),
        (lambda raw: raw["study"].update(batch_sizes=[1, 2, 3]), 1, {"nf4"}, []),
        (lambda raw: raw["study"].update(batch_sizes=[2]), 0, set(), []),
        (lambda raw: raw["study"].update(precisions=["fp32", "nf4", "bf16"]), 3, {"bf16"}, []),
    ],
    ids=["a row", "the protocol", "a batch size more", "one less", "a precision more"],
)
def test_an_edit_takes_what_it_touches_and_keeps_the_rest(
    project: Project, change: Change, rounds: int, measured: set[str], again: list[str]
) -> None:
    """Each precision with slots of FP32 and the placebo of its own; of pairs ``again`` no old round is left."""
    study = project, parse(raw_settings(change))
    old = taken(study)
    with scripted.others() as asked:
        assert sample(study) == Outcome(rounds=rounds, wait={}, complete=True)
        assert set(arms(asked)) - {"fp32", PLACEBO} == measured
        assert sample(study).rounds == 0
    now = taken(study)
    for key, before in old.items():
        assert not any(one in now[key] for one in before) if key[1] in again else now[key] == before
    for (_, precision, _), after in now.items():
        assert all(one.of("fp32") and one.of(PLACEBO) and one.of(precision) for one in after)
    if not again:
        assert sample((project, parse(raw_settings()))).rounds == 0  # and changed back: nothing is lost


def test_some_rounds_at_a_time_and_no_time_at_all(tmp_path: Path) -> None:
    study = ready(tmp_path, raw_settings())
    with scripted.others():
        assert sample(study, until_s=0.0) == Outcome(rounds=0, wait={}, complete=False)
        assert counts(study) == {}
        assert sample(study, rounds=1) == Outcome(rounds=1, wait={}, complete=False)
        assert counts(study) == {(MODEL, name, 1): 1 for name in PRECISIONS}
        assert sample(study, rounds=1).rounds == 0


def test_disturbed_rounds_are_made_up_for_and_then_only_where_another_try_is_asked_for(tmp_path: Path) -> None:
    """Two rounds are asked for: one more is taken by itself, up to six in all by retries, and none without need.

    Others disturb NF4 always and bfloat16 in its first three rounds, each of two attempts.
    """
    study = ready(tmp_path, raw_settings(lambda raw: raw["study"].update(batch_sizes=[1], precisions=["fp32", *LATE])))
    with scripted.others(lambda name, slot: scripted.BUSY * (slot < LATE.get(name, 0))):
        outcome = sample(study)
        why = "others were busy in 3 of 3 rounds"
        assert outcome == Outcome(rounds=3, wait={(MODEL, name, 1): why for name in LATE}, complete=True)
        assert sample(study).rounds == 0
        outcome = sample(study, retry=True)
        assert outcome == Outcome(3, wait={(MODEL, "nf4", 1): "others were busy in 6 of 6 rounds"}, complete=True)
        assert sample(study, retry=True).rounds == 0
    assert counts(study) == {(MODEL, "fp32", 1): 2, (MODEL, "nf4", 1): 6, (MODEL, "bf16", 1): 5}


def test_what_does_not_fit_into_the_minutes_is_a_row_and_the_decision_stays(tmp_path: Path) -> None:
    """Three rounds whatever they take; larger batches would take more than nothing."""

    def short(raw: dict[str, Any]) -> None:
        raw["study"]["minutes"] = 1e-3
        raw["protocols"]["tiny"]["rounds"] = 5

    study = ready(tmp_path, raw_settings(short))
    told: list[tuple[int, int]] = []
    observer = tiny.observer(round=lambda model, size, number, planned, *_: told.append((number, planned)))
    with scripted.others():
        assert sample(study, observer=observer) == Outcome(rounds=3, wait={}, complete=True)
    assert told == [(1, 1), (2, 3), (3, 3)]
    for name in PRECISIONS:
        small, large = records.read_samples(study[0].samples(MODEL, name)).cells
        assert (small.status, small.planned, len(small.rounds)) == ("ok", 3, 3)
        assert (large.status, large.rounds) == ("over_budget", ())
        assert large.reason.startswith("1 rounds of about ")
    decided = schedule.read(study[0].schedule)
    assert decided is not None
    assert decided.rounds == {MODEL: {1: 3}}
    with scripted.others():
        assert sample(study).rounds == 0
        assert sample(study, Matrix.of(study[1], None, ["nf4"])).rounds == 0  # a part of the study moves no goal
    assert schedule.read(study[0].schedule) == decided


def test_code_that_is_edited_under_way_takes_no_further_round(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, before = (project, parse(raw_settings(nf4))), bytes_of(project, "fp32")
    edited = {**pair_fingerprint.AT_IMPORT, "visionquant/bench/clock.py": b"HALF = 11"}
    monkeypatch.setattr(pair_fingerprint, "modules", lambda: edited)
    with scripted.others(), pytest.raises(CodeChanged, match="run the same command again"):
        sample(study)
    assert bytes_of(project, "fp32") == before
    assert not [one for one in taken(study)[MODEL, "nf4", 1] if len(one.of("nf4")) == 0]


def test_samples_of_other_code_are_taken_anew(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair_fingerprint, "measuring_sha256", lambda row, code=None: "beef" * 16)
    with scripted.others():
        assert sample((project, parse(raw_settings()))).rounds == 3


def test_another_machine_than_the_declared_one_is_refused(project: Project) -> None:
    declared = json.loads(project.environment.read_text())
    project.environment.write_text(json.dumps({**declared, "cpu": "Another CPU", "torch": "1.0"}))
    with pytest.raises(MachineMismatch, match=r"Another CPU.*torch .*run `visionquant environment`"):
        sample((project, parse(raw_settings())))


def test_what_a_killed_command_left_behind_is_removed(project: Project) -> None:
    (project.prepared / MODEL).mkdir(parents=True)
    sample((project, parse(raw_settings())))
    assert not project.prepared.exists()
