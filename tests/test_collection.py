"""Collecting tests opens no GPU, and tests see one if they are marked for it: else nothing forked here could use it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import tiny

TESTS = """
import os
import pytest

def test_hides_the_gpus():
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

@pytest.mark.gpu
def test_sees_the_gpus_of_the_machine():
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"

def test_sees_none():
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
"""


def test_collecting_the_tests_of_this_run_asked_nothing_of_a_gpu(touched: list[str]) -> None:
    assert touched == []


def test_a_gpu_is_shown_to_the_tests_for_one_and_to_no_others(tmp_path: Path) -> None:
    shutil.copy(tiny.ROOT / "tests" / "conftest.py", tmp_path)
    (tmp_path / "test_order.py").write_text(TESTS)
    program = tmp_path / "nvidia-smi"
    program.touch(0o755)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-c", tiny.ROOT / "pyproject.toml", "--rootdir", tmp_path, tmp_path],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "0", "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "3 passed" in done.stdout, done.stdout


def test_the_gpu_tests_run_in_a_process_of_their_own() -> None:
    target = (tiny.ROOT / "Makefile").read_text().split("\ntest-slow:")[1].split("\n\n")[0]
    marked = {path for path in (tiny.ROOT / "tests").rglob("test_*.py") if "pytest.mark.gpu" in path.read_text()}
    assert '-m "slow and not gpu"' in target
    for path in marked - {Path(__file__)}:
        assert f" {path.relative_to(tiny.ROOT)}" in target
