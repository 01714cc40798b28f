"""ONNX Runtime on a CPU: a graph that runs as a torch module does, a tensor of images in, named tensors out.

A session brings its own thread pools, which do not survive a fork, so it is made where it runs. Inputs share memory
with torch, and what the runtime answers becomes tensors as it is. The proof reads the graph that the session was made
of, not the flags that were passed to its making.
"""

import json
import time
from collections import Counter
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from visionquant.bench.backends import integer_product
from visionquant.bench.backends.convert import Shape, require_all, subject_of
from visionquant.bench.backends.graph_engine import GraphEngine
from visionquant.bench.backends.onnx_graph import INPUT, OPSET, WEIGHTS, Graph, export_of, scratch
from visionquant.core.errors import StudyError
from visionquant.records.record import Conversion
from visionquant.settings.precision import OnnxRuntimePrecision

LEVELS = {"disable": "DISABLE_ALL", "basic": "ENABLE_BASIC", "extended": "ENABLE_EXTENDED", "all": "ENABLE_ALL"}
_ERRORS = 3  # severity from which the runtime speaks
INTEGER_PRODUCT = "MatMulInteger"  # what the dynamic quantiser makes of MatMul and Gemm; the session fuses it
# What it becomes, and what becomes of a product between nodes that quantise and dequantise.
INTEGER_KERNELS = (INTEGER_PRODUCT, "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QLinearMatMul", "QGemm")
FLOAT_PRODUCTS = ("MatMul", "Gemm", "Conv")
SCALE = "_scale"  # the quantiser's names: weight_quantized, weight_scale


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
    threads, mode = torch.get_num_threads(), precision.execution_mode
    return Options(threads, threads if mode == "parallel" else 1, mode, precision.graph_optimization)


class Network(nn.Module):
    """A session over ``graph``, made anew where the network is unpickled: it lasts no longer than a process."""

    def __init__(self, graph: Graph, options: Options) -> None:
        super().__init__()
        self.graph, self.options = graph, options
        begun_s = time.perf_counter()
        self.session = _session(graph, options)
        self.compiled_s = time.perf_counter() - begun_s

    def __reduce__(self) -> tuple[Any, ...]:
        return Network, (self.graph, self.options)

    def forward(self, images: torch.Tensor) -> SimpleNamespace:
        """Of float32 images (n, 3, side, side) on the CPU, every output of the graph by its name in torch."""
        from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument, RuntimeException

        try:
            values = self.session.run(None, {INPUT: images.numpy()})
        except InvalidArgument as error:
            found = f"images {tuple(images.shape)}: {str(error).splitlines()[0]}"
            raise StudyError("ONNX Runtime", found, "feed the size exported") from None
        except RuntimeException as error:  # no RuntimeError of Python's; memory that ran out is told by its text
            raise RuntimeError(str(error)) from None
        return SimpleNamespace(**dict(zip(self.graph.outputs, map(torch.from_numpy, values), strict=True)))

    def kernels(self, images: torch.Tensor) -> Counter[str]:
        """What one pass really ran, node type to count, after all fusions: from a profile of its own session."""
        with scratch() as folder:
            profiled = Network(self.graph, replace(self.options, profile_to=str(folder / "profile")))
            profiled(images)
            events = json.loads(Path(profiled.session.end_profiling()).read_bytes())
        nodes = (one for one in events if one["cat"] == "Node" and "_kernel_time" in one["name"])
        return Counter(event["args"]["op_name"] for event in nodes)


def _session(graph: Graph, options: Options) -> Any:
    import onnxruntime as ort
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail, NotImplemented, RuntimeException

    wanted = ort.SessionOptions()
    wanted.intra_op_num_threads, wanted.inter_op_num_threads = options.threads, options.branches
    wanted.execution_mode = getattr(ort.ExecutionMode, f"ORT_{options.execution_mode.upper()}")
    wanted.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_{LEVELS[options.graph_optimization]}")
    for pool in ("intra_op", "inter_op"):
        wanted.add_session_config_entry(f"session.{pool}.allow_spinning", str(int(options.spinning)))
    wanted.log_severity_level = _ERRORS
    wanted.enable_profiling = bool(options.profile_to)
    wanted.profile_file_prefix = options.profile_to or "profile"
    wanted.add_external_initializers_from_files_in_memory([WEIGHTS], [graph.weights], [graph.weights.nbytes])
    try:
        return ort.InferenceSession(graph.proto, wanted, providers=["CPUExecutionProvider"])
    except NotImplemented as error:  # ONNX Runtime lacks a kernel: the cell is unsupported
        raise NotImplementedError(str(error)) from None
    except (Fail, RuntimeException) as error:
        raise RuntimeError(str(error)) from None


class OnnxRuntime(GraphEngine):
    """Networks as graphs; the device is the CPU."""

    name, packages, extra = "ONNX Runtime", ("onnxruntime", "onnx"), "onnx"

    def convert(self, net: nn.Module, row: Any, device: str, shape: Shape | None) -> nn.Module:
        graph = export_of(net, row, shape)  # in a fork, so before the runtime is imported here
        if row.weights == "int8":
            integer_product.require_exact(self.name, _product, integer_product.keeps_7_bit(row.reduce_range))
        return Network(graph, options_of(row))

    def prove(self, net: nn.Module, row: Any, device: str) -> Conversion:
        if not isinstance(net, Network):
            raise StudyError(subject_of(row), "the model is no graph", "report this defect")
        return _proof(net, row)

    def is_integer(self, kernel: str) -> bool:
        return kernel in INTEGER_KERNELS

    def bytes_of(self, net: nn.Module) -> tuple[int, int]:
        """Of all initialisers; of the graph's file and that of its weights."""
        assert isinstance(net, Network)
        stored = sum(array.nbytes for array in net.graph.initialisers().values())
        return stored, len(net.graph.proto) + net.graph.weights.nbytes


def _product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Of uint8 (rows, depth) and int8 (depth, columns), int32 as the runtime multiplies."""
    import onnxruntime as ort
    from onnx import TensorProto, helper

    kinds = zip("lr", (TensorProto.UINT8, TensorProto.INT8), (left, right), strict=True)
    given = [helper.make_tensor_value_info(name, kind, array.shape) for name, kind, array in kinds]
    gives = [helper.make_tensor_value_info("product", TensorProto.INT32, None)]
    graph = helper.make_graph([helper.make_node(INTEGER_PRODUCT, ["l", "r"], ["product"])], "product", given, gives)
    opset = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    product: np.ndarray = session.run(None, {"l": left, "r": right})[0]
    return product


def _proof(net: Network, row: OnnxRuntimePrecision) -> Conversion:
    """What the initialisers of a graph really are; a precision that quantises nothing is refused.

    ``skipped_modules`` are the nodes with weights that stay FP32. Shapes and axes (int64) count as no weights.
    """
    subject, held, nodes = subject_of(row), net.graph.initialisers(), net.graph.message().graph.node
    products, reduced = _products(nodes, row.static), integer_product.keeps_7_bit(row.reduce_range)
    weights = {name: held[name] for name in products if name in held}
    if row.weights == "int8":
        asked = f"int8 with {'a scale an output' if row.per_channel else 'one scale'}"
        if not products:
            raise StudyError(subject, f"no product is quantised, asked was {asked}", "report this defect")
        parts = [(node.name, _kind_of(held, name, node, row), asked) for name, node in products.items()]
        largest = max((int(np.abs(array.astype(np.int16)).max()) for array in weights.values()), default=0)
        bits = [f"of {7 if small else 8} bit" for small in (largest <= integer_product.REDUCED, reduced)]
        parts.append(("the largest weight", bits[0], bits[1]))
    else:
        parts = [(node.name, "quantised", "float32") for node in products.values()]
        small = [(name, str(array.dtype)) for name, array in held.items()]
        parts += [(name, dtype, "float32") for name, dtype in small if dtype in ("int8", "uint8")]
    require_all(subject, parts)
    dtypes: Counter[str] = Counter()
    for array in held.values():
        dtypes[str(array.dtype)] += array.size
    options = asdict(net.options)
    kept = tuple(node.name for node in nodes if node.op_type in FLOAT_PRODUCTS and node.input[1] in held)
    return Conversion(
        quantized_modules=len(weights),
        quantized_share=sum(array.size for array in weights.values()) / (dtypes.total() - dtypes["int64"]),
        skipped_modules=kept if weights else (),
        dtypes=dict(dtypes),
        knobs={
            **{name: getattr(row, name) for name in ("method", "weights", "per_channel", "static")},
            "reduce_range": reduced,
            **{name: options[name] for name in ("graph_optimization", "execution_mode")},
            "dtype": row.dtype_on("cpu"),
            "attention": net.graph.attention,
            "intra_op_threads": net.options.threads,
            "opset": OPSET,
            "export_s": round(net.graph.made_s, 2),
            "compile_s": round(net.compiled_s, 2),
            "exporter": "torchscript",
            **{name: metadata.version(name) for name in row.libraries},
        },
    )


def _products(nodes: Any, static: bool) -> dict[str, Any]:
    """The nodes that multiply integers, by the name of their weight; ``static``: they stand between floats there."""
    if not static:
        return {node.input[1]: node for node in nodes if node.op_type == INTEGER_PRODUCT}
    whole = {node.output[0]: node.input[0] for node in nodes if node.op_type == "DequantizeLinear"}
    floats = [node for node in nodes if node.op_type in FLOAT_PRODUCTS]
    return {whole[node.input[1]]: node for node in floats if set(node.input[:2]) <= whole.keys()}


def _kind_of(held: dict[str, np.ndarray], weight: str, node: Any, row: OnnxRuntimePrecision) -> str:
    """What a product's weight is, in the words of what is asked; of one output both are the same."""
    if weight not in held:
        return "without weights of its own"
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    outputs = held[weight].shape[0 if transposed else -1]
    own = held[weight.removesuffix("_quantized") + SCALE].size == outputs
    each = row.per_channel if outputs == 1 else own
    return f"{held[weight].dtype} with {'a scale an output' if each else 'one scale'}"


ENGINE = OnnxRuntime()
