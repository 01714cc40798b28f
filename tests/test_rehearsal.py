"""The CUDA paths without a card; see scripts/rehearse_cuda.py."""

import subprocess
import sys
from pathlib import Path

import pytest
import tiny

sys.path.append(str(tiny.ROOT / "scripts"))
import rehearse_cuda

pytestmark = pytest.mark.skipif(not rehearse_cuda.compiler(), reason="no C compiler here: the stubs can't be built")


def rehearse(*arguments: str) -> list[str]:
    command = [sys.executable, str(tiny.ROOT / "scripts" / "rehearse_cuda.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_every_family_every_precision_and_the_recipes_on_a_make_believe_card() -> None:
    (line,) = rehearse("--quick")
    assert line.startswith("ok")


@pytest.mark.slow
def test_the_whole_rehearsal(capsys: pytest.CaptureFixture[str]) -> None:
    lines = rehearse()
    with capsys.disabled():
        sys.stdout.write("\n".join(["", *lines, ""]))
    assert len(lines) == len(rehearse_cuda.DRIVES) + 2


def test_a_process_forked_after_the_driver_was_opened_fails_the_rehearsal(tmp_path: Path) -> None:
    """The stubs see what they are there for: a fork of a process that had called cuInit, and an inherited NVML."""
    stubs = rehearse_cuda.build(tmp_path / "stubs")
    poisoned = "import ctypes, os; {}; os.fork() or os._exit(0); os.wait()"
    library = "driver = ctypes.CDLL('libcuda.so.1'); {}driver.cuInit(0)"
    inherited = "import pynvml; pynvml.nvmlInit(); os.fork() or (pynvml.nvmlDeviceGetCount(), os._exit(0)); os.wait()"
    for code, bad in (
        (poisoned.format(library.format("")), "forked after cuInit"),
        (poisoned.format(library.format("None and ")), ""),
        (f"import os; {inherited}", "inherited"),
    ):
        log = tmp_path / "log"
        log.unlink(missing_ok=True)
        environment = rehearse_cuda.environment(stubs, log, card=False)
        subprocess.run([sys.executable, "-c", code], env=environment, check=True)
        if bad:
            with pytest.raises(AssertionError, match=bad):
                rehearse_cuda.told(log)
        else:
            assert rehearse_cuda.told(log).startswith("0 processes")
