import os
import shutil
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test asks a real hub; those that want one serve it on loopback
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# Tests fork this process, which a pool of threads that has started does not survive.
os.environ.setdefault("OMP_NUM_THREADS", "1")

LONG, RENDERED = "test_pipeline.py", "tests/report/"


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
