"""A sweep killed at random moments loses no finished round and uses nothing half written, and it comes to its end."""

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
from visionquant.records.cell import Round

KILLS = 20
# On a machine that is never busy, so that the rounds can be counted.
CALM = "from visionquant.records import cell; cell.BUSY_OTHERS = cell.BUSY_STEAL = cell.BUSY_PRESSURE = 99.0"
PROGRAM = f"{CALM}; from visionquant.cli import main; main()"
COMMAND = [sys.executable, "-c", PROGRAM, "sweep", "--all-models", "--all-precisions"]


def study(root: Path) -> Project:
    raw = tiny.settings(("tiny-vit", "tiny-deit", "tiny-beit"), ("fp32", "int8", "nf4"))
    raw["study"]["batch_sizes"] = [1, 2, 4]
    raw["protocols"]["tiny"] |= {"rounds": 4, "rounds_of_batches": 3}
    root.mkdir()
    project, _ = tiny.project(root, raw)
    return project


def finished(project: Project) -> dict[tuple[str, str, int, int], Round]:
    """The rounds on disk; every file must be whole."""
    read = [records.read_samples(path) for path in (project.local / "samples").glob("*")]
    rounds = [(record, cell, one) for record in read for cell in record.cells for one in cell.rounds]
    return {(record.model, record.precision, cell.batch_size, one.number): one for record, cell, one in rounds}


@pytest.mark.slow
def test_twenty_kills_lose_no_finished_round(tmp_path: Path) -> None:
    project, moments = study(tmp_path / "killed"), random.Random(20261124)
    had: dict[tuple[str, str, int, int], Round] = {}
    for _ in range(KILLS):
        with subprocess.Popen(
            COMMAND, cwd=project.root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as running:
            time.sleep(moments.uniform(3.0, 9.0))
            os.kill(running.pid, signal.SIGKILL)
        now = finished(project)
        assert had.items() <= now.items()
        had = now
    assert had
    subprocess.run(COMMAND, cwd=project.root, check=True, stdout=subprocess.DEVNULL)
    calm = study(tmp_path / "calm")
    subprocess.run(COMMAND, cwd=calm.root, check=True, stdout=subprocess.DEVNULL)
    assert finished(project).keys() == finished(calm).keys()
    for path in (calm.local / "latency").glob("*.json"):
        here, there = records.read((project.local / "latency") / path.name), records.read(path)
        assert [cell.status for cell in here.cells] == [cell.status for cell in there.cells]
        assert here.identity() == there.identity()
