"""Every figure as a row: ``reports/tables/*.csv`` and ``reports/metrics.json``.

One row a model, precision, batch size, quantity and source, with the weights it was measured on. What is missing is a
row too, with an empty value, a status and a reason, so that no reader takes an absence for a zero. Values have twelve
digits, for the last ones differ between processors; sources are "published" (as printed), "local" and
"recorded:<platform>". Quantities of the model itself repeat at each batch size; fidelity has no batch size. The bytes
depend on settings, records and published figures only.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from visionquant.analysis import accuracy, provenance, statistics, study, subjects
from visionquant.analysis.estimates import NOT_AVAILABLE, OF_FIDELITY, Estimate, describe
from visionquant.analysis.published import GROUP_BOUNDS, Printed
from visionquant.analysis.study import BASELINE, NOT_PUBLISHED, Evidence, RecordSet
from visionquant.core.paths import Project, write_atomically
from visionquant.core.quantities import STATISTICS
from visionquant.settings.params import Params

COLUMNS = (
    "model", "precision", "batch_size", "quantity", "unit", "source", "value", "low", "high", "n", "status", "reason",
    "weights",
)  # fmt: skip
LATENCY = ("latency_median", "latency_mean", "latency_std", "latency_outliers", "gpu_median", "launch_share", "speedup")
MEMORY = (
    "memory_published",
    "memory_reduction",
    "memory_stored_weights",
    "memory_with_workspace",
    "memory_reduction_stored",
    "memory_reduction_workspace",
    "model_size",
    "memory_allocated_after",
    "memory_peak_allocated",
    "memory_peak_reserved",
    "memory_host_peak",
)
THROUGHPUT = ("throughput", "throughput_change", "energy_per_image")
OVER_MODELS = ("speedup", "memory_reduction", "memory_reduction_stored", "memory_reduction_workspace")

HEADLINE = {
    "latency_ms": "latency_median",
    "speedup": "speedup",
    "throughput": "throughput",
    "stored_mib": "memory_stored_weights",
    "cosine": "cosine",
}

Row = dict[str, str]


def write_all(project: Project, params: Params) -> None:
    """Write every table and ``metrics.json``.

    Raises:
        StudyError: a record or a published table is broken, a set mixes machines, or the folder can't be written.
    """
    for path, content in contents(study.gather(project, params)).items():
        write_atomically(path, content)


def contents(found: Evidence) -> dict[Path, str]:
    """Every file of this module with what belongs into it."""
    percentiles = tuple(f"latency_p{percent}" for percent in found.params.statistics.percentiles)
    tables = {
        "latency": text(cells(found, (*LATENCY[:3], *percentiles, *LATENCY[3:]))),
        "memory": text(cells(found, MEMORY)),
        "throughput": text(cells(found, THROUGHPUT)),
        "statistics": text(over_models(found)),
        "groups": text(over_groups(found)),
        "fidelity": text(fidelity(found)),
    }
    headline = metrics(found)
    tables["headline"] = pairs_text(headline["batch_size_1"])
    files = {found.project.tables / f"{name}.csv": content for name, content in tables.items()}
    files |= accuracy.contents(found)
    return {**files, found.project.reports / "metrics.json": json.dumps(headline, indent=1) + "\n"}


def text(rows: Iterable[Row]) -> str:
    """Rows as CSV with a header line."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def pairs_text(headline: dict[str, dict[str, dict[str, Any]]]) -> str:
    """The headline figures as CSV, a row a pair, for `dvc plots`; pairs without a latency are left out."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["pair", *HEADLINE])
    for model, by_precision in headline.items():
        for precision, figures in by_precision.items():
            if figures["latency_ms"] is not None:
                writer.writerow([f"{model} {precision}", *(figures[name] for name in HEADLINE)])
    return buffer.getvalue()


def cells(found: Evidence, quantities: tuple[str, ...]) -> Iterator[Row]:
    """Quantities of cells: every model, precision, batch size, quantity and source."""
    for model in found.models:
        for precision in found.precisions:
            for batch_size in found.batch_sizes:
                for name in quantities:
                    key = (model, precision, batch_size, name)
                    yield _row(*key, None, _published(found, *key))
                    for records_ in found.sets:
                        yield _row(*key, records_, found.estimate(records_, name, model, precision, batch_size))


def fidelity(found: Evidence) -> Iterator[Row]:
    """Agreement with FP32 of every pair; the supplement prints none."""
    nothing = Estimate("", status=NOT_PUBLISHED, reason="the supplement prints no accuracy figure")
    for model in found.models:
        for precision in found.precisions:
            for name in OF_FIDELITY:
                yield _row(model, precision, "", name, None, nothing)
                for records_ in found.sets:
                    yield _row(
                        model, precision, "", name, records_, found.estimate(records_, name, model, precision, 1)
                    )


def over_models(found: Evidence) -> Iterator[Row]:
    """The statistics block: mean, median, std (n-1), min, max and p95 (linear) over models."""
    printed = {(subjects.subject(row.subject), row.statistic): row.printed for row in found.published.statistics}
    quantities = {(about.quantity, about.precision): about for about in subjects.SUBJECTS.values()}
    for precision in found.precisions:
        if precision == BASELINE:
            continue
        for name in OVER_MODELS:
            about = quantities.get((name, precision))
            for batch_size in found.batch_sizes:
                for statistic in STATISTICS:
                    figure = printed.get((about, statistic)) if about and batch_size == 1 else None
                    yield from _summaries(
                        found, "all models", found.models, precision, batch_size, name, statistic, figure
                    )


def over_groups(found: Evidence) -> Iterator[Row]:
    """The group patterns at batch size 1, for each reading of a group."""
    for group in GROUP_BOUNDS:
        for reading, models in subjects.groups(found, group).items():
            for key, about in subjects.SUBJECTS.items():
                for statistic in ("mean", "median", "min", "max"):
                    figure = next(
                        (
                            row.printed
                            for row in found.published.groups
                            if (row.group, row.subject) == (group, key) and row.computed == statistic
                        ),
                        None,
                    )
                    for name in (
                        (about.quantity, f"{about.quantity}_workspace") if "memory" in key else (about.quantity,)
                    ):
                        shown = figure if name == about.quantity else None
                        label = f"{group} ({reading})"
                        yield from _summaries(found, label, models, about.precision, 1, name, statistic, shown)


def metrics(found: Evidence) -> dict[str, Any]:
    """Headline figures of the measured set at batch size 1, and the count of its cells by status."""
    local = found.measured
    pairs: dict[str, dict[str, Any]] = {}
    for model, precision in found.params.pairs():

        def value(name: str) -> float | None:
            number = found.estimate(local, name, model, precision, 1).value  # noqa: B023 called before the next turn
            return None if number is None else float(f"{number:.12g}")

        pairs.setdefault(model, {})[precision] = {
            **{name: value(quantity) for name, quantity in HEADLINE.items()},
            "status": local.state(model, precision, 1).status,
        }
    return {
        "source": local.source,
        "weights": local.weights,
        "cells": provenance.counts(found, local),
        "batch_size_1": pairs,
    }


def _published(found: Evidence, model: str, precision: str, batch_size: int, name: str) -> Estimate:
    printed = found.published.cells.get((name, model, precision)) if batch_size == 1 else None
    if printed is not None:
        return Estimate(name, printed.value)
    reason = "not printed" if batch_size == 1 else "the supplement prints batch size 1 only"
    return Estimate(name, status=NOT_PUBLISHED, reason=reason)


def _summaries(
    found: Evidence,
    label: str,
    models: tuple[str, ...],
    precision: str,
    batch_size: int,
    name: str,
    statistic: str,
    printed: Printed | None,
) -> Iterator[Row]:
    key = (label, precision, batch_size, f"{name}_over_models_{statistic}")
    absent = Estimate(name, status=NOT_PUBLISHED, reason="not printed")
    yield _row(*key, None, Estimate(name, printed.value) if printed else absent)
    for records_ in found.sets:
        values = list(found.values(records_, name, precision, models, batch_size).values())
        figure = statistics.summary(values).get(statistics.default_definition(statistic))
        if figure is None:
            yield _row(*key, records_, _why_none(found, records_, name, precision, models, batch_size, len(values)))
        else:
            yield _row(*key, records_, Estimate(name, figure, n=len(values)))


def _why_none(
    found: Evidence,
    records_: RecordSet,
    name: str,
    precision: str,
    models: tuple[str, ...],
    batch_size: int,
    n: int,
) -> Estimate:
    """The reason of the first model without a figure stands for all."""
    if n or not models:
        return Estimate(name, n=n, status=NOT_AVAILABLE, reason="too few models for this statistic")
    first = found.estimate(records_, name, models[0], precision, batch_size)
    return Estimate(name, status=first.status, reason=f"no model has a figure ({models[0]}: {first.reason})")


def _row(
    model: str, precision: str, batch_size: int | str, name: str, records_: RecordSet | None, estimate: Estimate
) -> Row:
    """One row; without a set of records it is a published one."""
    record = records_.records.get((model, precision)) if records_ else None
    weights = record.settings.weights.kind if record else records_.weights if records_ else ""

    def number(value: float | None) -> str:
        return "" if value is None else repr(float(f"{value:.12g}"))

    return {
        "model": model,
        "precision": precision,
        "batch_size": str(batch_size),
        "quantity": name,
        "unit": describe(name).unit,
        "source": records_.source if records_ else "published",
        "value": number(estimate.value),
        "low": number(estimate.low),
        "high": number(estimate.high),
        "n": str(estimate.n) if estimate.n else "",
        "status": estimate.status,
        "reason": estimate.reason,
        "weights": weights,
    }
