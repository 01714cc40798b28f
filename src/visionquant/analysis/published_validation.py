"""The supplement's own validation: three expected metrics, each met within 5 % of itself or not.

Its rule is |measured - expected| / expected <= tolerance, for figures of one graphics card. A set of records from
another machine can't pass or fail it: the verdict is "not comparable", and what was computed is shown as an extra.
Only "differs" is a failure.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from visionquant.analysis.estimators import Estimate
from visionquant.analysis.frame import ARITHMETIC
from visionquant.analysis.published import Printed, Row
from visionquant.analysis.study import MachineSet, Study
from visionquant.core.errors import StudyError

ValidationWord = Literal["within", "differs", "not comparable", "not measured"]
# Quantity, precision and model of each metric; without a model it is the mean over all published models, as a share.
METRICS = {
    "vit_huge_fp16_speedup": ("speedup", "fp16", "vit-huge-patch14-2020"),
    "dinov2_large_fp16_speedup": ("speedup", "fp16", "dinov2-large-2023"),
    "average_memory_reduction_int8": ("memory_reduction", "int8", None),
}


@dataclass(frozen=True)
class ExpectedMetric:
    """One metric on one set of records; ``value`` and its bounds are empty where there is no figure."""

    metric: str
    source: str
    published: Printed
    verdict: ValidationWord
    why: str
    extra: str
    value: float | None
    low: float | None
    high: float | None

    @property
    def text(self) -> str:
        """The verdict as one line."""
        figure = "" if self.value is None else f", measured {self.value:.3f}"
        if self.low is not None and self.high is not None:
            figure += f" ({self.low:.3f} to {self.high:.3f})"
        verdict = f"{self.metric} [{self.source}]: {self.verdict}; published {self.published.text}{figure}"
        return f"{verdict}; {self.why}. {self.extra}".rstrip()


def validations(study: Study) -> list[ExpectedMetric]:
    """Every expected metric on every set of records.

    Raises:
        StudyError: ``validation.csv`` names an unknown metric.
    """
    found = []
    for machine_set in study.shown:
        for expected in study.published.validation:
            name, file = expected.subject, "data/supplement/validation.csv"
            if name not in METRICS:
                raise StudyError(file, f"no metric {name}", f"known: {', '.join(METRICS)}")
            quantity, precision, model = METRICS[name]
            measured, extra = study.row(machine_set.source, model or "", precision, 1, quantity), ""
            if model is None:
                measured, extra = _mean(study, machine_set, quantity, precision)
            said = _verdict(measured, expected, study.comparable(machine_set) if machine_set.records else "")
            bounds = measured.value, measured.low, measured.high
            found.append(ExpectedMetric(name, machine_set.source, expected.printed, *said, extra, *bounds))
    return found


def _verdict(found: Estimate, expected: Row, why_not: str) -> tuple[ValidationWord, str]:
    if why_not:
        return "not comparable", why_not
    if found.value is None:
        return "not measured", found.reason
    wanted, tolerance = expected.printed.value, expected.tolerance
    off = abs(found.value - wanted) / wanted
    why = f"{100 * off:.1f} % off, {100 * tolerance:g} % allowed"
    bounds = [wanted * (1 + sign * tolerance) for sign in (-1, 1)]
    if found.low is not None and found.high is not None and any(found.low < bound < found.high for bound in bounds):
        why += "; the interval reaches across the bound, so more replicates could turn this round"
    return ("within" if off <= tolerance else "differs"), why


def _mean(study: Study, machine_set: MachineSet, quantity: str, precision: str) -> tuple[Estimate, str]:
    """The mean over all published models, and in words what else can be said of it."""
    models, name = study.published.names, study.counterpart(machine_set, quantity)
    values = study.column(machine_set.source, name, precision, models)
    counted, extra = study.column(ARITHMETIC, f"{quantity}_workspace", precision, models), ""
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
        why = f"for {study.why_counted(machine_set)}"
        extra = f"The figure is stored weights plus the published workspace, {why}. {extra}".rstrip()
    return Estimate(name, _share(values.values()), n=len(values)), extra


def _share(percents: Iterable[float]) -> float:
    return fmean(percents) / 100
