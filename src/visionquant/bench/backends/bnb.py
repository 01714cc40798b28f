"""bitsandbytes: its layers made from Linear layers, what such a layer really is, and which code it really runs.

Weights are wrapped in bitsandbytes' own parameter classes, and quantised by the move to the device. The library chooses
kernels by device, instruction set, shape, type and mode, and falls back without an error. So what it calls, and what
torch's own products are called for, is noted while a layer runs; nothing is derived from what it should do.
"""

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch import nn

from visionquant.bench import device as devices
from visionquant.bench import outliers
from visionquant.bench.backends import convert
from visionquant.bench.backends.eager import Eager
from visionquant.core.errors import StudyError
from visionquant.settings.precision import Int8Precision, Nf4Precision

LAYERS = "visionquant.bench.backends.bnb_layers"
QUANTISED = {"Linear8bitLt": "INT8", "Linear4bit": "NF4"}  # by name, so that others do not wait for the library
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


class BitsAndBytes(Eager):
    """Linear layers in INT8 or NF4, the rest in the row's type."""

    def preload(self, device: str) -> None:
        """A GPU is opened by the import; what that takes long for, and opens nothing, is imported there.

        torch 2.11 leaves NVML open after its compiler is imported, and a fork must not use its parent's.
        """
        if devices.of(device).a_process_an_arm:
            import bitsandbytes  # noqa: F401
        else:
            import pynvml
            import torch._dynamo
            import torch._inductor.compile_fx  # noqa: F401

            with suppress(pynvml.NVMLError):  # it was not open
                pynvml.nvmlShutdown()

    def plant_outliers(self, net: nn.Module, row: Any, image: torch.Tensor) -> None:
        if row.planted_outliers:
            outliers.plant(net, row.planted_outliers, image)

    def replace_layers(self, net: nn.Module, row: Any, dtype: torch.dtype) -> None:
        names = [name for name, module in net.named_modules() if type(module) is nn.Linear]
        chosen = [name for name in names if not any(part in row.skip for part in name.split("."))]
        if not chosen:
            found = f"no Linear layer was quantised, of {len(names)} in the model"
            remedy = "shorten `skip` in its row" if names else "study the model in other precisions"
            raise StudyError(f"precision {row.method}", found, remedy)
        for name in chosen:
            replace(net, name, quantised(net.get_submodule(name), row, dtype))

    def quantised_layers(self, net: nn.Module) -> dict[str, Any]:
        return {name: module for name, module in net.named_modules() if type(module).__name__ in QUANTISED}

    def parts(self, net: nn.Module, row: Any, plain: str) -> Iterator[tuple[str, str, str]]:
        layers, wanted = self.quantised_layers(net), asked(row)
        if not layers:
            found = f"no layer is quantised, asked was {wanted}"
            raise StudyError(convert.subject_of(row), found, "report this defect")
        yield from ((name, kind_of(layer), wanted) for name, layer in layers.items())
        yield from (part for part in super().parts(net, row, plain) if not part[1].startswith("quantised"))

    def skipped_layers(self, net: nn.Module, modules: dict[str, str] | None) -> tuple[str, ...]:
        return tuple(name for name, module in net.named_modules() if type(module) is nn.Linear)

    def knobs(self, row: Any) -> dict[str, Any]:
        return row.model_dump(include={"threshold", "blocksize", "double_quantization"})

    def settle(self, net: nn.Module, image: torch.Tensor) -> None:
        """On CPUs with BF16 instructions each NF4 layer is repacked at its first pass, which takes seconds."""
        if any(type(module).__name__ == "Linear4bit" for module in net.modules()):
            with torch.inference_mode():
                net(image)

    def watch(self, net: nn.Module) -> AbstractContextManager[Callable[[], dict[str, int]]]:
        return _watched(self.quantised_layers(net))

    def outlier_layers(self, net: nn.Module) -> int | None:
        states: list[Any] = [one.state for one in net.modules() if type(one).__name__ == "Linear8bitLt"]
        met = [state.idx is not None and state.idx.numel() > 0 for state in states if state.threshold > 0]
        return sum(met) if met else None

    def stored_tensors(self, net: nn.Module) -> Iterator[torch.Tensor]:
        """Also what bitsandbytes hangs beside its parameters."""
        yield from super().stored_tensors(net)
        for module in net.modules():
            weight, state = getattr(module, "weight", None), getattr(module, "state", None)
            quant = getattr(weight, "quant_state", None)
            held = [getattr(weight, "SCB", None), getattr(state, "CB", None), getattr(state, "SCB", None)]
            held += [getattr(quant, name, None) for name in ("absmax", "code", "offset")]
            held += [getattr(getattr(quant, "state2", None), name, None) for name in ("absmax", "code")]
            yield from (tensor for tensor in held if isinstance(tensor, torch.Tensor))


def replace(net: nn.Module, name: str, layer: nn.Module) -> None:
    """Put ``layer`` in the place of the module of that dotted name."""
    parent, _, leaf = name.rpartition(".")
    setattr(net.get_submodule(parent), leaf, layer)


def quantised(linear: nn.Module, precision: Int8Precision | Nf4Precision, dtype: torch.dtype) -> nn.Module:
    """A layer in ``precision`` that computes in ``dtype``; its weight is quantised when it is moved to a device."""
    import bitsandbytes as bnb

    from visionquant.bench.backends import bnb_layers

    assert isinstance(linear, nn.Linear)
    weight, has_bias = linear.weight.data, linear.bias is not None
    shape: dict[str, Any] = {"input_features": linear.in_features, "output_features": linear.out_features}
    shape |= {"bias": has_bias, "device": "meta"}
    layer: nn.Module
    if isinstance(precision, Int8Precision):
        layer = bnb_layers.Linear8bitLt(**shape, has_fp16_weights=False, threshold=precision.threshold)
        layer.weight = bnb.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
    else:
        size = precision.blocksize
        kind: dict[str, Any] = {"compress_statistics": precision.double_quantization, "quant_type": "nf4"}
        layer = bnb_layers.Linear4bit(**shape, **kind, compute_dtype=dtype)
        layer.weight = bnb.nn.Params4bit(weight, requires_grad=False, blocksize=size, module=layer, **kind)
        # The repacked CPU kernel wants whole blocks in a row, and rows by 32. Repacking also takes the quantisation of
        # the scales back, for good: that would be another precision than the row's.
        if linear.in_features % max(32, size) or linear.out_features % 32 or precision.double_quantization:
            layer.support_avx512bf16_for_cpu = False
    layer.bias = linear.bias
    return layer.eval()


def asked(precision: Int8Precision | Nf4Precision) -> str:
    """What a layer in ``precision`` has to be, in the words of :func:`kind_of`."""
    if isinstance(precision, Int8Precision):
        return f"int8 with threshold {precision.threshold:g}"
    return _nf4("nf4", precision.blocksize, precision.double_quantization)


def kind_of(layer: Any) -> str:
    """What a quantised layer is, read off its weight and its state."""
    weight = layer.weight
    if type(layer).__module__ != LAYERS:
        return f"a layer of {type(layer).__module__}, which misreads inputs that are not contiguous"
    if type(layer).__name__ == "Linear4bit":
        state = weight.quant_state
        if state is None:
            return f"not quantised ({weight.dtype})"
        scales = _nf4(state.quant_type, state.blocksize, state.nested)
        was_double = not state.nested and getattr(state, "original_nested", False)
        return f"{scales} since this CPU repacked it" if was_double else scales
    held = layer.state if weight.CB is None else weight
    if layer.state.has_fp16_weights or weight.has_fp16_weights:
        return "quantised anew at each pass"
    if weight.dtype != torch.int8 or held.CB is None or held.CB.dtype != torch.int8 or held.SCB is None:
        return f"without int8 codes ({weight.dtype})"
    return f"int8 with threshold {layer.state.threshold:g}"


def _nf4(kind: str, blocksize: int, double: bool) -> str:
    return f"{kind} in blocks of {blocksize}, scales {'quantised' if double else 'not quantised'}"


@contextmanager
def _watched(layers: dict[str, nn.Module]) -> Iterator[Callable[[], dict[str, int]]]:
    """Note meanwhile what ``layers`` call; gives in how many each kernel ran, by :func:`label`, and "not run"."""
    ran: dict[str, set[str]] = defaultdict(set)
    called: list[list[str]] = []  # of the layer that runs now

    def note(function: str) -> None:
        if called and function not in called[-1]:
            called[-1].append(function)

    def noting(function: str, real: Callable[..., Any], *args: Any, **more: Any) -> Any:
        note(function)
        return real(*args, **more)

    def before(*_: Any) -> None:
        called[:] = [[]]

    def after(name: str, layer: nn.Module, *_: Any) -> None:
        ran[label(type(layer).__name__, called.pop())].add(name)

    def counted() -> dict[str, int]:
        idle = len(layers.keys() - set().union(*ran.values()))
        return {kernel: len(names) for kernel, names in sorted(ran.items())} | ({"not run": idle} if idle else {})

    with ExitStack() as undo:

        def put(place: Any, name: str, new: Any) -> None:
            undo.callback(setattr, place, name, getattr(place, name))
            setattr(place, name, new)

        for name, layer in layers.items():
            undo.enter_context(layer.register_forward_pre_hook(before))
            undo.enter_context(layer.register_forward_hook(partial(after, name)))
        for place, product in PRODUCTS if layers else ():
            put(place, product, partial(noting, f"torch.{product}", getattr(place, product)))
        for backend in [sys.modules[name] for name in sys.modules if name.startswith("bitsandbytes.backends.")]:
            if layers and hasattr(backend, "lib"):
                put(backend, "lib", _Library(backend.lib, note))
            if layers and (forward := getattr(backend, "gemm_4bit_forward_kernel", None)):
                put(backend, "gemm_4bit_forward_kernel", partial(noting, HUB, forward))
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
    words = next((text for start, text in WORDS if any(function.startswith(start) for function in called)), "unknown")
    return f"{QUANTISED[layer]}, {words} ({', '.join(called) or 'nothing known was called'})"


ENGINE = BitsAndBytes()
