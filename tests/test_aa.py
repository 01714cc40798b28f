"""`visionquant aa-test` on twenty real cells of tiny networks, packed, read back and shown."""

from pathlib import Path
from typing import Any

import pytest
import tiny

from visionquant.analysis import comparison
from visionquant.analysis import study as evidence
from visionquant.bench import aa_test
from visionquant.bench.command import Matrix
from visionquant.core.errors import StudyError
from visionquant.core.paths import Project
from visionquant.records import archive

MODELS = ("tiny-vit", "tiny-deit", "tiny-beit", "tiny-dinov2")
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "nf4")


def study(root: Path) -> tuple[Project, Any]:
    root.mkdir()
    return tiny.project(root, tiny.settings(MODELS, PRECISIONS))


def test_twenty_cells_are_measured_twice_and_packed_with_the_set(tmp_path: Path) -> None:
    project, params = study(tmp_path / "study")
    said: list[str] = []
    matrix = aa_test.matrix_of(project, params, None, None, again=False)
    aa_test.measure(project, params, matrix, said.append)
    assert said == ["aa/first: 20 cells, protocol tiny", "aa/second: 20 cells, protocol tiny"]
    found = evidence.gather(project, params)
    outcome = comparison.repeated_run(found, found.local)
    assert len(outcome.cells) == 20
    assert outcome.protocol == "tiny"
    assert found.local.records == {}  # the study's own records are another matter
    assert not project.environment.exists()
    first = sorted((project.local / "aa" / "first").glob("*.json"))
    before = [path.read_bytes() for path in first]
    aa_test.measure(project, params, matrix)  # nothing is lacking
    assert [path.read_bytes() for path in first] == before
    with pytest.raises(StudyError, match="20 of 20 pairs are missing"):
        archive.record(project, params, "machine")


def test_fewer_than_twenty_cells_are_refused(tmp_path: Path) -> None:
    project, params = study(tmp_path / "study")
    with pytest.raises(StudyError, match="2 models x 2 precisions are 4 cells; name 20 or more"):
        aa_test.measure(project, params, Matrix.of(params, ["tiny-vit", "tiny-deit"], ["fp32", "int8"], [1]))


def test_the_smallest_models_are_taken_by_default(tmp_path: Path) -> None:
    project = Project(tiny.ROOT)
    params = evidence.parameters.load(project)
    assert aa_test.smallest(project, params, 2) == ["mobilevit-xxs-edge", "deit-tiny-ultra-efficient"]
