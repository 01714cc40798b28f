"""Rounds of a tiny model, in real processes: who takes turns with whom, and what of it each pair keeps."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import scripted
import tiny
import torch

from visionquant.bench import arm, host, model_samples, prepared, sampling, turns
from visionquant.bench.backends.eager import Eager
from visionquant.bench.command import Command, Matrix
from visionquant.core import machine
from visionquant.core.paths import Project
from visionquant.records import record as records
from visionquant.records.cell import BASELINE, KERNELS, PLACEBO, Cell, Round
from visionquant.records.record import Record
from visionquant.settings.params import Params
from visionquant.weights import checkpoint

MODEL, PRECISIONS = "tiny-vit", ("fp32", "nf4")
Taken = tuple[dict[str, Record], list[tuple[str, str]]]


def study(root: Path, precisions: tuple[str, ...] = PRECISIONS, **protocol: Any) -> tuple[Project, Params]:
    raw = tiny.settings((MODEL,), precisions)
    raw["study"]["batch_sizes"] = [1]
    raw["protocols"]["tiny"] |= {"rounds": 1, "blocks": 1, **protocol}
    project, params = tiny.project(root, raw)
    machine.declare(project, machine.probe("cpu"))
    checkpoint.download(project, params, MODEL)
    return project, params


def sampled(found: tuple[Project, Params], **told: Any) -> dict[str, Record]:
    project, params = found
    sampling.sample(project, params, Matrix.of(params), Command(tiny.observer(**told)))
    return {name: records.read_samples(project.samples(MODEL, name)) for name in params.study.precisions}


def cell(record: Record) -> Cell:
    (found,) = record.cells
    return found


def only(record: Record) -> Round:
    (found,) = cell(record).rounds
    return found


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Taken:
    """Two rounds of three blocks on a machine that is quiet after three seconds, and what arms were asked."""

    def wait(most_s: float, tell: Callable[[float], None]) -> float:
        tell(most_s - 3)
        return 3.0

    told: list[tuple[str, float]] = []
    with pytest.MonkeyPatch.context() as patch, scripted.others(kernels=True) as asked:
        patch.setattr(host, "wait_for_quiet", wait)
        found = study(tmp_path_factory.mktemp("study"), rounds=2, blocks=3, round_s=1e3, wait_s=20.0)
        taken = sampled(found, waiting=lambda model, left_s: told.append((model, left_s)))
    assert told == [(MODEL, 17.0)] * 2
    return taken, asked


def test_a_pair_keeps_its_own_slots_fp32s_and_the_placebos_and_fp32_the_kernels(taken: Taken) -> None:
    for name, arms in (("nf4", {"nf4", BASELINE, PLACEBO}), ("fp32", {BASELINE, PLACEBO, *KERNELS})):
        found = cell(taken[0][name])
        assert (found.status, found.planned, [one.number for one in found.rounds]) == ("ok", 2, [1, 2])
        for one in found.rounds:
            assert {(slot.arm, slot.block) for slot in one.slots} == {
                (arm, block) for arm in arms for block in range(3)
            }
            assert len(one.slots) == 3 * len(arms)
            assert len(list(one.blocks(name, BASELINE, PLACEBO))) == 3
    for fp32, nf4 in zip(*(cell(taken[0][name]).rounds for name in PRECISIONS), strict=True):
        for name in (BASELINE, PLACEBO):
            assert fp32.of(name) == nf4.of(name)


def test_blocks_are_in_the_order_of_the_square_and_each_round_begins_with_another_arm(taken: Taken) -> None:
    orders = []
    for fp32, nf4 in zip(*(cell(taken[0][name]).rounds for name in PRECISIONS), strict=True):
        slots = {slot.order: slot for slot in (*fp32.slots, *nf4.slots)}
        assert sorted(slots) == list(range(3 * 6))
        blocks = [[slots[i].arm for i in range(6 * block, 6 * block + 6)] for block in range(3)]
        assert blocks[1] == blocks[0][::-1]
        orders.append([name for what, name in taken[1] if what == "warm"][6 * len(orders) :][:6])
        assert blocks == [turns.order(orders[-1], block) for block in range(3)]
    assert orders[0] != orders[1]
    assert all(set(order[3:]) == set(KERNELS) for order in orders)


def test_a_round_holds_what_the_protocol_asked_for(taken: Taken) -> None:
    for name in PRECISIONS:
        for one in cell(taken[0][name]).rounds:
            assert one.started_at is not None
            assert (one.threads, len(one.warmup_ms), one.waited_s) == (1, 1, 3.0)
            assert 0 < one.passes_s < one.spent_s
            for slot in one.slots:
                assert slot.discarded_ms is not None
                assert slot.gpu_ms is slot.window is None
                assert slot.arm in KERNELS or len(slot.wall_ms) == tiny.PROTOCOL["slot_passes"]


def test_facts_are_taken_and_networks_checked_once(taken: Taken) -> None:
    found, asked = taken
    assert sorted(name for what, name in asked if what == "check") == list(PRECISIONS)
    for name in PRECISIONS:
        record, one = found[name], cell(found[name])
        assert record.conversion is not None
        assert (record.conversion.quantized_modules > 0) is (name == "nf4")
        assert record.size is not None
        assert record.fidelity is not None
        assert record.fidelity.images == 4
        assert (record.fidelity.cosine or 0) > 0.9
        assert record.elapsed_s > 0
        assert one.memory is not None
        assert one.memory.stored_weights == record.size.stored_weights
        assert one.audit is not None
        assert one.audit.images == one.audit.kept == 3
        assert one.audit.fault == ""
        assert one.energy is None
        assert one.energy_reason


def test_a_block_that_others_disturbed_is_repeated_once_and_both_are_kept(tmp_path: Path) -> None:
    """NF4's block, the placebo's, none for a kernel's sake; then both of a round, so that NF4 alone takes another."""
    busy = {("nf4", 0), (PLACEBO, 2), (KERNELS[1], 4), ("nf4", 5), (BASELINE, 6)}
    with scripted.others(lambda *slot: scripted.BUSY if slot in busy else scripted.QUIET, kernels=True):
        found = sampled(study(tmp_path, rounds=4))
    attempts = [[0, 1], [0, 1], [0], [0, 1], [0]]
    disturbed: dict[str, list[Any]] = {
        "nf4": [[("nf4", 0)], [(PLACEBO, 0)], [], [("nf4", 0), (BASELINE, 1)], []],
        "fp32": [[], [(PLACEBO, 0)], [(KERNELS[1], 0)], [(BASELINE, 1)]],
    }
    for name in PRECISIONS:
        rounds = cell(found[name]).rounds
        seen = [[(slot.arm, slot.attempt) for slot in one.slots] for one in rounds]
        expected = [
            sorted((arm, n) for arm in {arm for arm, _ in slots} for n in attempts[i]) for i, slots in enumerate(seen)
        ]
        assert [sorted(slots) for slots in seen] == expected
        assert [[(slot.arm, slot.attempt) for slot in one.slots if slot.busy] for one in rounds] == disturbed[name]
    quiet = {
        name: [len(list(one.blocks(name, BASELINE, PLACEBO))) for one in cell(found[name]).rounds] for name in found
    }
    assert quiet == {"nf4": [1, 1, 1, 0, 1], "fp32": [2, 1, 1, 1]}


def test_where_passes_are_slow_a_round_has_one_block_without_discarded_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arm, "SLOW_S", 0.0)
    with scripted.others():
        found = sampled(study(tmp_path, blocks=9, round_s=1e-6))
    slots = only(found["nf4"]).slots
    assert len(slots) == 3
    assert {slot.discarded_ms for slot in slots} == {None}


def test_arms_that_do_not_fit_into_memory_together_come_one_after_the_other_with_fp32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_samples, "MEMORY_SHARE", 1e-9)
    with scripted.others() as asked:
        found = sampled(study(tmp_path, (*PRECISIONS, "bf16")))
    rounds = [{name for _, name in asked[i : i + 3]} for i, (what, _) in enumerate(asked) if what == "warm"][::3]
    assert rounds == [{"nf4", BASELINE, PLACEBO}, {"bf16", BASELINE, PLACEBO}]
    assert only(found["nf4"]).of(BASELINE) == only(found["fp32"]).of(BASELINE) != only(found["bf16"]).of(BASELINE)


def test_passes_that_compute_something_else_are_timed_and_give_no_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NF4 answers with what it said before, bfloat16 overflows in rounds alone, INT8 overflows always."""
    network_of, convert = prepared.network_of, Eager.convert

    def another(source: Any, precision: str, *given: Any) -> Any:
        net, said = network_of(source, precision, *given), list[Any]()

        def answer(images: torch.Tensor) -> Any:
            if precision == "nf4" and said:
                return said[0]
            said.append(net(images))
            return SimpleNamespace(last_hidden_state=said[-1].last_hidden_state / (0 if precision == "bf16" else 1))

        return answer

    def overflowing(self: Eager, net: Any, row: Any, *given: Any) -> Any:
        converted: Any = convert(self, net, row, *given)
        if row.family == "int8":
            converted.layernorm.weight.data.fill_(float("inf"))
        return converted

    monkeypatch.setattr(prepared, "network_of", another)
    monkeypatch.setattr(Eager, "convert", overflowing)
    with scripted.others():
        found = sampled(study(tmp_path, ("fp32", "nf4", "bf16", "int8")))
    told = {name: (cell(record).status, cell(record).reason) for name, record in found.items()}
    overflow = ("non_finite", "the outputs hold NaN or infinity; the timings are of that")
    assert told == {"fp32": ("ok", ""), "nf4": ("audit_failed", told["nf4"][1]), "bf16": overflow, "int8": overflow}
    assert told["nf4"][1].startswith("timed outputs are")
    assert all(only(record).of(name) for name, record in found.items())
    facts = {name: record.fidelity for name, record in found.items()}
    assert all(
        fidelity is not None and (fidelity.nan_count > 0) is (name == "int8") for name, fidelity in facts.items()
    )
    assert {name for name, fidelity in facts.items() if fidelity and fidelity.cosine is None} == {"int8"}
