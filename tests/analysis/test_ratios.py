"""Ratios from blocks: what is paired with what, which error they carry, and what is left out."""

import math

import made
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from visionquant.analysis import ratios
from visionquant.records.cell import Cell

MODEL = "vit-base-224-production"
RNG = np.random.default_rng(11)


def named(cell: Cell, precision: str = "int8") -> list[tuple[Cell, str]]:
    return [(made.record(MODEL, precision, [cell]).cells[0], precision)]


def rounds(cells: list[tuple[Cell, str]]) -> pd.DataFrame:
    turned = ratios.turns(cells)
    return ratios.rounds_of(turned, ratios.over_fp32(turned, ratios.TIMES))


def test_a_block_sets_the_precision_against_the_mean_of_fp32_and_its_placebo() -> None:
    cell = made.cell(
        1, [[5.0, 5.0, 4.0, 4.0]] * 2, [[10.0, 10.0, 9.0, 9.0]] * 2, [[12.1, 12.1, 9.0, 9.0]] * 2, blocks=2
    )
    found = rounds(named(cell))
    assert found.value.to_numpy() == pytest.approx([(math.log(11 / 5) + math.log(9 / 4)) / 2] * 2)
    assert list(found.blocks) == [2, 2]
    assert list(found.minute.diff().dropna()) == [60.0]


def test_what_all_arms_share_of_a_block_cancels() -> None:
    machine = np.exp(RNG.normal(0, 0.3, (6, 8)))
    cell = made.cell(1, (50 * machine).tolist(), (100 * machine).tolist(), blocks=8)
    found = ratios.over_rounds(rounds(named(cell)), drift=0.0)
    assert found.effect[0] == pytest.approx(math.log(2))
    assert found.error[0] == pytest.approx(0.0, abs=1e-12)


def test_the_error_between_rounds_is_scipys_where_blocks_agree() -> None:
    values = RNG.normal(0.7, 0.02, 5)
    cell = made.cell(1, [[100 * math.exp(-value)] * 2 for value in values], [[100.0] * 2] * 5, blocks=2)
    found = ratios.over_rounds(rounds(named(cell)), drift=0.0)
    interval = ratios.interval(found, 0.95)
    expected = np.exp(stats.t.interval(0.95, 4, values.mean(), stats.sem(values)))
    assert interval.loc[0, ["value", "low", "high"]].tolist() == pytest.approx([math.exp(values.mean()), *expected])
    ahead = ratios.interval(found, 0.95, runs=2)
    assert np.log(ahead.high[0] / ahead.value[0]) == pytest.approx(
        2**0.5 * np.log(interval.high[0] / interval.value[0])
    )


def test_blocks_that_scatter_more_than_rounds_widen_the_interval() -> None:
    scatter = [math.exp(-sign * 0.1) for sign in (-1, 1)]
    cell = made.cell(1, [[100 * one for one in scatter]] * 3, [[100.0] * 2] * 3, blocks=2)
    found = ratios.over_rounds(rounds(named(cell)), drift=0.0)
    assert found["var"][0] == pytest.approx(0.0, abs=1e-20)
    assert found.error[0] == pytest.approx((0.02 / 2 / 3) ** 0.5)  # variance 0.02 of blocks, two a round, three rounds
    assert found.df[0] == 2


@pytest.mark.parametrize(("spread", "drift"), [(0.05, ratios.DRIFT**2), (0.001, 2 * 0.001**2)])
def test_rounds_close_in_time_count_as_one_of_their_own(spread: float, drift: float) -> None:
    values = 0.5 + spread * np.array([-1, 1, 1, -1]) * 0.75**0.5
    table = pd.DataFrame({"cell": 0, "round": range(4), "value": values, "var": 0.0, "blocks": 2})
    for gap, own in ((0.0, 1.0), (2.5, 2.5), (5.0, 4.0), (60.0, 4.0), (np.nan, 1.0)):
        found = ratios.over_rounds(table.assign(minute=gap * np.arange(4)))
        assert found.error[0] == pytest.approx((spread**2 / 4 + drift * (1 / own - 1 / 4)) ** 0.5)


def test_one_round_speaks_of_its_minutes_and_one_block_of_nothing() -> None:
    two = made.cell(1, [[5.0, 5.1]], [[10.0, 10.0]], blocks=2)
    one = made.cell(1, [[5.0]], [[10.0]])
    found = ratios.interval(ratios.over_rounds(rounds([*named(two), *named(one)])), 0.95)
    assert list(found.reason) == [ratios.ONE_ROUND, ratios.ONE_BLOCK]
    assert found.low[0] < found.value[0] < found.high[0]
    assert found.low.isna()[1]


def test_a_disturbed_block_is_left_out() -> None:
    quiet, busy = (made.cell(1, [[ms] * 2] * 2, [[10.0] * 2] * 2, blocks=2, others=others) for ms, others in
                   ((5.0, 0.0), (9.0, 0.5)))  # fmt: skip
    both = quiet.model_copy(update={"rounds": (quiet.rounds[0], busy.rounds[1])})
    found = rounds(named(both))
    assert list(found["round"]) == [0]
    assert not len(ratios.turns(named(busy)))


def test_the_pooled_variance_is_the_mean_of_equal_ones_and_refused_for_unequal_ones() -> None:
    def table(spreads: list[float]) -> pd.DataFrame:
        values = np.concatenate([spread * stats.norm.ppf((np.arange(8) + 0.5) / 8) for spread in spreads])
        index = {"cell": np.repeat(range(len(spreads)), 8), "round": np.tile(range(8), len(spreads))}
        return pd.DataFrame({**index, "value": values, "var": 0.0, "blocks": 2, "minute": 60.0 * index["round"]})

    family = pd.Series(["a"] * 3)
    equal, unequal = table([0.01, 0.012, 0.008]), table([0.01, 0.1, 0.001])
    own = ratios.over_rounds(equal)
    found = ratios.pooled(equal, own, family)
    assert found.error.to_numpy() == pytest.approx([(own["var"].mean() / 8) ** 0.5] * 3)
    assert (list(found.df), set(found.reason)) == ([21.0] * 3, {""})
    refused = ratios.pooled(unequal, ratios.over_rounds(unequal), family)
    assert refused.error.isna().all()
    assert refused.reason[0].startswith("variances differ between models (p ")
    alone = ratios.pooled(equal[equal.cell == 0], own[:1], family)
    assert set(alone.reason) == {"fewer than two models have two rounds"}


def test_a_cell_learns_its_variance_from_its_family() -> None:
    """By hand: three cells of three rounds, of variances 1, 2 and 6 in 1e-4; the others' four degrees count as two."""
    index = {"cell": np.repeat(range(3), 3), "round": np.tile(range(3), 3)}
    spread = np.repeat(np.sqrt([1e-4, 2e-4, 6e-4]), 3)
    table = pd.DataFrame({**index, "value": spread * np.tile([-1, 0, 1], 3), "var": 0.0, "blocks": 2})
    table["minute"] = 60.0 * table["round"]
    found = ratios.contrasts(table, pd.Series(["a"] * 3 + ["b"]), drift=0.0)
    assert list(found.df[:3]) == [4.0] * 3
    assert (3e4 * found.error[:3] ** 2).to_numpy() == pytest.approx([(3 + 1) / 2, (3 + 2) / 2, (3 + 6) / 2])
    assert found.loc[3].isna().all()


def test_a_cell_without_relatives_and_one_of_one_round_keep_their_own_variance() -> None:
    many = made.cell(1, [[5.0, 5.1], [5.3, 5.2], [4.9, 5.0]], [[10.0, 10.0]] * 3, blocks=2)
    one = made.cell(1, [[5.0, 5.2]], [[10.0, 10.0]], blocks=2)
    parts = rounds([*named(many), *named(many), *named(one)])
    own, found = ratios.over_rounds(parts), ratios.contrasts(parts, pd.Series(["a", "b", "b"]))
    assert found[["error", "df"]].to_numpy() == pytest.approx(own[["error", "df"]].to_numpy())
