"""Top-1, its interval and calibration, by hand."""

import made
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


def test_calibration_error_by_hand() -> None:
    right = [True, True, False, False]
    assert accuracy.calibration_error(right, [1.0, 1.0, 0.0, 0.0]) == 0.0
    assert accuracy.calibration_error(right, [0.95] * 4) == pytest.approx(45.0)


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
    rows = accuracy.Judge(0.95, 1.0).pretrained(judged)
    found = {(model, precision, one.quantity): one for model, precision, one in rows}
    assert (found["head", "fp32", "top1"].value, found["head", "fp32", "top1"].verdict) == (75.0, "")
    assert (found["head", "int8", "top1"].value, found["head", "int8", "top1"].verdict) == (50.0, "UNDECIDED")
    why = "1 right in FP32 alone, 0 here alone; about "
    assert found["head", "int8", "top1"].reason.startswith(why)
    assert found["head", "int8", "mcnemar_p"].value == 1.0
    assert {name for model, _, name in found if model == "none"} == {"knn_top1", "knn_agreement", "cka"}
    assert found["none", "fp32", "knn_agreement"].value == 100.0
    other = [found["none", "int8", name].value for name in ("knn_top1", "knn_agreement", "cka")]
    assert other == [75.0, 75.0, 0.5]


def test_a_head_of_its_own_is_compared_with_fp32_apart_from_the_others() -> None:
    from visionquant.core.paths import Project
    from visionquant.core.quantities import quantity
    from visionquant.settings import params as parameters

    params = parameters.load(Project(made.ROOT))
    probe = made.probe(params, "m", {"int8": 20, "nf4": 400}, own={"nf4": 30})
    found = {(name, one.quantity): one for _, name, one in accuracy.Judge(0.95, 1.0).probed([probe])}
    assert (found["nf4", "accuracy_change"].value, found["nf4", "accuracy_change"].verdict) == (-4.0, "LOWER")
    own = found["nf4", "own_head_accuracy_change"]
    assert (own.value, own.verdict) == (pytest.approx(-0.3), "SAME")
    assert found["nf4", "own_head_top1"].value == pytest.approx(89.7)
    assert found["nf4", "own_head_right_in_fp32_alone"].value == 30
    assert ("int8", "own_head_top1") not in found
    assert quantity(own.quantity).label == "Change of accuracy against FP32, head fitted on its own features"
