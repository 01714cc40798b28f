"""Compilation: the eager answers, or one line."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from visionquant.core.errors import StudyError
from visionquant.deploy import compute

SCRIPT = """
import torch
from torch import nn
from visionquant.deploy import compute
torch.set_num_threads(1)
net = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4)).eval()
images = torch.randn(3, 8)
made = compute.compiled(net, images)
with torch.inference_mode():
    found, expected = made(images), net(images)
assert type(made).__name__ == "OptimizedModule"
assert torch.allclose(found, expected, atol=1e-5), (found - expected).abs().max()
print("alike")
"""


def run(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: compiling starts worker processes and threads, which later tests must not inherit."""
    more = {"PYTHONPATH": os.pathsep.join(sys.path), "TORCHINDUCTOR_CACHE_DIR": str(folder), **environment}
    command = [sys.executable, "-c", SCRIPT]
    return subprocess.run(command, capture_output=True, text=True, timeout=500, env=os.environ | more, check=False)


@pytest.mark.slow
def test_the_compiled_model_answers_like_the_eager_one(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.stdout == "alike\n", done.stderr


@pytest.mark.slow
def test_without_a_compiler_it_is_one_line(tmp_path: Path) -> None:
    done = run(tmp_path, CXX="/nonexistent/g++")
    last = done.stderr.strip().splitlines()[-1]
    assert "StudyError: torch.compile: no working C++ compiler; install g++, or name one in CXX" in last


class Failing(nn.Module):
    def forward(self, given: torch.Tensor) -> torch.Tensor:
        raise ArithmeticError("of the model itself")


def test_what_the_model_itself_raises_is_passed_on() -> None:
    with pytest.raises(ArithmeticError, match="of the model itself"):
        compute.compiled(Failing(), torch.zeros(1))


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (RuntimeError("Failed to find C compiler. Please specify via CC environment variable."), "no C compiler; inst"),
        (subprocess.CalledProcessError(1, ["gcc"]), "the C compiler failed, see above; install Python's headers"),
    ],
)
def test_what_a_gpus_compiler_lacks_is_one_line(monkeypatch: pytest.MonkeyPatch, raised: Exception, said: str) -> None:
    def compiled(*_: object, **__: object) -> Any:
        def call(images: torch.Tensor) -> None:
            raise raised

        return call

    monkeypatch.setattr(torch, "compile", compiled)
    with pytest.raises(StudyError, match=said):
        compute.compiled(Failing(), torch.zeros(1))
