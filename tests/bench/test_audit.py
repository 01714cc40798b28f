"""The audit finds passes that did not do the work, and accepts those that did."""

import numpy as np
import pytest

from visionquant.bench import audit
from visionquant.bench.clock import Clock
from visionquant.records.cell import REPEAT_FLOOR

FEATURES = np.random.default_rng(0).standard_normal((4, 8, 16)).astype(np.float32)
FP32 = audit.ExpectedOutput(FEATURES, FEATURES[:1], None, in_float32=True)
INT8 = audit.ExpectedOutput(FEATURES, FEATURES[:1], 0.03, in_float32=False)


def noisy(share: float) -> np.ndarray:
    noise = np.random.default_rng(1).standard_normal(FEATURES.shape)
    return (FEATURES + share * noise).astype(np.float32)


def test_equal_outputs_pass_and_are_counted() -> None:
    found = audit.check(FP32, [([0, 1], FEATURES[:2]), ([3, 4, 31], np.stack([FEATURES[3]] * 3))], [])
    assert (found.kept, found.images, found.deviation) == (2, 3, 0.0)
    assert found.fault == ""


def test_outputs_of_other_images_are_found() -> None:
    found = audit.check(INT8, [([0, 1], FEATURES[[1, 0]])], [])
    assert found.deviation is not None
    assert found.deviation > 1
    assert found.fault.startswith("timed outputs are 1.")


@pytest.mark.parametrize(("known", "share", "passes"), [(FP32, 5e-4, True), (FP32, 5e-3, False), (INT8, 5e-3, True)])
def test_the_limit_is_what_the_precision_itself_costs(known: audit.ExpectedOutput, share: float, passes: bool) -> None:
    found = audit.check(known, [([0, 1, 2, 3], noisy(share))], [])
    assert found.deviation == pytest.approx(share, rel=0.2)
    assert (found.fault == "") is passes


def test_the_limit_never_falls_below_rounding_and_ignores_what_is_not_finite() -> None:
    assert FP32.limit == audit.LEAST_LIMIT
    assert INT8.limit == pytest.approx(0.06)
    assert audit.ExpectedOutput(None, None, 0.0, in_float32=False).limit == audit.LEAST_LIMIT_16
    assert audit.ExpectedOutput(None, None, float("inf"), in_float32=False).limit == audit.LEAST_LIMIT_16


def test_outputs_that_are_not_finite_are_infinitely_far() -> None:
    assert audit.distance(np.full(3, np.nan), np.ones(3)) == float("inf")
    assert audit.distance(np.ones(3), np.ones(3)) == 0.0


def test_an_image_in_a_batch_is_compared_with_the_same_image_alone() -> None:
    batch = noisy(0.01)
    found = audit.check(INT8, [([0, 1, 2, 3], batch)], [])
    assert found.batch_deviation == pytest.approx(audit.distance(batch[0], FEATURES[0]), rel=1e-3)
    assert audit.check(INT8, [([0], FEATURES[:1])], []).batch_deviation is None


def test_a_batch_that_is_remembered_is_found() -> None:
    honest = audit.check(FP32, [], [1.0, 0.97, 1.02, 0.99, 1.01])
    assert honest.repeat_ratio == pytest.approx(1.0, abs=0.02)
    assert honest.fault == ""
    cached = audit.check(FP32, [], [0.5, 0.52, 0.48, 0.5, 0.51])
    assert cached.repeat_high is not None
    assert cached.repeat_high < REPEAT_FLOOR
    assert "a repeated batch takes 0.5" in cached.fault
    assert audit.check(FP32, [], [0.2, 1.0, 1.1, 0.9, 1.0]).fault == ""  # one quick pass is no proof


def test_repeats_pass_the_same_batch_twice() -> None:
    seen: list[int] = []
    assert len(audit.time_repeats(seen.append, Clock(), 3)) == 3
    assert seen == [0, 0, 1, 1, 2, 2]


class Rhythm(Clock):
    """A scripted machine on which passes take these milliseconds, round and round."""

    def __init__(self, *pass_ms: float) -> None:
        self.pass_ms, self.passes, self.s = pass_ms, 0, 0.0

    def now_s(self) -> float:
        return self.s

    def step(self, i: int) -> None:
        self.s += self.pass_ms[self.passes % len(self.pass_ms)] / 1e3
        self.passes += 1


def test_time_slices_that_fall_on_the_first_pass_of_every_pair_accuse_nobody() -> None:
    beside_other_work = Rhythm(1.3, 1.0)
    repeats = audit.time_repeats(beside_other_work.step, beside_other_work, 10)
    assert audit.check(FP32, [], repeats).fault == ""


def test_a_network_that_remembers_its_last_batch_is_found_in_both_rhythms() -> None:
    clock, passed = Rhythm(1.0), [-1]

    def step(i: int) -> None:
        if i != passed[-1]:
            clock.step(i)
        clock.s += 1e-5
        passed.append(i)

    assert "a repeated batch takes 0.0" in audit.check(FP32, [], audit.time_repeats(step, clock, 10)).fault
    assert len(passed) == 1 + 2 * 10 + 3 * 10


@pytest.mark.parametrize(("ms", "count"), [(1.0, 10), (30.0, 8), (50.0, 5), (51.0, 0)])
def test_repeats_take_half_a_second_at_most(ms: float, count: int) -> None:
    assert audit.pair_count(ms) == count
