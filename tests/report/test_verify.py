"""One command that proves that everything belongs together, and names whatever does not."""

import shutil
from collections.abc import Callable
from pathlib import Path

import made
import pytest

from visionquant.analysis.study import Study
from visionquant.core.paths import Project
from visionquant.records import archive, outcomes, record
from visionquant.report import site
from visionquant.report.notebooks import source_notebooks
from visionquant.report.verify import verify
from visionquant.settings import params as parameters
from visionquant.weights import checkpoint

CODE = "c0de" * 16
PAIR = "vit-base-224-production-nf4.json"


@pytest.fixture
def project(rendered: Study, tmp_path: Path) -> Project:
    root = tmp_path / "copy"
    shutil.copytree(rendered.project.root, root)
    return Project(root)


def faults(project: Project, code: str = CODE) -> dict[str, str]:
    return {one.file: one.found for one in verify(project, parameters.load(project), lambda precision: code)}


def test_what_was_just_rendered_belongs_together(project: Project) -> None:
    assert faults(project) == {}


def edited(old: str, new: str) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return edit


Edit = Callable[[Path], object]
OF_THE_EVIDENCE: dict[str, tuple[Edit, str]] = {
    "reports/tables/cells.csv": (edited("published", "publishde"), "stale: not what the evidence gives"),
    "reports/tables/missing.csv": (Path.unlink, "missing"),
    "reports/tables/magic.csv": (Path.touch, "foreign"),
    "reports/notebooks/02_latency.ipynb": (edited("# Latency", "# Latencies"), "stale: its cells"),
    "reports/notebooks/03_memory.ipynb": (Path.unlink, "missing"),
    "reports/notebooks/10_magic.ipynb": (Path.touch, "foreign"),
    "reports/notebooks/04_throughput.ipynb": (lambda path: path.write_text("{"), "broken: no notebook"),
    "data/machines/local/latency/resnet-fp32.json": (Path.touch, "foreign: no record"),
}
LOST = ("02", "03", "04")
OF_THE_PAGES: dict[str, tuple[Edit, str]] = {
    "reports/metrics.json": (edited("ok", "OK"), "stale"),
    "reports/index.html": (edited("What was found", "What was not found"), "stale"),
    "reports/results.html": (edited("<h1", "<h1 "), "stale"),
    "reports/trust.html": (Path.unlink, "missing"),
    "reports/magic.html": (Path.touch, "foreign"),
    "reports/explorer/local.js": (edited("seeded", "packaged"), "stale"),
    "reports/explorer/magic.js": (Path.touch, "foreign"),
    "reports/badge.svg": (Path.unlink, "missing"),
    "reports/results.json": (edited("FASTER", "SLOWER"), "stale"),
    "reports/figures/latency-1.svg": (edited("</svg>", " </svg>"), "stale: not the figure that the notebook shows"),
    "reports/figures/memory.svg": (Path.unlink, "missing"),
    "reports/figures/magic.png": (Path.touch, "foreign"),
}


@pytest.mark.parametrize("edits", [OF_THE_EVIDENCE, OF_THE_PAGES], ids=["of the evidence", "of the pages"])
def test_every_file_that_does_not_belong_is_named(project: Project, edits: dict[str, tuple[Edit, str]]) -> None:
    for file, (edit, _) in edits.items():
        edit(project.root / file)
    named = faults(project)
    for file, (_, found) in edits.items():
        assert named.pop(file).startswith(found), file
    if edits is OF_THE_EVIDENCE:  # which every notebook was executed over; what a lost one showed is nobody's
        stale = {file for file, found in named.items() if found.startswith("stale: executed over other")}
        unshown = {file for file, found in named.items() if found == "foreign: no notebook shows it"}
        assert stale == {
            f"reports/notebooks/{one.name}" for one in source_notebooks(project) if one.stem[:2] not in LOST
        }
        assert unshown
        named = {file: found for file, found in named.items() if file not in stale | unshown}
    assert named == {}


def test_a_broken_lock_is_named(project: Project) -> None:
    (project.root / "dvc.lock").write_text("stages:\n<<<<<<< HEAD: [\n=======\n")
    assert faults(project) == {"evidence": "dvc.lock: not YAML at line 4; mend it there, or restore it from git"}


def test_samples_and_a_record_made_outside_the_pipeline_are_found_and_named(project: Project) -> None:
    path = project.local / "latency" / PAIR
    import hashlib

    import yaml

    lock = {"stages": {"measure": {"outs": [{"path": f"data/machines/local/latency/{PAIR}", "md5": ""}]}}}
    lock["stages"]["measure"]["outs"][0]["md5"] = hashlib.md5(path.read_bytes()).hexdigest()
    (project.root / "dvc.lock").write_text(yaml.safe_dump(lock))
    assert faults(project) == {}
    one = record.read(path)
    cells = [cell.model_copy(update={"rounds": cell.rounds[1:]}) for cell in one.cells]
    made.write(path, one.model_copy(update={"cells": tuple(cells)}))
    found = faults(project)
    assert "not the file that dvc.lock knows" in found[f"data/machines/local/latency/{PAIR}"]
    assert "reports/tables/cells.csv" in found
    assert "reports/notebooks/02_latency.ipynb" in found


def test_a_changed_setting_makes_evidence_of_every_kind_tables_and_notebooks_stale(project: Project) -> None:
    run = {"command": "", "weights": "seeded", "environment": made.CPU, "elapsed_s": 1.0}
    settings = parameters.load(project)
    outcomes.write_recipe(project, outcomes.Recipe(name="made-up", **run, rows=({"precision": "nf4"},)), settings)
    edited("    blocksize: 64", "    blocksize: 128")(project.params)
    found = faults(project)
    for name in (f"latency/{PAIR}", "recipes/made-up.json"):
        assert found[f"data/machines/local/{name}"] == "stale: recorded under other settings: precisions.nf4"
    assert "reports/tables/cells.csv" in found
    assert "reports/notebooks/02_latency.ipynb" in found


def test_a_setting_that_is_not_in_force_makes_nothing_stale(project: Project) -> None:
    edited("    warmup_passes: 100", "    warmup_passes: 101")(project.params)
    assert faults(project) == {}


def test_the_record_of_a_pair_that_left_the_study_is_no_fault(project: Project) -> None:
    edited("  - vit-base-patch32-special\n", "")(project.params)
    found = faults(project)
    assert found
    assert not any(name.startswith("data/machines/local") for name in found)


def test_what_a_kill_left_half_written_is_no_fault(project: Project) -> None:
    (project.local / "latency" / f".{PAIR}.partial").write_text("{")
    assert faults(project) == {}


def test_records_of_other_measuring_code_are_named(project: Project) -> None:
    found = faults(project, "beef" * 16)
    assert found[f"data/machines/local/latency/{PAIR}"] == "stale: measured by code c0dec0de, not beefbeef"
    assert len(found) == 64


def test_weights_that_are_not_those_that_were_measured_are_named(tmp_path: Path) -> None:
    """A byte of a local folder changed; or it was downloaded anew, and not measured."""
    project = made.project(tmp_path)
    folder = project.root / "models" / "mine"
    folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_text("{}")
    edited("\nmodels:\n", "\nmodels:\n  mine:\n    path: models/mine\n    input_size: 32\n")(project.params)
    edited("  models:\n", "  models:\n  - mine\n")(project.params)
    params = parameters.load(project)
    manifest = checkpoint.download(project, params, "mine")
    one = made.record("vit-base-224-production", "nf4", [made.cell(1, [[1.0] * 3] * 3)])
    used = {"kind": "pretrained", "source": manifest.source, "manifest_sha256": manifest.sha256()}
    settings = one.settings.model_copy(update={"model": params.models["mine"], "weights": record.Weights(**used)})
    made.write(project.record("mine", "nf4"), one.model_copy(update={"model": "mine", "settings": settings}))
    local = "data/machines/local"
    assert not {f"{local}/models/mine.json", f"{local}/latency/mine-nf4.json"} & set(faults(project))
    (folder / "model.safetensors").write_text("[]")
    assert faults(project)[f"{local}/models/mine.json"].startswith("model.safetensors: has another sha256")
    checkpoint.download(project, params, "mine")
    found = faults(project)
    assert f"{local}/models/mine.json" not in found
    why = f"stale: measured with other weights than {local}/models/mine.json has"
    assert found[f"{local}/latency/mine-nf4.json"] == why


def test_changed_samples_are_named_with_the_record_that_they_no_longer_are_of(project: Project) -> None:
    one = record.read(project.local / "latency" / PAIR)
    record.write_samples(project.local / "samples" / f"{PAIR}.gz", one.model_copy(update={"elapsed_s": 11.0}))
    found = faults(project)[f"data/machines/local/latency/{PAIR}"]
    assert found.startswith(f"data/machines/local/samples/{PAIR}.gz: other samples than those that the record is of")


def test_changed_samples_of_a_recorded_set_are_named(project: Project) -> None:
    path = archive.record(project, parameters.load(project), "made-up-cpu") / "samples" / f"{PAIR}.gz"
    path.write_bytes(path.read_bytes()[:-1])
    assert faults(project)[f"data/machines/made-up-cpu/samples/{PAIR}.gz"].startswith("altered")


def test_pages_built_from_other_notebooks_are_not_hidden_by_the_notebooks_fault(project: Project) -> None:
    """A stale notebook is named alone, for its page can't be judged; once it is right the page is."""
    edited("# Latency", "# Latencies")(project.executed / "02_latency.ipynb")
    site.build_site(project, parameters.load(project))
    assert set(faults(project)) == {"reports/notebooks/02_latency.ipynb"}
    edited("# Latencies", "# Latency")(project.executed / "02_latency.ipynb")
    assert set(faults(project)) == {"reports/results.html"}
