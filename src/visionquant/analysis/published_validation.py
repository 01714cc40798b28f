"""The supplement's own validation: three expected metrics, each met within 5 % of itself or not.

Its rule is |measured - expected| / expected <= tolerance, for figures of one graphics card. A set of records from
another machine can't pass or fail it: the verdict is "not comparable", and what was computed is shown as an extra.
Only "differs" is a failure.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from visionquant.analysis.estimators import Estimate
from visionquant.analysis.frame import ARITHMETIC
from visionquant.analysis.published import Expected, Printed
from visionquant.analysis.study import MachineSet, Study
from visionquant.analysis.subjects import counterpart, why_counted
from visionquant.core.errors import StudyError

ValidationWord = Literal["within", "differs", "not comparable", "not measured"]
# Quantity, precision and model of each metric; without a model it is the mean over all published models, as a share.
METRICS = {
    "vit_huge_fp16_speedup": ("speedup", "fp16", "vit-huge-patch14-2020"),
    "dinov2_large_fp16_speedup": ("speedup", "fp16", "dinov2-large-2023"),
    "average_memory_reduction_int8": ("memory_reduction", "int8", None),
}


@dataclass(frozen=True)
class Validation:
    """One metric on one set of records; ``value`` and its bounds are empty where there is no figure."""

    metric: str
    source: str
    published: Printed
    tolerance: float
    verdict: ValidationWord
    value: float | None
    low: float | None
    high: float | None
    why: str
    extra: str = ""

    @property
    def text(self) -> str:
        """The verdict as one line."""
        figure = "" if self.value is None else f", measured {self.value:.3f}"
        if self.low is not None and self.high is not None:
            figure += f" ({self.low:.3f} to {self.high:.3f})"
        extra = f" {self.extra}" if self.extra else ""
        verdict = f"{self.metric} [{self.source}]: {self.verdict}; published {self.published.text}{figure}"
        return f"{verdict}; {self.why}.{extra}"


def validations(study: Study) -> list[Validation]:
    """Every expected metric on every set of records.

    Raises:
        StudyError: ``validation.csv`` names an unknown metric.
    """
    return [_one(study, machine_set, row) for machine_set in study.shown for row in study.published.validation]


def _one(study: Study, machine_set: MachineSet, expected: Expected) -> Validation:
    if expected.metric not in METRICS:
        raise StudyError(
            "data/supplement/validation.csv", f"no metric {expected.metric}", f"known: {', '.join(METRICS)}"
        )
    quantity, precision, model = METRICS[expected.metric]
    if model is not None:
        found, extra = study.row(machine_set.source, model, precision, 1, quantity), ""
    else:
        found, extra = _mean(study, machine_set, quantity, precision)
    word, why = _verdict(found, expected, study.comparable(machine_set) if machine_set.records else "")
    figures = (found.value, found.low, found.high)
    return Validation(
        expected.metric, machine_set.source, expected.printed, expected.tolerance, word, *figures, why, extra
    )


def _verdict(found: Estimate, expected: Expected, why_not: str) -> tuple[ValidationWord, str]:
    if why_not:
        return "not comparable", why_not
    if found.value is None:
        return "not measured", found.reason
    wanted = expected.printed.value
    off = abs(found.value - wanted) / wanted
    why = f"{100 * off:.1f} % off, {100 * expected.tolerance:g} % allowed"
    bounds = [wanted * (1 + sign * expected.tolerance) for sign in (-1, 1)]
    if found.low is not None and found.high is not None and any(found.low < bound < found.high for bound in bounds):
        why += "; the interval reaches across the bound, so more replicates could turn this round"
    return ("within" if off <= expected.tolerance else "differs"), why


def _mean(study: Study, machine_set: MachineSet, quantity: str, precision: str) -> tuple[Estimate, str]:
    """The mean over all published models, and in words what else can be said of it."""
    models = tuple(row.name for row in study.published.models)
    name, extra = counterpart(study, machine_set, quantity), ""
    values = study.column(machine_set.source, name, precision, models)
    counted = study.column(ARITHMETIC, f"{quantity}_workspace", precision, models)
    if len(counted) == len(models):
        workspace = f"weights + {study.params.report.workspace_mib:g} MiB workspace, {len(counted)} models"
        extra = f"From parameter counts alone ({workspace}): {_share(counted.values()):.3f}."
    missing = [model for model in models if model not in values]
    if missing:
        reason = study.row(machine_set.source, missing[0], precision, 1, name).reason
        why = f"{len(missing)} of {len(models)} models have no figure ({missing[0]}: {reason})"
        known = f"Mean over the {len(values)} models that have one: {_share(values.values()):.3f}. " if values else ""
        return Estimate(quantity, status="not_measured", reason=why), f"{known}{extra}".rstrip()
    if name.endswith("_workspace"):
        why = f"for {why_counted(study, machine_set)}"
        extra = f"The figure is stored weights plus the published workspace, {why}. {extra}".rstrip()
    return Estimate(name, _share(values.values()), n=len(values)), extra


def _share(percents: Iterable[float]) -> float:
    return float(np.mean(list(percents))) / 100
