"""The supplement's own validation: three expected metrics, each met within 5 % of itself or not.

Its rule is |measured - expected| / expected <= tolerance, for figures of one graphics card. A set of records from
another machine can't pass or fail it: the verdict is "not comparable", and what was computed is shown as an extra.
Only "differs" is a failure.
"""

from dataclasses import dataclass
from typing import Literal

from visionquant.analysis import statistics, study
from visionquant.analysis.estimates import Estimate
from visionquant.analysis.published import Expected, Printed
from visionquant.analysis.study import Evidence, RecordSet
from visionquant.analysis.subjects import counterpart, why_counted
from visionquant.core.errors import StudyError
from visionquant.core.paths import Project
from visionquant.settings.params import Params

Outcome = Literal["within", "differs", "not comparable", "not measured"]


@dataclass(frozen=True)
class Metric:
    """What an expected metric is made of; without a model it is the mean over all published models, as a share."""

    quantity: str
    precision: str
    model: str | None


METRICS = {
    "vit_huge_fp16_speedup": Metric("speedup", "fp16", "vit-huge-patch14-2020"),
    "dinov2_large_fp16_speedup": Metric("speedup", "fp16", "dinov2-large-2023"),
    "average_memory_reduction_int8": Metric("memory_reduction", "int8", None),
}


@dataclass(frozen=True)
class Verdict:
    """One metric judged on one set of records; ``value`` and its bounds are empty where there is no figure."""

    metric: str
    source: str
    published: Printed
    tolerance: float
    verdict: Outcome
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
        judged = f"{self.metric} [{self.source}]: {self.verdict}; published {self.published.text}{figure}"
        return f"{judged}; {self.why}.{extra}"


def validate(project: Project, params: Params) -> list[Verdict]:
    """Judge every expected metric on every set of records.

    Raises:
        StudyError: a record or a published table is broken, or ``validation.csv`` names an unknown metric.
    """
    return judge(study.gather(project, params))


def judge(found: Evidence) -> list[Verdict]:
    """See :func:`validate`."""
    return [_judge(found, records_, expected) for records_ in found.shown for expected in found.published.validation]


def _judge(found: Evidence, records_: RecordSet, expected: Expected) -> Verdict:
    if expected.metric not in METRICS:
        raise StudyError(
            "data/supplement/validation.csv", f"no metric {expected.metric}", f"known: {', '.join(METRICS)}"
        )
    metric = METRICS[expected.metric]
    estimate, extra = _measured(found, records_, metric)

    def verdict(outcome: Outcome, why: str) -> Verdict:
        return Verdict(
            expected.metric,
            records_.source,
            expected.printed,
            expected.tolerance,
            outcome,
            estimate.value,
            estimate.low,
            estimate.high,
            why,
            extra,
        )

    why_not = found.comparable(records_)
    if records_.records and why_not:
        return verdict("not comparable", why_not)
    if estimate.value is None:
        return verdict("not measured", estimate.reason)
    off = abs(estimate.value - expected.printed.value) / expected.printed.value
    why = f"{100 * off:.1f} % off, {100 * expected.tolerance:g} % allowed"
    bounds = [expected.printed.value * (1 + sign * expected.tolerance) for sign in (-1, 1)]
    if estimate.low is not None and estimate.high is not None:
        if any(estimate.low < bound < estimate.high for bound in bounds):
            why += "; the interval reaches across the bound, so more replicates could turn this round"
    return verdict("within" if off <= expected.tolerance else "differs", why)


def _measured(found: Evidence, records_: RecordSet, metric: Metric) -> tuple[Estimate, str]:
    if metric.model is not None:
        return found.estimate(records_, metric.quantity, metric.model, metric.precision, 1), ""
    models = tuple(row.name for row in found.published.models)
    name = counterpart(found, records_, metric.quantity)
    values = found.values(records_, name, metric.precision, models)
    missing = [model for model in models if model not in values]
    extra = _arithmetic(found, metric, models)
    if missing:
        reason = found.estimate(records_, name, missing[0], metric.precision, 1).reason
        why = f"{len(missing)} of {len(models)} models have no figure ({missing[0]}: {reason})"
        if values:
            extra = f"Mean over the {len(values)} models that have one: {_share(values):.3f}. {extra}".rstrip()
        return Estimate(metric.quantity, status="not_measured", reason=why), extra
    if name.endswith("_workspace"):
        why = why_counted(found, records_)
        extra = f"The figure is stored weights plus the published workspace, for {why}. {extra}".rstrip()
    return Estimate(name, _share(values), n=len(values)), extra


def _arithmetic(found: Evidence, metric: Metric, models: tuple[str, ...]) -> str:
    """The same average from parameter counts alone, which needs no machine."""
    values = found.arithmetic(f"{metric.quantity}_workspace", metric.precision, models)
    if len(values) < len(models):
        return ""
    return (
        f"From parameter counts alone (weights + {found.params.report.workspace_mib:g} MiB workspace, "
        f"{len(values)} models): {_share(values):.3f}."
    )


def _share(percents: dict[str, float]) -> float:
    return statistics.summary(list(percents.values()))["mean"] / 100
