"""What others find at the public host holds: the workflow's commands, the forms, the steps of a contribution."""

import re
from pathlib import Path
from typing import Any

import pytest
import tiny
from typer.main import get_command

from visionquant.cli import app
from visionquant.core import yaml12

HOST = tiny.ROOT / ".github"
WORKFLOW: dict[str, Any] = yaml12.read(HOST / "workflows" / "check.yml", "check.yml")
STEPS = [step for job in WORKFLOW["jobs"].values() for step in job["steps"]]
TARGETS = set(re.findall(r"^([a-z-]+):", (tiny.ROOT / "Makefile").read_text(), re.M))


def options_of(verb: str) -> set[str]:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    return {option for parameter in commands[verb].params for option in parameter.opts}


def test_the_workflow_has_the_parts_that_the_host_needs() -> None:
    assert WORKFLOW["on"].keys() == {"push", "pull_request"}
    assert WORKFLOW["permissions"] == {"contents": "read"}
    for job in WORKFLOW["jobs"].values():
        assert job.keys() <= {"runs-on", "timeout-minutes", "strategy", "steps"}
        assert job["steps"][0]["uses"].startswith("actions/checkout@")
    for step in STEPS:
        assert len({"run", "uses"} & step.keys()) == 1
        assert re.fullmatch(r"actions/[a-z-]+@v\d+", step.get("uses", "actions/none@v1"))
    assert WORKFLOW["jobs"]["test"]["strategy"]["matrix"] == {"python": ["3.11", "3.12", "3.13"]}
    assert STEPS[-1]["with"]["path"] == "reports"


@pytest.mark.parametrize("line", sorted({step["run"] for step in STEPS if "run" in step}))
def test_every_line_that_the_workflow_runs_is_there(line: str) -> None:
    program, *words = line.split()
    if program == "make":
        assert set(words) <= TARGETS
    elif program == ".venv/bin/visionquant":
        assert set(words[1:]) <= options_of(words[0])
    else:
        assert (tiny.ROOT / line).stat().st_mode & 0o100


def test_the_issue_form_is_one() -> None:
    form = yaml12.read(HOST / "ISSUE_TEMPLATE" / "machine.yml", "machine.yml")
    assert form.keys() == {"name", "description", "title", "body"}
    asked = [part for part in form["body"] if part["type"] != "markdown"]
    assert {part["type"] for part in asked} <= {"input", "textarea", "dropdown", "checkboxes"}
    assert all(part["attributes"]["label"] for part in asked)
    assert len({part["id"] for part in asked}) == len(asked)
    assert 'issue form "Contribute a machine"' in (tiny.ROOT / "CONTRIBUTING.md").read_text()
    assert form["name"] == "Contribute a machine"


@pytest.mark.parametrize(
    "path",
    [
        tiny.ROOT / "CONTRIBUTING.md",
        tiny.ROOT / "ARTIFACT.md",
        HOST / "pull_request_template.md",
        HOST / "ISSUE_TEMPLATE" / "machine.yml",
    ],
    ids=lambda path: path.name,
)
def test_commands_targets_and_links_that_a_text_names_exist(path: Path) -> None:
    text = path.read_text()
    commands = re.findall(r"visionquant ([a-z][a-z-]*)((?: --?[a-z-]+(?: [\w./-]+)?)*)", text)
    assert commands
    for verb, options in commands:
        assert set(re.findall(r"--[a-z-]+", options)) <= options_of(verb), verb
    assert set(re.findall(r"(?:`|^)make ([a-z-]+)", text, re.M)) <= TARGETS
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    assert [link for link in links if not (path.parent / link).exists()] == []
