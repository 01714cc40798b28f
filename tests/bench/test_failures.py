"""What nobody foresaw in one pair is its row, with a traceback in a log; the rest is measured, it is tried again."""

import os
import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import scripted
import tiny

from visionquant.bench import kernels, loading, model_round, prepared, sampling, worker
from visionquant.bench.backends.eager import Eager
from visionquant.bench.command import Command, Matrix
from visionquant.core import machine
from visionquant.core.errors import MachineMismatch, StudyError
from visionquant.core.paths import Project
from visionquant.records import record as records
from visionquant.records.cell import KERNELS, PLACEBO, Cell
from visionquant.records.record import Record
from visionquant.settings.params import Params
from visionquant.weights import checkpoint

MODEL, PRECISIONS = "tiny-vit", ("fp32", "nf4")
LOG = f"traceback in data/machines/local/failures/{MODEL}.log"


def study(root: Path, models: tuple[str, ...] = (MODEL,), faults: Iterable[str] = ()) -> tuple[Project, Params]:
    """With a row like NF4's for each of the ``faults``."""
    raw = tiny.settings(models, (*PRECISIONS, *faults))
    raw["precisions"] |= dict.fromkeys(faults, raw["precisions"]["nf4"])
    raw["study"]["batch_sizes"] = [1]
    raw["protocols"]["tiny"] |= {"rounds": 1, "blocks": 1}
    project, params = tiny.project(root, raw)
    machine.declare(project, machine.probe("cpu"))
    for model in models:
        checkpoint.download(project, params, model)
    return project, params


def sample(found: tuple[Project, Params], retry: bool = False) -> sampling.Outcome:
    return sampling.sample(*found, Matrix.of(found[1]), Command(retry=retry))


def pair(found: tuple[Project, Params], precision: str, model: str = MODEL) -> Record:
    return records.read_samples(found[0].samples(model, precision))


def cell(found: tuple[Project, Params], precision: str, model: str = MODEL) -> Cell:
    (only,) = pair(found, precision, model).cells
    return only


def raising(error: BaseException) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


KILLED = "the process was killed (signal 9), as the kernel does when memory runs out"
FAULTS: dict[str, tuple[Callable[[], object], str, str]] = {
    "memory": (raising(MemoryError("no memory")), "out_of_memory", "no memory"),
    "killed": (lambda: os.kill(os.getpid(), signal.SIGKILL), "out_of_memory", KILLED),
    "unsupported": (raising(NotImplementedError("no such kernel")), "unsupported", "no such kernel"),
    "settings": (raising(StudyError("a row", "can't be", "change it")), "failed", "a row: can't be; change it"),
    "defect": (raising(KeyError("surprise")), "failed", f"KeyError: 'surprise'; {LOG}"),
    "hangs": (signal.pause, "failed", f"no answer in 0.5 s, so the process was ended; {LOG}"),
}


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Params]:
    """A study in which each fault befell a slot of its row."""
    found, patient = study(tmp_path_factory.mktemp("study"), faults=FAULTS), model_round._Course.limit_s

    def limit_s(self: Any, arm: Any) -> float:
        return 0.5 if arm.name == "hangs" and arm.name in self.warm else patient(self, arm)

    def do(what: str, name: str) -> None:
        if what == "slot" and name in FAULTS:
            FAULTS[name][0]()

    with pytest.MonkeyPatch.context() as patch, scripted.others(), scripted.arms_that(do):
        patch.setattr(model_round._Course, "limit_s", limit_s)
        sample(found)
    return found


def test_an_arm_that_fails_leaves_the_round_and_only_its_cell_says_so(broken: tuple[Project, Params]) -> None:
    for fault, (_, status, reason) in FAULTS.items():
        found = cell(broken, fault)
        assert (found.status, found.reason, found.rounds) == (status, reason, ())
        assert pair(broken, fault).fidelity is not None  # what was found before it failed
    for precision in PRECISIONS:
        found = cell(broken, precision)
        assert (found.status, found.reason, len(found.rounds)) == ("ok", "", 1)
        assert {slot.arm for slot in found.rounds[0].slots} == {"fp32", PLACEBO, precision}
    log = broken[0].failure(MODEL).read_text()
    assert "in act" in log
    assert "it hung, most recent call first" in log


def test_what_failed_is_tried_again_and_what_is_a_result_only_where_that_is_asked_for(
    broken: tuple[Project, Params],
) -> None:
    before = broken[0].samples(MODEL, "fp32").read_bytes()
    with scripted.others() as asked:
        outcome = sample(broken)
        assert {name for _, name in asked} == {"fp32", PLACEBO, "settings", "defect", "hangs"}
        assert {precision for _, precision, _ in outcome.wait} == {"memory", "killed"}
        asked.clear()
        assert sample(broken, retry=True).wait == {}
        assert {name for _, name in asked} == {"fp32", PLACEBO, "memory", "killed"}
    assert {fault for fault in FAULTS if cell(broken, fault).status != "ok"} == {"unsupported"}
    assert broken[0].samples(MODEL, "fp32").read_bytes() == before


def test_without_fp32_or_the_placebo_there_is_nothing_to_compare_with(tmp_path: Path) -> None:
    found, beside = study(tmp_path), ("out_of_memory", "FP32 beside it: no memory")
    for starved in ("fp32", PLACEBO):

        def starve(what: str, name: str, starved: str = starved) -> None:
            if name == starved:
                raise MemoryError("no memory")

        with scripted.others(), scripted.arms_that(starve):
            sample(found, retry=True)
        told = [(cell(found, precision).status, cell(found, precision).reason) for precision in PRECISIONS]
        assert told == [("out_of_memory", "no memory") if starved == "fp32" else beside, beside]


def test_a_kernel_that_torch_lacks_leaves_the_round_and_is_no_pairs_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, real = study(tmp_path), kernels.step_of

    def step_of(kernel: str, device: str) -> Any:
        if kernel == KERNELS[2]:
            raise NotImplementedError("no INT8 product")
        return real(kernel, device)

    monkeypatch.setattr(kernels, "step_of", step_of)
    with scripted.others(kernels=True):
        sample(found)
    assert [cell(found, precision).status for precision in PRECISIONS] == ["ok", "ok"]
    assert {slot.arm for slot in cell(found, "fp32").rounds[0].slots} == {"fp32", PLACEBO, *KERNELS[:2]}


def test_a_precision_that_the_model_can_not_be_converted_into_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("defect", "dies", "memory")
    found, proved = study(tmp_path, faults=names), prepared.convert_pair

    def convert_pair(source: Any, precision: str, *given: Any) -> Any:
        act = {**{name: act for name, (act, _, _) in FAULTS.items()}, "dies": lambda: os._exit(1)}.get(precision)
        with pytest.MonkeyPatch.context() as patch:
            if act is not None:
                patch.setattr(Eager, "prove", lambda *_: act())
            return proved(source, precision, *given)

    monkeypatch.setattr(prepared, "convert_pair", convert_pair)
    with scripted.others():
        sample(found)
    assert [cell(found, precision).status for precision in PRECISIONS] == ["ok", "ok"]
    told = {name: (cell(found, name).status, cell(found, name).reason) for name in names}
    assert told["defect"] == FAULTS["defect"][1:]
    assert told["memory"] == FAULTS["memory"][1:]
    assert told["dies"][1].startswith("the process ended with code 1 and no answer")
    assert {pair(found, name).conversion for name in names} == {None}


def test_a_model_that_does_not_load_fails_all_its_pairs_and_the_next_one_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, real = study(tmp_path, ("tiny-deit", MODEL)), loading.load

    def load(project: Project, model: str, *given: Any) -> Any:
        if model == "tiny-deit":
            raise TypeError("a config that nobody foresaw")
        return real(project, model, *given)

    with monkeypatch.context() as patch, scripted.others():
        patch.setattr(loading, "load", load)
        sample(found)
    for precision in PRECISIONS:
        assert cell(found, precision, "tiny-deit").reason == (
            "TypeError: a config that nobody foresaw; traceback in data/machines/local/failures/tiny-deit.log"
        )
        assert cell(found, precision).status == "ok"
    assert "in load" in found[0].failure("tiny-deit").read_text()
    with scripted.others():
        sample(found)
    assert {cell(found, precision, model).status for precision in PRECISIONS for model in ("tiny-deit", MODEL)} == {
        "ok"
    }


def test_what_is_wrong_with_the_machine_ends_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = study(tmp_path)
    wrong = MachineMismatch("study.device", "no such card", "buy one")
    with (
        scripted.others(),
        scripted.arms_that(lambda what, name: raising(wrong)()),
        pytest.raises(MachineMismatch, match=r"study\.device: no such card; buy one"),
    ):
        sample(found)
    monkeypatch.setattr(Eager, "prove", lambda *_: raising(wrong)())
    with pytest.raises(MachineMismatch, match=r"study\.device: no such card; buy one"):
        sample(found)
    assert not found[0].samples(MODEL, "nf4").exists()
    assert not found[0].prepared.exists()


def test_a_process_gets_far_more_time_than_its_passes_take() -> None:
    """Twenty times what is foreseen, where nothing was timed a minute an image, and time to compile at any rate."""
    protocol = tiny.parameters.load(Project(tiny.ROOT)).protocol
    passes = protocol.warmup_passes + protocol.slot_passes
    assert 600 + 20 * 60.0 * passes < model_round.patience_s(protocol, 1) < worker.LONGEST_S
    assert model_round.patience_s(protocol, 32) == worker.LONGEST_S
    assert 600 + 20 * 2.0 * passes < model_round.patience_s(protocol, 4, 2.0) < 1200


def test_a_kind_of_mistake_survives_the_way_between_processes() -> None:
    with pytest.raises(MachineMismatch, match=r"study\.device: no such card; buy one"):
        worker.in_fork(raising(MachineMismatch("study.device", "no such card", "buy one")))


def test_a_defect_has_a_line_and_a_traceback() -> None:
    def task() -> None:
        worker.in_fork(lambda: {}["surprise"])

    with pytest.raises(worker.Defect, match="Traceback") as caught:
        worker.in_fork(task)
    assert caught.value.line == "KeyError: 'surprise'"
