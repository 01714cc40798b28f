"""The precisions: every knob that decides what becomes of a model's parameters, as rows of params.yaml."""

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from visionquant.core.frozen import Row

Dtype = Literal["float32", "float16", "bfloat16"]


class FloatPrecision(Row):
    """Every parameter in one floating-point type."""

    method: Literal["float"]
    dtype: Dtype
    cpu_dtype: Dtype
    tf32: bool = False


class Int8Precision(Row):
    """bitsandbytes LLM.int8(): row-wise INT8 weights; input columns that exceed ``threshold`` stay in 16 bit.

    ``threshold: 0.0`` switches the outlier path off. Linear layers with part of their name in ``skip`` keep ``dtype``.
    ``outliers``: so many channels of every normalisation in front of Linear layers are scaled up and the next weights
    down, so that seeded weights meet outliers as trained ones do.
    """

    method: Literal["bitsandbytes_int8"]
    dtype: Dtype
    cpu_dtype: Dtype
    threshold: Annotated[float, Field(ge=0.0)]
    outliers: Annotated[int, Field(ge=0, le=16)] = 0
    skip: tuple[str, ...] = ()


class Nf4Precision(Row):
    """bitsandbytes NF4: 4-bit codes, one scale per ``blocksize`` weights, in 8 bit with ``double_quantization``.

    Layers with that are not repacked on a CPU with BF16 instructions, where repacking would undo it.
    """

    method: Literal["bitsandbytes_nf4"]
    dtype: Dtype
    cpu_dtype: Dtype
    blocksize: Literal[64, 128, 256, 512, 1024, 2048, 4096]
    double_quantization: bool
    skip: tuple[str, ...] = ()


class Rule(Row):
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


class MixedPrecision(Row):
    """A policy: the first of ``rules`` that matches a module decides, and what none matches takes ``dtype``.

    Values are converted where a module stands in another type than what surrounds it; on a CPU ``fp16`` stays FP16.
    ``threshold`` is INT8's, ``blocksize`` and ``double_quantization`` are NF4's.
    """

    method: Literal["mixed"]
    dtype: Dtype
    cpu_dtype: Dtype
    rules: Annotated[tuple[Rule, ...], Field(min_length=1)]
    threshold: Annotated[float, Field(ge=0.0)] = 6.0
    blocksize: Literal[64, 128, 256, 512, 1024, 2048, 4096] = 64
    double_quantization: bool = False

    @property
    def int8(self) -> Int8Precision:
        """The row of the layers that a rule sends to INT8."""
        return Int8Precision(
            method="bitsandbytes_int8", dtype=self.dtype, cpu_dtype=self.cpu_dtype, threshold=self.threshold
        )

    @property
    def nf4(self) -> Nf4Precision:
        """The row of the layers that a rule sends to NF4."""
        return Nf4Precision(
            method="bitsandbytes_nf4",
            dtype=self.dtype,
            cpu_dtype=self.cpu_dtype,
            blocksize=self.blocksize,
            double_quantization=self.double_quantization,
        )


class OnnxRuntimePrecision(Row):
    """ONNX Runtime on a CPU: the network as a graph in FP32, or with its matrix products in INT8.

    ``int8`` is dynamic: weights are quantised before, symmetrically, by output channel or as a whole; activations to
    unsigned 8 bit at every pass, one scale a tensor. ``reduce_range`` keeps weights to 7 bit, which CPUs without VNNI
    need where their 16-bit sums could saturate. ``graph_optimization`` is how far the runtime fuses nodes,
    ``execution_mode`` whether branches of the graph run one after the other; threads are the protocol's.
    """

    method: Literal["onnxruntime"]
    weights: Literal["float32", "int8"]
    per_channel: bool
    reduce_range: bool
    graph_optimization: Literal["disable", "basic", "extended", "all"]
    execution_mode: Literal["sequential", "parallel"]

    @property
    def dtype(self) -> Dtype:
        """What inputs and outputs are."""
        return "float32"

    @property
    def cpu_dtype(self) -> Dtype:
        return self.dtype


FP32 = FloatPrecision(method="float", dtype="float32", cpu_dtype="float32", tf32=False)  # what all is compared with
Precision = Annotated[
    FloatPrecision | Int8Precision | Nf4Precision | MixedPrecision | OnnxRuntimePrecision,
    Field(discriminator="method"),
]
