"""Measuring needs Linux and says so; reading works on Windows and macOS, scripted here by what Python has there."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path, PurePosixPath, PureWindowsPath

import made
import pytest
import tiny

from visionquant.core.paths import Project
from visionquant.records import archive

SCRIPT = """
import json, sys
from visionquant import cli
for words in json.loads(sys.argv[1]):
    sys.argv = ["visionquant", *words]
    try:
        cli.main()
    except SystemExit as stop:
        print(">>>", words[0], stop.code or 0, flush=True)
"""
MEASURING = (
    ["sample", "--model", "tiny-vit"],
    ["sweep", "--all-models", "--all-precisions"],
    ["train", "--network", "tiny-digits"],
    ["evaluate", "--network", "tiny-digits"],
    ["evaluate-pretrained"],
    ["recipe", "half"],
)
SYSTEMS = ("Windows", "Darwin")


def run(system: str, root: Path, *commands: list[str]) -> subprocess.CompletedProcess[str]:
    """The commands, one after the other, in a process that finds itself on ``system``."""
    elsewhere = tiny.ROOT / "tests" / "elsewhere"
    path = os.pathsep.join([str(elsewhere), str(tiny.ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"ELSEWHERE": system, "PYTHONPATH": path}
    command = [sys.executable, "-c", SCRIPT, json.dumps(commands)]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, encoding="utf-8")


def codes(output: str) -> dict[str, int]:
    return {name: int(code) for name, code in re.findall(r"^>>> ([\w-]+) (\d+)$", output, re.M)}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Two small sets of records and one notebook."""
    project = made.project(tmp_path_factory.mktemp("recorded") / "study")
    for notebook in project.notebooks.glob("*.ipynb"):
        if notebook.stem != "05_statistics":
            notebook.unlink()
    model = "deit-tiny-ultra-efficient"
    for platform, factor in (("one-box", 1.0), ("other-box", 1.5)):
        sets = [
            made.record(model, precision, [made.cell(1, made.times(ms * factor), made.times(10.0 * factor))])
            for precision, ms in (("fp32", 10.0), ("int8", 5.0))
        ]
        made.recorded_set(project, platform, sets)
    return project


@pytest.mark.parametrize("system", SYSTEMS)
def test_what_measures_says_in_one_line_that_it_needs_linux(system: str, tmp_path: Path) -> None:
    project, _ = tiny.project(tmp_path)
    before = sorted(project.root.rglob("*"))
    done = run(system, project.root, *MEASURING)
    assert codes(done.stdout) == {words[0]: 1 for words in MEASURING}
    assert done.stderr.splitlines() == [
        f"visionquant: {words[0]}: needs Linux, this is {system}; "
        "run it there or in WSL 2; here report, verify, compare and recommend work"
        for words in MEASURING
    ]
    assert sorted(project.root.rglob("*")) == before


RENDERING = (["analyse"], ["claims"], ["report"], ["verify"])
READING = (
    ["validate"],
    ["summary"],
    ["plan"],
    ["compare", "one-box", "other-box"],
    ["recommend", "--device", "one-box", "--model", "deit-tiny-ultra-efficient"],
    ["environment"],
    ["download", "--model", "deit-tiny-ultra-efficient"],
)


def test_records_are_rendered_verified_and_compared_there(recorded: Project) -> None:
    """The kernels of notebooks find themselves there too; what macOS makes over them is what Windows made."""
    for system, commands in (
        ("Windows", (RENDERING[0], ["notebooks"], *RENDERING[1:], *READING)),
        ("Darwin", (*RENDERING, *READING)),
    ):
        done = run(system, recorded.root, *commands)
        # Of seeded weights alone nothing is recommended.
        assert codes(done.stdout) == {words[0]: int(words[0] == "recommend") for words in commands}, done.stderr
        assert "recommend: no precision for any of 1 models" in done.stderr
        declared = recorded.environment.read_bytes()
        assert json.loads(declared)["system"].startswith(system)
        assert json.loads(declared)["cpu_isa"] == []
        assert b"\r" not in declared


def test_the_committed_evidence_is_read_there() -> None:
    sets = sorted(path.name for path in (tiny.ROOT / "data" / "machines").iterdir() if path.is_dir())[:2]
    done = run("Windows", tiny.ROOT, ["compare", *sets], ["recommend", "--device", sets[0]], ["validate"])
    assert codes(done.stdout) == {"compare": 0, "recommend": 0, "validate": 0}, done.stderr
    assert re.search(r"^\d+ of \d+ compared cells agree", done.stdout, re.M)


def test_no_module_needs_a_posix_module_to_be_imported() -> None:
    needing = {}
    for path in sorted((tiny.ROOT / "src").rglob("*.py")):
        found = set()
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found |= {str(node.module).split(".")[0]}
        needing[path.name] = found & {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "posix", "syslog"}
    assert {name: found for name, found in needing.items() if found} == {}


def test_file_names_can_be_had_there() -> None:
    command = ["git", "-C", tiny.ROOT, "ls-files", "-z"]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.rstrip("\0").split("\0")
    assert len({name.lower() for name in names}) == len(names)
    reserved = re.compile(r"(^|/)(con|prn|aux|nul|com\d|lpt\d)(\.|/|$)|[<>:\"\\|?*\x00-\x1f]|[. ](/|$)", re.I)
    assert [name for name in names if reserved.search(name) or len(name) > 160] == []


def test_files_are_hashed_in_the_same_order_there() -> None:
    """Windows sorts paths without regard to case; digests go over files in order."""
    root = tiny.ROOT / "src"
    files = [*archive.evidence_files(Project(tiny.ROOT)), *root.rglob("*.py")]
    names = [path.relative_to(tiny.ROOT).as_posix() for path in files]
    here, there = (sorted(map(kind, names)) for kind in (PurePosixPath, PureWindowsPath))
    assert [path.as_posix() for path in here] == [path.as_posix() for path in there]
