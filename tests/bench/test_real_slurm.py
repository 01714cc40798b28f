"""A real SLURM of two nodes on this host, without accounting: placement, and a node that is killed in mid-run."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import tiny

from visionquant.bench import executor, round_tasks
from visionquant.bench.command import Matrix
from visionquant.cli.cluster import PROGRAM
from visionquant.core.paths import Project
from visionquant.settings import params as parameters

SCRIPT = tiny.ROOT / "scripts" / "slurm_on_one_host.sh"
LACKING = [tool for tool in ("slurmctld", "slurmd", "sbatch", "munged") if shutil.which(tool) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(LACKING), reason=f"no {', '.join(LACKING)} here; {SCRIPT.name} says what to install"),
    pytest.mark.skipif(os.geteuid() != 0, reason="SLURM's daemons need root"),
]


def until(true: Callable[[], bool], limit_s: float = 60.0) -> None:
    end_s = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < end_s
        time.sleep(0.5)


def squeue(*words: str) -> list[str]:
    return subprocess.run(["squeue", "--noheader", *words], capture_output=True, text=True).stdout.split()


@pytest.fixture
def nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Its folder, once both nodes are idle."""
    folder = tmp_path / "slurm"
    subprocess.run([SCRIPT, "start", folder], check=True)
    monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    try:
        idle = ["sinfo", "--noheader", "--states=idle", "--format=%D"]
        until(lambda: subprocess.run(idle, capture_output=True, text=True).stdout.split() == ["2"])
        yield folder
    finally:
        subprocess.run(["scancel", "--me"], check=False)
        subprocess.run([SCRIPT, "stop", folder], check=True)


def kill(folder: Path, node: str, job: str) -> None:
    """A node as it is when its power is cut: its daemon and all of the job."""
    daemon = psutil.Process(int((folder / f"slurmd-{node}.pid").read_text()))
    steps = [one for one in psutil.process_iter() if f"slurmstepd: [{job}." in " ".join(one.cmdline()[:2])]
    for one in [daemon, *steps, *(child for step in steps for child in step.children(recursive=True))]:
        one.kill()


def test_a_task_whose_node_is_killed_leaves_one_record_when_the_node_is_back(nodes: Path, tmp_path: Path) -> None:
    raw = tiny.settings(("tiny-vit",), ("fp32",))
    raw["study"]["batch_sizes"] = [1]
    raw["protocols"]["tiny"] |= {"rounds": 2, "blocks": 1}
    project = Project(tiny.project(tmp_path, raw)[0].root, results=tmp_path / "cluster")
    words = ["--all-models", "--all-precisions", "--executor", "slurm", "--gres", "gpu:h100:1", "--parallel", "1"]
    with subprocess.Popen(
        [*PROGRAM, "sweep", *words, "--minutes", "10", "--results", project.local],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    ) as sweep:
        until(lambda: squeue("--states=RUNNING", "--format=%i|%N") == ["1|n2"])
        until(lambda: any((project.local / "tasks").glob(".*")))
        kill(nodes, "n2", "1")
        until(lambda: squeue("--states=PENDING", "--jobs=1", "--format=%T") == ["PENDING"])
        subprocess.run([SCRIPT, "node", nodes, "n2"], check=True)
        said, _ = sweep.communicate(timeout=300)
    assert sweep.returncode == 0, said
    assert "nodes that one host plays: n2; these times mean nothing" in said
    params = parameters.load(project)
    tasks = round_tasks.tasks_of(project, params, Matrix.of(params)).values()
    found = [round_tasks.record_of(task) for task in tasks]
    assert [(one.job, one.node, one.simulated) for one in found] == [("1", "n2", True), ("2", "n2", True)]
    assert found[0].restarts == 1
    assert executor.record_fault(project, params, Matrix.of(params)) == ""
    assert {path.name for path in (project.local / "tasks").iterdir()} == {task.name for task in tasks}
