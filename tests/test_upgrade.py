"""Records of every earlier schema, as they really were written: read, compared with nothing they don't say, kept."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import made
import pytest
import tiny

from visionquant.analysis import comparison, estimators, frame, verdicts
from visionquant.analysis import study as evidence
from visionquant.analysis.study import Study
from visionquant.core.errors import StudyError
from visionquant.core.machine import FORMER_FIELDS, SPEED
from visionquant.core.paths import Project
from visionquant.records import archive
from visionquant.records import record as records
from visionquant.settings import params as parameters

UNRECORDED = (*SPEED, "onnxruntime")
ONE = Path(__file__).parent / "old" / "schema-1.json"
SETS = ("cpu-2-core-amd-epyc", "cpu-2-core-amd-epyc-avx2")
TWO = tiny.ROOT / "data" / "machines" / SETS[0] / "latency" / "deit-tiny-ultra-efficient-int8.json"


@pytest.fixture(scope="module")
def committed() -> Study:
    project = Project(tiny.ROOT)
    study = evidence.gather(project, parameters.load(project))
    return replace(study, sets=tuple(one for one in study.sets if one.source != "local"))


def told(raw: Any, found: Any) -> bool:
    """Whether ``found`` says all that ``raw`` does; it may say more."""
    if isinstance(raw, dict):
        moved = found.get("libraries", {})
        return all(
            told(value, moved[key] if key in FORMER_FIELDS and key in moved else found.get(key, ...))
            for key, value in raw.items()
            if key != "schema_version"
        )
    if isinstance(raw, list):
        return len(raw) == len(found) and all(map(told, raw, found))
    return bool(raw == found)


@pytest.mark.parametrize("path", [TWO, ONE], ids=["schema 2", "schema 1"])
def test_an_old_record_is_read_as_it_was_and_stays_as_it_is(path: Path) -> None:
    before = path.read_bytes()
    raw, record = json.loads(before), records.read(path)
    windows = [cell.pop("throughput") for cell in raw["cells"]] if path == ONE else []
    assert told(raw, record.model_dump(mode="json"))
    assert record.environment.unrecorded == UNRECORDED
    assert path.read_bytes() == before
    for cell, window in zip(record.cells, windows, strict=False):
        found = [one.throughput for one in cell.replicates if one.throughput]
        assert [one.model_dump() for one in found] == ([window] if window else [])
        assert all(one.sentinel is None and one.conditions.isolation == "unknown" for one in cell.replicates)


def test_a_cell_of_schema_1_is_compared_with_nothing_it_did_not_take_turns_with() -> None:
    cell = records.read(ONE).cells[0]
    sides = frame.shared_rounds(cell, cell, "int8", 0.0)
    assert sides.drift == float("inf")
    logs = [estimators.logs([[[ms], [1.01 * ms]]]) for ms in (1.0, 2.0)]
    contrast = estimators.contrasts(*logs).assign(drift=sides.drift, all=1)
    found = verdicts.decide(contrast, ["all"], 0.95, 0.02)
    assert list(found.verdict) == ["UNDECIDED"]
    (why,) = verdicts.grounds(contrast, found, 0.95, 0.02)
    assert "how far the machine moved in between was not recorded" in why


@pytest.mark.parametrize(("edit", "said"), [({"schema_version": 5}, "schema 5.*use the version of visionquant"),
                                            ({"schema_version": 0}, "schema 0, this code reads 1 to 4"),
                                            ({"settings": None}, "no record of schema 1")])  # fmt: skip
def test_what_no_version_wrote_or_a_later_one_did_is_one_line(tmp_path: Path, edit: dict[str, Any], said: str) -> None:
    path = tmp_path / "pair.json"
    path.write_text(json.dumps(json.loads(ONE.read_text()) | edit))
    with pytest.raises(StudyError, match=said):
        records.read(path)


def test_recorded_sets_of_schema_2_verify_and_are_one_machine_each(committed: Study) -> None:
    for platform in SETS:
        folder = committed.project.machines / platform
        assert archive.faults(folder) == {}
    assert [len(one.records) for one in committed.sets] == [112, 15]
    assert {record.environment.unrecorded for one in committed.sets for record in one.records.values()} == {UNRECORDED}


def test_two_old_sets_share_no_absolute_figure_and_keep_their_own_verdicts(committed: Study) -> None:
    a, b = committed.sets
    found = comparison.compare(committed, a, b)
    assert {one.quantity for one in found} == {"speedup"}
    base = next(one for one in found if one.precision == "fp32" and one.model == "vit-base-224-production")
    assert base.why.startswith("different settings of the machine: cpu_isa")
    words = set(committed.select(source=a.source, quantity="speedup", batch_size=1).verdict)
    assert {"FASTER", "SLOWER"} <= words


def test_the_aa_run_of_an_old_set_is_judged_within_it(committed: Study) -> None:
    outcome = comparison.repeated_run(committed, committed.sets[0])
    assert outcome.compared == 20
    assert {one.quantity for one in outcome.cells} == {"latency_median"}


def test_an_old_aa_run_beside_new_records_breaks_nothing_and_counts_for_nothing(tmp_path: Path) -> None:
    project = made.project(tmp_path)
    shutil.copytree(tiny.ROOT / "data" / "machines" / SETS[0] / "aa", project.local / "aa")
    one = made.record("vit-base-224-production", "fp32", [made.cell(1, [[5.0] * 3] * 3)])
    records.write(project.record(one.model, one.precision), one)
    study = evidence.gather(project, parameters.load(project))
    assert study.local.records
    assert study.local.aa is None


def test_old_local_records_are_shown_until_the_first_new_one_and_never_lost(tmp_path: Path) -> None:
    project = made.project(tmp_path)
    params = parameters.load(project)
    pair = ("deit-tiny-ultra-efficient", "int8")
    path = project.record(*pair)
    path.parent.mkdir(parents=True)
    shutil.copy(TWO, path)
    assert set(archive.local(project, params).records) == {pair}
    one = made.record("deit-tiny-ultra-efficient", "fp32", [made.cell(1, [[5.0] * 3] * 3)])
    records.write(project.record(one.model, one.precision), one)
    found = archive.local(project, params)
    assert pair not in found.records
    assert found.missing[pair] == "measured by an earlier version of this code"
    assert path.read_bytes() == TWO.read_bytes()


def test_nothing_goes_on_from_an_old_record() -> None:
    old = records.read(TWO)
    assert not old.goes_on_as(old)
    new = old.model_copy(update={"environment": made.CPU})
    assert new.goes_on_as(new)


def test_scores_and_recipes_with_old_environments_are_read() -> None:
    project = Project(tiny.ROOT)
    found = archive.recorded(project)
    machines = [one.environment for machine in found for one in (*machine.accuracy.values(), *machine.recipes.values())]
    assert len(machines) >= 9
    assert {one.unrecorded for one in machines} == {UNRECORDED}
