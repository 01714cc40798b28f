"""The proof of an ONNX graph: which matrix products hold INT8 weights, by how many scales, and what the rest is.

It reads the graph that the session was made of, not the flags that were passed to its making.
"""

from collections import Counter

import numpy as np

from visionquant.bench.backends import bnb
from visionquant.bench.backends.onnx_graph import OPSET
from visionquant.bench.backends.ort import Network
from visionquant.core.errors import StudyError
from visionquant.records.record import Conversion
from visionquant.settings.precision import OnnxRuntimePrecision

SUBJECT = "precision onnxruntime"
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
    if precision.weights == "int8":
        if not quantised:
            raise StudyError(SUBJECT, f"no product is quantised, asked was {_words(precision)}", "report this defect")
        parts = [(node, _found(held, name, precision), _words(precision)) for name, node in quantised.items()]
        largest = max((int(np.abs(array.astype(np.int16)).max()) for array in weights.values()), default=0)
        bits = [f"of {7 if small else 8} bit" for small in (largest <= REDUCED, precision.reduce_range)]
        parts.append(("the largest weight", bits[0], bits[1]))
    else:
        parts = [(node, "quantised", "float32") for node in quantised.values()]
        parts += [
            (name, str(one.dtype), "float32") for name, one in held.items() if str(one.dtype) in ("int8", "uint8")
        ]
    bnb.require(SUBJECT, parts)
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


def _words(precision: OnnxRuntimePrecision) -> str:
    return f"int8 with {'a scale an output' if precision.per_channel else 'one scale'}"


def _found(held: dict[str, np.ndarray], weight: str, precision: OnnxRuntimePrecision) -> str:
    """What a product's weight (inputs, outputs) is, as :func:`_words` says it; of one output both ways are the same."""
    if weight not in held:
        return "without weights of its own"
    outputs = held[weight].shape[-1]
    own = held[weight.removesuffix("_quantized") + SCALE].size == outputs
    each = precision.per_channel if outputs == 1 else own
    return f"{held[weight].dtype} with {'a scale an output' if each else 'one scale'}"
