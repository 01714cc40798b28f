"""A precision put into effect by its engine, and the proof that it was.

A layer built without its weights would keep random ones (the supplement's listing does), and a precision that quantises
nothing would time the baseline. Both are refused. An engine is one module here with an ``ENGINE``, named by its rows.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib import import_module
from typing import NamedTuple

import torch
from torch import nn

from visionquant.core.errors import StudyError
from visionquant.records.record import Conversion
from visionquant.settings.precision import PrecisionRow

Shape = tuple[int, int, int]


class Converted(NamedTuple):
    """A network in a precision, and what it was proved to be; None on the device "meta", where nothing can be."""

    net: nn.Module
    proof: Conversion | None


class Backend(ABC):
    """What an engine does; ``row`` is one of its own rows, ``device`` a kind of device.

    What is not abstract is right for most engines, which have nothing to do at those moments.
    """

    def unsupported(self, device: str) -> str:
        """Why it can't run here, empty where it can."""
        return ""

    def preload(self, device: str) -> None:  # noqa: B027
        """Import what takes seconds before processes are forked, as far as that opens nothing."""

    def plant_outliers(self, net: nn.Module, row: PrecisionRow, image: torch.Tensor) -> None:  # noqa: B027
        """Scale channels up as the row asks; ``net`` is FP32 on the CPU."""

    @abstractmethod
    def convert(self, net: nn.Module, row: PrecisionRow, device: str, shape: Shape | None) -> nn.Module:
        """``net`` (FP32, on the CPU; changed) in the precision, for images of ``shape``."""

    @abstractmethod
    def prove(self, net: nn.Module, row: PrecisionRow, device: str) -> Conversion:
        """What a converted network really is; errors as of :func:`prove`."""

    def proved(self, net: nn.Module, row: PrecisionRow, device: str, shape: Shape | None) -> Converted:
        """:meth:`convert` and :meth:`prove`."""
        converted = self.convert(net, row, device, shape)
        return Converted(converted, None if device == "meta" else self.prove(converted, row, device))

    def settle(self, net: nn.Module, image: torch.Tensor) -> None:  # noqa: B027
        """Let a converted network do what it would do once at its first pass, before it is kept for others."""

    def watch(self, net: nn.Module) -> AbstractContextManager[Callable[[], dict[str, int]]]:
        """In how many quantised layers each kernel ran meanwhile."""
        return nullcontext(dict)

    def operations(self, net: nn.Module, image: torch.Tensor, dispatched: int) -> int:
        """What a pass issues; ``dispatched`` counts torch's own."""
        return dispatched

    def outlier_layers(self, net: nn.Module) -> int | None:
        """In how many layers the last pass met outlier columns; None where none are looked for."""
        return None

    @abstractmethod
    def bytes_of(self, net: nn.Module) -> tuple[int, int]:
        """Bytes that must be kept to run the network, each storage once, and of its weights' file; before any pass."""


@cache
def backend_of(engine: str) -> Backend:
    """The engine of a row, by ``row.engine``."""
    backend: Backend = import_module(f"{__package__}.{engine}").ENGINE
    return backend


def dtype_of(precision: PrecisionRow, device: str) -> torch.dtype:
    """The type of everything that ``precision`` does not quantise, on ``device``."""
    dtype: torch.dtype = getattr(torch, precision.dtype_on(device))
    return dtype


def type_name(dtype: torch.dtype) -> str:
    """A type without torch's own name."""
    return str(dtype).removeprefix("torch.")


def proved(model: nn.Module, precision: PrecisionRow, device: str, shape: Shape | None = None) -> Converted:
    """Put ``model`` (FP32, on the CPU) into ``precision`` on ``device``; the model is changed, proved and returned.

    A graph of ONNX Runtime takes images of one ``shape`` (channels, height, width), that of the config if None.

    Raises:
        StudyError: nothing was quantised by a precision that quantises, a rule matches nothing, its engine does not
            run here, or what came of it is not what was asked.
    """
    backend = backend_of(precision.engine)
    if why := backend.unsupported(device):
        raise StudyError(subject_of(precision), why, "leave the precision out")
    return backend.proved(model, precision, device, shape)


def convert(model: nn.Module, precision: PrecisionRow, device: str, shape: Shape | None = None) -> nn.Module:
    """The network of :func:`proved` alone."""
    return proved(model, precision, device, shape).net


def prove(model: nn.Module, precision: PrecisionRow, device: str) -> Conversion:
    """What the parameters of a converted, evaluating model really are; a StudyError names what is not as asked."""
    return backend_of(precision.engine).prove(model, precision, device)


def subject_of(precision: PrecisionRow) -> str:
    """What errors of a conversion speak of."""
    return f"precision {str(getattr(precision, 'method', precision.family)).removeprefix('bitsandbytes_')}"


def require_all(subject: str, parts: Iterable[tuple[str, str, str]]) -> None:
    """Insist that of each (name, what it is, what was asked) the last two agree; StudyError: the first that differs."""
    if wrong := [part for part in parts if part[1] != part[2]]:
        name, is_, wanted = wrong[0]
        more = f" (and so on, {len(wrong)} in all)" if len(wrong) > 1 else ""
        raise StudyError(subject, f"{name} is {is_}, asked was {wanted}{more}", "report this defect")
