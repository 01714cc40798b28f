import os
import shutil
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test asks a real hub; those that want one serve it on loopback
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# Asking whether there is a GPU must not open it: what is forked from a process that did can't use it.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
# Tests fork this process, which a pool of threads that has started does not survive.
os.environ.setdefault("OMP_NUM_THREADS", "1")

LONG, RENDERED = "test_pipeline.py", "tests/report/"
VISIBLE = os.environ.get("CUDA_VISIBLE_DEVICES")
TOUCHED: list[str] = []
"""What was asked of a GPU while tests were collected, and what opens one when it is imported: nothing, hopefully."""


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    import torch

    def spied(name: str, asked: Any) -> Any:
        def spy(*given: Any, **more: Any) -> Any:
            TOUCHED.append(f"torch.cuda.{name}")
            return asked(*given, **more)

        return spy

    with pytest.MonkeyPatch.context() as patched:
        for name in ("is_available", "device_count", "current_device", "get_device_capability", "init", "_lazy_init"):
            patched.setattr(torch.cuda, name, spied(name, getattr(torch.cuda, name)))
        found = yield
    TOUCHED.extend({"bitsandbytes"} & set(sys.modules))  # with a CUDA build its import asks for the GPU's capability
    return found


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Show a GPU to the tests for one alone, whatever a test before left behind; comes before their fixtures."""
    if item.get_closest_marker("gpu") is None:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif VISIBLE is None:
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = VISIBLE


class Files(LoadFileScheduling):  # type: ignore[misc]
    """A file stays whole in one process; those that share the rendered report stay in the same one."""

    def _split_scope(self, nodeid: str) -> str:
        return RENDERED if nodeid.startswith(RENDERED) else str(super()._split_scope(nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Files:
    return Files(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine can't run, and say why; what takes minutes begins first, so that no process ends alone."""
    items.sort(key=lambda item: (item.path.name != LONG, not item.nodeid.startswith(RENDERED)))
    no_gpu = shutil.which("nvidia-smi") is None
    no_browser = not any(shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome"))
    for item in items:
        if no_gpu and item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU here"))
        if no_browser and item.get_closest_marker("browser"):
            item.add_marker(pytest.mark.skip(reason="no Chromium here; install it to run the browser tests"))


@pytest.fixture
def touched() -> list[str]:
    """What collecting the tests of this run asked of a GPU."""
    return TOUCHED
