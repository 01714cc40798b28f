"""OpenVINO on a CPU: the exported graph as this runtime compiles it, in FP32 or BF16, and with products in static INT8.

On a processor with BF16 the plugin takes BF16 unless it is told another type, and a saved model loses weights to FP16
unless it is told not to: both are told, and the first is read back. NNCF quantises, by its scheme for transformers;
it takes matrix products and convolutions, and leaves residual additions, LayerNorm and softmax in floats. A compiled
graph brings threads that do not survive a fork, so it is made where it runs, and one graph serves all batch sizes.
Source: docs.openvino.ai, "CPU Device" and "Quantizing Models Post-training".
"""

import math
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from importlib import metadata
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from visionquant.bench.backends import integer_product, onnx_graph, openvino_format
from visionquant.bench.backends.convert import Shape, require_all, subject_of
from visionquant.bench.backends.graph_engine import GraphEngine, calibration_images
from visionquant.bench.backends.onnx_graph import Graph
from visionquant.core import processors
from visionquant.core.errors import StudyError
from visionquant.records.record import Conversion

TYPES = {"float32": "f32", "bfloat16": "bf16"}
BF16 = ("avx512_bf16", "amx_bf16")  # instruction sets
PRODUCTS = ("MatMul", "Convolution", "GroupConvolution")
AROUND = ("Convert", "Multiply", "Subtract", "Reshape", "Transpose", "FakeQuantize")  # a product and its constant
INTEGER_KERNELS = (
    "FullyConnected",
    "FullyConnectedQuantizedLegacy",
    "Convolution",
)  # as the plugin calls products with weights


class CompiledGraph(nn.Module):
    """``graph`` in OpenVINO's own format, compiled; ``rest`` is the type of all that is not quantised."""

    def __init__(self, graph: Graph, rest: str, threads: int, profiled: bool = False) -> None:
        super().__init__()
        import openvino

        self.graph, self.rest, self.threads = graph, rest, threads
        self._ran: Counter[str] | None = None
        asked: dict[str, Any] = {"INFERENCE_PRECISION_HINT": TYPES[rest], "INFERENCE_NUM_THREADS": threads}
        asked |= {"NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False, "PERF_COUNT": profiled}
        begun_s = time.perf_counter()
        self.compiled = openvino.Core().compile_model(self.model(), "CPU", asked)
        self.compiled_s = time.perf_counter() - begun_s

    def __reduce__(self) -> tuple[Any, ...]:
        return CompiledGraph, (self.graph, self.rest, self.threads)

    def model(self) -> Any:
        """The graph as OpenVINO reads it."""
        import openvino

        weights = openvino.Tensor(np.array(self.graph.weights))
        return openvino.Core().read_model(self.graph.proto.decode(), weights)

    def forward(self, images: torch.Tensor) -> SimpleNamespace:
        """Of float32 images (n, channels, height, width) on the CPU, every output of the graph by its name in torch."""
        if images.shape[1:] != self.graph.shape:
            raise StudyError("OpenVINO", f"images {tuple(images.shape)}", "feed the size exported")
        values = self.compiled(images.numpy())
        return SimpleNamespace(**{name: torch.from_numpy(values[i]) for i, name in enumerate(self.graph.outputs)})

    def kernels(self, images: torch.Tensor) -> Counter[str]:
        """Each node's type and implementation, with its precision: from a profile of another copy."""
        if self._ran is None:
            request = CompiledGraph(self.graph, self.rest, self.threads, profiled=True).compiled.create_infer_request()
            request.infer([images.numpy()])
            nodes = (node for node in request.get_profiling_info() if node.status.name == "EXECUTED")
            self._ran = Counter(f"{node.node_type} {node.exec_type}" for node in nodes)
        return self._ran


class OpenVino(GraphEngine):
    """Graphs, compiled and quantised by OpenVINO's own tools."""

    name, packages, extra = "OpenVINO", ("openvino", "nncf", "onnx"), "openvino"

    def convert(self, net: nn.Module, row: Any, device: str, shape: Shape | None) -> nn.Module:
        if row.rest == "bfloat16" and not set(BF16) & set(processors.isa()):
            raise NotImplementedError(f"this processor ({processors.name()}) has no BF16 instructions")
        images = calibration_images(net) if row.weights == "int8" else None
        graph = _own_format(onnx_graph.export_of(net, None, shape), images)
        if images is not None:
            integer_product.require_exact(self.name, _product, integer_product.keeps_7_bit())
        return CompiledGraph(graph, row.rest, torch.get_num_threads())

    def is_integer(self, kernel: str) -> bool:
        node, _, implementation = kernel.partition(" ")
        return node in INTEGER_KERNELS and implementation.upper().endswith(("I8", "U8"))

    def bytes_of(self, net: nn.Module) -> tuple[int, int]:
        """Of all constants, and with them of the graph's file."""
        assert isinstance(net, CompiledGraph)
        return net.graph.weights.nbytes, net.graph.weights.nbytes + len(net.graph.proto)

    def prove(self, net: nn.Module, row: Any, device: str) -> Conversion:
        """What the constants of a graph are, in which types it was compiled, and whether integer kernels run it.

        ``skipped_modules`` are the products with weights that stay in floats.
        """
        if not isinstance(net, CompiledGraph):
            raise StudyError(subject_of(row), "the model is no graph of OpenVINO", "report this defect")
        model, reduced = net.model(), integer_product.keeps_7_bit()
        weights = dict(_weights(model))
        quantised = {name: node for name, node in weights.items() if _type(node) == "int8"}
        rest = net.compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        threads = net.compiled.get_property("INFERENCE_NUM_THREADS")
        parts = [("the rest", rest, TYPES[row.rest]), ("the number of threads", str(threads), str(net.threads))]
        if row.weights == "int8":
            ran = any(map(self.is_integer, self.kernels(net)))
            found = f"{'INT8' if quantised else 'floats'} run by {'integer' if ran else 'other'} kernels"
            parts.append(("the graph", found, "INT8 run by integer kernels"))
            largest = max((int(np.abs(node.data.astype(np.int16)).max()) for node in quantised.values()), default=0)
            bits = 7 if largest <= integer_product.REDUCED else 8
            parts.append(("the largest weight", f"of {bits} bit", f"of {min(bits, 7 if reduced else 8)} bit"))
        else:
            parts += [(name, "int8", "float32") for name in quantised]
        require_all(subject_of(row), parts)
        dtypes: Counter[str] = Counter()
        for node in model.get_ops():
            if node.get_type_name() == "Constant":
                dtypes[_type(node)] += math.prod(node.get_output_shape(0))
        return Conversion(
            quantized_modules=len(quantised),
            quantized_share=dtypes["int8"] / (dtypes.total() - dtypes["int64"]),
            skipped_modules=tuple(name for name in weights if quantised and name not in quantised),
            dtypes=dict(dtypes),
            knobs={
                **{name: getattr(row, name) for name in ("method", "weights", "rest")},
                "reduce_range": bool(quantised) and reduced,
                "attention": net.graph.attention,
                "threads": net.threads,
                "opset": onnx_graph.OPSET,
                "export_s": round(net.graph.made_s, 2),
                "compile_s": round(net.compiled_s, 2),
                **{name: metadata.version(name) for name in row.libraries},
            },
        )


def _own_format(graph: Graph, images: np.ndarray | None) -> Graph:
    """An ONNX graph in OpenVINO's format, in static INT8 with ranges of ``images`` if there are some."""
    begun_s = time.perf_counter()
    with onnx_graph.scratch() as folder:
        (folder / onnx_graph.MODEL).write_bytes(graph.proto)
        graph.weights.tofile(folder / onnx_graph.WEIGHTS)
        if images is not None:
            np.save(folder / openvino_format.IMAGES, images)
        bits = "7" if integer_product.keeps_7_bit() else "8"
        program = [sys.executable, "-m", openvino_format.__name__, str(folder), bits]
        quiet = {**os.environ, "NNCF_CI": "1"}  # or it reports its use to its makers
        done = subprocess.run(program, env=quiet, capture_output=True, encoding="utf-8", errors="replace")
        if done.returncode:
            why = (done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"])[-1]
            raise RuntimeError(f"OpenVINO could not read or quantise the graph: {why}")
        weights = np.memmap(folder / openvino_format.WEIGHTS_OF_XML, np.uint8, "r")  # outlives the file's name
        proto = (folder / openvino_format.XML).read_bytes()
    return replace(graph, proto=proto, weights=weights, made_s=graph.made_s + time.perf_counter() - begun_s)


def _weights(model: Any) -> Iterator[tuple[str, Any]]:
    """Products with weights: their names and the constants that hold these."""
    for node in model.get_ops():
        if node.get_type_name() not in PRODUCTS:
            continue
        source = node.input_value(1).get_node()
        while source.get_type_name() in AROUND:
            source = source.input_value(0).get_node()
        if source.get_type_name() == "Constant" and len(source.get_output_shape(0)) > 1:
            yield node.get_friendly_name(), source


def _type(constant: Any) -> str:
    return np.dtype(constant.get_element_type().to_dtype()).name


def _product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Of uint8 (rows, depth) and int8 (depth, columns), as the runtime multiplies what is quantised.

    Scales are powers of two, and sums below 2**24: floats hold the product as it is.
    """
    import openvino
    from openvino import opset13 as operations

    ends = [operations.constant(np.array(end, np.float32)) for end in (0, 255 / 4)]
    given = operations.parameter(list(left.shape), np.float32)
    rounded = operations.fake_quantize(given, *ends, *ends, 256)
    codes = operations.constant(np.ascontiguousarray(right.T))
    scale = operations.constant(np.full((right.shape[1], 1), 0.5, np.float32))
    weights = operations.multiply(operations.convert(codes, "f32"), scale)
    model = openvino.Model([operations.matmul(rounded, weights, False, True)], [given], "product")
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return 8 * np.asarray(compiled([left.astype(np.float32) / 4])[0])


ENGINE = OpenVino()
