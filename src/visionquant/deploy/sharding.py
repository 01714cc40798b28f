"""One model over several processes by FSDP2: each keeps its share of every block, and gathers a block when it runs.

A rank holds 1/n of the weights and one whole block for a moment; the price is that all weights travel at each pass, so
on one machine's CPUs it saves memory alone. ``torchrun --standalone --nproc-per-node 2 -m visionquant.deploy.sharding
FOLDER`` runs an exported folder in two processes and has every rank compare itself with the whole model. NF4 and INT8
folders are refused: their codes are small already, and bitsandbytes' parameters are no plain tensors.
Source: https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html
"""

import json
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from visionquant.bench import fidelity
from visionquant.core.errors import StudyError
from visionquant.deploy import serialization

TIMEOUT_S = 60


def shard(net: nn.Module) -> nn.Module:
    """Split ``net`` in place over all ranks of the process group: each repeated block, then what is left.

    Raises:
        StudyError: it has parameters that are no plain floating-point tensors.
    """
    from torch.distributed.fsdp import fully_shard

    _require_plain(net)
    for block in [block for blocks in net.modules() if isinstance(blocks, nn.ModuleList) for block in blocks]:
        fully_shard(block)
    fully_shard(net, reshard_after_forward=True)  # the root would keep what it gathered
    return net


def _require_plain(net: nn.Module) -> None:
    if any(type(weight) is not nn.Parameter or not weight.is_floating_point() for weight in net.parameters()):
        raise StudyError("sharding", "the model is quantised", "export a float precision; INT8 and NF4 fit as they are")


def local_bytes(net: nn.Module) -> int:
    """Bytes of the parameters that this rank holds."""
    tensors = (getattr(parameter, "to_local", lambda own=parameter: own)() for parameter in net.parameters())
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def compare_ranks(folder: Path) -> dict[str, int | float]:
    """Run an exported folder whole and sharded on the same seeded images, in a process that torchrun started.

    What this rank holds of the parameters, in bytes, and how far its outputs are from the whole model's.
    """
    restored = serialization.restore(folder)
    net = restored.net.requires_grad_(False)
    _require_plain(net)
    images = torch.rand(2, *restored.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    images, whole = images.to(next(net.parameters()).dtype), local_bytes(net)
    with torch.no_grad():
        expected = fidelity.features_of(net(images))
        dist.init_process_group("gloo", timeout=timedelta(seconds=TIMEOUT_S))
        try:
            features = fidelity.features_of(shard(net)(images))
            return {
                "rank": dist.get_rank(),
                "ranks": dist.get_world_size(),
                "whole_bytes": whole,
                "local_bytes": local_bytes(net),
                "identical": torch.equal(features, expected),
                "largest_difference": float((features - expected).abs().max()),
            }
        finally:
            dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    try:
        report = compare_ranks(Path(sys.argv[1]))
    except StudyError as error:
        sys.exit(f"visionquant: {error}")
    sys.stdout.write(json.dumps(report) + "\n")
