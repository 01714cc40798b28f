"""A whole report over made-up records, rendered once for all tests of pages."""

from pathlib import Path

import made
import pytest

from visionquant.analysis import longform
from visionquant.analysis.claims import trial
from visionquant.analysis.study import Evidence
from visionquant.records import record as records
from visionquant.records.cell import Cell
from visionquant.report import notebooks, pages

HOLE = ("vit-huge-patch14-2020", "fp16")


@pytest.fixture(scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    """Every notebook executed and every page built; one cell lacks its larger batches, as on a small machine."""
    study = made.study(tmp_path_factory.mktemp("rendered"), {"fp32": 1.0, "fp16": 0.5, "int8": 2.0, "nf4": 1.01})
    path = study.project.record(*HOLE)
    record = records.read(path)
    late = [Cell(batch_size=one.batch_size, status="over_budget", reason="7 passes") for one in record.cells[1:]]
    records.write(path, record.model_copy(update={"cells": (record.cells[0], *late)}))
    longform.write_all(study.project, study.params)
    trial.write(study.project, study.params)
    notebooks.execute(study.project, study.params)
    pages.build(study.project, study.params)
    return study


def reports(study: Evidence) -> list[Path]:
    return sorted(study.project.reports.glob("*.html"))
