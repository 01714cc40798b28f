"""How many rounds fit, by arithmetic: the smallest batch size first, then the cheapest, and what was decided stays."""

from pathlib import Path
from typing import Any

import made
import pytest
import tiny

from visionquant.bench import schedule
from visionquant.bench.schedule import Cost, Schedule
from visionquant.settings.params import Protocol

MODELS, SIZES = ("small", "large"), (1, 4, 16)
PROTOCOL = Protocol(**tiny.PROTOCOL | {"rounds": 10, "rounds_of_batches": 4, "blocks": 8, "round_s": 6.0,
                                       "warmup_passes": 2, "slot_passes": 1, "slot_ms": 75.0})  # fmt: skip
# Of a pass so short that only what is no pass counts: 2 s and 5 s a round, whatever the batch size.
COSTS = {"small": Cost(2.0 - 8 * 0.075, (1e-9,)), "large": Cost(5.0 - 8 * 0.075, (1e-9,))}


def decided(minutes: float | None, spent_s: float = 0.0, **changed: Any) -> Schedule:
    given = {"models": MODELS, "batch_sizes": SIZES, "costs": COSTS, "protocol": PROTOCOL} | changed
    return schedule.decide("key", minutes=minutes, spent_s=spent_s, **given)


def test_a_round_costs_its_processes_a_warm_up_and_as_many_blocks_as_fit() -> None:
    cost = Cost(2.0, (0.01, 0.02))
    assert cost.of_round(1, PROTOCOL) == pytest.approx(2.0 + 2 * 0.03 + 8 * (0.01 + 0.02 + 2 * 0.075))
    assert cost.of_round(100, PROTOCOL) == pytest.approx(2.0 + 2 * 3.0 + 1 * 2 * 3.0)


def test_a_cost_is_that_of_the_last_round_of_the_smallest_batch_size() -> None:
    """Of each arm once, however many pairs saw it: FP32, INT8 and the placebo."""
    rounds = [[9.0], [3.0]]
    records = {
        "fp32": made.record("vit-base-224-production", "fp32", [made.cell(2, [[8.0], [2.0]], [[8.0], [2.0]])]),
        "int8": made.record("vit-base-224-production", "int8", [made.cell(2, rounds, [[8.0], [2.0]])]),
        "nf4": made.record("vit-base-224-production", "nf4", []),
    }
    found = schedule.cost_of(records)
    assert found is not None
    assert sorted(found.passes_s) == pytest.approx([0.001, 0.001, 0.0015])
    assert found.apart_s == 0.5  # of a round of 2 s
    found = schedule.cost_of(records, spent_s=7.0)
    assert found is not None
    assert found.apart_s == 5.5
    assert schedule.cost_of({"nf4": records["nf4"]}) is None


def test_without_minutes_everything_is_asked_for() -> None:
    found = decided(None)
    assert found.rounds == {model: {1: 10, 4: 4, 16: 4} for model in MODELS}
    assert found.reasons == {}


@pytest.mark.parametrize(
    ("minutes", "spent_s", "first", "larger"),
    [
        (0.1, 7.0, 3, {}),  # three rounds whatever they take
        (0.5, 7.0, 3, {"small": {4: 4}}),  # 9 s are left after them
        (1.0, 7.0, 6, {"small": {4: 4, 16: 4}}),  # 1 + 31.8 // 7 rounds, 16 s for larger ones, 9 s for one more round
        (2.0, 7.0, 10, {"small": {4: 4, 16: 4}, "large": {4: 4}}),
        (5.0, 7.0, 10, {model: {4: 4, 16: 4} for model in MODELS}),
    ],
)
def test_what_fits_is_decided_by_the_smallest_batch_size_and_then_the_cheapest(
    minutes: float, spent_s: float, first: int, larger: dict[str, dict[int, int]]
) -> None:
    found = decided(minutes, spent_s)
    assert found.rounds == {model: {1: first, **larger.get(model, {})} for model in MODELS}
    for model in MODELS:
        left_out = {4, 16} - larger.get(model, {}).keys()
        assert found.reasons.get(model, {}).keys() == left_out
        assert all(found.target(model, size) == 0 for size in left_out)
    taken_s = sum(
        count * {"small": 2, "large": 5}[model] for model, one in found.rounds.items() for count in one.values()
    )
    assert taken_s - 7 + spent_s <= max(60 * minutes, 3 * 7)  # the first round is spent


def test_all_the_time_is_for_the_smallest_where_it_is_the_only_one() -> None:
    assert decided(1.0, 7.0, batch_sizes=(1,)).target("small", 1) == 8
    assert decided(1.0, 7.0, batch_sizes=(4,)).target("small", 4) == 4  # of a larger one no more than are asked for


def test_what_does_not_fit_says_what_it_would_take() -> None:
    found = decided(1.0, 7.0)
    assert found.reasons["large"][16] == "4 rounds of about 5 s don't fit into study.minutes 1"
    cell = schedule.over_budget(16, found.reasons["large"][16])
    assert (cell.batch_size, cell.status, cell.rounds) == (16, "over_budget", ())


def test_a_model_of_which_nothing_could_be_measured_takes_no_time_from_others() -> None:
    costs = {"small": COSTS["small"]}
    assert (
        decided(0.5, 2.0, costs=costs).rounds["small"]
        == decided(0.5, 2.0, costs=costs, models=("small",)).rounds["small"]
    )
    assert decided(0.5, 2.0, costs=costs).rounds["large"][16] == 4


def test_what_was_decided_does_not_move_and_an_added_model_or_batch_size_extends_it() -> None:
    before, now = decided(1.0, 7.0, models=("small",), batch_sizes=(1, 4)), decided(1.0, 100.0)
    assert (before.target("small", 1), now.target("small", 1)) == (10, 3)
    found = schedule.extended(before, now)
    assert found.rounds["small"] == {1: 10, 4: 4}
    assert found.reasons["small"].keys() == {16}
    assert found.rounds["large"] == {1: 3}
    assert found.reasons["large"].keys() == {4, 16}
    fewer = schedule.extended(before, decided(1.0, 7.0, models=("large",)))
    assert fewer.rounds.keys() == {"large"}
    other = decided(9.0)
    assert schedule.extended(before, other) == other  # of other minutes nothing was decided
    assert schedule.extended(None, other) == other


def test_what_can_not_be_read_is_decided_again(tmp_path: Path) -> None:
    path = tmp_path / "schedule.json"
    assert schedule.read(path) is None
    path.write_text(decided(1.0, 7.0).model_dump_json())
    assert schedule.read(path) == decided(1.0, 7.0)
    path.write_text(path.read_text()[:-9])
    assert schedule.read(path) is None
