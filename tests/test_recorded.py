"""Evidence for others: packed whole or not at all, and any change to it is found by name."""

import json
from pathlib import Path

import made
import pytest

from visionquant.analysis.study import Evidence
from visionquant.core.errors import StudyError
from visionquant.records import archive
from visionquant.records import record as records
from visionquant.settings import params

PAIR = ("vit-base-224-production", "nf4")


@pytest.fixture
def study(tmp_path: Path) -> Evidence:
    return made.study(tmp_path, {"fp32": 1.0, "fp16": 0.5, "int8": 2.0, "nf4": 2.0})


def test_a_set_is_this_machines_records_byte_for_byte_with_their_hashes(study: Evidence) -> None:
    folder = archive.pack(study.project, study.params, "made-up-cpu")
    assert len(archive.manifest_of(folder).files) == 64
    for pair in study.params.pairs():
        path = study.project.record(*pair)
        assert (folder / path.name).read_bytes() == path.read_bytes()
    assert archive.read_all(study.project) == {"made-up-cpu": study.measured.records}
    assert sorted(path.name for path in study.project.recorded.iterdir()) == ["made-up-cpu"]


def test_an_incomplete_study_is_not_packed(study: Evidence) -> None:
    study.project.record(*PAIR).unlink()
    with pytest.raises(StudyError, match=r"1 of 64 pairs are missing \(vit-base-224-production-nf4: not measured\)"):
        archive.pack(study.project, study.params, "made-up-cpu")
    assert not study.project.recorded.exists()


def test_a_pair_that_failed_is_not_packed_without_a_word(study: Evidence) -> None:
    record = study.measured.records[PAIR]
    failed = record.cells[0].model_copy(update={"status": "failed", "reason": "KeyError: 'surprise'", "replicates": ()})
    records.write(study.project.record(*PAIR), record.model_copy(update={"cells": (failed, *record.cells[1:])}))
    with pytest.raises(StudyError, match=r"1 of 64 pairs .*vit-base-224-production-nf4: failed: KeyError: 'surprise'"):
        archive.pack(study.project, study.params, "made-up-cpu")
    folder = archive.pack(study.project, study.params, "made-up-cpu", partial=True)
    assert archive.read(folder)[PAIR].failure == "KeyError: 'surprise'"


@pytest.mark.parametrize("name", ["", "../x", "Big Card", "a_b"])
def test_a_platform_name_is_plain_words(study: Evidence, name: str) -> None:
    with pytest.raises(StudyError, match="not a platform name"):
        archive.pack(study.project, study.params, name)


def test_a_set_is_never_overwritten(study: Evidence) -> None:
    folder = archive.pack(study.project, study.params, "made-up-cpu")
    before = (folder / archive.MANIFEST).read_bytes()
    with pytest.raises(StudyError, match="there is such a set already"):
        archive.pack(study.project, study.params, "made-up-cpu")
    assert (folder / archive.MANIFEST).read_bytes() == before


def test_a_single_changed_sample_is_named(study: Evidence) -> None:
    folder = archive.pack(study.project, study.params, "made-up-cpu")
    path = folder / study.project.record(*PAIR).name
    record = records.read(path)
    cell = record.cells[0]
    first = cell.replicates[0]
    touched = first.model_copy(update={"wall_ms": (first.wall_ms[0] + 0.0001, *first.wall_ms[1:])})
    cells = (cell.model_copy(update={"replicates": (touched, *cell.replicates[1:])}), *record.cells[1:])
    records.write(path, record.model_copy(update={"cells": cells}))
    with pytest.raises(StudyError, match=r"made-up-cpu/vit-base-224-production-nf4\.json: altered"):
        archive.read_all(study.project)


def test_missing_and_foreign_files_are_named(study: Evidence) -> None:
    folder = archive.pack(study.project, study.params, "made-up-cpu")
    (folder / "notes.json").write_text("{}")

    (folder / f"{'-'.join(PAIR)}.json").unlink()
    fp32 = folder / "vit-base-224-production-fp32.json"
    fp32.write_bytes(fp32.read_bytes().replace(b"\n", b"\r\n"))
    assert archive.faults(folder) == {
        "vit-base-224-production-nf4.json": "missing",
        "notes.json": "not in the set's manifest",
        fp32.name: "altered: its line ends are CRLF",
    }


@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_set_without_its_manifest_is_refused(study: Evidence, damage: str) -> None:
    folder = archive.pack(study.project, study.params, "made-up-cpu")
    manifest = folder / archive.MANIFEST
    text = manifest.read_text()
    manifest.unlink()
    if damage == "cut":
        manifest.write_text(text[:100])
    with pytest.raises(StudyError, match=r"made-up-cpu/manifest\.json: (there is none|broken)"):
        archive.read_all(study.project)


def test_a_set_of_other_settings_stays_readable(study: Evidence) -> None:
    archive.pack(study.project, study.params, "made-up-cpu")
    raw = study.project.params.read_text()
    study.project.params.write_text(raw.replace("    blocksize: 64", "    blocksize: 128"))
    assert params.load(study.project).precisions["nf4"] != study.params.precisions["nf4"]
    found = archive.read_all(study.project)["made-up-cpu"]
    assert json.loads(found[PAIR].settings.precision.model_dump_json())["blocksize"] == 64
