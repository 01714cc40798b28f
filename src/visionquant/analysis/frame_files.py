"""The frame as files: ``cells.csv`` and ``missing.csv``, the headline figures for `dvc plots`, and ``metrics.json``.

``cells.csv`` has a row a figure, with its unit and the weights that it was measured on; ``missing.csv`` says what is
missing and why: quantities and batch sizes of a pair that share a reason share a row, divided by spaces. The bytes
depend on settings, records and published figures only.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from visionquant.analysis import provenance
from visionquant.analysis.frame import CELL, COLUMNS
from visionquant.core import files
from visionquant.core.errors import StudyError
from visionquant.core.paths import Project
from visionquant.core.quantities import quantity

if TYPE_CHECKING:
    from visionquant.analysis.study import Study

HEADLINE = {
    "latency_median": "latency_ms",
    "speedup": "speedup",
    "throughput": "throughput",
    "memory_stored_weights": "stored_mib",
    "cosine": "cosine",
}
NUMBERS = ["value", "low", "high", "n"]
REASON = [*CELL, "quantity", "status", "reason"]


def write(study: "Study") -> None:
    """Write every file of this module.

    Raises:
        StudyError: a record or a published table is broken, a set mixes machines, or the folder can't be written.
    """
    for path, content in contents(study).items():
        files.save(path, content)


def contents(study: "Study") -> dict[Path, str]:
    """Every file of this module with what belongs into it."""
    cells, missing, measured = study.cells, study.missing[REASON].astype({"batch_size": str}), study.measured
    weights = {(one.source, *pair): r.settings.weights.kind for one in study.sets for pair, r in one.records.items()}
    pairs = cells[["source", "model", "precision"]].itertuples(index=False, name=None)
    cells = (
        cells[COLUMNS]
        .drop(columns="status")
        .assign(
            n=cells.n.where(cells.n > 0).astype("Int64"),
            unit=[quantity(name).unit for name in cells.quantity],
            weights=[weights.get(pair, "") for pair in pairs],
        )
    )
    for name in ("quantity", "batch_size"):
        others = [one for one in REASON if one != name]
        missing = missing.groupby(others, sort=False)[name].agg(" ".join).reset_index()
    names, source = HEADLINE.items(), measured.source
    figures = {
        pair: {short: study.value(source, *pair, 1, name) for name, short in names} for pair in study.params.pairs()
    }
    plotted = {f"{' '.join(pair)}": found for pair, found in figures.items() if found["latency_ms"] is not None}
    headline = pd.DataFrame.from_dict(plotted, "index", columns=[*HEADLINE.values()]).reset_index(names="pair")
    metrics = {
        "source": measured.source,
        "weights": measured.weights,
        "cells": provenance.counts(study, measured),
        "batch_size_1": {
            model: {
                precision: found | {"status": measured.state(model, precision, 1).status}
                for (name, precision), found in figures.items()
                if name == model
            }
            for model in dict.fromkeys(model for model, _ in figures)
        },
    }
    tables = {"cells": cells, "missing": missing[REASON], "headline": headline}
    files = {study.project.tables / f"{name}.csv": str(table.to_csv(index=False)) for name, table in tables.items()}
    return files | {study.project.reports / "metrics.json": json.dumps(metrics, indent=1) + "\n"}


def read(project: Project) -> pd.DataFrame:
    """The frame that :func:`write` wrote.

    Raises:
        StudyError: a file is missing or broken.
    """
    cells, missing = _load(project, "cells", COLUMNS[:-2]), _load(project, "missing", REASON)
    for name in ("quantity", "batch_size"):
        missing = missing.assign(**{name: missing[name].str.split(" ")}).explode(name)
    found = pd.concat([cells.assign(status="ok"), missing], ignore_index=True)[COLUMNS]
    types = {"value": float, "low": float, "high": float, "n": int, "batch_size": int}
    return found.fillna({"n": "0", "verdict": ""}).astype(types)


def _load(project: Project, name: str, columns: list[str]) -> pd.DataFrame:
    place, remedy = f"reports/tables/{name}.csv", "run `visionquant analyse`"
    try:
        found = pd.read_csv(
            project.root / place, dtype=str, keep_default_na=False, na_values=dict.fromkeys(NUMBERS, "")
        )
    except FileNotFoundError:
        raise StudyError(place, "there is none", remedy) from None
    except (OSError, ValueError) as error:
        raise StudyError(place, f"no table: {error}".splitlines()[0], remedy) from None
    if not set(columns) <= set(found.columns):
        raise StudyError(place, "no table of figures", remedy)
    return found
