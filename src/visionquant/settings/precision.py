"""The precisions: every knob that decides what becomes of a model's parameters, as rows of params.yaml."""

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from visionquant.core.frozen import Strict
from visionquant.core.machine import record_version_of

Dtype = Literal["float32", "float16", "bfloat16"]
Blocksize = Literal[64, 128, 256, 512, 1024, 2048, 4096]
Threshold = Annotated[float, Field(ge=0.0)]


class PrecisionRow(Strict):
    """What a row of any method says of itself.

    ``engine`` is the module of :mod:`visionquant.bench.backends` that puts it into effect, ``libraries`` are what that
    needs beyond torch and transformers: their versions are part of the machine's key. ``family`` groups rows that
    quantise alike.
    """

    engine: ClassVar[str]
    family: ClassVar[str]
    libraries: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        record_version_of(*cls.libraries)

    @property
    def uses_tf32(self) -> bool:
        return bool(getattr(self, "tf32", False))

    @property
    def planted_outliers(self) -> int:
        """Channels of every normalisation to be scaled up before conversion."""
        return int(getattr(self, "outliers", 0))

    def dtype_on(self, device: str) -> Dtype:
        """The type of inputs, and of everything that is not quantised, on a kind of device."""
        dtype: Dtype = getattr(self, "cpu_dtype" if device == "cpu" else "dtype")
        return dtype


class FloatPrecision(PrecisionRow):
    """Every parameter in one floating-point type."""

    engine, family = "eager", "float"
    method: Literal["float"]
    dtype: Dtype
    cpu_dtype: Dtype
    tf32: bool = False


class Int8Precision(PrecisionRow):
    """bitsandbytes LLM.int8(): row-wise INT8 weights; input columns that exceed ``threshold`` stay in 16 bit.

    ``threshold: 0.0`` switches the outlier path off. Linear layers with part of their name in ``skip`` keep ``dtype``.
    ``outliers``: so many channels of every normalisation in front of Linear layers are scaled up and the next weights
    down, so that seeded weights meet outliers as trained ones do.
    """

    engine, family, libraries = "bnb", "int8", ("bitsandbytes",)
    method: Literal["bitsandbytes_int8"]
    dtype: Dtype
    cpu_dtype: Dtype
    threshold: Threshold
    outliers: Annotated[int, Field(ge=0, le=16)] = 0
    skip: tuple[str, ...] = ()


class Nf4Precision(PrecisionRow):
    """bitsandbytes NF4: 4-bit codes, one scale per ``blocksize`` weights, in 8 bit with ``double_quantization``.

    Layers with that are not repacked on a CPU with BF16 instructions, where repacking would undo it.
    """

    engine, family, libraries = "bnb", "nf4", ("bitsandbytes",)
    method: Literal["bitsandbytes_nf4"]
    dtype: Dtype
    cpu_dtype: Dtype
    blocksize: Blocksize
    double_quantization: bool
    skip: tuple[str, ...] = ()


class Fp4Precision(Nf4Precision):
    """bitsandbytes FP4: as NF4, but the sixteen values are those of a 4-bit float."""

    engine, family = "bnb_fp4", "fp4"
    method: Literal["bitsandbytes_fp4"]  # type: ignore[assignment]  # the other rows are told apart by it


class HqqPrecision(PrecisionRow):
    """HQQ (half-quadratic quantisation): codes of ``bits``, a scale and an offset in ``dtype`` per ``group_size``.

    They are found from the weights alone. Every pass restores the weights: its latency is not that of fused kernels.
    """

    engine, family, libraries = "hqq", "hqq", ("hqq",)
    method: Literal["hqq"]
    dtype: Dtype
    cpu_dtype: Dtype
    bits: Literal[2, 3, 4, 8]
    group_size: Annotated[int, Field(ge=8, le=4096, multiple_of=8)]
    skip: tuple[str, ...] = ()


class Rule(Strict):
    """What becomes of the modules whose dotted name ``modules`` (a regular expression) matches, and of all below them.

    ``int8`` and ``nf4`` take Linear layers alone, and leave other modules to the rules that follow.
    """

    modules: Annotated[str, Field(min_length=1)]
    to: Literal["fp32", "fp16", "bf16", "int8", "nf4"]

    @field_validator("modules")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"no regular expression ({error})") from None
        return value


class MixedPrecision(PrecisionRow):
    """A policy: the first of ``rules`` that matches a module decides, and what none matches takes ``dtype``.

    Values are converted where a module stands in another type than what surrounds it; on a CPU ``fp16`` stays FP16.
    ``threshold`` is INT8's, ``blocksize`` and ``double_quantization`` are NF4's.
    """

    engine, family, libraries = "mixed", "mixed", ("bitsandbytes",)
    method: Literal["mixed"]
    dtype: Dtype
    cpu_dtype: Dtype
    rules: Annotated[tuple[Rule, ...], Field(min_length=1)]
    threshold: Threshold = 6.0
    blocksize: Blocksize = 64
    double_quantization: bool = False

    @property
    def quantized_rows(self) -> dict[str, Int8Precision | Nf4Precision]:
        """The rows of the layers that a rule sends to INT8 or to NF4."""
        knobs: dict[str, Any] = self.model_dump(include={"dtype", "cpu_dtype"})
        scales = self.model_dump(include={"blocksize", "double_quantization"})
        return {
            "int8": Int8Precision(method="bitsandbytes_int8", threshold=self.threshold, **knobs),
            "nf4": Nf4Precision(method="bitsandbytes_nf4", **scales, **knobs),
        }


class OnnxRuntimePrecision(PrecisionRow):
    """ONNX Runtime on a CPU: the network as a graph in FP32, or with its matrix products in INT8.

    Weights are quantised before, symmetrically, by output channel or as a whole; activations to unsigned 8 bit, one
    scale a tensor, at every pass or, where ``static``, by ranges of calibration images. ``reduce_range`` keeps weights
    to 7 bit, which CPUs without VNNI need where their 16-bit sums could saturate; ``auto`` asks the processor.
    ``graph_optimization`` is how far the runtime fuses nodes, ``execution_mode`` whether branches of the graph run one
    after the other; threads are the protocol's.
    """

    engine, family, libraries = "ort", "onnxruntime", ("onnx", "onnxruntime")
    method: Literal["onnxruntime"]
    weights: Literal["float32", "int8"]
    per_channel: bool
    reduce_range: bool | Literal["auto"]
    graph_optimization: Literal["disable", "basic", "extended", "all"]
    execution_mode: Literal["sequential", "parallel"]
    static: bool = False

    def dtype_on(self, device: str) -> Dtype:
        return "float32"


class OpenVinoPrecision(PrecisionRow):
    """OpenVINO on a CPU: the network as a graph, its products with weights in floats or in static INT8 by NNCF.

    ``rest`` is the type of all that is not quantised; threads are the protocol's. Weights are signed, symmetric, by
    output channel, and of 7 bit on CPUs without VNNI; activations have one scale a tensor, by calibration images.
    """

    engine, family, libraries = "openvino", "openvino", ("nncf", "onnx", "openvino")
    method: Literal["openvino"]
    weights: Literal["float", "int8"]
    rest: Literal["float32", "bfloat16"]

    def dtype_on(self, device: str) -> Dtype:
        return "float32"  # of what goes in and comes out


GRAPHS = (OnnxRuntimePrecision, OpenVinoPrecision)  # of engines that run no torch module
FP32 = FloatPrecision(method="float", dtype="float32", cpu_dtype="float32", tf32=False)  # what all is compared with
Precision = Annotated[
    FloatPrecision
    | Int8Precision
    | Nf4Precision
    | Fp4Precision
    | HqqPrecision
    | MixedPrecision
    | OnnxRuntimePrecision
    | OpenVinoPrecision,
    Field(discriminator="method"),
]
