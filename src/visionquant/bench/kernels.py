"""Which code quantised layers really run, seen in a pass: native functions of bitsandbytes and torch's own products.

bitsandbytes chooses by device, instruction set, shape, type and mode, and falls back without an error. What it calls is
noted while a layer runs; nothing is derived from what it should do.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from visionquant.bench.backends import bnb

HUB = "gemm_4bit_forward"
PRODUCTS = ((torch, "_int_mm"), (torch, "matmul"), (nn.functional, "linear"))
# What was called decides, the first that fits; the rest is preparation, such as the quantisation of the input.
WORDS = (
    (HUB, "fused, a kernel of the hub"),
    ("gemv_4bit_inference_cpu", "fused, weights repacked"),
    ("cgemm_4bit", "fused"),
    ("cigemmlt", "an INT8 product"),
    ("torch._int_mm", "an INT8 product"),
    ("torch.matmul", "codes multiplied in FP32"),
    ("torch.linear", "dequantised, then a product in floats"),
)


class Watch:
    """Watches the quantised layers of a model while it is entered; a layer's calls are told apart by what they run."""

    def __init__(self, model: nn.Module) -> None:
        self._layers = {
            name: module for name, module in model.named_modules() if type(module).__name__ in bnb.QUANTISED
        }
        self._ran: dict[str, set[str]] = {}
        self._now: list[str] | None = None
        self._undo: list[Callable[[], None]] = []

    def counted(self) -> dict[str, int]:
        """In how many layers each kernel ran, by its name; a layer that ran none is counted as such."""
        found = {name: len(where) for name, where in sorted(self._ran.items())}
        idle = len(self._layers.keys() - set().union(*self._ran.values()))
        return found | ({"not run": idle} if idle else {})

    def __enter__(self) -> "Watch":
        if not self._layers:
            return self
        for name, layer in self._layers.items():
            self._undo.append(layer.register_forward_pre_hook(self._before).remove)
            self._undo.append(layer.register_forward_hook(self._after(name)).remove)
        for place, product in PRODUCTS:
            self._replace(
                place, product, self._noting(f"torch.{product.removeprefix('torch.')}", getattr(place, product))
            )
        for module in [one for name, one in sys.modules.items() if name.startswith("bitsandbytes.backends.")]:
            if hasattr(module, "lib"):
                self._replace(module, "lib", _Library(module.lib, self._note))
            forward = getattr(module, "gemm_4bit_forward_kernel", None)
            if forward is not None:
                self._replace(module, "gemm_4bit_forward_kernel", self._noting(HUB, forward))
        return self

    def __exit__(self, *_: object) -> None:
        while self._undo:
            self._undo.pop()()

    def _replace(self, place: Any, name: str, new: Any) -> None:
        old = getattr(place, name)
        self._undo.append(lambda: setattr(place, name, old))
        setattr(place, name, new)

    def _noting(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            self._note(name)
            return real(*args, **more)

        return call

    def _note(self, name: str) -> None:
        if self._now is not None and name not in self._now:
            self._now.append(name)

    def _before(self, *_: Any) -> None:
        self._now = []

    def _after(self, name: str) -> Callable[..., None]:
        def note(layer: nn.Module, *_: Any) -> None:
            self._ran.setdefault(label(type(layer).__name__, self._now or ()), set()).add(name)
            self._now = None

        return note


class _Library:
    """Stands for a native library and tells which of its functions are asked for."""

    def __init__(self, real: Any, note: Callable[[str], None]) -> None:
        self._real, self._note = real, note

    def __getattr__(self, name: str) -> Any:
        self._note(name)
        return getattr(self._real, name)


def label(layer: str, called: Sequence[str]) -> str:
    """A kernel's name: the kind of ``layer``, how it multiplies, and what was ``called`` for that, in order."""
    kind = {"Linear8bitLt": "INT8", "Linear4bit": "NF4"}[layer]
    words = next((text for start, text in WORDS if any(one.startswith(start) for one in called)), "unknown")
    return f"{kind}, {words} ({', '.join(called) or 'nothing known was called'})"
