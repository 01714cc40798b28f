"""Which kernels ran is what layers really called, and what libraries say meanwhile is counted and not lost."""

import logging
import warnings
from pathlib import Path
from typing import Any

import pytest
import repacking
import tiny
import torch
from torch import nn

from visionquant.bench import torch_flags
from visionquant.bench.backends import bnb as bnb_engine
from visionquant.bench.backends import convert
from visionquant.bench.backends.bnb import quantised
from visionquant.core import machine
from visionquant.settings.params import parse
from visionquant.weights import checkpoint

PARAMS = parse(tiny.settings())
# As bitsandbytes decides at its import, from the same answer of torch.
PRODUCT = (
    "an INT8 product (torch._int_mm)"
    if torch.backends.cpu.get_cpu_capability() == "AVX512"
    else "codes multiplied in FP32 (torch.matmul)"
)


class Two(nn.Module):
    """Two layers, of which the second is run twice or never."""

    def __init__(self, times: int = 2) -> None:
        super().__init__()
        self.first, self.second, self.times = nn.Linear(64, 64), nn.Linear(64, 64), times

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.nn.functional.linear(self.first(x), torch.eye(64, dtype=x.dtype))  # no quantised layer's
        for _ in range(self.times):
            x = self.second(x)
        return x


def watched(precision: str, net: nn.Module) -> dict[str, int]:
    net = convert.convert(net, PARAMS.precisions[precision], "cpu")
    with bnb_engine.ENGINE.watch(net) as counted, torch.inference_mode():
        net(torch.ones(3, 64, dtype=torch.bfloat16))
    return counted()


def test_each_layer_counts_once_under_what_it_called(monkeypatch: pytest.MonkeyPatch) -> None:
    import bitsandbytes as bnb

    monkeypatch.setattr(bnb.nn.modules, "has_avx512bf16", lambda: False)
    assert watched("int8", Two()) == {f"INT8, {PRODUCT}": 2}
    assert watched("int8", Two(times=0)) == {f"INT8, {PRODUCT}": 1, "not run": 1}
    dequantised = "NF4, dequantised, then a product in floats"
    assert watched("nf4", Two()) == {f"{dequantised} (cdequantize_blockwise_cpu_nf4_bf16, torch.linear)": 2}
    assert watched("fp32", nn.Sequential()) == {}


def test_a_pass_leaves_everything_as_it_was() -> None:
    from bitsandbytes.backends.cpu import ops

    before = (torch._int_mm, torch.matmul, nn.functional.linear, ops.lib)
    net = convert.convert(Two(), PARAMS.precisions["int8"], "cpu")
    with pytest.raises(RuntimeError), bnb_engine.ENGINE.watch(net):
        net(torch.ones(3, 5, dtype=torch.bfloat16))
    assert before == (torch._int_mm, torch.matmul, nn.functional.linear, ops.lib)
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in net.modules())


@pytest.mark.parametrize("from_hub", [False, True])
def test_a_repacked_layer_says_whose_fused_kernel_it_ran(from_hub: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through a kernel registered as on a CPU with BF16 instructions, but without them: its answer is made up."""
    import bitsandbytes as bnb
    from bitsandbytes.backends.cpu import ops

    repacking.on(monkeypatch)

    def hubs(a: torch.Tensor, *_: Any) -> torch.Tensor:
        return a.new_zeros(len(a), 64)

    def gemv(a: torch.Tensor, b: torch.Tensor, out: None = None, *, state: Any) -> torch.Tensor:
        kernel = ops.gemm_4bit_forward_kernel  # type: ignore[attr-defined]
        if kernel is None:
            assert ops.lib.gemv_4bit_inference_cpu_nf4_bf16 is not None
            return hubs(a)
        answer: torch.Tensor = kernel(a, b)
        return answer

    layer = quantised(nn.Linear(64, 64).bfloat16(), PARAMS.precisions["nf4"], torch.bfloat16)  # type: ignore[arg-type]
    net = nn.Sequential(layer).to("cpu")
    monkeypatch.setattr(ops, "gemm_4bit_forward_kernel", hubs if from_hub else None, raising=False)
    monkeypatch.setattr(ops, "lib", type("Lib", (), {"gemv_4bit_inference_cpu_nf4_bf16": hubs})())
    monkeypatch.setattr(bnb.functional, "gemv_4bit", gemv)
    with bnb_engine.ENGINE.watch(net) as counted, torch.inference_mode():
        net(torch.ones(3, 64, dtype=torch.bfloat16))
    assert repacking.packed(net[0])
    called = "a kernel of the hub (gemm_4bit_forward)"
    if not from_hub:
        called = "weights repacked (gemv_4bit_inference_cpu_nf4_bf16)"
    assert counted() == {f"NF4, fused, {called}": 1}


@pytest.mark.parametrize(
    ("layer", "called", "says"),
    [
        (
            "Linear8bitLt",
            ("cint8_vector_quant", "cigemmlt_32", "cdequant_mm_int32_fp16"),
            "INT8, an INT8 product (cint8",
        ),
        ("Linear8bitLt", ("cint8_vector_quant", "torch.matmul"), "INT8, codes multiplied in FP32 ("),
        ("Linear4bit", ("cgemm_4bit_fp16",), "NF4, fused (cgemm_4bit_fp16)"),
        ("Linear4bit", ("cdequantize_blockwise_fp16_nf4", "torch.linear"), "NF4, dequantised, then"),
        ("Linear4bit", ("cbrand_new_kernel",), "NF4, unknown (cbrand_new_kernel)"),
        ("Linear4bit", (), "NF4, unknown (nothing known was called)"),
    ],
)
def test_kernels_of_a_gpu_have_names_too(layer: str, called: tuple[str, ...], says: str) -> None:
    assert bnb_engine.label(layer, called).startswith(says)


# --- messages


def test_messages_are_counted_with_their_library_and_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    torch_flags.quiet("cpu")
    level = logging.getLogger("bitsandbytes").level
    with torch_flags.heard() as said:
        for at in (0x7F0000000001, 0x7F0000000002):
            logging.getLogger("bitsandbytes.backends.cpu.ops").warning("Failed to load\n  the kernel at %#x", at)
        logging.getLogger("transformers.modeling").warning("slow path")
        logging.getLogger("bitsandbytes").info("not of interest")
        warnings.warn("mine", RuntimeWarning, stacklevel=1)
        warnings.warn("for who writes code", DeprecationWarning, stacklevel=1)
        warnings.warn_explicit("inner dimension (144)", UserWarning, "/x/bitsandbytes/backends/cuda/ops.py", 957)
        warnings.warn_explicit("inner dimension (144)", UserWarning, "/x/bitsandbytes/backends/cuda/ops.py", 957)
    assert said == {
        "bitsandbytes: Failed to load the kernel at 0x...": 2,
        "transformers: slow path": 1,
        "RuntimeWarning: mine": 1,
        "bitsandbytes: inner dimension (144)": 2,
    }
    assert logging.getLogger("bitsandbytes").level == level == logging.ERROR
    logging.getLogger("bitsandbytes").warning("a timed pass")
    assert capsys.readouterr() == ("", "")
    assert "bitsandbytes: a timed pass" not in said


def test_a_record_holds_kernels_and_messages_of_its_preparation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, params = tiny.project(tmp_path, tiny.settings(("tiny-vit",), ("fp32", "int8")))
    machine.declare(project, machine.probe("cpu"))
    checkpoint.download(project, params, "tiny-vit")
    monkeypatch.setitem(torch_flags.AT_IMPORT, "bitsandbytes: Failed to load CPU gemm_4bit_forward", 1)
    found = tiny.measure(project, params, "tiny-vit", "int8", [1]).conversion
    assert found is not None
    assert found.kernels == {f"INT8, {PRODUCT}": 12}
    assert found.messages is not None
    cast = "bitsandbytes: MatMul8bitLt: inputs will be cast from torch.bfloat16 to float16 during quantization"
    assert found.messages[cast] >= 12
    assert found.messages["bitsandbytes: Failed to load CPU gemm_4bit_forward"] == 1
    assert tiny.measure(project, params, "tiny-vit", "fp32", [1]).conversion.kernels == {}  # type: ignore[union-attr]
