"""A whole report over made-up records, rendered once for all tests of pages."""

from pathlib import Path

import made
import pytest

from visionquant.analysis import frame_files
from visionquant.analysis import study as studies
from visionquant.analysis.claims import ledger
from visionquant.analysis.study import Study
from visionquant.core import files
from visionquant.records import record as records
from visionquant.records.cell import Cell
from visionquant.report import notebooks, site

HOLE = ("vit-huge-patch14-2020", "fp16")


@pytest.fixture(scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Every notebook executed and every page built; one cell lacks its larger batches, as on a small machine.

    Of trained weights FP16 and NF4 lose less than a point, INT8 three.
    """
    study = made.study(tmp_path_factory.mktemp("rendered"), {"fp32": 1.0, "fp16": 0.5, "int8": 2.0, "nf4": 1.01})
    path = study.project.record(*HOLE)
    record = records.read(path)
    late = [Cell(batch_size=one.batch_size, status="over_budget", reason="7 passes") for one in record.cells[1:]]
    made.write(path, record.model_copy(update={"cells": (record.cells[0], *late)}))
    lost = {"fp16": 3, "int8": 300, "nf4": 40}
    probe = made.probe(study.params, "dinov2-small-packaged", lost, own={"int8": 50})
    files.save(study.project.local / "probes" / "dinov2-small-packaged.json", probe)
    gathered = studies.gather(study.project, study.params)
    tables = frame_files.contents(gathered) | ledger.contents(gathered, ledger.check_claims(gathered))
    for path, content in tables.items():
        files.save(path, content)
    notebooks.execute(study.project, study.params)
    site.build_site(study.project, study.params)
    return study


def reports(study: Study) -> list[Path]:
    return sorted(study.project.reports.glob("*.html"))
