"""A CPU with BF16 instructions, as bitsandbytes' Python code sees one: it repacks NF4 layers at their first pass.

Its repacking is pure torch and runs here; of its kernel, which needs the instructions, the arithmetic is done in torch:
the same codes, scales and input, each in BF16.
"""

import copy
from typing import Any

import pytest
import torch


def on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make layers built from now on believe in such a CPU."""
    import bitsandbytes as bnb
    from bitsandbytes import functional

    monkeypatch.setattr(bnb.nn.modules, "has_avx512bf16", lambda: True)
    monkeypatch.setattr(functional, "gemv_4bit", _kernel)


def packed(layer: Any) -> bool:
    return bool(getattr(layer.weight.quant_state, "packing_format_for_cpu", False))


def _kernel(a: torch.Tensor, b: torch.Tensor, out: None = None, *, state: Any) -> torch.Tensor:
    from bitsandbytes import functional

    assert not state.nested
    assert state.absmax.dtype == torch.bfloat16
    assert state.absmax.shape == (state.shape[1] // state.blocksize, state.shape[0])
    assert a.stride(-1) == 1  # it takes a stride between rows and none between columns
    plain = copy.deepcopy(state)
    plain.original_nested = False
    codes, plain = functional._convert_weight_packed_for_cpu_inverse(b, plain)
    plain.absmax = state.absmax.T.contiguous().reshape(-1).float()
    weight = functional.dequantize_4bit(codes, plain).to(torch.bfloat16)
    return torch.nn.functional.linear(a.to(torch.bfloat16), weight).to(a.dtype)
