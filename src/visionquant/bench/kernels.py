"""Which code quantised layers really run, seen in a pass: native functions of bitsandbytes and torch's own products.

bitsandbytes chooses by device, instruction set, shape, type and mode, and falls back without an error. What it calls is
noted while a layer runs; nothing is derived from what it should do.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

QUANTISED = ("Linear8bitLt", "Linear4bit")  # layers by name, so that other precisions do not wait for a library
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


@contextmanager
def watched(model: nn.Module) -> Iterator[Callable[[], dict[str, int]]]:
    """Watch the quantised layers of a model meanwhile; a layer's calls are told apart by what they run.

    What it gives tells in how many layers each kernel ran, by its name; a layer that ran none is counted as such.
    """
    layers = {name: module for name, module in model.named_modules() if type(module).__name__ in QUANTISED}
    ran: dict[str, set[str]] = {}
    called: list[list[str]] = []  # of the layer that runs now

    def note(function: str) -> None:
        if called and function not in called[-1]:
            called[-1].append(function)

    def noting(function: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            note(function)
            return real(*args, **more)

        return call

    def before(*_: Any) -> None:
        called[:] = [[]]

    def after(name: str, layer: nn.Module, *_: Any) -> None:
        ran.setdefault(label(type(layer).__name__, called.pop()), set()).add(name)

    def counted() -> dict[str, int]:
        idle = len(layers.keys() - set().union(*ran.values()))
        return {kernel: len(names) for kernel, names in sorted(ran.items())} | ({"not run": idle} if idle else {})

    with ExitStack() as undo:

        def replace(place: Any, name: str, new: Any) -> None:
            undo.callback(setattr, place, name, getattr(place, name))
            setattr(place, name, new)

        for name, layer in layers.items():
            undo.enter_context(layer.register_forward_pre_hook(before))
            undo.enter_context(layer.register_forward_hook(partial(after, name)))
        for place, product in PRODUCTS if layers else ():
            replace(place, product, noting(f"torch.{product}", getattr(place, product)))
        backends = [module for name, module in sys.modules.items() if name.startswith("bitsandbytes.backends.")]
        for backend in backends if layers else ():
            if hasattr(backend, "lib"):
                replace(backend, "lib", _Library(backend.lib, note))
            if forward := getattr(backend, "gemm_4bit_forward_kernel", None):
                replace(backend, "gemm_4bit_forward_kernel", noting(HUB, forward))
        yield counted


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
    words = next((text for start, text in WORDS if any(function.startswith(start) for function in called)), "unknown")
    return f"{kind}, {words} ({', '.join(called) or 'nothing known was called'})"
