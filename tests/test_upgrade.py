"""Records of every earlier schema, as they really were written: read, compared with nothing they don't say, kept."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import made
import pytest

from visionquant.analysis import comparison
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
TWO = made.ROOT / "data" / "machines" / SETS[0] / "latency" / "deit-tiny-ultra-efficient-int8.json"


@pytest.fixture(scope="module")
def committed() -> Study:
    project = Project(made.ROOT)
    study = evidence.gather(project, parameters.load(project))
    return replace(study, sets=tuple(one for one in study.sets if one.name in SETS))


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


def as_rounds(cell: dict[str, Any], precision: str) -> dict[str, Any]:
    """What a cell of processes says that a cell of rounds says as well, in its words."""
    replicates = [dict(one) for one in cell.pop("replicates")]
    if "throughput" in cell:
        replicates[0]["throughput"] = cell.pop("throughput")
    for name in ("earlier", "calibration_ms", "stopped_by"):
        cell.pop(name, None)
    rounds = []
    for number, one in enumerate(replicates, 1):
        slot = {"arm": precision, "wall_ms": one["wall_ms"], "gpu_ms": one["gpu_ms"], "window": one.get("throughput")}
        seen = {name: one[name] for name in ("started_at", "threads", "warmup_ms", "host_peak") if name in one}
        around = one.get("conditions", {})
        slot |= {"others": around["others_share"]} if around else {}
        seen |= {name: around[name] for name in ("load_1m", "frequency_mhz", "omp_wait_policy", "gpu") if around}
        rounds.append({"number": number, "slots": [slot], **seen})
    return cell | {"rounds": rounds}


@pytest.mark.parametrize("path", [TWO, ONE], ids=["schema 2", "schema 1"])
def test_an_old_record_is_read_as_rounds_of_one_slot_and_stays_as_it_is(path: Path) -> None:
    before = path.read_bytes()
    raw, record = json.loads(before), records.read(path)
    assert path.read_bytes() == before
    assert sum(len(cell["replicates"]) for cell in raw["cells"]) > 1
    raw["cells"] = [as_rounds(cell, raw["precision"]) for cell in raw["cells"]]
    assert told(raw, record.model_dump(mode="json"))
    assert record.environment.unrecorded == UNRECORDED
    for cell in record.cells:
        assert not cell.paired
        assert cell.quiet_rounds(record.precision) == len(cell.rounds)
        assert cell.times_ms(record.precision) == [list(one.slots[0].wall_ms) for one in cell.rounds]
        assert records.settled(cell, record.precision) == cell


@pytest.mark.parametrize(("edit", "said"), [({"schema_version": 6}, "schema 6.*use the version of visionquant"),
                                            ({"schema_version": 0}, "schema 0, this code reads 1 to 5"),
                                            ({"cells": None}, "no record of schema 1")])  # fmt: skip
def test_what_no_version_wrote_or_a_later_one_did_is_one_line(tmp_path: Path, edit: dict[str, Any], said: str) -> None:
    path = tmp_path / "pair.json"
    path.write_text(json.dumps(json.loads(ONE.read_text()) | edit))
    with pytest.raises(StudyError, match=said):
        records.read(path)


@pytest.mark.parametrize("schema", [3, 4])
def test_later_schemas_before_rounds_differ_in_what_they_say_of_the_machine_alone(tmp_path: Path, schema: int) -> None:
    path, raw = tmp_path / "pair.json", json.loads(TWO.read_text())
    more = {"affinity": "all", "cpu_quota": "none", "variables": [], "isa_limits": []}
    path.write_text(json.dumps(raw | {"schema_version": schema, "environment": raw["environment"] | more}))
    found, old = records.read(path), records.read(TWO)
    assert found.environment.affinity == "all"
    assert found.cells == old.cells


def test_recorded_sets_of_schema_2_verify_and_are_one_machine_each(committed: Study) -> None:
    for platform in SETS:
        folder = committed.project.machines / platform
        assert archive.faults(folder) == {}
    assert [len(one.records) for one in committed.sets] == [112, 15]
    assert {record.environment.unrecorded for one in committed.sets for record in one.records.values()} == {UNRECORDED}


def test_two_old_sets_share_no_absolute_figure(committed: Study) -> None:
    found = comparison.compare(committed, *committed.sets)
    assert {one.quantity for one in found} == {"speedup"}
    base = next(one for one in found if one.precision == "fp32" and one.model == "vit-base-224-production")
    assert base.why.startswith("different settings of the machine: cpu_isa")


def test_old_local_records_are_left_out_with_their_reason_and_never_lost(tmp_path: Path) -> None:
    project, pair = made.project(tmp_path), ("deit-tiny-ultra-efficient", "int8")
    path = project.record(*pair)
    path.parent.mkdir(parents=True)
    shutil.copy(TWO, path)
    found = archive.local(project, parameters.load(project))
    assert pair not in found.records
    assert found.missing[pair] == "recorded under other settings: protocol"
    assert path.read_bytes() == TWO.read_bytes()


def test_nothing_goes_on_from_an_old_record() -> None:
    old = records.read(TWO)
    assert not old.goes_on_as(old)
    new = old.model_copy(update={"environment": made.CPU})
    assert new.goes_on_as(new)


def test_scores_and_recipes_with_old_environments_are_read() -> None:
    project = Project(made.ROOT)
    found = [machine for machine in archive.recorded(project) if machine.name in SETS]
    machines = [one.environment for machine in found for one in (*machine.accuracy.values(), *machine.recipes.values())]
    assert len(machines) >= 9
    assert {one.unrecorded for one in machines} == {UNRECORDED}
