"""The pooled mean is the textbook's, covers what it says, and shows how far machines differ."""

import math

import numpy as np
import pytest

from visionquant.analysis.random_effects import random_effects

# M. Borenstein et al., Introduction to Meta-Analysis (2009), data set 1: standardised differences and their variances.
LOGS = [0.095, 0.277, 0.367, 0.664, 0.462, 0.185]
VARIANCES = [0.033, 0.031, 0.050, 0.011, 0.043, 0.023]


def by_hand() -> tuple[float, float, float]:
    weights = [1 / v for v in VARIANCES]
    total = sum(weights)
    fixed = sum(w * y for w, y in zip(weights, LOGS, strict=True)) / total
    q = sum(w * (y - fixed) ** 2 for w, y in zip(weights, LOGS, strict=True))
    tau2 = (q - 5) / (total - sum(w * w for w in weights) / total)
    weights = [1 / (v + tau2) for v in VARIANCES]
    return q, tau2, sum(w * y for w, y in zip(weights, LOGS, strict=True)) / sum(weights)


def test_it_is_the_worked_example_of_the_textbook() -> None:
    """There Q is 12.0033, tau squared 0.0372 and the mean 0.3582, from values of more digits than are printed."""
    q, tau2, mean = by_hand()
    assert (q, tau2, mean) == pytest.approx((12.0033, 0.0372, 0.3582), rel=0.03)
    found = random_effects(LOGS, [v**0.5 for v in VARIANCES], 0.95)
    assert math.log(found.ratio) == pytest.approx(mean)
    assert found.tau**2 == pytest.approx(tau2)
    assert found.i2 == pytest.approx(1 - 5 / q)
    assert found.p == pytest.approx(0.0385, abs=1e-4)  # 0.0347 there
    assert found.n == 6
    assert found.next_low is not None
    assert found.next_low < found.low < found.ratio < found.high


def test_like_machines_have_no_spread_and_an_interval_no_narrower_than_their_errors_make_it() -> None:
    found = random_effects([0.5, 0.5, 0.5], [0.1, 0.1, 0.1], 0.95)
    assert (found.tau, found.i2) == (0.0, 0.0)
    assert found.p == pytest.approx(1.0)
    half = math.log(found.high / found.low) / 2
    assert half == pytest.approx(4.302653 * 0.1 / 3**0.5, rel=1e-5)


def test_two_machines_say_little_and_nothing_of_a_third() -> None:
    found = random_effects([0.0, 1.0], [0.01, 0.01], 0.95)
    assert found.low < 1e-2
    assert found.high > 1e2
    assert (found.next_low, found.next_high) == (None, None)
    assert found.i2 > 0.99


def test_the_interval_holds_the_mean_about_as_often_as_it_says() -> None:
    rng, hits, runs = np.random.default_rng(7), 0, 1000
    for _ in range(runs):
        errors = rng.uniform(0.02, 0.2, 8)
        logs = 0.3 + rng.normal(0, 0.15, 8) + rng.normal(0, errors)
        found = random_effects(logs.tolist(), errors.tolist(), 0.95)
        hits += found.low <= math.exp(0.3) <= found.high
    assert 0.92 <= hits / runs <= 0.99


@pytest.mark.parametrize(("logs", "errors"), [([0.1], [0.1]), ([0.1, 0.2], [0.1, 0.0])])
def test_what_cannot_be_pooled_is_refused(logs: list[float], errors: list[float]) -> None:
    with pytest.raises(ValueError, match="2 machines with an error above zero"):
        random_effects(logs, errors, 0.95)
