"""Linear layers exchanged for INT8 ones: as the supplement does it, and with the weights taken along."""

from collections.abc import Callable

import torch
from torch import nn

Exchange = Callable[[nn.Linear], nn.Module]


def empty(old: nn.Linear) -> nn.Module:
    """The supplement's: the shape is taken over, the numbers are not."""
    import bitsandbytes as bnb

    new: nn.Module = bnb.nn.Linear8bitLt(
        old.in_features, old.out_features, bias=old.bias is not None, has_fp16_weights=False
    )
    return new


def filled(old: nn.Linear) -> nn.Module:
    import bitsandbytes as bnb

    new = empty(old)
    new.weight = bnb.nn.Int8Params(old.weight.data.clone(), requires_grad=False, has_fp16_weights=False)
    new.bias = old.bias
    return new


def exchange(parent: nn.Module, make: Exchange = empty) -> nn.Module:
    """Every Linear layer below ``parent`` is replaced; the new layers stay where they were made."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        _walk(parent, make)
    return parent


def _walk(parent: nn.Module, make: Exchange) -> None:
    for name, below in list(parent.named_children()):
        if isinstance(below, nn.Linear):
            setattr(parent, name, make(below))
        else:
            _walk(below, make)
