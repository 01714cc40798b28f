"""One command at a time measures or writes records; the next one is told who is at work, and readers never wait."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import tiny

from visionquant import cli
from visionquant.core import lock
from visionquant.core.errors import StudyError
from visionquant.core.paths import Project

# Takes the lock, forks as measuring does, says so, and waits for its end.
HOLDER = (
    "import os, sys\n"
    "from pathlib import Path\n"
    "from visionquant.core import lock\n"
    "from visionquant.core.paths import Project\n"
    "with lock.held(Project(Path(sys.argv[1]))):\n"
    "    if not os.fork():  # which has let go of the lock by then\n"
    "        print('held', flush=True)\n"
    "    sys.stdin.read()\n"
    "    os._exit(0)\n"
)
COMMAND = [sys.executable, "-c", "from visionquant.cli import main; main()"]
WRITING = [
    ("environment",),
    ("download", "--model", "tiny-vit"),
    ("sample", "--model", "tiny-vit", "--precision", "nf4"),
    ("measure",),
    ("sweep", "--all-models", "--all-precisions"),
    ("train", "--network", "tiny-digits"),
    ("evaluate", "--network", "tiny-digits"),
    ("evaluate-pretrained",),
    ("record", "--platform", "tiny-box"),
    ("recipe", "half"),
]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return tiny.project(tmp_path)[0]


@pytest.fixture
def holder(project: Project) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLDER, str(project.root), "sweep", "--all-models"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "held\n"
        yield running
        running.kill()


def test_whoever_comes_second_is_told_who_is_at_work_and_readers_are_served(
    project: Project,
    holder: subprocess.Popen[str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def run(*arguments: str) -> tuple[object, str]:
        monkeypatch.chdir(project.root)
        monkeypatch.setattr("sys.argv", ["visionquant", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code or 0, capfd.readouterr().err

    before = sorted(project.root.rglob("*"))
    for arguments in WRITING:
        code, err = run(*arguments)
        assert code == 1, arguments
        assert re.fullmatch(
            rf"visionquant: data/machines/local/\.lock: process {holder.pid} \(.*sweep --all-models, "
            r"since \d{4}-\d\d-\d\d .*\) is measuring here or writing records; "
            r"run this again when it has ended, or end it\n",
            err,
        ), (arguments, err)
    assert sorted(project.root.rglob("*")) == before
    assert run("plan") == (0, "")
    assert run("analyse") == (0, "")


def test_the_end_of_a_holder_frees_the_lock_however_it_ends(project: Project, holder: subprocess.Popen[str]) -> None:
    """Killed, with a forked child that outlives it."""
    children = psutil.Process(holder.pid).children()
    with pytest.raises(StudyError), lock.held(project):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert [child.is_running() for child in children] == [True]
    with lock.held(project):
        pass


def test_one_command_may_take_it_inside_itself(project: Project, holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.wait()
    with lock.held(project):
        with lock.held(Project(project.root)):
            pass
        other = subprocess.run([*COMMAND, "environment"], cwd=project.root, capture_output=True, text=True)
        assert f"process {os.getpid()} (" in other.stderr
    assert subprocess.run([*COMMAND, "environment"], cwd=project.root, capture_output=True).returncode == 0


def test_python_callers_of_measuring_take_it_too(project: Project, holder: subprocess.Popen[str]) -> None:
    from visionquant.bench import sampling
    from visionquant.bench.command import Matrix
    from visionquant.settings import params as parameters

    params = parameters.load(project)
    for take in (sampling.sweep, sampling.sample):
        with pytest.raises(StudyError, match=f"process {holder.pid} "):
            take(project, params, Matrix.of(params))


@pytest.mark.skipif(
    os.geteuid() == 0 and shutil.which("setpriv") is None, reason="root may write anywhere, and setpriv is not there"
)
def test_a_checkout_that_can_not_be_written_is_read_without_a_lock(project: Project) -> None:
    limited = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    folders = [project.root, *(path for path in project.root.rglob("*") if path.is_dir())]
    before = sorted(project.root.rglob("*"))
    for folder in folders:
        folder.chmod(0o500)
    try:
        done = {
            verb: subprocess.run([*limited, *COMMAND, verb], cwd=project.root, capture_output=True, text=True)
            for verb in ("plan", "environment")
        }
    finally:
        for folder in folders:
            folder.chmod(0o700)
    assert (done["plan"].returncode, done["plan"].stderr) == (0, "")
    assert done["environment"].returncode == 1
    refused = r"visionquant: write .*data/machines/local/\.lock: Permission denied; make .*\n"
    assert re.fullmatch(refused, done["environment"].stderr)
    assert sorted(project.root.rglob("*")) == before
