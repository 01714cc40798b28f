"""What engines of graphs share: where they run, the images of static INT8, and which kernels multiply integers.

Calibration needs images as the network's own processor makes them. An engine is shown the first crop of the study's
photographs. Others, which the fidelity pass does not see, are prepared plainly and given the mean and deviation of each
channel that the processor gives the first: exactly its normalisation where it scales as that does, else nearly so.
"""

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import nn

from visionquant.bench import inputs
from visionquant.bench.backends.convert import Backend, backend_of
from visionquant.bench.inputs import DEFAULT, Preprocessing
from visionquant.core.errors import StudyError
from visionquant.settings.precision import PrecisionRow

CROPS = 12


class GraphEngine(Backend):
    """A library ``name`` that runs graphs on a CPU, from ``packages`` of the optional dependencies ``extra``."""

    name: str
    packages: tuple[str, ...]
    extra: str

    def unsupported(self, device: str) -> str:
        if device != "cpu":
            return f"{self.name} is measured on a CPU alone"
        found = all(map(_installed, self.packages))
        return "" if found else f'{self.name} is not installed: pip install --editable ".[{self.extra}]"'

    def plant_outliers(self, net: nn.Module, row: Any, image: torch.Tensor) -> None:
        """Nothing is planted; the image is what static INT8 is calibrated on."""
        show(net, image)

    def kernels(self, net: Any) -> Counter[str]:
        """What a pass of one image really ran, after all fusions: kernel to count."""
        ran: Counter[str] = net.kernels(torch.zeros(1, *net.graph.shape))
        return ran

    @abstractmethod
    def is_integer(self, kernel: str) -> bool:
        """Whether that kernel multiplies integers by weights."""

    def operations(self, net: nn.Module, image: torch.Tensor, dispatched: int) -> int:
        return self.kernels(net).total()

    @contextmanager
    def watch(self, net: Any) -> Iterator[Callable[[], dict[str, int]]]:
        def counted() -> dict[str, int]:
            ran = sorted(self.kernels(net).items())
            return {kernel: count for kernel, count in ran if self.is_integer(kernel)}

        yield counted


def show(net: nn.Module, image: torch.Tensor) -> None:
    """Let ``net`` be calibrated on an ``image`` (1, channels, height, width) that its own processor prepared."""
    vars(net)["calibration_image"] = image


def show_crop(net: nn.Module, row: PrecisionRow, preprocessing: Preprocessing) -> None:
    """Show ``net`` the first crop of the photographs, where the engine of ``row`` may calibrate on it."""
    if isinstance(backend_of(row.engine), GraphEngine):
        show(net, inputs.batch(1, preprocessing))


def calibration_images(net: nn.Module) -> np.ndarray:
    """The image that ``net`` was shown and ``CROPS`` others, float32 (n, channels, height, width).

    Raises:
        StudyError: it was shown none.
    """
    image = getattr(net, "calibration_image", None)
    if image is None:
        found = "no image to calibrate this network on"
        raise StudyError("static INT8", found, "use `visionquant sample`, `probe` or `serve`")
    own = image.float().numpy()  # torch's threads, which larger operations start, would not survive a fork
    plain = Preprocessing(DEFAULT, own.shape[1:])
    first, crops = inputs.batch(1, plain).numpy(), inputs.batch(CROPS, plain, first=8).numpy()
    every: dict[str, Any] = {"axis": (0, 2, 3), "keepdims": True}
    scale = own.std(**every) / first.std(**every)
    return np.concatenate([own, (crops - first.mean(**every)) * scale + own.mean(**every)]).astype(np.float32)


def _installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ValueError:  # its import was blocked
        return False
