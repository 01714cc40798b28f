"""An ONNX graph that runs as a torch module does: a tensor of images in, an answer with named tensors out.

A session brings its own thread pools, which do not survive a fork, so it is made where it runs. Inputs share memory
with torch, and what the runtime answers becomes tensors as it is.
"""

import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import nn

from visionquant.bench.backends.onnx_graph import INPUT, WEIGHTS, Graph, scratch
from visionquant.core.errors import StudyError
from visionquant.settings.precision import OnnxRuntimePrecision

LEVELS = {"disable": "DISABLE_ALL", "basic": "ENABLE_BASIC", "extended": "ENABLE_EXTENDED", "all": "ENABLE_ALL"}
_ERRORS = 3  # severity from which the runtime speaks


@dataclass(frozen=True)
class Options:
    """Of a session: ``threads`` within a node, ``branches`` nodes at a time where execution is parallel.

    ``spinning``: idle threads wait busily for the next node, which costs the machine and saves time. ``profile_to``:
    path and prefix of a profile of every node, empty for none.
    """

    threads: int
    branches: int = 1
    execution_mode: Literal["sequential", "parallel"] = "sequential"
    graph_optimization: Literal["disable", "basic", "extended", "all"] = "all"
    spinning: bool = True
    profile_to: str = ""


def options_of(precision: OnnxRuntimePrecision) -> Options:
    """What a row asks for, with as many threads as torch has in this process."""
    threads = torch.get_num_threads()
    return Options(
        threads,
        branches=threads if precision.execution_mode == "parallel" else 1,
        execution_mode=precision.execution_mode,
        graph_optimization=precision.graph_optimization,
    )


class Network(nn.Module):
    """A session over ``graph``; make it in the process that runs it."""

    def __init__(self, graph: Graph, options: Options) -> None:
        super().__init__()
        self.graph, self.options = graph, options
        self.session = _session(graph, options)

    def forward(self, images: torch.Tensor) -> SimpleNamespace:
        """Of float32 images (n, 3, side, side) on the CPU, every output of the graph by its name in torch."""
        from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument, RuntimeException

        try:
            values = self.session.run(None, {INPUT: images.numpy()})
        except InvalidArgument as error:
            first = str(error).splitlines()[0]
            raise StudyError(
                "ONNX Runtime", f"images {tuple(images.shape)}: {first}", "feed the size exported"
            ) from None
        except RuntimeException as error:  # no RuntimeError of Python's; memory that ran out is told by its text
            raise RuntimeError(str(error)) from None
        return SimpleNamespace(**dict(zip(self.graph.outputs, map(torch.from_numpy, values), strict=True)))

    def kernels(self, images: torch.Tensor) -> Counter[str]:
        """What one pass really ran, node type to count, after all fusions: from a profile of its own session."""
        with scratch() as folder:
            profiled = Network(self.graph, replace(self.options, profile_to=str(folder / "profile")))
            profiled(images)
            events = json.loads(Path(profiled.session.end_profiling()).read_bytes())
        return Counter(
            event["args"]["op_name"] for event in events if event["cat"] == "Node" and "_kernel_time" in event["name"]
        )


def _session(graph: Graph, options: Options) -> Any:
    import onnxruntime as ort
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail, NotImplemented, RuntimeException

    wanted = ort.SessionOptions()
    wanted.intra_op_num_threads = options.threads
    wanted.inter_op_num_threads = options.branches
    parallel = options.execution_mode == "parallel"
    wanted.execution_mode = ort.ExecutionMode.ORT_PARALLEL if parallel else ort.ExecutionMode.ORT_SEQUENTIAL
    wanted.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_{LEVELS[options.graph_optimization]}")
    for pool in ("intra_op", "inter_op"):
        wanted.add_session_config_entry(f"session.{pool}.allow_spinning", str(int(options.spinning)))
    wanted.log_severity_level = _ERRORS
    wanted.enable_profiling = bool(options.profile_to)
    wanted.profile_file_prefix = options.profile_to or "profile"
    wanted.add_external_initializers_from_files_in_memory([WEIGHTS], [graph.weights], [graph.weights.nbytes])
    try:
        return ort.InferenceSession(graph.proto, wanted, providers=["CPUExecutionProvider"])
    except NotImplemented as error:
        raise NotImplementedError(str(error)) from None
    except (Fail, RuntimeException) as error:
        raise RuntimeError(str(error)) from None
