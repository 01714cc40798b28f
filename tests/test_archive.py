"""Evidence for others: packed whole or not at all, and any change to it is found by name."""

import json
import shutil
from pathlib import Path

import made
import pytest

from visionquant.analysis import provenance
from visionquant.analysis.study import Study
from visionquant.core.errors import StudyError
from visionquant.records import archive, outcomes
from visionquant.records import record as records
from visionquant.records.outcomes import Labelled, LabelledPredictions, LabelledResult, Predictions, Recipe, Scores
from visionquant.settings import params

PAIR = ("vit-base-224-production", "nf4")


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return made.study(tmp_path, {"fp32": 1.0, "fp16": 0.5, "int8": 2.0, "nf4": 2.0})


def test_a_set_is_this_machines_records_byte_for_byte_with_their_hashes(study: Study) -> None:
    folder = archive.record(study.project, study.params, "made-up-cpu")
    assert len(archive.set_manifest(folder).files) == 128
    for pair in study.params.pairs():
        for kind, path in (("latency", study.project.record(*pair)), ("samples", study.project.samples(*pair))):
            assert (folder / kind / path.name).read_bytes() == path.read_bytes()
    assert [(machine.name, machine.records) for machine in archive.recorded(study.project)] == [
        ("made-up-cpu", study.measured.records)
    ]
    assert sorted(path.name for path in study.project.machines.iterdir()) == ["local", "made-up-cpu"]


def test_an_incomplete_study_is_not_packed(study: Study) -> None:
    study.project.record(*PAIR).unlink()
    with pytest.raises(StudyError, match=r"1 of 64 pairs are missing \(vit-base-224-production-nf4: not measured\)"):
        archive.record(study.project, study.params, "made-up-cpu")
    assert not (study.project.machines / "made-up-cpu").exists()


def test_a_pair_that_failed_is_not_packed_without_a_word(study: Study) -> None:
    record = study.measured.records[PAIR]
    failed = record.cells[0].model_copy(update={"status": "failed", "reason": "KeyError: 'surprise'", "rounds": ()})
    made.write(study.project.record(*PAIR), record.model_copy(update={"cells": (failed, *record.cells[1:])}))
    with pytest.raises(StudyError, match=r"1 of 64 pairs .*vit-base-224-production-nf4: failed: KeyError: 'surprise'"):
        archive.record(study.project, study.params, "made-up-cpu")
    folder = archive.record(study.project, study.params, "made-up-cpu", partial=True)
    assert records.read(folder / "latency" / f"{'-'.join(PAIR)}.json").failure == "KeyError: 'surprise'"


@pytest.mark.parametrize("name", ["", "../x", "Big Card", "a_b"])
def test_a_platform_name_is_plain_words(study: Study, name: str) -> None:
    with pytest.raises(StudyError, match="not a platform name"):
        archive.record(study.project, study.params, name)


def test_a_set_is_never_overwritten(study: Study) -> None:
    folder = archive.record(study.project, study.params, "made-up-cpu")
    before = (folder / archive.MANIFEST).read_bytes()
    with pytest.raises(StudyError, match="there is such a set already"):
        archive.record(study.project, study.params, "made-up-cpu")
    assert (folder / archive.MANIFEST).read_bytes() == before


@pytest.mark.parametrize("kind", ["latency", "samples"])
def test_a_single_changed_byte_is_named(study: Study, kind: str) -> None:
    folder = archive.record(study.project, study.params, "made-up-cpu")
    (path,) = (folder / kind).glob(f"{'-'.join(PAIR)}.json*")
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(StudyError, match=rf"made-up-cpu/{kind}/vit-base-224-production-nf4\.json.*: altered"):
        archive.recorded(study.project)


def test_a_set_whose_samples_are_too_large_to_commit_is_not_packed(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = sum(study.project.samples(*pair).stat().st_size for pair in study.params.pairs())
    monkeypatch.setattr(archive, "SAMPLES_BYTES", size - 1)
    with pytest.raises(StudyError, match=r"record --platform made-up-cpu: its samples have .* MB.* fewer rounds"):
        archive.record(study.project, study.params, "made-up-cpu")
    monkeypatch.setattr(archive, "SAMPLES_BYTES", size)
    archive.record(study.project, study.params, "made-up-cpu")


def test_samples_that_no_record_names_are_not_packed(study: Study) -> None:
    """Of a pair that is under way, whose record was not written yet."""
    shutil.copy(study.project.samples(*PAIR), study.project.samples("under", "way"))
    folder = archive.record(study.project, study.params, "made-up-cpu")
    assert not (folder / "samples" / "under-way.json.gz").exists()
    assert study.project.samples("under", "way") in archive.evidence_files(study.project)


def test_missing_and_foreign_files_are_named(study: Study) -> None:
    folder = archive.record(study.project, study.params, "made-up-cpu")
    (folder / "notes.json").write_text("{}")

    (folder / "latency" / f"{'-'.join(PAIR)}.json").unlink()
    (folder / "samples" / f"{'-'.join(PAIR)}.json.gz").unlink()
    fp32 = folder / "latency" / "vit-base-224-production-fp32.json"
    fp32.write_bytes(fp32.read_bytes().replace(b"\n", b"\r\n"))
    assert archive.faults(folder) == {
        "latency/vit-base-224-production-nf4.json": "missing",
        "samples/vit-base-224-production-nf4.json.gz": "missing",
        "notes.json": "not in the machine's manifest",
        f"latency/{fp32.name}": "altered: its line ends are CRLF",
    }


@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_set_without_its_manifest_is_refused(study: Study, damage: str) -> None:
    folder = archive.record(study.project, study.params, "made-up-cpu")
    manifest = folder / archive.MANIFEST
    text = manifest.read_text()
    manifest.unlink()
    if damage == "cut":
        manifest.write_text(text[:100])
    with pytest.raises(StudyError, match=r"made-up-cpu/manifest\.json: (there is none|broken)"):
        archive.recorded(study.project)


def test_a_set_of_other_settings_stays_readable(study: Study) -> None:
    archive.record(study.project, study.params, "made-up-cpu")
    raw = study.project.params.read_text()
    study.project.params.write_text(raw.replace("    blocksize: 64", "    blocksize: 128"))
    assert params.load(study.project).precisions["nf4"] != study.params.precisions["nf4"]
    found = archive.recorded(study.project)[0].records
    assert json.loads(found[PAIR].settings.precision.model_dump_json())["blocksize"] == 64


def written(study: Study) -> Study:
    """Accuracy, labelled images and two recipes of this machine under the settings of the study, beside its records."""
    project, settings = study.project, study.params
    (network, spec), *_ = settings.training.networks.items()
    row = settings.precisions["int8"]
    seen = Predictions(precision=row, quantized_modules=1, classes=(1,), confidence=(0.9,))
    scores = {"network": network, "spec": spec, "training": settings.training, "folds": (0,), "environment": made.CPU}
    outcomes.write_scores(project, Scores(**scores, images=(0,), labels=(1,), precisions={"int8": seen}))
    voted = LabelledPredictions(precision=row, quantized_modules=1, top5=(), neighbours=(0,), cka=1.0)
    about = {"key": "", "model": PAIR[0], "weights": "", "environment": made.CPU, "images": ("a",), "classes": ("x",)}
    judged = LabelledResult(**about, targets=None, labels=(0,), precisions={"int8": voted})
    outcomes.write_labelled(project, Labelled(judged=(judged,), missing={}))
    for name in ("int8", "nf4"):
        run = {"name": f"of-{name}", "command": "", "weights": "seeded", "environment": made.CPU, "elapsed_s": 1.0}
        outcomes.write_recipe(project, Recipe(**run, rows=({"precision": name, "ms": 1.0},)), settings)
    return study


def with_another_threshold(study: Study) -> params.Params:
    raw = study.project.params.read_text()
    assert "    threshold: 6.0" in raw
    study.project.params.write_text(raw.replace("    threshold: 6.0", "    threshold: 5.0"))
    return params.load(study.project)


def test_all_kinds_of_evidence_are_copied_and_read_from_both_places(study: Study) -> None:
    project = written(study).project
    folder = archive.record(project, study.params, "made-up-cpu")
    kinds = ("accuracy/*.json", "recipes/*.json", "labelled.json")
    copied = {path.relative_to(folder): path.read_bytes() for kind in kinds for path in folder.glob(kind)}
    assert len(copied) == 4
    assert copied == {path: (project.local / path).read_bytes() for path in copied}
    local, named = archive.machines(project, study.params)
    assert (local.source, named.source) == ("local", "recorded:made-up-cpu")
    assert named.evidence == local.evidence
    assert named.recorded_under(study.params) == ()


def test_evidence_of_other_settings_is_stale_here_and_recorded_under_them_there(study: Study) -> None:
    """One rule for records, scores, labelled images and recipes; what does not hang on the change stays."""
    project = written(study).project
    archive.record(project, study.params, "made-up-cpu")
    changed = with_another_threshold(study)
    local, named = archive.machines(project, changed)
    why = "recorded under other settings: precisions.int8"
    network = next(iter(study.params.training.networks))
    assert local.stale == dict.fromkeys(
        [f"accuracy/{network}.json", "recipes/of-int8.json", f"labelled.json: {PAIR[0]}"], why
    )
    assert local.missing[PAIR[0], "int8"] == why
    assert (local.accuracy, set(local.recipes)) == ({}, {"of-nf4"})
    assert local.labelled == Labelled(judged=(), missing={PAIR[0]: why})
    assert (named.stale, named.missing) == ({}, {})
    assert named.accuracy
    assert set(named.recipes) == {"of-int8", "of-nf4"}
    assert named.recorded_under(changed) == ("precisions.int8",)


def test_a_recipe_that_does_not_say_its_settings_is_stale_here(study: Study) -> None:
    path = outcomes.write_recipe(
        study.project,
        Recipe(name="old", command="", weights="none", environment=made.CPU, elapsed_s=1.0, rows=()),
        study.params,
    )
    path.write_text(path.read_text().replace('"settings": {}', '"settings": null'))
    found = archive.local(study.project, study.params)
    assert found.stale == {"recipes/old.json": "which settings it was run under is not recorded"}
    assert not found.recipes


def test_the_stamp_of_notebooks_sees_every_byte_of_evidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "code_sha256", lambda paths, root: "")
    project = made.project(tmp_path)
    settings = params.load(project)
    stamps = [provenance.evidence_digest(project, settings)]
    for machine in ("local", "made-up-cpu"):
        for name in ("latency/a.json", "samples/a.json.gz", "accuracy/a.json", "recipes/a.json", "labelled.json"):
            path = project.machines / machine / name
            path.parent.mkdir(parents=True, exist_ok=True)
            (project.machines / "made-up-cpu").mkdir(exist_ok=True)
            (project.machines / "made-up-cpu" / archive.MANIFEST).write_text("{}")
            for text in ("1", "2"):
                path.write_text(text)
                stamps.append(provenance.evidence_digest(project, settings))
    assert len(set(stamps)) == len(stamps)
