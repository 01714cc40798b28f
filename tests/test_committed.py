"""What is committed belongs together: tables and pages are those that the recorded sets give, and nothing else."""

import csv
import io
import shutil
import subprocess
from pathlib import Path

import pytest
import tiny

from visionquant import params as parameters
from visionquant import recorded
from visionquant.analysis import evidence, longform, render
from visionquant.analysis.tables import summary
from visionquant.paths import Project
from visionquant.report import pages

RECORDED = sorted(path.name for path in (tiny.ROOT / "data" / "recorded").iterdir() if path.is_dir())


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The checkout as a fresh clone has it: committed evidence, nothing measured here."""
    root = tmp_path_factory.mktemp("clean")
    for name in ("data/supplement", "data/architectures", "data/recorded", "notebooks"):
        shutil.copytree(tiny.ROOT / name, root / name)
    shutil.copy2(tiny.ROOT / "params.yaml", root / "params.yaml")
    return Project(root)


def committed(path: str) -> str:
    command = ["git", "-C", str(tiny.ROOT), "show", f"HEAD:{path}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def rows(text: str) -> list[tuple[object, ...]]:
    """A table with its numbers as numbers, for their last digit may differ between processors."""

    def value(field: str) -> object:
        try:
            return pytest.approx(float(field), rel=1e-9)
        except ValueError:
            return field

    return [tuple(map(value, row)) for row in csv.reader(io.StringIO(text))]


@pytest.mark.parametrize("platform", RECORDED)
def test_a_recorded_set_is_a_whole_study_by_one_version_of_the_code(platform: str) -> None:
    project = Project(tiny.ROOT)
    params = parameters.load(project)
    found = recorded.read_all(project)[platform]
    assert set(found) >= set(params.pairs())
    assert len({record.code.measuring_sha256 for record in found.values()}) == 1
    for pair in params.pairs():
        assert {cell.batch_size for cell in found[pair].cells} == set(params.study.batch_sizes)
        assert found[pair].settings.model == params.models[pair[0]]
        assert found[pair].settings.precision == params.precisions[pair[1]]


@pytest.mark.parametrize("name", ["latency", "memory", "throughput", "statistics", "groups", "fidelity"])
def test_committed_tables_are_those_of_the_recorded_sets(clean: Project, name: str) -> None:
    longform.write_all(clean, parameters.load(clean))
    again = (clean.tables / f"{name}.csv").read_text()
    assert rows(committed(f"reports/tables/{name}.csv")) == rows(again)


def test_committed_pages_are_those_of_the_committed_notebooks(clean: Project, tmp_path: Path) -> None:
    clean.executed.mkdir(parents=True, exist_ok=True)
    for path in clean.notebooks.glob("*.ipynb"):
        (clean.executed / path.name).write_text(committed(f"reports/notebooks/{path.name}"))
    pages.build(clean, parameters.load(clean))
    for path in clean.reports.glob("*.html"):
        assert path.read_text() == committed(f"reports/{path.name}"), path.name


def test_the_readmes_answer_is_the_recorded_sets(clean: Project) -> None:
    study = evidence.gather(clean, parameters.load(clean))
    readme = (tiny.ROOT / "README.md").read_text()
    block = readme.split("<!-- answers -->")[1].split("<!-- /answers -->")[0].strip()
    table = summary.answers(study, study.measured)
    assert block == f"{render.markdown(table).strip()}\n\n{table.source}".strip()
