"""The script for borrowed machines, on this one: in chunks, resumed, packed, and with a folder of real wheels."""

import ast
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import tiny

from visionquant.core.paths import Project
from visionquant.records import archive
from visionquant.settings import params as parameters

SCRIPT = tiny.ROOT / "scripts" / "borrowed_sweep.py"


def study(root: Path) -> Project:
    """Two tiny models under every protocol that the script asks for, shortened."""
    raw = tiny.settings(("tiny-vit", "tiny-deit"), ("fp32", "int8"))
    raw["study"] |= {"protocol": "quick", "batch_sizes": [1, 4, 8, 16, 32]}
    raw["protocols"] = {name: dict(tiny.PROTOCOL) for name in ("quick", "borrowed", "paper")}
    root.mkdir()
    project, _ = tiny.project(root, raw)
    return project


def script(*arguments: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, check=False)


def names(results: Path) -> set[str]:
    with tarfile.open(results / "records.tar.xz") as archive:
        return {name for name in archive.getnames() if name.endswith(".json")}


@pytest.mark.slow  # minutes of real chunks
def test_chunks_go_on_from_one_another_and_are_packed_as_a_set(tmp_path: Path) -> None:
    project = study(tmp_path / "study")
    first, second = tmp_path / "first", tmp_path / "second"
    done = script("--project", project.root, "run", "--device", "cpu", "--results", first, "--minutes", 0.34 + 8 / 60)
    assert done.returncode == 75, done.stderr
    assert "of 7 steps done" in done.stdout
    assert len(list(first.iterdir())) <= 8
    done = script(
        "--project", project.root, "run", "--device", "cpu", "--results", second, "--resume", first, "--minutes", 60
    )
    assert done.returncode == 0, (done.stdout, done.stderr, (second / "log.txt").read_text()[-2000:])
    assert names(first) <= names(second)
    assert all(step["done"] for step in json.loads((second / "status.json").read_text()))
    done = script("--project", project.root, "pack", "--results", second, "--platform", "made-up-card")
    assert done.returncode == 0, done.stderr
    sets = {machine.name: machine.records for machine in archive.recorded(project)}
    found = sets["made-up-card"]
    bracket = {"int8-threshold-0", "int8-outliers", "int8-outliers-threshold-0"}
    assert {pair[1] for pair in found} == {"fp32", "int8", *bracket}
    assert [cell.batch_size for cell in found["tiny-vit", "fp32"].cells] == [1, 4, 8, 16, 32]
    assert {record.settings.weights.kind for record in found.values()} == {"seeded"}
    paper = sets["made-up-card-paper"]
    assert {(pair[1], len(record.cells)) for pair, record in paper.items()} == {("fp32", 1), ("int8", 1)}
    again = script("--project", project.root, "pack", "--results", second, "--platform", "made-up-card")
    assert again.returncode == 1
    assert again.stderr.count("\n") == 1
    assert "there is such a set already" in again.stderr


def test_the_most_valuable_cells_come_first() -> None:
    """All cells of the study with the short protocol, batch size 1 before others; then what takes hours."""
    code = "import sys; sys.path.insert(0, sys.argv[1]); import borrowed_sweep as b; "
    code += "print(b.STEPS)"
    asked = subprocess.run(
        [sys.executable, "-c", code, str(SCRIPT.parent)], capture_output=True, text=True, check=True
    ).stdout
    steps = ast.literal_eval(asked)
    params = parameters.load(Project(tiny.ROOT))
    whole = [sizes for protocol, sizes, precisions in steps if protocol == "borrowed" and not precisions]
    assert whole[0] == (1,)
    assert sorted(sum(whole, ())) == sorted(params.study.batch_sizes)
    assert [protocol for protocol, _, _ in steps[: len(whole)]] == ["borrowed"] * len(whole)
    for protocol, sizes, precisions in steps:
        assert protocol in params.protocols
        assert set(sizes) <= set(params.study.batch_sizes)
        assert set(precisions) <= set(params.precisions)
    row = params.protocols["borrowed"]
    assert row.energy_s is None
    assert row.rounds * row.round_s <= 6


def test_bad_input_is_one_line_and_loses_nothing(tmp_path: Path) -> None:
    project = study(tmp_path / "study")
    full = tmp_path / "full"
    full.mkdir()
    (full / "records.tar.xz").write_text("no archive")
    for arguments, message in (
        (("run", "--results", full), "not empty"),
        (("run", "--results", tmp_path / "none"), "see"),
        (("run", "--results", tmp_path / "new", "--resume", tmp_path), "name the results of this script"),
        (("run", "--results", tmp_path / "new", "--resume", full), "name the results of this script"),
        (("run", "--results", tmp_path / "newer", "--wheels", tmp_path / "study"), "no wheel in it"),
        (("pack", "--results", tmp_path, "--platform", "card"), "name the results of this script"),
    ):
        done = script("--project", project.root, *arguments)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        assert message in done.stderr
    assert (full / "records.tar.xz").read_text() == "no archive"


def test_what_the_machine_lacks_comes_from_wheels(tmp_path: Path) -> None:
    """A wheel made here stands in for one that is carried; without it the machine is told what is missing."""
    code = "import sys; sys.path.insert(0, sys.argv[1]); import borrowed_sweep as b; from pathlib import Path; "
    code += "b.NEEDED = ('torch', 'carried_along'); b.prepare(Path(sys.argv[2]), W); import os"
    code += "; print(os.environ['PYTHONPATH'])"

    def ask(wheels: str) -> subprocess.CompletedProcess[str]:
        work = tmp_path / f"work-{len(wheels)}"
        work.mkdir()
        command = [sys.executable, "-c", code.replace("W", wheels), str(SCRIPT.parent), str(work)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert "this machine lacks carried_along; carry wheels of them" in ask("None").stderr
    source = tmp_path / "source"
    source.mkdir()
    (source / "carried_along.py").write_text("x = 1\n")
    (source / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "carried-along"\nversion = "1"\n[tool.setuptools]\npy-modules = ["carried_along"]\n'
    )
    wheels = tmp_path / "wheels"
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps", "-w", str(wheels)]
    subprocess.run([*pip, str(source)], check=True, capture_output=True)
    done = ask(f"Path({str(wheels)!r})")
    assert done.returncode == 0, done.stderr
    assert "site" in done.stdout
