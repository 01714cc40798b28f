"""bitsandbytes in FP4: the layers of NF4, told another kind of code before a device quantises them.

Beside the NF4 engine and not in it, so that its records stay those of the code that measured them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from visionquant.bench.backends import bnb


class BitsAndBytesFp4(bnb.BitsAndBytes):
    """Linear layers in FP4, the rest in the row's type."""

    def replace_layers(self, net: nn.Module, row: Any, dtype: torch.dtype) -> None:
        super().replace_layers(net, row, dtype)
        for layer in self.quantised_layers(net).values():
            layer.weight.quant_type = "fp4"

    def parts(self, net: nn.Module, row: Any, plain: str) -> Iterator[tuple[str, str, str]]:
        for name, kind, wanted in super().parts(net, row, plain):
            yield name, kind, wanted.replace("nf4", "fp4")

    @contextmanager
    def watch(self, net: nn.Module) -> Iterator[Callable[[], dict[str, int]]]:
        with super().watch(net) as counted:
            yield lambda: {kernel.replace("NF4", "FP4"): count for kernel, count in counted().items()}


ENGINE = BitsAndBytesFp4()
