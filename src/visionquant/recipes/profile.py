"""Where the time of a pass goes: in FP32, in BF16, and in bitsandbytes' INT8 with and without its outlier path.

torch's profiler tells what each operation took by itself, what encloses it what it was for. Profiling slows a pass
down, so its shares are applied to the median of passes without it, in which the precisions took turns. Beside them the
rates of this machine's own matrix products and of its memory: what a pass could reach at most.
"""

import copy
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.profiler import ProfilerActivity
from torch.profiler import profile as profiling

from visionquant.accuracy.model_source import ModelSource, open_model
from visionquant.bench import device as devices
from visionquant.bench import fidelity, inputs
from visionquant.bench.backends import convert
from visionquant.recipes import Environment, Params, Project, Row, recipe, timing
from visionquant.settings.params import known

PRECISIONS, BATCHES = ("fp32", "bf16", "int8-threshold-0", "int8"), (1, 8)
LAYER = "Linear8bitLt"
PASSES = 3  # profiled
SIDE, COPIED = 2048, 2**28  # of a square matrix; bytes, more than caches hold
PARTS = INTEGER, EMULATED, QUANTISE, APART, SCALE, CASTS, FLOATS, ATTENTION, REST, BETWEEN = (
    "integer products",
    "integer products in floats",
    "quantise the inputs",
    "outliers apart",
    "scale the products back",
    "casts and calls of the layers",
    "float products",
    "attention",
    "norms, activations, sums",
    "between operations",
)
FLOAT_OPERATIONS = {"aten::linear", "aten::conv2d", "aten::matmul", "aten::addmm", "aten::mm", "aten::bmm"}
# What quantising an input does only where it finds outliers; that it looks for them at all is the first of these.
FIND_OUTLIERS = {"aten::ge", "aten::any", "aten::argwhere", "aten::index", "aten::index_put_", "aten::clone"}
NUMBERS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "int8": torch.int8}


@recipe("profile", weights="pretrained and seeded")
def run(project: Project, params: Params, machine: Environment) -> Iterator[Row]:
    """Rows of a ``kind``: ``pass`` and, of each, ``part``, by model, batch size and precision; ``peak``, the machine's.

    ``norm``: the layer whose normalisation meets the largest ``deviation`` from the mean in FP32, which an engine that
    takes LayerNorm apart squares. ``rate`` is 10^9 multiply-accumulates a second, of copies 10^9 bytes a second (read
    and written). Shares are of a pass. StudyError: a model is not to be had.
    """
    known("precisions", PRECISIONS, params.precisions)
    for name in params.report.profiled:
        source = open_model(project, params, name)
        yield from _model_rows(source, params, machine.device)
    yield from _peaks(machine.device)


def part_of(names: list[str]) -> str:
    """What an operation is for, by its name and the names of those around it, from the innermost outwards."""
    around, bnb = set(names), "bitsandbytes::int8_"
    if f"{bnb}linear_matmul" in around:  # without AVX-512 its codes are multiplied as floats
        return EMULATED if around & {"aten::matmul", "aten::to"} else INTEGER
    if f"{bnb}mm_dequant" in around:
        return SCALE
    if f"{bnb}vectorwise_quant" in around:
        return APART if around & FIND_OUTLIERS else QUANTISE
    if f"{bnb}mixed_scaled_mm" in around and f"{bnb}scaled_mm" not in around:
        return CASTS if names[0] == f"{bnb}mixed_scaled_mm" else APART
    if around & {"MatMul8bitLt", f"{bnb}scaled_mm"}:
        return CASTS
    if "aten::scaled_dot_product_attention" in around:
        return ATTENTION
    return FLOATS if around & FLOAT_OPERATIONS else REST


def _model_rows(source: ModelSource, params: Params, device: str) -> Iterator[Row]:
    plain, prepared = source.build(), inputs.batch(max(BATCHES), source.preprocessing)
    norm = _largest_deviation(plain, prepared)
    yield norm | {"kind": "norm", "model": source.name, "weights": source.weights, "batch_size": len(prepared)}
    nets = {name: convert.convert(copy.deepcopy(plain), params.precisions[name], device) for name in PRECISIONS}
    for size in BATCHES:
        batch = {name: convert.dtype_of(params.precisions[name], device) for name in PRECISIONS}
        calls = {name: _call(net, prepared[:size].to(device, batch[name])) for name, net in nets.items()}
        work, times = _macs(plain, prepared[:size]), timing.take(calls, device)
        expected = fidelity.features_of(calls[PRECISIONS[0]]()).float()
        for name, call in calls.items():
            whole_ms, shares = timing.milliseconds(times, name), _shares(call, device)
            integers = [layer for layer, module in nets[name].named_modules() if type(module).__name__ == LAYER]
            own = dict.fromkeys((INTEGER, EMULATED), sum(work[layer] for layer in integers))
            own[FLOATS] = sum(work.values()) - own[INTEGER]
            shared: Row = {"model": source.name, "weights": source.weights, "batch_size": size, "precision": name}
            yield shared | {
                "kind": "pass",
                "ms": whole_ms,
                "speedup": timing.speedup(times, name, PRECISIONS[0]),
                "cosine": timing.mean_cosine(fidelity.features_of(call()).float(), expected),
                "rate": sum(work.values()) / whole_ms / 1e6,
                "why_missing": "a figure of parts",
            }
            for part, share in shares.items():
                ms = share * whole_ms
                rate = own[part] / ms / 1e6 if part in own and ms else None
                more: Row = {"part": part, "ms": ms, "share": share, "rate": rate}
                yield shared | {"kind": "part", "why_missing": "no product"} | more


def _call(net: nn.Module, images: torch.Tensor) -> Callable[[], object]:
    return torch.inference_mode()(lambda: net(images))


def _macs(net: nn.Module, images: torch.Tensor) -> dict[str, int]:
    """Multiply-accumulates of each layer with weights, by its name, in a pass over ``images``."""
    found: dict[str, int] = {}

    def count(name: str, layer: Any, _: object, output: torch.Tensor) -> None:
        found[name] = found.get(name, 0) + output.numel() * layer.weight[0].numel()

    layers = [(name, layer) for name, layer in net.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    hooks = [layer.register_forward_hook(partial(count, name)) for name, layer in layers]
    with torch.inference_mode():
        net(images)
    for hook in hooks:
        hook.remove()
    return found


def _largest_deviation(net: nn.Module, images: torch.Tensor) -> Row:
    """The LayerNorm that meets the largest deviation of a value from the mean of its token, and that deviation."""
    found: dict[str, float] = {}

    def note(name: str, _: object, given: tuple[torch.Tensor, ...]) -> None:
        states = given[0]
        found[name] = float((states - states.mean(-1, keepdim=True)).abs().max())

    layers = [(name, layer) for name, layer in net.named_modules() if isinstance(layer, nn.LayerNorm)]
    hooks = [layer.register_forward_pre_hook(partial(note, name)) for name, layer in layers]
    with torch.inference_mode():
        net(images)
    for hook in hooks:
        hook.remove()
    if not found:
        return {"part": None, "deviation": None, "why_missing": "the model has no LayerNorm"}
    layer = max(found, key=lambda name: found[name] if math.isfinite(found[name]) else math.inf)
    known = math.isfinite(found[layer])
    why = "a figure of passes" if known else "it is not finite in FP32 itself"
    return {"part": layer, "deviation": found[layer] if known else None, "why_missing": why}


def _shares(call: Callable[[], object], device: str) -> dict[str, float]:
    """Of each part the share of the profiled passes' time; what no operation accounts for is between them.

    Empty where the profiler tells nothing, as in a container that may not ask the GPU.
    """
    took: dict[str, float] = defaultdict(float)
    for _ in range(2):  # the profiler starts in the first
        took.clear()
        activities = {ProfilerActivity.CPU} | ({ProfilerActivity.CUDA} if device == "cuda" else set())
        with profiling(activities=activities) as profiler:
            begun = time.perf_counter()
            for _ in range(PASSES):
                call()
                devices.of(device).synchronize()
            whole_us = 1e6 * (time.perf_counter() - begun)
        for event in profiler.events() or ():
            if event.device_type == DeviceType.CPU:
                own = event.self_device_time_total if device == "cuda" else event.self_cpu_time_total
                took[part_of(_around(event))] += own
    if not sum(took.values()):
        return {}
    took[BETWEEN] = max(0.0, whole_us - sum(took.values()))
    return {part: took[part] / sum(took.values()) for part in PARTS if took[part] > 0}


def _around(event: Any) -> list[str]:
    names = []
    while event is not None:
        names.append(event.name)
        event = event.cpu_parent
    return names


def _peaks(device: str) -> Iterator[Row]:
    """The fastest of several products and copies that took turns: what else the machine does can only slow them."""
    ways: dict[str, Callable[[], object]] = {}
    side = SIDE if device == "cpu" else 4 * SIDE  # long enough that a GPU's launch is nothing beside it
    for name, dtype in NUMBERS.items():
        square = torch.ones(side, side, dtype=dtype, device=device)
        way = partial(torch._int_mm if name == "int8" else torch.mm, square, square)
        try:
            way()
        except (RuntimeError, NotImplementedError) as error:
            why = str(error).splitlines()[0]
            yield {"kind": "peak", "precision": name, "part": "matrix product", "why_missing": why}
        else:
            ways[name] = way
    source = torch.ones(COPIED // 4, device=device)
    ways["copy"] = partial(torch.empty_like(source).copy_, source)
    times = timing.take(ways, device)
    for name in ways:
        best, copied = min(times[name]), name == "copy"
        rate = (2 * COPIED if copied else side**3) / best / 1e9
        what: Row = {"precision": None if copied else name, "part": "memory copy" if copied else "matrix product"}
        yield what | {"kind": "peak", "ms": 1e3 * best, "rate": rate, "why_missing": "a figure of passes"}
