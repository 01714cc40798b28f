"""Paired counts: the exact test by hand, the score interval by its definition and by simulation, the words."""

import numpy as np
import pytest
from scipy import optimize, stats

from visionquant.analysis import paired
from visionquant.analysis.paired import Contrast


def test_the_exact_test_looks_at_discordant_images_alone() -> None:
    base = [True] * 90 + [True] * 8 + [False] * 2
    other = [True] * 90 + [False] * 8 + [True] * 2
    found = paired.contrast(base, other, 1.0)
    assert (found.n, found.only_base, found.only_other, found.points) == (100, 8, 2, -6.0)
    assert found.p == pytest.approx(2 * stats.binom.cdf(2, 10, 0.5))
    assert paired.contrast(base, base, 1.0).p == 1.0


def test_without_a_difference_the_test_seldom_finds_one() -> None:
    rng = np.random.default_rng(5)
    both = rng.random((1000, 2, 1797)) < 0.97
    assert sum(paired.contrast(base, other, 1.0).p < 0.05 for base, other in both) <= 60


@pytest.mark.parametrize(("n", "lost", "won"), [(100, 8, 2), (10_000, 480, 210), (50, 0, 3), (40, 5, 0), (44, 1, 1)])
def test_the_interval_ends_where_the_score_test_rejects(n: int, lost: int, won: int) -> None:
    """Tango's variance is that under the hypothesis, whose likelihood is maximised here by search."""
    z = float(stats.norm.ppf(0.975))
    low, high = Contrast(n, lost, won, 1.0, 1.0).interval(0.95)
    assert low < 100 * (won - lost) / n < high
    for end, side in ((low, z), (high, -z)):
        share = end / 100

        def loss(p_lost: float, share: float = share) -> float:
            p_won = p_lost + share
            rest = 1 - p_lost - p_won
            parts = ((lost, p_lost), (won, p_won), (n - lost - won, rest))
            return -sum(count * np.log(max(p, 1e-300)) for count, p in parts if count)

        bounds = (max(0.0, -share), (1 - share) / 2)
        best = optimize.minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
        deviation = np.sqrt(n * (2 * best + share - share**2))
        assert (won - lost - n * share) / deviation == pytest.approx(side, rel=1e-3)


def test_without_discordant_images_the_interval_is_not_a_point() -> None:
    low, high = Contrast(1000, 0, 0, 1.0, 1.0).interval(0.95)
    bound = 100 * stats.norm.ppf(0.975) ** 2 / (1000 + stats.norm.ppf(0.975) ** 2)
    assert (low, high) == pytest.approx((-bound, bound))


def test_the_interval_covers_what_it_says() -> None:
    rng, truth = np.random.default_rng(1), 0.02 - 0.045
    counts = rng.multinomial(2000, [0.045, 0.02, 0.935], size=500)
    held = 0
    for lost, won, _ in counts:
        low, high = Contrast(2000, int(lost), int(won), 1.0, 1.0).interval(0.95)
        held += low <= 100 * truth <= high
    assert 0.92 <= held / 500 <= 0.98


@pytest.mark.parametrize(
    ("n", "lost", "won", "word"),
    [
        (10_000, 60, 20, "SAME"),  # real, and smaller than a point
        (10_000, 400, 130, "LOWER"),
        (10_000, 130, 400, "HIGHER"),
        (1000, 25, 15, "UNDECIDED"),
        (10_000, 0, 0, "SAME"),
        (100, 0, 0, "UNDECIDED"),  # too few to exclude a point
    ],
)
def test_a_word_asks_for_equivalence_first(n: int, lost: int, won: int, word: str) -> None:
    assert paired.counted(n, lost, won, 1.0).word(0.05) == word


def test_both_p_are_corrected_over_the_family() -> None:
    lost = [paired.counted(100, count, 0, 1.0) for count in (6, 7, 8)]  # p: 0.031, 0.016, 0.008
    words = [one and one.word(0.05) for one in paired.adjusted([lost[0], None, lost[0]])]
    assert words == ["UNDECIDED", None, "UNDECIDED"]
    assert [one.word(0.05) for one in paired.adjusted(lost) if one] == ["LOWER"] * 3
    same = paired.counted(10_000, 81, 20, 1.0)
    assert same.word(0.05) == "SAME"
    many = paired.adjusted([same] * 200)
    assert many[0] is not None
    assert many[0].p_equivalence == pytest.approx(min(1.0, 200 * same.p_equivalence))


def test_as_many_images_as_are_said_to_decide_do() -> None:
    few = paired.counted(1000, 25, 15, 1.0)
    needed = few.images_needed(0.05, 1.0)
    assert needed is not None
    assert needed > 1000
    times = needed / 1000
    decided = paired.counted(needed, round(25 * times * 1.1), round(15 * times * 0.9), 1.0)
    assert decided.word(0.05) != "UNDECIDED"
    assert paired.counted(1000, 30, 20, 1.0).images_needed(1e-12, 1.0) is not None
    assert Contrast(10, 0, 0, 1.0, 1.0).images_needed(0.05, 1e-4) is None
