"""What others cite and read is made from its sources, and holds of what is committed."""

import gzip
import hashlib
import io
import json
import re
import shutil
import subprocess
import venv
from datetime import datetime
from pathlib import Path
from typing import Any

import made
import pandas as pd
import pytest
import tiny
import yaml
from jsonschema import Draft202012Validator

from visionquant.analysis.study import Study, gather
from visionquant.core.errors import StudyError
from visionquant.core.machine import Environment
from visionquant.core.paths import Project
from visionquant.report import artifact, croissant, metadata, ro_crate
from visionquant.settings import params as parameters

PROJECT = Project(tiny.ROOT)


@pytest.fixture(scope="module")
def named() -> Study:
    """The committed machines, without this one."""
    return gather(PROJECT, parameters.load(PROJECT), local=False)


def evidence() -> list[tuple[str, Path]]:
    """Of every named machine a file of each kind and schema version 5, and all manifests."""
    folders = {"accuracy": "accuracy", "probe": "probes", "recipe": "recipes", "record": "latency"}
    found = [("manifest", path) for path in sorted(PROJECT.machines.glob("*/manifest.json"))]
    found += [
        (kind, path) for kind, name in folders.items() for path in sorted(PROJECT.machines.glob(f"*/{name}/*.json*"))
    ]
    local = PROJECT.machines / "local"
    return [(kind, path) for kind, path in found if local not in path.parents]


def test_what_is_committed_is_what_would_be_written(named: Study) -> None:
    made = metadata.contents(PROJECT) | artifact.contents(named)
    made |= croissant.contents(PROJECT) | ro_crate.contents(named)
    assert metadata.differing(made) == []


def test_the_data_set_is_the_committed_tables_with_a_type_for_every_column() -> None:
    found = json.loads((tiny.ROOT / "croissant.json").read_text())
    assert not {"url", "citeAs", "identifier", "datePublished"} & found.keys()  # nobody gave one
    files = {one["@id"]: one for one in found["distribution"]}
    for records in found["recordSet"]:
        of = files[f"{records['name']}.csv"]
        content = (tiny.ROOT / of["contentUrl"]).read_bytes()
        assert of["sha256"] == hashlib.sha256(content).hexdigest()
        table = pd.read_csv(
            io.BytesIO(content), keep_default_na=False, na_values=dict.fromkeys(("low", "high", "n"), "")
        )
        assert [one["source"]["extract"]["column"] for one in records["field"]] == [*table]
        for one in records["field"]:
            numeric = pd.api.types.is_numeric_dtype(table[one["name"]])
            assert numeric == (one["dataType"] != "sc:Text"), one["name"]


@pytest.mark.slow
def test_the_data_set_is_valid_by_the_validator_of_its_format(tmp_path: Path) -> None:
    """Slow: the validator is installed into an environment of its own."""
    venv.create(tmp_path / "venv", with_pip=True)
    programs = tmp_path / "venv" / "bin"
    subprocess.run([programs / "python", "-m", "pip", "install", "--quiet", "mlcroissant==1.1.1"], check=True)
    for what in (["validate"], ["load", "--record_set", "cells", "--num_records", "5"]):
        command = [str(programs / "mlcroissant"), *what, "--jsonld", str(tiny.ROOT / "croissant.json")]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "error" not in done.stderr.lower()
    rows = [line for line in done.stdout.splitlines() if "cells/model" in line]
    assert len(rows) == 5


def entities(crate: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["@id"]: one for one in crate["@graph"]}


def test_the_crate_says_which_run_made_the_evidence_of_each_machine(named: Study) -> None:
    (text,) = ro_crate.contents(named).values()
    found = entities(json.loads(text))
    root = found["./"]
    assert {one["@id"] for one in root["mentions"]} == {f"#measured-{run.name}" for run in named.sets}
    for reference in re.findall(r'{\s*"@id": "([^"]+)"\s*}', text):
        assert reference in found or reference == ro_crate.SPECIFICATION, reference
    for run in named.sets:
        action = found[f"#measured-{run.name}"]
        assert run.environment is not None
        assert run.environment.title in action["description"]
        assert (tiny.ROOT / action["result"]["@id"]).is_dir()
        begun, ended = (datetime.fromisoformat(action[key]) for key in ("startTime", "endTime"))
        rounds = [(datetime.fromisoformat(each.started_at), each.spent_s) for each in run.rounds if each.started_at]
        assert begun == min(start for start, _ in rounds)
        assert all(begun <= start and (ended - start).total_seconds() >= spent - 1 for start, spent in rounds)
    assert root["datePublished"] == max(one["endTime"][:10] for one in found.values() if "endTime" in one)
    assert not {"identifier", "url", "doi"} & {key for one in found.values() for key in one}


OFFLINE = """
import json, sys
from importlib.resources import files
from rocrate_validator.utils import document_loader
own = json.loads(files("rocrate").joinpath("data/ro-crate.jsonld").read_text())
document_loader._fetch_json_ld = lambda url: own
from rocrate_validator.cli import cli
sys.exit(cli())
"""


@pytest.mark.slow
def test_the_crate_is_valid_by_the_validator_of_its_profile(tmp_path: Path) -> None:
    """Slow: the validator is installed into an environment of its own.

    The terms of RO-Crate, which it would fetch from the web, are those that the library rocrate carries.
    """
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    libraries = ["rocrate==0.16.0", "roc-validator==0.13.0"]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *libraries], check=True)
    crate = json.loads((tiny.ROOT / ro_crate.NAME).read_text())
    for broken in (False, True):
        folder = tmp_path / f"crate-{broken}"
        for path in [one["@id"] for one in crate["@graph"] if one["@id"].startswith("data/")]:
            (folder / path).mkdir(parents=True)
        shutil.copy(tiny.ROOT / "params.yaml", folder)
        for action in (one for one in crate["@graph"] if one["@type"] == "CreateAction" and broken):
            del action["instrument"]
        (folder / ro_crate.NAME).write_text(json.dumps(crate))
        words = ["validate", "--no-paging", "-p", "process-run-crate", "-l", "REQUIRED", str(folder)]
        done = subprocess.run([python, "-c", OFFLINE, *words], capture_output=True, text=True, cwd=tmp_path)
        assert (done.returncode == 0) != broken, done.stdout + done.stderr


def test_every_committed_file_of_evidence_holds_its_schema() -> None:
    schemas = {name: metadata.schema_of(kind) for name, (kind, _) in metadata.EVIDENCE.items()}
    validators = {name: Draft202012Validator(schema) for name, schema in schemas.items()}
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)
    seen = dict.fromkeys(schemas, 0)
    for kind, path in evidence():
        raw = path.read_bytes()
        content = json.loads(gzip.decompress(raw) if path.suffix == ".gz" else raw)
        if kind == "record" and content["schema_version"] != 5:
            continue  # read by way of records/upgrade.py
        if "libraries" not in content.get("environment", {"libraries": {}}):  # of an earlier version
            content["environment"] = Environment.model_validate(content["environment"]).model_dump(mode="json")
        errors = [error.message for error in validators[kind].iter_errors(content)]
        assert not errors, f"{path}: {errors[0]}"
        seen[kind] += 1
    assert all(seen.values()), seen


def test_a_record_with_a_field_that_no_class_reads_breaks_its_schema() -> None:
    _, path = next(one for one in evidence() if one[0] == "manifest")
    content = json.loads(path.read_text()) | {"colour": "blue"}
    validator = Draft202012Validator(metadata.schema_of(metadata.EVIDENCE["manifest"][0]))
    assert [error.validator for error in validator.iter_errors(content)] == ["additionalProperties"]


def test_the_citation_says_what_the_package_says() -> None:
    import tomllib

    about = tomllib.loads((tiny.ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((tiny.ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert (citation["version"], citation["license"]) == (about["version"], about["license"])
    assert not {"doi", "identifiers", "orcid"} & citation.keys()
    codemeta = json.loads((tiny.ROOT / "codemeta.json").read_text())
    assert (codemeta["name"], codemeta["version"]) == (citation["title"], citation["version"])


def test_a_file_that_was_edited_or_is_missing_is_named_and_mended(tmp_path: Path) -> None:
    shutil.copy(tiny.ROOT / "pyproject.toml", tmp_path)
    project = Project(tmp_path)
    for path, text in metadata.contents(project).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert metadata.differing(metadata.contents(project)) == []
    (tmp_path / "CITATION.cff").write_text("cff-version: 1.3.0\n")
    (tmp_path / "docs" / "records.md").unlink()
    assert metadata.differing(metadata.contents(project)) == [
        tmp_path / "CITATION.cff",
        tmp_path / "docs" / "records.md",
    ]


@pytest.mark.parametrize("name", metadata.EVIDENCE)
def test_every_field_stands_in_the_dictionary(name: str) -> None:
    text = (tiny.ROOT / "docs" / "records.md").read_text()
    schema = metadata.schema_of(metadata.EVIDENCE[name][0])
    for part in (schema, *schema.get("$defs", {}).values()):
        assert all(f"| `{field}` |" in text for field in part.get("properties", ()))


def test_the_artifact_names_every_verdict_with_the_range_of_one_more_run(named: Study) -> None:
    text = artifact.contents(named)[tiny.ROOT / "ARTIFACT.md"]
    run, cells = named.measured, named.cells
    decided = cells[(cells.source == run.source) & (cells.quantity == "speedup") & (cells.batch_size == 1)]
    decided = decided[decided.verdict.isin(artifact.DECIDED) & decided.precision.isin(named.compared)]
    assert len(decided)
    for row in decided.itertuples():
        ahead = named.row(run.source, row.model, row.precision, 1, "speedup_prediction")
        span = f"{ahead.low:.2f} to {ahead.high:.2f}"
        assert f"| {row.model} | {row.precision} | {row.verdict} | {row.value:.2f} | {span} | {row.n} |" in text
    assert f"| the whole measurement | {run.spent_s / 60:.0f} minutes |" in text
    assert "| dinov2-small-packaged/fashion-mnist nf4: top-1 against FP32, trained weights |" in text


def test_the_manifest_names_files_that_are_there_and_no_certificate(named: Study) -> None:
    text = artifact.contents(named)[tiny.ROOT / "codecheck.yml"]
    assert text.startswith("---\n")
    found = yaml.safe_load(text)
    assert found.keys() == {"version", "manifest"}
    for entry in found["manifest"]:
        assert entry["comment"]
        assert (tiny.ROOT / entry["file"]).is_file()


def test_without_a_named_machine_there_is_nothing_to_check(tmp_path: Path) -> None:
    project = made.project(tmp_path / "study")
    with pytest.raises(StudyError, match="no machine is recorded there; run `visionquant record --platform NAME`"):
        gather(project, parameters.load(project), local=False)
