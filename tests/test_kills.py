"""A sweep killed at random moments: nothing finished is lost, nothing half written is used, and it comes to its end."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny

from visionquant.core.paths import Project
from visionquant.records import record as records

KILLS = 20
COMMAND = [
    sys.executable,
    "-c",
    "from visionquant.cli import main; main()",
    "sweep",
    "--all-models",
    "--all-precisions",
]


def study(root: Path) -> Project:
    raw = tiny.settings(("tiny-vit", "tiny-deit", "tiny-beit"), ("fp32", "int8", "nf4"))
    raw["study"]["batch_sizes"] = [1, 2, 4, 8]
    raw["protocols"]["tiny"] |= {"replicates": 3, "iterations": 3000, "minimum_iterations": 1, "budget_s": 0.6}
    root.mkdir()
    project, _ = tiny.project(root, raw)
    return project


def finished(project: Project) -> set[tuple[str, str, int]]:
    """The cells that are on disk, in records and in the progress of pairs under way; every file must be whole."""
    found = set()
    read = [records.read(path) for path in (project.local / "latency").glob("*.json")]
    read += [records.under_way(path).record for path in (project.local / "progress").glob("*.json")]
    for record in read:
        found |= {(record.model, record.precision, cell.batch_size) for cell in record.cells}
    return found


@pytest.mark.slow
def test_twenty_kills_lose_no_finished_cell(tmp_path: Path) -> None:
    project, moments = study(tmp_path / "killed"), random.Random(20261124)
    had: set[tuple[str, str, int]] = set()
    for _ in range(KILLS):
        with subprocess.Popen(
            COMMAND, cwd=project.root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as running:
            time.sleep(moments.uniform(3.0, 9.0))
            os.kill(running.pid, signal.SIGKILL)
        now = finished(project)
        assert had <= now
        had = now
    assert had
    subprocess.run(COMMAND, cwd=project.root, check=True, stdout=subprocess.DEVNULL)
    calm = study(tmp_path / "calm")
    subprocess.run(COMMAND, cwd=calm.root, check=True, stdout=subprocess.DEVNULL)
    assert finished(project) == finished(calm)
    assert not list((project.local / "progress").glob("*.json"))
    for path in (calm.local / "latency").glob("*.json"):
        here, there = records.read((project.local / "latency") / path.name), records.read(path)
        assert [cell.status for cell in here.cells] == [cell.status for cell in there.cells]
        assert [len(cell.replicates) for cell in here.cells] == [len(cell.replicates) for cell in there.cells]
        assert here.identity() == there.identity()
