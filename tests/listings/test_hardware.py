"""What the listings of the hardware guidelines do when they are run; each is restated in a few lines of our own."""

import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch
from listed import images, network, outcome
from torch import nn
from torch.utils.checkpoint import checkpoint_sequential


def gradients(net: nn.Module, output: torch.Tensor) -> list[torch.Tensor]:
    net.zero_grad()
    output.square().mean().backward()
    return [parameter.grad.clone() for parameter in net.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("model", tiny.CONFIGS)
def test_checkpointing(model: str) -> None:
    net, pixels = network(model), images(model)
    with pytest.warns(UserWarning, match="use_reentrant"), pytest.raises(TypeError, match=r"no len\(\)"):
        checkpoint_sequential(net, 2, pixels)

    chain = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8), nn.GELU())  # what the function is for
    given = torch.ones(2, 8)
    plain = gradients(chain, chain(given))
    again = gradients(chain, checkpoint_sequential(chain, 2, given, use_reentrant=False))
    assert len(plain) == 4
    assert all(map(torch.equal, plain, again))
    assert outcome("listings/checkpointing") == "fails"


def test_sharding() -> None:
    module = importlib.import_module("torch.distributed.fsdp")
    assert issubclass(module.FullyShardedDataParallel, nn.Module)
    assert outcome("listings/sharding") == "works"


class NoEnd(Exception):
    """The loop was still asking after so many readings."""


def doubled(batch: int, limit: int, reading: Callable[[], int]) -> int:
    """The listing's loop: memory is read, the batch doubled, and no batch run."""
    while reading() < limit:
        batch *= 2
    return batch // 2


def doubled_and_run(net: nn.Module, batch: int, limit: int, reading: Callable[[], int]) -> int:
    while reading() < limit:
        batch *= 2
        net(torch.ones(batch, 16))
    return batch // 2


def test_adaptive_batch() -> None:
    net = nn.Linear(16, 16)
    batches, readings = [0], []
    net.register_forward_hook(lambda _, given, output: batches.append(output.nbytes))

    def reading() -> int:
        """Bytes of the last batch's output."""
        readings.append(batches[-1])
        if len(readings) > 60:
            raise NoEnd
        return batches[-1]

    with pytest.raises(NoEnd):
        doubled(1, 1 << 16, reading)
    assert set(readings) == {0}  # sixty times the same
    assert batches == [0]  # for want of a single batch

    readings.clear()
    assert doubled_and_run(net, 1, 1 << 16, reading) == 512  # of 64 bytes each: the next one, 1024, meets the limit
    assert len(readings) == 11
    assert outcome("listings/adaptive-batch") == "fails"


def test_tf32() -> None:
    switches = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [switch.allow_tf32 for switch in switches]
    try:
        for switch in switches:
            switch.allow_tf32 = False
        assert torch.get_float32_matmul_precision() == "highest"
        for switch in switches:
            switch.allow_tf32 = True
        assert [switch.allow_tf32 for switch in switches] == [True, True]
        assert torch.get_float32_matmul_precision() == "high"  # FP32 in name, not in its products
    finally:
        for switch, was in zip(switches, before, strict=True):
            switch.allow_tf32 = was
    assert [switch.allow_tf32 for switch in switches] == before
    assert outcome("listings/tf32") == "works"


# TorchScript is deprecated, and looking through a model's properties touches deprecated ones.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("model", tiny.CONFIGS)
def test_fusion(model: str, capfd: pytest.CaptureFixture[str]) -> None:
    net = network(model)
    with pytest.raises(OSError, match="Failed to get source"):
        torch.jit.script(net)
    capfd.readouterr()
    with pytest.raises(OSError, match="Failed to get source"), torch.jit.fuser("fuser2"):
        torch.jit.script(net)
    assert "nvfuser is no longer supported" in capfd.readouterr().err  # the fuser asked for is gone as well

    layer, given = nn.Linear(4, 4), torch.ones(1, 4)
    assert torch.equal(torch.jit.script(layer)(given), layer(given))  # what it can script
    assert outcome("listings/fusion") == "fails"


SETTING = """
inside, beside = os.cpu_count(), 1
torch.set_num_threads(inside), torch.set_num_interop_threads(beside)
print(torch.get_num_threads(), torch.get_num_interop_threads())
"""
ORDINARY = """
weight = torch.ones(600, 600, requires_grad=True)
(weight @ weight).sum().backward()
"""
FORKED = """
@torch.jit.script
def apart(x: torch.Tensor):
    return torch.jit.wait(torch.jit.fork(torch.relu, x))
apart(torch.ones(1))
"""


def in_a_new_process(folder: Path, *parts: str) -> subprocess.CompletedProcess[str]:
    script = folder / "script.py"  # a file, because TorchScript wants to read its functions
    script.write_text("\n".join(["import os", "import torch", *parts]), encoding="utf-8")
    command = [sys.executable, "-W", "ignore", str(script)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


def test_threads(tmp_path: Path) -> None:
    expected = f"{os.cpu_count()} 1\n"
    first = in_a_new_process(tmp_path, ORDINARY, SETTING, SETTING)
    assert first.stdout == expected  # once; work inside operations is no hindrance
    assert first.returncode == 1
    assert "RuntimeError: Error: cannot set number of interop threads" in first.stderr  # twice

    late = in_a_new_process(tmp_path, FORKED, SETTING)
    assert late.stdout == ""  # nor once operations have run beside each other
    assert late.returncode in (1, -signal.SIGABRT)  # torch aborts where its second pool is still alive at the exit
    assert "RuntimeError: Error: cannot set number of interop threads" in late.stderr
    assert outcome("listings/threads") == "works"
