"""A network as an ONNX graph, in FP32 or with its matrix products quantised to INT8.

torch's TorchScript exporter makes it: it takes the five families of the study, as they are, in a second or two, with
the batch size left open. The newer one (torch.export) gave up on BEiT with an open batch size and took ten times as
long on the others (torch 2.13). Only matrix products are quantised: the runtime's integer convolutions are slow, and a
vision transformer has one. What products give stays in floats, and so do residual additions, LayerNorm and softmax.

All of it happens in a process of its own, for the preparation runs a session with its threads. Files lie in a folder
that is removed at once; the weights stay as a mapping of a file that has no name any more, so that processes share
them, a model may exceed the two GiB of a protobuf message, and a failure leaves nothing behind. A process that is
killed can't tidy up: the next one does.

Source: onnxruntime.ai, "Quantize ONNX models".
"""

import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import nn

from visionquant.bench import worker
from visionquant.bench.backends import integer_product
from visionquant.bench.backends.convert import Shape
from visionquant.bench.backends.graph_engine import calibration_images
from visionquant.settings.precision import OnnxRuntimePrecision
from visionquant.weights import architectures

OPSET = 20  # the first with Gelu as one node
INPUT, MODEL, WEIGHTS = "pixel_values", "model.onnx", "weights"
APART = 1024  # bytes from which an initialiser lies outside the graph's own message
SCRATCH = "visionquant-onnx-"


@dataclass(frozen=True)
class Graph:
    """``proto`` is the serialised graph and ``weights`` the bytes of its larger initialisers, as uint8.

    ``outputs`` are named as in torch; ``attention`` is the network's own implementation. ``shape`` is that of an image
    (channels, height, width), ``made_s`` the seconds of its making.
    """

    proto: bytes
    weights: np.ndarray
    outputs: tuple[str, ...]
    attention: str
    shape: tuple[int, ...]
    made_s: float

    def message(self) -> Any:
        """The graph as onnx parses it, a ``ModelProto`` without its larger initialisers."""
        import onnx

        return onnx.load_model_from_string(self.proto)

    def initialisers(self) -> dict[str, np.ndarray]:
        """Every initialiser by name, the larger ones as views of ``weights``."""
        import onnx

        arrays = {}
        for tensor in self.message().graph.initializer:
            if tensor.data_location != onnx.TensorProto.EXTERNAL:
                arrays[tensor.name] = onnx.numpy_helper.to_array(tensor)
                continue
            place = {entry.key: entry.value for entry in tensor.external_data}
            begin = int(place.get("offset", 0))
            raw = self.weights[begin : begin + int(place["length"])]
            dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
            arrays[tensor.name] = raw.view(dtype).reshape(tensor.dims)
        return arrays


def export(net: nn.Module, precision: OnnxRuntimePrecision | None, images: torch.Tensor) -> Graph:
    """The graph of ``net`` (FP32, on the CPU) for two ``images`` like these, quantised where ``precision`` says so.

    None: in FP32.

    Raises:
        worker.Failed: memory ran out, or an operation has no counterpart in ONNX.
        StudyError: it is to be calibrated, and has no image for that.
    """
    begun_s = time.perf_counter()
    with scratch() as folder:
        outputs = worker.in_fork(lambda: _export(net, precision, images, folder))
        weights = np.memmap(folder / WEIGHTS, np.uint8, "r")  # outlives the file's name
        proto = (folder / MODEL).read_bytes()
    attention = str(getattr(net.config, "_attn_implementation", "unknown"))
    return Graph(proto, weights, outputs, attention, tuple(images.shape[1:]), time.perf_counter() - begun_s)


def export_of(net: nn.Module, precision: OnnxRuntimePrecision | None, shape: Shape | None) -> Graph:
    """:func:`export` for images of ``shape`` (channels, height, width), that of the network's config if None."""
    sizes = shape or architectures.shape(net.config.to_dict())  # type: ignore[union-attr, operator]
    return export(net, precision, torch.zeros(2, *sizes))


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder of this process that is gone afterwards; those that killed processes left are removed on the way."""
    for old in Path(tempfile.gettempdir()).glob(f"{SCRATCH}*-*"):
        owner = old.name.removeprefix(SCRATCH).partition("-")[0]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(old, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{SCRATCH}{os.getpid()}-") as name:
        yield Path(name)


class _Tensors(nn.Module):
    """A network that answers with the tensors of its answer alone, in their order."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(value for value in self.net(images).values() if isinstance(value, torch.Tensor))


def _export(
    net: nn.Module, precision: OnnxRuntimePrecision | None, images: torch.Tensor, folder: Path
) -> tuple[str, ...]:
    import onnx

    torch.set_num_threads(1)  # OpenMP does not survive the fork
    with torch.no_grad():
        outputs = tuple(name for name, value in net(images).items() if isinstance(value, torch.Tensor))
    path = folder / "exported" / MODEL
    path.parent.mkdir()
    names: dict[str, Any] = {"input_names": [INPUT], "output_names": list(outputs)}
    names["dynamic_axes"] = {name: {0: "batch"} for name in (INPUT, *outputs)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the exporter is the older one, and that shapes become constants
        torch.onnx.export(_Tensors(net), (images,), str(path), dynamo=False, opset_version=OPSET, **names)
    if precision and precision.weights == "int8":
        calibration = calibration_images(net) if precision.static else None
        path = _quantised(path, precision, calibration, folder)
    onnx.save_model(onnx.load(path), folder / MODEL, save_as_external_data=True, location=WEIGHTS, size_threshold=APART)
    return outputs


class _CalibrationReader:
    """Hands ``images`` (n, channels, height, width) to the quantiser, one after the other."""

    def __init__(self, images: np.ndarray) -> None:
        self._left = iter(images[:, None])

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self._left, None)
        return None if image is None else {INPUT: image}


def _quantised(path: Path, precision: OnnxRuntimePrecision, calibration: np.ndarray | None, folder: Path) -> Path:
    """The graph at ``path`` quantised, by ranges of ``calibration`` if there is some.

    Constants are folded before, so that every weight is seen as one.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared, quantised = folder / "prepared" / MODEL, folder / "quantised" / MODEL
    prepared.parent.mkdir()
    quantised.parent.mkdir()
    apart: dict[str, Any] = {"external_data_location": WEIGHTS, "external_data_size_threshold": APART}
    apart |= {"save_as_external_data": True, "all_tensors_to_one_file": True}
    quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True, **apart)
    knobs: dict[str, Any] = {"op_types_to_quantize": ["MatMul", "Gemm"], "per_channel": precision.per_channel}
    knobs |= {"reduce_range": integer_product.keeps_7_bit(precision.reduce_range)}
    knobs |= {"weight_type": QuantType.QInt8, "use_external_data_format": True}
    if calibration is None:
        quantize_dynamic(prepared, quantised, **knobs)
        return quantised
    graph = onnx.load(prepared, load_external_data=False).graph
    held = {tensor.name for tensor in graph.initializer}
    # MatMulConstBOnly leaves products of activations out of dynamic INT8 alone.
    attention = [node.name for node in graph.node if node.op_type == "MatMul" and node.input[1] not in held]
    floats = {"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]}
    knobs |= {"activation_type": QuantType.QUInt8, "nodes_to_exclude": attention, "extra_options": floats}
    quantize_static(prepared, quantised, _CalibrationReader(calibration), **knobs)
    return quantised
