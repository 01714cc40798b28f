"""Top-1, its interval, the exact test and calibration: by hand, and by simulation."""

import numpy as np
import pytest
from scipy import stats

from visionquant.analysis import accuracy


def test_a_share_has_its_wilson_interval() -> None:
    found = accuracy.share([True] * 97 + [False] * 3, 0.95)
    assert (found.n, found.value) == (100, 97.0)
    z = float(stats.norm.ppf(0.975))
    centre = (0.97 + z * z / 200) / (1 + z * z / 100)
    half = z * np.sqrt(0.97 * 0.03 / 100 + z * z / 40000) / (1 + z * z / 100)
    assert (found.low, found.high) == pytest.approx((100 * (centre - half), 100 * (centre + half)))


def test_the_exact_test_looks_at_discordant_images_alone() -> None:
    base = [True] * 90 + [True] * 8 + [False] * 2
    other = [True] * 90 + [False] * 8 + [True] * 2
    found = accuracy.contrast(base, other)
    assert (found.only_base, found.only_other) == (8, 2)
    assert found.p == pytest.approx(2 * stats.binom.cdf(2, 10, 0.5))
    assert accuracy.contrast(base, base).p == 1.0
    assert found.word(0.05) == "UNDECIDED"
    assert accuracy.contrast([True] * 30, [False] * 30).word(0.05) == "LOWER"
    assert accuracy.contrast([False] * 30, [True] * 30).word(0.05) == "HIGHER"


def test_without_a_difference_the_test_seldom_finds_one() -> None:
    rng = np.random.default_rng(5)
    found = 0
    for _ in range(1000):
        base, other = rng.random(1797) < 0.97, rng.random(1797) < 0.97
        found += accuracy.contrast(base.tolist(), other.tolist()).p < 0.05
    assert found <= 60


def test_calibration_error_by_hand() -> None:
    right = [True, True, False, False]
    assert accuracy.calibration_error(right, [1.0, 1.0, 0.0, 0.0]) == 0.0
    assert accuracy.calibration_error(right, [0.95] * 4) == pytest.approx(45.0)


def test_words_are_corrected_over_the_table() -> None:
    lost = [accuracy.contrast([True] * count, [False] * count) for count in (6, 7, 8)]  # p: 0.031, 0.016, 0.008
    assert accuracy.words([lost[0]], 0.95) == ["LOWER"]
    assert accuracy.words([lost[0], None, lost[0]], 0.95) == ["UNDECIDED", "", "UNDECIDED"]
    assert accuracy.words(lost, 0.95) == ["LOWER", "LOWER", "LOWER"]
    assert accuracy.words([*lost, lost[0]], 0.95) == ["UNDECIDED", "LOWER", "LOWER", "UNDECIDED"]


def test_models_with_and_without_a_head() -> None:
    from visionquant.core import machine
    from visionquant.records.outcomes import LabelledPredictions, LabelledResult
    from visionquant.settings.precision import FP32

    def answers(best: list[int], voted: list[int], cka: float) -> LabelledPredictions:
        five = tuple((one, 9, 8, 7, 6) for one in best)
        return LabelledPredictions(precision=FP32, quantized_modules=0, top5=five, neighbours=tuple(voted), cka=cka)

    known = {"fp32": answers([5, 6, 6, 9], [0, 1, 1, 0], 1.0), "int8": answers([5, 6, 5, 6], [0, 1, 0, 0], 0.5)}
    shared = {
        "key": "", "weights": "", "environment": machine.probe("cpu"), "images": ("a", "b", "c", "d"),
        "classes": ("x", "y"), "labels": (0, 1, 1, 0), "precisions": known,
    }  # fmt: skip
    judged = [
        LabelledResult(model="head", targets=(5, 6), **shared),
        LabelledResult(model="none", targets=None, **shared),
    ]
    rows = accuracy.figures(accuracy.pretrained(judged, 0.95), 0.95)
    found = {(model, precision, one.quantity): one for model, precision, one in rows}
    assert (found["head", "fp32", "top1"].value, found["head", "fp32", "top1"].verdict) == (75.0, "")
    assert (found["head", "int8", "top1"].value, found["head", "int8", "top1"].verdict) == (50.0, "UNDECIDED")
    assert found["head", "int8", "top1"].reason == "1 right in FP32 alone, 0 here alone"
    assert found["head", "int8", "mcnemar_p"].value == 1.0
    assert {name for model, _, name in found if model == "none"} == {"knn_top1", "knn_agreement", "cka"}
    assert found["none", "fp32", "knn_agreement"].value == 100.0
    other = [found["none", "int8", name].value for name in ("knn_top1", "knn_agreement", "cka")]
    assert other == [75.0, 75.0, 0.5]
