"""One model over several processes by FSDP2: each keeps its share of every block, and gathers a block when it runs.

``fully_shard`` splits each parameter along its first dimension over the ranks; before a block's forward pass the whole
block is gathered, and its memory freed after it. A rank holds 1/n of the weights and one whole block for a moment; the
price is that all weights travel at each pass, so on one machine's CPUs it saves memory alone. The guide's listing
imports FSDP1's wrapper and uses it nowhere.

``torchrun --standalone --nproc-per-node 2 -m visionquant.deploy.sharding FOLDER`` runs an exported folder in two
processes and has every rank compare itself with the whole model. NF4 and INT8 folders are refused: their codes are
small already, and bitsandbytes' parameters are no plain tensors.
Source: https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html
"""

import json
import sys
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from visionquant.bench import fidelity
from visionquant.core.errors import StudyError
from visionquant.deploy import serialization
from visionquant.settings.precision import FloatPrecision

TIMEOUT_S = 60


@dataclass(frozen=True)
class Share:
    """What a rank holds of the parameters, in bytes, and how far its outputs are from the whole model's."""

    rank: int
    ranks: int
    whole_bytes: int
    local_bytes: int
    identical: bool
    largest_difference: float


def shard(net: nn.Module) -> nn.Module:
    """Split ``net`` in place over all ranks of the process group: each repeated block, then what is left.

    Raises:
        StudyError: it has parameters that are no plain floating-point tensors.
    """
    from torch.distributed.fsdp import fully_shard

    if any(type(one) is not nn.Parameter or not one.is_floating_point() for one in net.parameters()):
        raise StudyError("sharding", "the model is quantised", "shard a float precision; INT8 and NF4 fit as they are")
    for module in net.modules():
        if isinstance(module, nn.ModuleList):
            for block in module:
                fully_shard(block)
    fully_shard(net, reshard_after_forward=True)  # the root would keep what it gathered
    return net


def local_bytes(net: nn.Module) -> int:
    """Bytes of the parameters that this rank holds."""
    locals_ = (one.to_local() if hasattr(one, "to_local") else one for one in net.parameters())
    return sum(tensor.numel() * tensor.element_size() for tensor in locals_)


def compare(folder: Path) -> Share:
    """Run an exported folder whole and sharded on the same seeded images, in a process that torchrun started.

    Raises:
        StudyError: the folder is not whole, or holds a quantised model.
    """
    found = serialization.restore(folder)
    if not isinstance(found.description.precision, FloatPrecision):
        raise StudyError("sharding", "the model is quantised", "export a float precision; INT8 and NF4 fit as they are")
    net = found.net.requires_grad_(False)
    images = torch.rand(2, *found.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    images = images.to(next(net.parameters()).dtype)
    with torch.no_grad():
        expected = fidelity.features_of(net(images))
    whole = local_bytes(net)
    dist.init_process_group("gloo", timeout=timedelta(seconds=TIMEOUT_S))
    try:
        shard(net)
        with torch.no_grad():
            answer = fidelity.features_of(net(images))
        return Share(
            rank=dist.get_rank(),
            ranks=dist.get_world_size(),
            whole_bytes=whole,
            local_bytes=local_bytes(net),
            identical=torch.equal(answer, expected),
            largest_difference=float((answer - expected).abs().max()),
        )
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    try:
        share = compare(Path(sys.argv[1]))
    except StudyError as error:
        sys.exit(f"visionquant: {error}")
    sys.stdout.write(json.dumps(asdict(share)) + "\n")
