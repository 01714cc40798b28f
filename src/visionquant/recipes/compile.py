"""``torch.compile`` measured: eager and compiled, in FP32 and in half, interleaved."""

import copy
import time
from collections.abc import Callable, Iterator
from itertools import product

import torch

from visionquant.accuracy.model_source import seeded_model
from visionquant.bench import device as devices
from visionquant.bench import fidelity
from visionquant.core.errors import StudyError
from visionquant.deploy import compute
from visionquant.recipes import Environment, Params, Project, Row, recipe, timing

MODELS, BATCHES, ROUNDS = ("deit-tiny-ultra-efficient", "vit-base-224-production"), (1, 8), 5


@recipe("compile", weights="seeded")
def run(project: Project, params: Params, machine: Environment) -> Iterator[Row]:
    """A row a model, batch size and way. ``speedup`` is over eager FP32, ``to_fastest_fp32`` over the quicker FP32.

    Where a model can't be compiled the row says why.
    """
    for model, size in product(MODELS, BATCHES):
        yield from _rows(*seeded_model(project, params, model, size), machine.device, model)
        torch.compiler.reset()


def _rows(net: torch.nn.Module, images: torch.Tensor, device: str, model: str) -> Iterator[Row]:
    half = compute.dtype_for(device)
    ways: dict[str, Callable[[], object]] = {}
    compile_s: dict[str, float] = {}
    why: dict[str, str] = {}
    for name, dtype in (("fp32", torch.float32), (compute.NAMES[half], half)):
        own, given = copy.deepcopy(net).to(device, dtype), images.to(device, dtype)
        eager, compiled = f"{name} eager", f"{name} compiled"
        ways[eager] = _call(own, given)
        ways[eager]()  # what starts with the first pass of all is no part of compiling
        devices.of(device).synchronize()
        begun = time.perf_counter()
        try:
            ways[compiled] = _call(compute.compiled(own, given), given)
            devices.of(device).synchronize()
            compile_s[compiled] = time.perf_counter() - begun
        except StudyError as error:
            why[compiled] = str(error)
    times = timing.take(ways, device, ROUNDS)
    expected = fidelity.features_of(ways["fp32 eager"]())
    fastest = min((way for way in ways if way.startswith("fp32")), key=lambda way: timing.milliseconds(times, way))
    for way, call in ways.items():
        yield {
            "model": model,
            "batch_size": len(images),
            "way": way,
            "median_ms": timing.milliseconds(times, way),
            "speedup": timing.speedup(times, way, "fp32 eager"),
            "to_fastest_fp32": timing.speedup(times, way, fastest),
            "fastest_fp32": fastest,
            "cosine": timing.mean_cosine(fidelity.features_of(call()), expected),
            "compile_s": compile_s.get(way),
            "why_missing": "not compiled",
        }
    for way, reason in why.items():
        yield {"model": model, "batch_size": len(images), "way": way, "fastest_fp32": fastest, "why_missing": reason}


def _call(net: Callable[..., object], images: torch.Tensor) -> Callable[[], object]:
    return torch.inference_mode()(lambda: net(images))
