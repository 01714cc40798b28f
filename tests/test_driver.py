"""Whether the driver serves the build of torch: real commands on a stub NVML, and a torch that is a version file."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

sys.path.append(str(tiny.ROOT / "scripts"))
import rehearse_cuda

from visionquant.core import driver

pytestmark = pytest.mark.skipif(not rehearse_cuda.compiler(), reason="no C compiler here: the stub NVML can't be built")
FULL, SHORT = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", "GPU-8932"
OLD, MIG = {"REHEARSAL_NVML_CUDA": "12040"}, {"REHEARSAL_MIG": "1"}
NEWER = "install driver 580 or newer, or a build of torch for an older one"
TOO_OLD = f"driver 550.54.14 serves CUDA 12.4 at most, and torch is built for 13.0; {NEWER}"
WITHOUT = "torch 2.13.0 is a build without CUDA; install a CUDA build of torch and a driver for it"
DIVIDED = "it is divided (MIG) and CUDA_VISIBLE_DEVICES names no instance; name one of `nvidia-smi -L` there"
NONE = "no NVIDIA GPU is visible (CUDA_VISIBLE_DEVICES is '{}'); install a CUDA build of torch and a driver for it"


@pytest.fixture(scope="module")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rehearse_cuda.build(tmp_path_factory.mktemp("driver") / "stubs")


def installed(folder: Path, cuda: str | None) -> Path:
    """What is read of an installed torch: its metadata and its version file."""
    (folder / "torch-2.13.0.dist-info").mkdir(parents=True)
    (folder / "torch-2.13.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.13.0\n")
    (folder / "torch").mkdir()
    (folder / "torch" / "version.py").write_text(
        f"__version__ = '2.13.0'\ncuda: Optional[str] = {cuda!r}\nhip = None\n"
    )
    return folder


@pytest.mark.parametrize(
    ("device", "cuda", "more", "says", "warns"),
    [
        ("auto", "13.0", {}, "cuda: NVIDIA Rehearsal, driver 580", ""),
        ("cuda", "12.8", OLD, "cuda: NVIDIA Rehearsal, driver 550", ""),  # any driver for 12 serves any 12
        ("auto", "13.0", OLD, "cpu: ", f"visionquant: NVIDIA Rehearsal is not used: {TOO_OLD}"),
        ("cuda", "13.0", OLD, "", f"visionquant: study.device: cuda: {TOO_OLD}, or set it to auto or cpu"),
        ("cpu", "13.0", OLD, "cpu: ", ""),
        ("auto", None, {}, "cpu: ", f"visionquant: NVIDIA Rehearsal is not used: {WITHOUT}"),
        ("auto", "13.0", MIG, "cpu: ", f"visionquant: NVIDIA Rehearsal is not used: {DIVIDED}"),
        ("cuda", "13.0", {"CUDA_VISIBLE_DEVICES": SHORT}, "cuda: NVIDIA Rehearsal", ""),
        ("cuda", "13.0", {"CUDA_VISIBLE_DEVICES": FULL}, "cuda: NVIDIA Rehearsal", ""),
        (
            "cuda",
            "13.0",
            {"CUDA_VISIBLE_DEVICES": "GPU-9"},
            "",
            f"visionquant: study.device: cuda: {NONE.format('GPU-9')}, or set it to auto or cpu",
        ),
        ("auto", "13.0", {"CUDA_VISIBLE_DEVICES": "1"}, "cpu: ", ""),
    ],
)
def test_a_gpu_that_torch_can_not_use_is_named_in_one_line(
    tmp_path: Path, stubs: Path, device: str, cuda: str | None, more: dict[str, str], says: str, warns: str
) -> None:
    raw = tiny.settings()
    raw["study"]["device"] = device
    (tmp_path / "study").mkdir()
    tiny.project(tmp_path / "study", raw)
    environment = rehearse_cuda.environment(stubs, tmp_path / "log", card=False, **more)
    environment["PYTHONPATH"] = os.pathsep.join([str(installed(tmp_path / "site", cuda)), environment["PYTHONPATH"]])
    command = [*rehearse_cuda.COMMAND, "environment"]
    done = subprocess.run(command, cwd=tmp_path / "study", env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == (0 if says else 1), done.stderr
    assert done.stdout.startswith(says)
    assert done.stderr.rstrip("\n") == warns
    assert (tmp_path / "study" / "data/machines/local/environment.json").is_file() is bool(says)


def test_the_build_that_is_installed_tells_its_cuda() -> None:
    import torch

    assert driver.torch_cuda() == torch.version.cuda
