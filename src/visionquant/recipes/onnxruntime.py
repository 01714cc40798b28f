"""ONNX Runtime's session options on one vision transformer, beside torch and bitsandbytes, in turns.

The guide shows a session with its default options. Here every option that decides its speed on a CPU is tried for FP32
and for dynamic INT8: threads within a node, branches at a time, how far nodes are fused, and whether idle threads wait
busily. Contestants take turns within a round, so what disturbs the machine disturbs all; a ratio is the median over
rounds of two times that lie side by side. Speed without agreement is worth nothing, so each carries its cosine
similarity to FP32 on crops of real photographs.
"""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from visionquant.bench import fidelity, inputs, loading, torch_flags
from visionquant.bench.backends import convert, onnx_graph
from visionquant.bench.backends.ort import Network, Options
from visionquant.core import machine as environment
from visionquant.core.errors import StudyError
from visionquant.core.machine import Environment
from visionquant.core.paths import Project
from visionquant.records.recipe import Recipe, Value
from visionquant.settings.params import Params, known
from visionquant.settings.precision import FP32, OnnxRuntimePrecision

NAME, MODEL = "onnxruntime", "vit-base-224-production"
FLOAT, QUANTISED, BITSANDBYTES = "fp32_onnxruntime", "int8_onnxruntime", "int8"
ROUNDS = {1: 7, 8: 5}  # batch size to rounds
IMAGES = 8
TORCH, RUNTIME = "torch", "ONNX Runtime"
FLOATS = ("fp32", FLOAT)


@dataclass(frozen=True)
class Contestant:
    """A network ready to run: ``precision`` is a row of params.yaml, ``options`` None for torch itself."""

    precision: str
    threads: int
    net: nn.Module
    dtype: torch.dtype
    options: Options | None = None

    def milliseconds(self, images: torch.Tensor) -> float:
        """One pass over ``images``, already in ``dtype``."""
        if self.options is None:
            torch.set_num_threads(self.threads)
        begun = time.perf_counter()
        self.net(images)
        return 1e3 * (time.perf_counter() - begun)


def run(project: Project, params: Params, machine: Environment) -> Recipe:
    """Every contestant at batch sizes 1 and 8.

    Raises:
        StudyError: ONNX Runtime is not installed, or params.yaml lacks a row.
    """
    begun = time.monotonic()
    why = convert.backend_of("ort").unsupported("cpu")
    if why:
        raise StudyError(f"recipe {NAME}", why.partition(": ")[0], why.partition(": ")[2])
    known("models", [MODEL], params.models)
    known("precisions", [FLOAT, QUANTISED, BITSANDBYTES], params.precisions)
    torch_flags.quiet("cpu")
    torch_flags.default_threads()
    spec, protocol = params.models[MODEL], params.protocol
    torch.set_num_threads(1)  # until all graphs are exported in forks
    net = loading.seeded(project, MODEL, spec, protocol.attention, protocol.seed)
    images = inputs.batch(IMAGES, loading.preprocessing(project, MODEL, spec, None))
    with torch.inference_mode():
        rows = measure(contestants(params, net, images), images, ROUNDS)
    return Recipe(
        name=NAME,
        command=f"visionquant recipe {NAME}",
        weights="seeded",
        environment=environment.probe("cpu"),
        elapsed_s=round(time.monotonic() - begun, 1),
        rows=tuple(rows),
    )


def contestants(params: Params, net: nn.Module, images: torch.Tensor) -> list[Contestant]:
    """torch in FP32 with one thread and with all, bitsandbytes' INT8, and both graphs with each option changed.

    The first is the baseline: torch in FP32 with all threads.
    """
    most = params.protocol.threads or torch_flags.default_threads()
    counts = tuple(dict.fromkeys((most, 1)))
    graphs = {}
    for name in (FLOAT, QUANTISED):
        row = params.precisions[name]
        assert isinstance(row, OnnxRuntimePrecision)
        graphs[name] = onnx_graph.export(net, row, images[:2])
    row = params.precisions[BITSANDBYTES]
    quantised = convert.convert(copy.deepcopy(net), row, "cpu")
    plain = convert.convert(net, FP32, "cpu")
    found = [Contestant("fp32", threads, plain, torch.float32) for threads in counts]
    found.append(Contestant(BITSANDBYTES, most, quantised, convert.dtype_of(row, "cpu")))
    for name, graph in graphs.items():
        found += [Contestant(name, one.threads, Network(graph, one), torch.float32, one) for one in options(most)]
    return found


def options(most: int) -> list[Options]:
    """What is tried of each graph: the defaults with all threads, then one option changed at a time."""
    apart = [
        Options(1),
        Options(most, branches=most, execution_mode="parallel"),
        Options(most, spinning=False),
    ]
    return [Options(most), Options(most, graph_optimization="basic"), *(apart if most > 1 else ())]


def measure(field: Sequence[Contestant], images: torch.Tensor, rounds: dict[int, int]) -> list[dict[str, Value]]:
    """A row a contestant and batch size; ``field[0]`` is the baseline, and ``rounds`` the rounds by batch size."""
    answers = [_outputs(one, images) for one in field]
    cosines = [fidelity.compare(answers[0], one, "none").cosine for one in answers]
    rows: list[dict[str, Value]] = []
    for batch_size, count in rounds.items():
        times = in_turns([_pass(one, images[:batch_size]) for one in field], count)
        medians = np.median(times, axis=1)
        floats = [i for i, one in enumerate(field) if one.precision in FLOATS]
        fastest = min(floats, key=lambda i: float(medians[i]))
        for i, one in enumerate(field):
            rows.append(
                {
                    "batch_size": batch_size,
                    "engine": TORCH if one.options is None else RUNTIME,
                    "precision": one.precision,
                    "threads": one.threads,
                    "branches": one.options.branches if one.options else None,
                    "graph_optimization": one.options.graph_optimization if one.options else None,
                    "spinning": ("on" if one.options.spinning else "off") if one.options else None,
                    "rounds": count,
                    "latency_ms": _short(float(medians[i])),
                    "latency_lowest_ms": _short(float(times[i].min())),
                    "latency_highest_ms": _short(float(times[i].max())),
                    "speedup_over_torch_fp32": _short(float(np.median(times[0] / times[i]))),
                    "speedup_over_fastest_fp32": _short(float(np.median(times[fastest] / times[i]))),
                    "is_fastest_fp32": int(i == fastest),
                    "cosine": None if (value := cosines[i]) is None else round(value, 6),
                }
            )
    return rows


def in_turns(passes: Sequence[Callable[[], float]], rounds: int) -> np.ndarray:
    """Milliseconds (contestants, rounds): every pass once untimed, then all of them in turn, each round from the other
    end.
    """
    for one in passes:
        one()
    times = np.empty((len(passes), rounds))
    for number in range(rounds):
        order = range(len(passes)) if number % 2 == 0 else reversed(range(len(passes)))
        for i in order:
            times[i, number] = passes[i]()
    return times


def _pass(one: Contestant, images: torch.Tensor) -> Callable[[], float]:
    ready = images.to(one.dtype)
    return lambda: one.milliseconds(ready)


def _outputs(one: Contestant, images: torch.Tensor) -> fidelity.Outputs:
    """Features of all images in one batch; the first token stands in for logits, which are not asked for."""
    return fidelity.outputs(one.net, images.to(one.dtype), lambda answer: answer.last_hidden_state[:, 0])


def _short(value: float) -> float:
    return float(f"{value:.5g}")
