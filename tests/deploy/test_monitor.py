"""The monitor's promises against simulated streams and sets, its verdicts against real (tiny) models."""

import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from prometheus_client import CollectorRegistry, generate_latest
from scipy import stats
from torch import nn

from visionquant.core.errors import StudyError
from visionquant.deploy import accuracy_monitor
from visionquant.deploy.accuracy_monitor import AccuracyMonitor, Proportion
from visionquant.recipes.monitor import alarms

RNG = np.random.default_rng(20260101)
BASELINE, FALLEN = 0.97, 0.85
LIMIT = 0.95 * BASELINE
CLASSES = 4

Batch = tuple[torch.Tensor, torch.Tensor]


def most(probability: float, trials: int) -> float:
    """What a share of this probability does not exceed but once in a thousand tries."""
    return float(stats.binom.ppf(0.999, trials, probability)) / trials


# --- the stream


@pytest.mark.parametrize("limit", [1e-3, 0.5, LIMIT, 0.999, 1 - 1e-9])
def test_no_bet_is_expected_to_grow_while_the_accuracy_is_at_the_limit_or_above(limit: float) -> None:
    for count in (1, 2, 50, 5000):
        staked = RNG.exponential(size=len(accuracy_monitor.FALLS))
        before = accuracy_monitor.capital(staked, count - 1)
        right, wrong = (
            accuracy_monitor.capital(accuracy_monitor.staked_after(staked, one, limit, count), count)
            for one in (False, True)
        )
        assert limit * right + (1 - limit) * wrong == pytest.approx(before)
        better = (1 + limit) / 2
        assert better * right + (1 - better) * wrong < before


@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_false_alarms_on_long_streams_at_the_limit_are_as_rare_as_promised(alpha: float) -> None:
    streams = 4000
    share = float((alarms(RNG.random((streams, 3000)) >= LIMIT, LIMIT, 1 / alpha) > 0).mean())
    print(f"alpha {alpha}: {share:.4f} false alarms")  # noqa: T201
    assert share <= most(alpha, streams)
    assert share > alpha / 10  # a test that never speaks would hold the promise too


def test_a_measured_baseline_keeps_the_promise_although_it_may_be_off() -> None:
    streams, n, alpha = 4000, 500, 0.05
    counts, times = np.unique(RNG.binomial(n, BASELINE, streams), return_counts=True)
    false = 0
    for correct, rows in zip(counts, times, strict=True):
        one = AccuracyMonitor((int(correct), n), alpha=alpha)
        false += int((alarms(RNG.random((rows, 1000)) >= LIMIT, one.limit, one.alarm_at) > 0).sum())
    print(f"{false / streams:.4f} false alarms")  # noqa: T201
    assert false / streams <= most(alpha, streams)


@pytest.mark.parametrize(("before", "typical"), [(0, 300), (1000, 500), (5000, 600)])
def test_a_fall_from_97_to_85_percent_is_found(before: int, typical: int) -> None:
    streams = 500
    accuracies = np.r_[np.full(before, BASELINE), np.full(2000, FALLEN)]
    first = alarms(RNG.random((streams, len(accuracies))) >= accuracies, LIMIT, 100.0)
    late = first[first > before] - before
    print(f"after {before}: {len(late) / streams:.3f} found, median {np.median(late):.0f} answers late")  # noqa: T201
    assert (first[first > 0] > before).all()
    assert len(late) / streams >= 0.99
    assert np.median(late) <= typical


def test_the_monitor_follows_the_rule_that_was_simulated() -> None:
    for accuracy in (BASELINE, LIMIT, FALLEN):
        wrong = RNG.random(2000) >= accuracy
        first = int(alarms(wrong[None], LIMIT, 100.0)[0])
        single, batches = AccuracyMonitor(BASELINE), AccuracyMonitor(BASELINE)
        seen = [single.observe(bool(not one)) for one in wrong]
        assert next((now.observations for now in seen if now.alarm), 0) == first
        parts = [batches.observe_batch(part) for part in np.array_split(~wrong, 7)]
        assert parts[-1] == seen[-1]
        assert seen[-1].errors == wrong.sum()
        assert seen[-1].accuracy == pytest.approx(1 - wrong.mean())
        assert seen[-1].retention == pytest.approx((1 - wrong.mean()) / BASELINE)


def test_an_alarm_stays_and_counting_goes_on() -> None:
    one = AccuracyMonitor(BASELINE)
    raised = one.observe_batch([False] * 20)
    assert raised.alarm
    assert raised.e_value >= 100
    later = one.observe_batch(torch.ones(500, dtype=torch.bool))
    assert later.alarm
    assert later.e_value == raised.e_value
    assert (later.observations, later.errors) == (520, 20)


def test_before_the_first_answer_nothing_is_claimed() -> None:
    now = AccuracyMonitor(BASELINE).observe_batch([])
    assert now == accuracy_monitor.StreamState(0, 0, None, None, 1.0, False)


def test_at_a_limit_of_one_a_single_error_is_proof() -> None:
    one = AccuracyMonitor(1.0, 1.0)
    assert not one.observe_batch([True] * 1000).alarm
    assert one.observe(False).alarm


def test_several_threads_lose_no_answer() -> None:
    one = AccuracyMonitor(0.5)
    threads = [threading.Thread(target=lambda: [one.observe(i % 4 > 0) for i in range(400)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    now = one.observe_batch([])
    assert (now.observations, now.errors) == (1600, 400)


# --- the intervals


@pytest.mark.parametrize("n", [1, 7, 100, 5000])
def test_wilsons_interval_is_scipys(n: int) -> None:
    for correct in {0, 1, n // 3, n - 1, n}:
        expected = stats.binomtest(correct, n).proportion_ci(0.9, method="wilson")
        found = accuracy_monitor.wilson(correct / n, n, 0.9)
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
        assert found.low <= found.value <= found.high


def as_printed(top: Proportion, bottom: Proportion) -> tuple[float, float]:
    """Donner and Zou's equation 9 as it stands there."""
    product = top.value * bottom.value
    low, high = (
        (product + sign * np.sqrt(product**2 - a * (2 * top.value - a) * b * (2 * bottom.value - b)))
        / (b * (2 * bottom.value - b))
        for sign, a, b in ((-1, top.low, bottom.high), (1, top.high, bottom.low))
    )
    return float(low), float(high)


@pytest.mark.parametrize(("correct", "n", "of"), [(94, 100, 200), (500, 1000, 50), (100, 100, 100), (1, 30, 40)])
def test_the_interval_of_the_retention_is_mover_r(correct: int, n: int, of: int) -> None:
    top, bottom = accuracy_monitor.wilson(correct / n, n, 0.95), accuracy_monitor.wilson((of - 3) / of, of, 0.95)
    found = accuracy_monitor.ratio_interval(top, bottom)
    assert (found.low, found.high) == pytest.approx(as_printed(top, bottom))
    known = accuracy_monitor.ratio_interval(top, Proportion(0.9, 0.9, 0.9))
    assert (known.low, known.high) == pytest.approx((top.low / 0.9, top.high / 0.9))
    assert accuracy_monitor.ratio_interval(accuracy_monitor.wilson(0.0, n, 0.95), bottom).low == 0.0


@pytest.mark.parametrize(
    ("accuracy", "n", "of"), [(0.92, 200, None), (0.92, 200, 200), (0.7, 100, 1000), (0.97, 2000, 500)]
)
def test_intervals_cover_the_truth_as_often_as_they_promise(accuracy: float, n: int, of: int | None) -> None:
    hits, sets = 0, 4000
    for correct, right in zip(RNG.binomial(n, accuracy, sets), RNG.binomial(of or 1, BASELINE, sets), strict=True):
        known = Proportion(BASELINE, BASELINE, BASELINE)
        bottom = accuracy_monitor.wilson(right / of, of, 0.95) if of else known
        found = accuracy_monitor.ratio_interval(accuracy_monitor.wilson(correct / n, n, 0.95), bottom)
        hits += found.low <= accuracy / BASELINE <= found.high
    print(f"{accuracy} of {n} against {of}: {hits / sets:.4f} covered")  # noqa: T201
    assert 0.935 <= hits / sets <= 0.975


# --- the verdict on a labelled set


class Reader(nn.Module):
    """Reads the class that its image holds; remembers in which mode it ran."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(CLASSES, CLASSES, bias=False)
        self.frozen = nn.Dropout(0.5)
        nn.init.eye_(self.head.weight)
        self.ran: list[tuple[bool, bool]] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.ran.append((self.training or self.frozen.training, torch.is_inference_mode_enabled()))
        return self.head(self.frozen(images))


def batches(correct: int, n: int, size: int = 300) -> Iterator[Batch]:
    """``n`` images in batches, of which a Reader names the first ``correct`` rightly."""
    labels = torch.arange(n) % CLASSES
    shown = torch.where(torch.arange(n) < correct, labels, (labels + 1) % CLASSES)
    images = nn.functional.one_hot(shown, CLASSES).float()
    yield from zip(images.split(size), labels.split(size), strict=True)


@pytest.mark.parametrize(
    ("correct", "n", "decision"),
    [
        (970, 1000, "pass"),
        (850, 1000, "fail"),
        (930, 1000, "too few samples"),
        (0, 1000, "fail"),
        (5, 5, "too few samples"),
    ],
)
@pytest.mark.parametrize("baseline", [BASELINE, (9700, 10000)])
def test_decisions(correct: int, n: int, decision: str, baseline: float | tuple[int, int]) -> None:
    found = AccuracyMonitor(baseline).validate_quantized_model(Reader(), batches(correct, n))
    assert (found.correct, found.n, found.decision) == (correct, n, decision)
    assert found.accuracy.value == correct / n
    assert found.retention.value == pytest.approx(correct / n / BASELINE)
    assert found.retention.low <= found.retention.value <= found.retention.high


def test_the_samples_asked_for_decide_and_one_less_would_not() -> None:
    one = AccuracyMonitor(BASELINE)
    found = one.validate_quantized_model(Reader(), batches(930, 1000))
    # Wilson's bound reaches the limit at n = z**2 limit (1 - limit) / (accuracy - limit)**2.
    expected = stats.norm.ppf(0.975) ** 2 * LIMIT * (1 - LIMIT) / (0.93 - LIMIT) ** 2
    assert found.samples_needed == np.ceil(expected)

    measured = AccuracyMonitor((9700, 10000))
    needed = measured.validate_quantized_model(Reader(), batches(930, 1000)).samples_needed
    assert needed is not None
    assert needed > found.samples_needed
    for n, decided in ((needed, True), (needed - 1, False)):
        retention = accuracy_monitor.ratio_interval(accuracy_monitor.wilson(0.93, n, 0.95), measured.baseline)
        assert (accuracy_monitor.decide(retention, 0.95) != "too few samples") == decided


def test_no_number_of_samples_decides_on_the_threshold_itself_or_against_a_vague_baseline() -> None:
    found = AccuracyMonitor(0.8, 0.95).validate_quantized_model(Reader(), batches(760, 1000))
    assert (found.decision, found.samples_needed) == ("too few samples", None)
    found = AccuracyMonitor((9, 10)).validate_quantized_model(Reader(), batches(900, 1000))
    assert (found.decision, found.samples_needed) == ("too few samples", None)


def test_where_the_set_decides_it_is_what_was_needed() -> None:
    found = AccuracyMonitor(BASELINE).validate_quantized_model(Reader(), batches(970, 1000))
    assert found.samples_needed == 1000


def test_every_part_runs_in_evaluation_mode_and_gets_its_own_mode_back() -> None:
    net = Reader().train()
    net.head.eval()
    AccuracyMonitor(BASELINE).validate_quantized_model(net, batches(10, 10))
    assert net.ran == [(False, True)]
    assert (net.training, net.head.training, net.frozen.training) == (True, False, True)
    with pytest.raises(StudyError):
        AccuracyMonitor(BASELINE).validate_quantized_model(net, [(torch.zeros(2, CLASSES), torch.zeros(3))])
    assert (net.training, net.head.training, net.frozen.training) == (True, False, True)


@pytest.mark.parametrize("model", [lambda images: images, lambda images: SimpleNamespace(logits=images)])
def test_a_function_and_an_object_with_logits_do_as_well(model: Callable[[torch.Tensor], Any]) -> None:
    assert AccuracyMonitor(BASELINE).validate_quantized_model(model, batches(8, 10)).correct == 8


# --- what is refused


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: AccuracyMonitor(0.0), "baseline: 0.0 is out of range; give an accuracy"),
        (lambda: AccuracyMonitor(97.0), "baseline: 97.0"),
        (lambda: AccuracyMonitor(float("nan")), "baseline: nan"),
        (lambda: AccuracyMonitor((0, 10)), r"baseline: \(0, 10\)"),
        (lambda: AccuracyMonitor((11, 10)), r"baseline: \(11, 10\)"),
        (lambda: AccuracyMonitor(0.9, 0.0), "threshold: 0.0"),
        (lambda: AccuracyMonitor(0.9, 95), "threshold: 95"),
        (lambda: AccuracyMonitor(0.9, alpha=0.0), "alpha: 0.0"),
        (lambda: AccuracyMonitor(0.9, confidence=1.0), "confidence: 1.0"),
        (lambda: AccuracyMonitor(0.9).observe_batch([0.5]), "observed answers: not a flat list"),
        (lambda: AccuracyMonitor(0.9).observe_batch(np.ones((2, 2))), "observed answers"),
    ],
)
def test_numbers_out_of_range_are_refused(make: Callable[[], object], says: str) -> None:
    with pytest.raises(StudyError, match=says) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("loader", "says"),
    [
        ([], "no image in the loader"),
        ([(torch.zeros(0, CLASSES), torch.zeros(0))], "no image in the loader"),
        ([(torch.zeros(2, CLASSES), torch.zeros(3))], r"logits \(2, 4\) for labels \(3,\)"),
        ([(torch.zeros(2, CLASSES), torch.zeros(2, CLASSES))], r"logits \(2, 4\) for labels \(2, 4\)"),
        ([(torch.zeros(CLASSES), torch.zeros(CLASSES))], r"logits \(4,\)"),
        ([(torch.full((2, CLASSES), torch.nan), torch.zeros(2))], "not finite"),
        ([(torch.full((2, CLASSES), torch.inf), torch.zeros(2))], "not finite"),
    ],
)
def test_sets_that_give_no_accuracy_are_refused(loader: list[Batch], says: str) -> None:
    with pytest.raises(StudyError, match=says) as caught:
        AccuracyMonitor(BASELINE).validate_quantized_model(lambda images: images, loader)
    assert "\n" not in str(caught.value)


def test_a_model_that_gives_no_tensor_is_refused() -> None:
    with pytest.raises(StudyError, match="logits tuple"):
        AccuracyMonitor(BASELINE).validate_quantized_model(lambda images: (images,), batches(2, 2))


# --- the metrics


def test_metrics_say_what_the_monitor_says() -> None:
    registry = CollectorRegistry()
    one = AccuracyMonitor(0.8, registry=registry)
    assert registry.get_sample_value("visionquant_e_value") == 1.0
    assert registry.get_sample_value("visionquant_alarm") == 0.0

    now = one.observe_batch([True, True, False, True])
    found = one.validate_quantized_model(Reader(), batches(70, 100))
    assert registry.get_sample_value("visionquant_observations_total") == 4
    assert registry.get_sample_value("visionquant_errors_total") == 1
    assert registry.get_sample_value("visionquant_e_value") == now.e_value
    for source, accuracy, retention in (
        ("stream", now.accuracy, now.retention),
        ("validation", found.accuracy.value, found.retention.value),
    ):
        assert registry.get_sample_value("visionquant_accuracy", {"source": source}) == accuracy
        assert registry.get_sample_value("visionquant_retention", {"source": source}) == retention

    assert one.observe_batch([False] * 40).alarm
    assert registry.get_sample_value("visionquant_alarm") == 1.0
    assert b'visionquant_accuracy{source="validation"} 0.7' in generate_latest(registry)


def test_two_monitors_do_not_share_their_metrics() -> None:
    one, other = AccuracyMonitor(0.8), AccuracyMonitor(0.8)
    one.observe(False)
    assert one.registry.get_sample_value("visionquant_errors_total") == 1
    assert other.registry.get_sample_value("visionquant_errors_total") == 0
    with pytest.raises(ValueError, match="Duplicated"):
        AccuracyMonitor(0.8, registry=one.registry)
