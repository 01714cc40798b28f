"""The frame as files: ``cells.csv`` and ``missing.csv``, the headline figures for `dvc plots`, and JSON of both.

``cells.csv`` has a row a figure, with its unit and the weights that it was measured on; ``missing.csv`` says what is
missing and why: quantities and batch sizes of a pair that share a reason share a row, divided by spaces.
``results.json`` holds both, as ``data/schemas/results.schema.json`` says, and ``metrics.json`` the headline. The bytes
depend on settings, records and published figures only.
"""

import json
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from visionquant.analysis import provenance
from visionquant.analysis.frame import CELL, COLUMNS
from visionquant.core.errors import StudyError
from visionquant.core.paths import Project
from visionquant.core.quantities import quantity

if TYPE_CHECKING:
    from visionquant.analysis.study import Study

HEADLINE = {
    "latency_median": "latency_ms", "speedup": "speedup", "throughput": "throughput",
    "memory_stored_weights": "stored_mib", "cosine": "cosine",
}  # fmt: skip
REASON = [*CELL, "quantity", "status", "reason"]
SCHEMA = "../data/schemas/results.schema.json"  # from reports/


def figures(study: "Study") -> pd.DataFrame:
    """The rows that have a value, with unit and the kind of weights that they were measured on ("": none)."""
    cells = study.cells
    weights = {(one.source, *pair): r.settings.weights.kind for one in study.sets for pair, r in one.records.items()}
    pairs = cells[CELL[:3]].itertuples(index=False, name=None)
    return cells[COLUMNS].assign(
        n=cells.n.where(cells.n > 0).astype("Int64"),
        unit=[quantity(name).unit for name in cells.quantity],
        weights=[weights.get(pair, "") for pair in pairs],
    )


def missing(study: "Study") -> pd.DataFrame:
    """What is missing and why; quantities and batch sizes of a pair that share a reason, divided by spaces."""
    found = study.missing[REASON].astype({"batch_size": str})
    for name in ("quantity", "batch_size"):
        others = [one for one in REASON if one != name]
        found = found.groupby(others, sort=False)[name].agg(" ".join).reset_index()
    return found[REASON]


def as_json(study: "Study") -> dict[str, dict[str, Any]]:
    """Each source with what stands behind it, and its ``figures`` and ``missing`` as ``columns`` and ``rows``."""
    absent = missing(study)
    absent = absent.assign(
        quantities=absent.quantity.str.split(" "),
        batch_sizes=absent.batch_size.map(lambda sizes: [*map(int, sizes.split(" "))]),
    )[["source", "model", "precision", "quantities", "batch_sizes", "status", "reason"]]
    found, weights = figures(study), {one.source: one.weights for one in study.sets}
    return {
        source: {
            "about": about,
            "weights": weights.get(source, ""),
            "figures": _split(found[found.source == source]),
            "missing": _split(absent[absent.source == source]),
        }
        for source, about in provenance.sources(study).items()
    }


def _split(table: pd.DataFrame) -> dict[str, list[Any]]:
    """Columns and rows of one source, without its name; None where there is no value."""
    own = table.drop(columns="source")
    return {"columns": [*own], "rows": own.astype(object).where(own.notna(), None).to_numpy().tolist()}


def dumped(value: object) -> str:
    """JSON with a line a row."""
    return json.dumps(value, separators=(",", ":")).replace('],["', '],\n["')


def contents(study: "Study") -> dict[Path, str]:
    """Every file with what belongs into it; the stage `analyse` writes them."""
    measured = study.measured
    plotted, by_model = {}, defaultdict[str, dict[str, object]](dict)
    for pair in study.params.pairs():
        found = {short: study.value(measured.source, *pair, 1, name) for name, short in HEADLINE.items()}
        if found["latency_ms"] is not None:
            plotted[" ".join(pair)] = found
        by_model[pair[0]][pair[1]] = found | {"status": measured.state(*pair, 1).status}
    headline = pd.DataFrame.from_dict(plotted, "index", columns=[*HEADLINE.values()]).reset_index(names="pair")
    metrics = {
        "source": measured.source,
        "weights": measured.weights,
        "cells": provenance.counts(study, measured),
        "batch_size_1": by_model,
    }
    tables = {"cells": figures(study).drop(columns="status"), "missing": missing(study), "headline": headline}
    files = {study.project.tables / f"{name}.csv": str(table.to_csv(index=False)) for name, table in tables.items()}
    results = {"$schema": SCHEMA, "title": study.params.report.title, "sources": as_json(study)}
    reports = study.project.reports
    return files | {
        reports / "metrics.json": json.dumps(metrics, indent=1) + "\n",
        reports / "results.json": dumped(results) + "\n",
    }


def read(project: Project) -> pd.DataFrame:
    """The frame that `analyse` wrote.

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
    empty = dict.fromkeys(("value", "low", "high", "n"), "")
    try:
        found = pd.read_csv(project.root / place, dtype=str, keep_default_na=False, na_values=empty)
    except FileNotFoundError:
        raise StudyError(place, "there is none", remedy) from None
    except (OSError, ValueError) as error:
        raise StudyError(place, f"no table: {error}".splitlines()[0], remedy) from None
    if not set(columns) <= set(found.columns):
        raise StudyError(place, "no table of figures", remedy)
    return found
