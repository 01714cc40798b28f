"""What the listings of the implementation guide do when they are run; each is restated in a few lines of our own."""

import copy
import pickle
from collections.abc import Iterable
from pathlib import Path

import int8
import pytest
import tiny
import torch
from listed import cosine, dtypes, features, images, linears, network, outcome
from torch import nn


def in_half(net: nn.Module, pixels: torch.Tensor) -> tuple[nn.Module, torch.Tensor]:
    """Model and images in FP16, run under autocast, as in the listing (which does it on a GPU)."""
    halved = net.half()
    with torch.backends.cudnn.flags(enabled=True, benchmark=True), torch.autocast("cpu", dtype=torch.float16):
        return halved, features(halved, pixels.half())


def test_fp16_inference() -> None:
    net, pixels = network(), images()
    expected = features(net, pixels)

    copied, _ = in_half(copy.deepcopy(net), pixels)
    assert copied is not net
    assert dtypes(net) == {torch.float32}  # a copy spares the caller's model

    halved, found = in_half(net, pixels)
    assert found.dtype == torch.float16
    assert cosine(expected, found) > 0.999
    assert halved is net
    assert dtypes(net) == {torch.float16}  # the caller's own model is not FP32 any more
    assert outcome("listings/fp16-inference") == "works"


def loss_of(net: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    return (net(pixels).pooler_output.float() - 0.5).square().mean()


def test_fp16_training() -> None:
    pixels = images()

    half = network().half().train()
    before = [parameter.detach().clone() for parameter in half.parameters()]
    optimizer = torch.optim.SGD(half.parameters(), lr=0.1)
    scaling = torch.amp.GradScaler("cpu")
    with torch.autocast("cpu", dtype=torch.float16):
        loss = loss_of(half, pixels)
    scaling.scale(loss).backward()
    with pytest.raises(ValueError, match="Attempting to unscale FP16 gradients"):
        scaling.step(optimizer)
    assert all(map(torch.equal, before, half.parameters()))  # nothing was learnt

    master = network().train()  # weights in FP32, lower precision only inside autocast
    optimizer = torch.optim.SGD(master.parameters(), lr=0.1)
    scaling = torch.amp.GradScaler("cpu")
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(master, pixels)
        scaling.scale(loss).backward()
        scaling.step(optimizer)
        scaling.update()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert dtypes(master) == {torch.float32}
    assert outcome("listings/fp16-training") == "fails"


@pytest.mark.parametrize("model", ["tiny-vit", "tiny-deit", "tiny-dinov2"])
def test_int8_conversion(model: str) -> None:
    net, pixels = network(model), images(model)
    expected, own = features(net, pixels), linears(net)

    kept = int8.exchange(copy.deepcopy(net), int8.filled).to("cpu").eval()
    lost = int8.exchange(copy.deepcopy(net)).to("cpu").eval()
    assert own.keys() == linears(kept).keys() == linears(lost).keys()
    for name, layer in own.items():
        assert linears(lost)[name].weight.dtype == torch.int8
        assert cosine(layer.weight, restored(linears(kept)[name])) > 0.999
        assert abs(cosine(layer.weight, restored(linears(lost)[name]))) < 0.1  # other numbers altogether

    assert cosine(expected, features(kept, pixels)) > 0.99
    assert cosine(expected, features(lost, pixels)) < 0.5
    assert outcome("listings/int8-conversion") == "fails"


def restored(layer: nn.Module) -> torch.Tensor:
    """The weight that INT8 and the scale of each row stand for."""
    weight = layer.weight
    return weight.data.float() * weight.SCB.float()[:, None] / 127


def run_through(net: nn.Module, batches: Iterable[torch.Tensor]) -> nn.Module:
    """The listing's calibration: inference mode, every batch once, results dropped."""
    net.eval()
    for batch in batches:
        features(net, batch)
    return net


def state(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items() if isinstance(value, torch.Tensor)}


def test_calibration() -> None:
    net, pixels = int8.exchange(network(), int8.filled).to("cpu").eval(), images()
    batches = [images(seed=seed) for seed in (2, 3, 4)]
    features(net, pixels)  # bitsandbytes settles its layers at the first run
    state_before, output_before = state(net), features(net, pixels)

    calibrated = run_through(net, batches)
    state_after = state(calibrated)
    assert state_before.keys() == state_after.keys()
    assert all(torch.equal(state_before[name], state_after[name]) for name in state_before)
    assert torch.equal(output_before, features(calibrated, pixels))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in calibrated.modules())

    # There was something to collect: the range of what goes into each layer.
    ranges: dict[str, float] = {}

    def widen(name: str, given: torch.Tensor) -> None:
        ranges[name] = max(ranges.get(name, 0.0), float(given.abs().max()))

    hooks = [
        layer.register_forward_pre_hook(lambda _, given, name=name: widen(name, given[0]))
        for name, layer in linears(net).items()
    ]
    run_through(net, batches)
    for hook in hooks:
        hook.remove()
    assert ranges.keys() == linears(net).keys()
    assert all(value > 0 for value in ranges.values())
    assert outcome("listings/calibration") == "fails"


class Payload:
    """What somebody else's "model" may be: unpickling it calls a function of their choice."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.marker,)


def test_server_load(tmp_path: Path) -> None:
    net, pixels = network(), images()
    whole, weights, evil = tmp_path / "whole.pt", tmp_path / "weights.pt", tmp_path / "evil.pt"
    marker = tmp_path / "was-here"
    torch.save(net, whole)
    torch.save(net.state_dict(), weights)
    torch.save(Payload(marker), evil)

    for path in (whole, evil):
        with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
            torch.load(path)
    assert not marker.exists()

    assert isinstance(torch.load(whole, weights_only=False), type(net))  # the only way that the listing can load
    torch.load(evil, weights_only=False)
    assert marker.exists()  # and what else it lets in

    other = network()
    nn.init.zeros_(other.layernorm.weight)
    other.load_state_dict(torch.load(weights))  # tensors alone pass the check
    assert torch.equal(features(net, pixels), features(other, pixels))
    assert outcome("listings/server-load") == "fails"


def test_server_int8() -> None:
    net = network()
    floats = sum(layer.weight.nbytes for layer in linears(net).values())

    served = int8.exchange(net).eval()  # and never moved
    layers = linears(served)
    assert {layer.weight.dtype for layer in layers.values()} == {torch.float32}
    assert sum(layer.weight.nbytes for layer in layers.values()) == floats  # not a byte is saved

    # The warm-up sends its images to another device than the model's; "meta" is one that every machine has.
    assert {parameter.device.type for parameter in served.parameters()} == {"cpu"}
    with pytest.raises(RuntimeError, match="not on the expected device"):
        features(served, images().to("meta"))
    assert features(network().to("meta"), images().to("meta")).shape == (2, 17, 64)

    moved = linears(copy.deepcopy(served).to("cpu"))
    assert {layer.weight.dtype for layer in moved.values()} == {torch.int8}
    assert sum(layer.weight.nbytes for layer in moved.values()) == floats // 4

    features(served, images())  # where there is no other device, the first run makes up for the move
    assert {layer.weight.dtype for layer in layers.values()} == {torch.int8}
    assert outcome("listings/server-int8") == "fails"


CONVERT_THEMSELVES = ("tiny-vit", "tiny-deit", "tiny-dinov2")


@pytest.mark.parametrize("model", tiny.CONFIGS)
def test_server_predict(model: str) -> None:
    net, pixels = network(model), images(model)
    served = copy.deepcopy(net).half()
    assert features(served, pixels.half()).dtype == torch.float16  # the warm-up, which does convert its images
    if model in CONVERT_THEMSELVES:
        assert features(served, pixels).dtype == torch.float16
    else:
        with pytest.raises(RuntimeError, match="should be the same"):
            features(served, pixels)

    # Nor are they moved: images from the CPU, model elsewhere.
    elsewhere = net.to("meta")
    with pytest.raises(RuntimeError, match="not on the expected device"):
        features(elsewhere, pixels)
    assert features(elsewhere, pixels.to(elsewhere.device)).device.type == "meta"
    assert outcome("listings/server-predict") == "fails"


def test_server_warmup() -> None:
    """Images of one fixed size before a model that takes another: it refuses them, and those of its own size pass."""
    net, pixels = network(), images()
    side = pixels.shape[-1]
    with torch.no_grad(), pytest.raises(ValueError, match=r"doesn't match model"):
        net(torch.randn(1, 3, 2 * side, 2 * side))
    assert torch.isfinite(features(net, pixels)).all()
    assert outcome("listings/server-warmup") == "fails"
