"""The proof of an ONNX graph: which matrix products hold INT8 weights, by how many scales, and what the rest is.

It reads the graph that the session was made of, not the flags that were passed to its making.
"""

from collections import Counter

import numpy as np

from visionquant.bench.onnx_graph import OPSET
from visionquant.bench.onnx_session import Network
from visionquant.errors import StudyError
from visionquant.precision import OnnxRuntimePrecision
from visionquant.records import Conversion

QUANTISED = "MatMulInteger"  # what the quantiser makes of MatMul and Gemm; the session fuses it with its neighbours
FLOAT = ("MatMul", "Gemm", "Conv")
SCALE = "_scale"  # the quantiser's names: weight_quantized, weight_scale
REDUCED = 64  # the largest magnitude of a 7-bit weight


def prove(net: Network, precision: OnnxRuntimePrecision) -> Conversion:
    """What the initialisers of a graph really are.

    ``skipped_modules`` are the nodes with weights that stay FP32. Shapes and axes (int64) count as no weights.

    Raises:
        StudyError: the graph is not what ``precision`` says; a precision that quantises nothing among it.
    """
    import onnx
    import onnxruntime

    held = net.graph.initialisers()
    nodes = net.graph.message().graph.node
    quantised = {node.input[1]: node.name for node in nodes if node.op_type == QUANTISED}
    kept = tuple(node.name for node in nodes if node.op_type in FLOAT and node.input[1] in held)
    dtypes: Counter[str] = Counter()
    for array in held.values():
        dtypes[str(array.dtype)] += array.size
    weights = {name: held[name] for name in quantised if name in held}
    wrong = [name for name, array in weights.items() if array.dtype != np.int8]
    wrong += [name for name in weights if _channels(held, name, precision.per_channel) != precision.per_channel]
    largest = max((int(np.abs(array.astype(np.int16)).max()) for array in weights.values()), default=0)
    if precision.weights == "int8" and (
        not weights or wrong or len(weights) != len(quantised) or (largest <= REDUCED) is not precision.reduce_range
    ):
        raise StudyError(
            "precision onnxruntime",
            f"{len(weights) - len(wrong)} of {len(quantised)} quantised products hold int8 up to {largest} as asked",
            "report this defect",
        )
    if precision.weights == "float32" and (quantised or {"int8", "uint8"} & set(dtypes)):
        raise StudyError("precision onnxruntime", f"initialisers are {dict(dtypes)}", "report this defect")
    numbers = sum(count for name, count in dtypes.items() if name != "int64")
    return Conversion(
        quantized_modules=len(weights),
        quantized_share=sum(array.size for array in weights.values()) / numbers,
        skipped_modules=kept if weights else (),
        dtypes=dict(dtypes),
        knobs={
            "method": precision.method,
            "dtype": precision.dtype,
            "attention": net.graph.attention,
            "weights": precision.weights,
            "per_channel": precision.per_channel,
            "reduce_range": precision.reduce_range,
            "graph_optimization": net.options.graph_optimization,
            "execution_mode": net.options.execution_mode,
            "intra_op_threads": net.options.threads,
            "opset": OPSET,
            "exporter": "torchscript",
            "onnx": str(onnx.__version__),
            "onnxruntime": str(onnxruntime.__version__),
        },
    )


def _channels(held: dict[str, np.ndarray], weight: str, wanted: bool) -> bool:
    """Whether a quantised weight (inputs, outputs) has a scale an output; ``wanted`` where it has one output alone."""
    outputs = held[weight].shape[-1]
    return wanted if outputs == 1 else held[weight.removesuffix("_quantized") + SCALE].size == outputs
