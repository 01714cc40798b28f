"""ONNX Runtime's session options on one vision transformer, beside torch and bitsandbytes, interleaved.

Every option that decides its speed on a CPU is tried for FP32 and for dynamic INT8: threads within a node, branches at
a time, how far nodes are fused, and whether idle threads wait busily. Speed without agreement is worth nothing, so each
variant carries its cosine similarity to FP32 on crops of real photographs.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from visionquant.accuracy.model_source import seeded_model
from visionquant.bench import fidelity, torch_flags
from visionquant.bench.backends import convert, onnx_graph
from visionquant.bench.backends.ort import Network, Options
from visionquant.core.errors import StudyError
from visionquant.recipes import Environment, Params, Project, Row, recipe, timing
from visionquant.settings.params import known
from visionquant.settings.precision import FP32

MODEL = "vit-base-224-production"
FLOAT, QUANTISED, BITSANDBYTES = "fp32_onnxruntime", "int8_onnxruntime", "int8"
ROUNDS, IMAGES = {1: 7, 8: 5}, 8  # batch size to rounds


@dataclass(frozen=True)
class EngineVariant:
    """A network ready to run: ``precision`` is a row of params.yaml, ``options`` None for torch itself."""

    precision: str
    threads: int
    net: nn.Module
    dtype: torch.dtype
    options: Options | None = None

    def run(self, images: torch.Tensor) -> object:
        """A pass over ``images``, already in ``dtype``."""
        if self.options is None:
            torch.set_num_threads(self.threads)
        return self.net(images)


@recipe("onnxruntime", weights="seeded", device="cpu")
def run(project: Project, params: Params, machine: Environment) -> Iterator[Row]:
    """A row a variant at batch sizes 1 and 8; without ONNX Runtime, or a row of params.yaml, it is a StudyError."""
    what, _, remedy = convert.backend_of("ort").unsupported("cpu").partition(": ")
    if what:
        raise StudyError("recipe onnxruntime", what, remedy)
    known("precisions", [FLOAT, QUANTISED, BITSANDBYTES], params.precisions)
    torch_flags.default_threads()
    torch.set_num_threads(1)  # until all graphs are exported in forks
    net, images = seeded_model(project, params, MODEL, IMAGES)
    with torch.inference_mode():
        yield from time_variants(engine_variants(params, net, images), images, ROUNDS)


def engine_variants(params: Params, net: nn.Module, images: torch.Tensor) -> list[EngineVariant]:
    """torch in FP32 with one thread and with all, bitsandbytes' INT8, and both graphs with each option changed.

    The first is the baseline: torch in FP32 with all threads.
    """
    most = params.protocol.threads or torch_flags.default_threads()
    rows: Any = params.precisions
    graphs = {name: onnx_graph.export(net, rows[name], images[:2]) for name in (FLOAT, QUANTISED)}
    row = rows[BITSANDBYTES]
    quantised = convert.convert(copy.deepcopy(net), row, "cpu")
    plain = convert.convert(net, FP32, "cpu")
    return [
        *(EngineVariant("fp32", threads, plain, torch.float32) for threads in dict.fromkeys((most, 1))),
        EngineVariant(BITSANDBYTES, most, quantised, convert.dtype_of(row, "cpu")),
        *(
            EngineVariant(name, choice.threads, Network(graph, choice), torch.float32, choice)
            for name, graph in graphs.items()
            for choice in session_options(most)
        ),
    ]


def session_options(most: int) -> list[Options]:
    """What is tried of each graph: the defaults with all threads, then one option changed at a time."""
    apart = [Options(1), Options(most, branches=most, execution_mode="parallel"), Options(most, spinning=False)]
    return [Options(most), Options(most, graph_optimization="basic"), *(apart if most > 1 else ())]


def time_variants(field: Sequence[EngineVariant], images: torch.Tensor, rounds: dict[int, int]) -> Iterator[Row]:
    """A row a variant and batch size; ``field[0]`` is the baseline, and ``rounds`` the rounds by batch size."""
    # Features of all images in one batch; the first token stands in for logits, which are not asked for.
    outputs = [
        fidelity.outputs(each.net, images.to(each.dtype), lambda answer: answer.last_hidden_state[:, 0])
        for each in field
    ]
    cosines = [fidelity.compare(outputs[0], output, "none").cosine for output in outputs]
    for batch_size, count in rounds.items():
        ways = {str(i): partial(each.run, images[:batch_size].to(each.dtype)) for i, each in enumerate(field)}
        times = 1e3 * np.array(list(timing.take(ways, "cpu", count, warmups=1).values()))  # (variants, rounds), ms
        medians = np.median(times, axis=1)
        floats = [i for i, each in enumerate(field) if each.precision in ("fp32", FLOAT)]
        fastest = min(floats, key=lambda i: float(medians[i]))
        for i, each in enumerate(field):
            chosen = each.options
            yield {
                "batch_size": batch_size,
                "engine": "ONNX Runtime" if chosen else "torch",
                "precision": each.precision,
                "threads": each.threads,
                "branches": chosen.branches if chosen else None,
                "graph_optimization": chosen.graph_optimization if chosen else None,
                "spinning": ("on" if chosen.spinning else "off") if chosen else None,
                "rounds": count,
                "latency_ms": float(medians[i]),
                "latency_lowest_ms": float(times[i].min()),
                "latency_highest_ms": float(times[i].max()),
                "speedup_over_torch_fp32": float(np.median(times[0] / times[i])),
                "speedup_over_fastest_fp32": float(np.median(times[fastest] / times[i])),
                "is_fastest_fp32": int(i == fastest),
                "cosine": cosines[i],
            }
