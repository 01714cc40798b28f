"""``torch.compile`` measured: eager and compiled, in FP32 and in half, in turns."""

import copy
import time
from collections.abc import Callable

import torch

from visionquant.bench import fidelity, interleave, torch_flags
from visionquant.core.errors import StudyError
from visionquant.core.machine import Environment
from visionquant.core.paths import Project
from visionquant.deploy import compute, half_precision
from visionquant.records.recipe import Recipe, Value
from visionquant.settings.params import Params

MODELS, BATCHES, ROUNDS = ("deit-tiny-ultra-efficient", "vit-base-224-production"), (1, 8), 5


def run(project: Project, params: Params, machine: Environment) -> Recipe:
    """A row a model, batch size and way. ``speedup`` is over eager FP32, ``to_fastest_fp32`` over the quicker FP32.

    Where a model can't be compiled the row says why.
    """
    begun = time.monotonic()
    torch_flags.begin(machine.device)
    rows = [row for model in MODELS for size in BATCHES for row in _rows(project, params, machine.device, model, size)]
    return Recipe(
        name="compile",
        command="visionquant recipe compile",
        weights="seeded",
        environment=machine,
        elapsed_s=round(time.monotonic() - begun, 1),
        rows=tuple(rows),
    )


def _rows(project: Project, params: Params, device: str, model: str, size: int) -> list[dict[str, Value]]:
    net, images = interleave.seeded(project, params, model, size)
    dtype = half_precision.dtype_for(device)
    ways: dict[str, Callable[[], object]] = {}
    compile_s: dict[str, float] = {}
    why: dict[str, str] = {}
    for name, kind in (("fp32", torch.float32), (half_precision.NAMES[dtype], dtype)):
        own, given = copy.deepcopy(net).to(device, kind), images.to(device, kind)
        ways[f"{name} eager"] = _call(own, given)
        ways[f"{name} eager"]()  # what starts with the first pass of all is no part of compiling
        interleave.synchronize(device)
        start = time.perf_counter()
        try:
            made = compute.compiled(own, given)
            interleave.synchronize(device)
        except StudyError as error:
            why[f"{name} compiled"] = str(error)
            continue
        compile_s[f"{name} compiled"] = round(time.perf_counter() - start, 1)
        ways[f"{name} compiled"] = _call(made, given)
    times = interleave.take(ways, device, ROUNDS)
    expected = fidelity.features_of(ways["fp32 eager"]())
    fastest = min((way for way in ways if way.startswith("fp32")), key=lambda way: interleave.milliseconds(times, way))
    rows: list[dict[str, Value]] = [
        {
            "model": model,
            "batch_size": size,
            "way": way,
            "median_ms": interleave.milliseconds(times, way) if way in ways else None,
            "speedup": interleave.speedup(times, way, "fp32 eager") if way in ways else None,
            "to_fastest_fp32": interleave.speedup(times, way, fastest) if way in ways else None,
            "fastest_fp32": fastest,
            "cosine": interleave.cosine(fidelity.features_of(ways[way]()), expected) if way in ways else None,
            "compile_s": compile_s.get(way),
            "why_missing": why.get(way, "not compiled"),
        }
        for way in [*ways, *why]
    ]
    torch.compiler.reset()
    return rows


def _call(net: Callable[..., object], images: torch.Tensor) -> Callable[[], object]:
    def call() -> object:
        with torch.inference_mode():
            return net(images)

    return call
