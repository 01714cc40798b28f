"""The frame as files: ``cells.csv`` and ``missing.csv``, the headline figures for `dvc plots`, and ``metrics.json``.

``cells.csv`` has a row a figure, with its unit and the weights that it was measured on; ``missing.csv`` says what is
missing and why: quantities and batch sizes of a pair that share a reason share a row, divided by spaces. The bytes
depend on settings, records and published figures only.
"""

import json
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

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


def contents(study: "Study") -> dict[Path, str]:
    """Every file with what belongs into it; the stage `analyse` writes them."""
    cells, missing, measured = study.cells, study.missing[REASON].astype({"batch_size": str}), study.measured
    weights = {(one.source, *pair): r.settings.weights.kind for one in study.sets for pair, r in one.records.items()}
    pairs = cells[CELL[:3]].itertuples(index=False, name=None)
    cells = cells[COLUMNS].drop(columns="status").assign(
        n=cells.n.where(cells.n > 0).astype("Int64"),
        unit=[quantity(name).unit for name in cells.quantity],
        weights=[weights.get(pair, "") for pair in pairs],
    )  # fmt: skip
    for name in ("quantity", "batch_size"):
        others = [one for one in REASON if one != name]
        missing = missing.groupby(others, sort=False)[name].agg(" ".join).reset_index()
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
    tables = {"cells": cells, "missing": missing[REASON], "headline": headline}
    files = {study.project.tables / f"{name}.csv": str(table.to_csv(index=False)) for name, table in tables.items()}
    return files | {study.project.reports / "metrics.json": json.dumps(metrics, indent=1) + "\n"}


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
