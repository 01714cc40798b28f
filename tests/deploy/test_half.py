"""Half precision: inference that leaves its caller's model and torch's switches alone, training that learns."""

from typing import Any

import pytest
import tiny
import torch
from torch import nn
from transformers import AutoConfig, AutoModel

from visionquant.accuracy import training
from visionquant.bench import loading, worker
from visionquant.core.errors import StudyError
from visionquant.deploy import compute
from visionquant.settings.params import parse
from visionquant.settings.sections import NetworkSpec, Training


def network(name: str = "tiny-vit", attention: str = "eager") -> nn.Module:
    config = dict(tiny.CONFIGS[name])
    made = AutoConfig.for_model(config.pop("model_type"), **config)
    net: nn.Module = AutoModel.from_config(made, attn_implementation=attention)
    loading.seed_weights(net, 0)
    loading.recalibrate(net, images(name, 8))
    return net.eval()


def images(name: str = "tiny-vit", count: int = 2) -> torch.Tensor:
    side = tiny.CONFIGS[name]["image_size"]
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.cosine_similarity(a.float().flatten(), b.float().flatten(), dim=0))


def switches() -> tuple[object, ...]:
    backends = torch.backends
    return (
        backends.cuda.matmul.fp32_precision,
        backends.cudnn.conv.fp32_precision,
        backends.cudnn.rnn.fp32_precision,
        backends.cudnn.benchmark,
        backends.cuda.matmul.allow_tf32,
        backends.cudnn.allow_tf32,
    )


# --- inference


@pytest.mark.parametrize("name", ["tiny-vit", "tiny-beit", "tiny-mobilevit"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("how", ["weights", "autocast"])
def test_half_answers_like_fp32_and_leaves_the_callers_model_as_it_was(name: str, dtype: torch.dtype, how: Any) -> None:
    net, pixels = network(name), images(name)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with torch.no_grad():
        expected = net(pixels).last_hidden_state
    made = compute.HalfModel(net, how=how, dtype=dtype)
    found = made(pixels).last_hidden_state
    assert cosine(expected, found) > 0.99
    assert not torch.equal(expected, found.float())  # it did something
    assert not found.requires_grad
    assert {one.dtype for one in made.net.parameters()} == {dtype if how == "weights" else torch.float32}
    assert all(
        torch.equal(before[key], value) and before[key].dtype == value.dtype for key, value in net.state_dict().items()
    )
    assert net.config._attn_implementation == "eager"
    assert made.net.config._attn_implementation == ("eager" if name == "tiny-mobilevit" else "sdpa")


def test_autocast_keeps_normalisation_in_fp32_and_half_weights_do_not() -> None:
    seen: dict[str, torch.dtype] = {}
    for how in ("weights", "autocast"):
        made = compute.HalfModel(network(), how=how)
        made.net.layernorm.register_forward_hook(lambda _, given, found, how=how: seen.update({how: found.dtype}))
        made(images())
    assert seen == {"weights": torch.bfloat16, "autocast": torch.float32}


def test_the_half_type_is_the_one_that_the_device_is_fast_in() -> None:
    assert compute.HalfModel(network()).dtype == torch.bfloat16
    assert compute.dtype_for("cuda") == torch.float16


class Asking(nn.Module):
    """Notes torch's switches while it runs, and fails when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.seen: list[tuple[object, ...]] = []
        self.fails = False

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        self.seen.append((torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision))
        self.seen.append((torch.backends.cudnn.benchmark,))
        if self.fails:
            raise ArithmeticError("as told")
        return self.linear(given)


@pytest.mark.parametrize("legacy", [None, False, True])
def test_switches_hold_for_the_call_and_are_put_back_even_after_an_exception(
    legacy: bool | None, request: pytest.FixtureRequest
) -> None:
    first = switches()
    if legacy is not None:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = legacy

        def restore() -> None:
            torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = first[4:6]

        request.addfinalizer(restore)
    before = switches()
    made = compute.HalfModel(Asking(), how="autocast", tf32=True)
    made(torch.ones(1, 2))
    assert made.net.seen == [("tf32", "tf32"), (True,)]
    assert switches() == before
    made.net.fails = True
    with pytest.raises(ArithmeticError):
        made(torch.ones(1, 2))
    assert switches() == before
    with compute.switches():
        assert switches_now() == ("ieee", "ieee", False)
    assert switches() == before


def switches_now() -> tuple[object, ...]:
    backends = torch.backends
    return backends.cuda.matmul.fp32_precision, backends.cudnn.conv.fp32_precision, backends.cudnn.benchmark


def test_what_can_not_be_halved_is_one_line() -> None:
    with pytest.raises(StudyError, match=r"torch\.float32 is none; take torch\.float16 or torch\.bfloat16"):
        compute.HalfModel(network(), dtype=torch.float32)
    with pytest.raises(StudyError, match=r"is torch\.float16; start from the model in float32"):
        compute.HalfModel(network().half())


def test_a_gpu_that_is_not_there_is_one_line() -> None:
    net = network()
    with pytest.raises(StudyError, match=r"^study\.device: torch \S+ can't use a GPU here .*; .*cpu$"):
        worker.in_fork(lambda: compute.HalfModel(net, "cuda"))  # what was asked for a GPU is no parent of later forks


# --- training


@pytest.fixture(scope="module")
def task() -> tuple[NetworkSpec, Training, training.TrainingImages]:
    raw = tiny.settings()
    raw["training"]["networks"]["tiny-digits"] |= {"epochs": 4, "learning_rate": 0.005}
    params = parse(raw)
    return params.training.networks["tiny-digits"], params.training, training.load_digits(16)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_learns_the_digits_with_weights_in_fp32(
    dtype: torch.dtype, task: tuple[NetworkSpec, Training, training.TrainingImages]
) -> None:
    spec, settings, data = task
    done = training.train(spec, settings, data, 0, compute.stepper(dtype=dtype))
    assert {one.dtype for one in done.net.parameters()} == {torch.float32}
    assert done.correct > 3 * 0.1 * done.held_out  # chance is a tenth


def test_without_a_half_type_the_step_is_the_plain_one_bit_by_bit(
    task: tuple[NetworkSpec, Training, training.TrainingImages],
) -> None:
    spec, settings, data = task
    short = spec.model_copy(update={"epochs": 1})
    plain = training.train(short, settings, data, 0)
    done = training.train(short, settings, data, 0, compute.stepper(dtype=torch.float32))
    assert all(torch.equal(a, b) for a, b in zip(plain.net.parameters(), done.net.parameters(), strict=True))


def one_step(net: nn.Module, images: torch.Tensor, labels: torch.Tensor, stepper: training.Stepper) -> bool:
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    _, changed = stepper(net, optimizer)(images, labels)
    return changed


def test_a_step_that_overflows_is_left_out(task: tuple[NetworkSpec, Training, training.TrainingImages]) -> None:
    spec, _, data = task
    net = training.build_network(spec, 0)
    with torch.no_grad():
        net.classifier.weight.mul_(3e4)  # gradients of what is before it do not fit into FP16 once they are scaled
    before = [one.detach().clone() for one in net.parameters()]
    assert not one_step(net, data.images[:8], data.labels[:8], compute.stepper(dtype=torch.float16))
    assert all(map(torch.equal, before, net.parameters()))
    assert one_step(net, data.images[:8], data.labels[:8], compute.stepper(dtype=torch.bfloat16))
    assert not all(map(torch.equal, before, net.parameters()))


def test_the_listings_half_model_has_gradients_that_the_scaler_refuses(
    task: tuple[NetworkSpec, Training, training.TrainingImages],
) -> None:
    spec, _, data = task
    net = training.build_network(spec, 0).half()
    optimizer = torch.optim.AdamW(net.parameters())
    scaler = torch.amp.GradScaler("cpu")
    with torch.autocast("cpu", dtype=torch.float16):
        loss = training.loss_of(net, data.images[:8], data.labels[:8])
    scaler.scale(loss).backward()
    assert {one.grad.dtype for one in net.parameters() if one.grad is not None} == {torch.float16}
    with pytest.raises(ValueError, match="Attempting to unscale FP16 gradients"):
        scaler.step(optimizer)
    with pytest.raises(StudyError, match=r"torch\.float16; start from the model in float32"):
        compute.stepper(dtype=torch.float16)(net, optimizer)


# --- gradient checkpointing


def gradients(net: nn.Module, data: training.TrainingImages) -> tuple[list[torch.Tensor], int]:
    images, labels = data.images[:8].clone(), data.labels[:8].clone()
    loss, kept = compute.saved_bytes(lambda: training.loss_of(net, images, labels), net)
    loss.backward()
    return [one.grad for one in net.parameters() if one.grad is not None], kept


def test_checkpointing_keeps_less_and_gives_the_same_gradients(
    task: tuple[NetworkSpec, Training, training.TrainingImages],
) -> None:
    spec, _, data = task
    deep = spec.model_copy(update={"layers": 6})
    plain, kept = gradients(training.build_network(deep, 0).train(), data)
    net = training.build_network(deep, 0).train()
    compute.enable_checkpointing(net)
    again, less = gradients(net, data)
    assert len(plain) == len(again) > 60
    assert all(map(torch.equal, plain, again))
    assert less < kept / 3


def test_training_with_checkpoints_is_the_same_training(
    task: tuple[NetworkSpec, Training, training.TrainingImages],
) -> None:
    spec, settings, data = task
    short = spec.model_copy(update={"epochs": 1})
    found = [
        training.train(short, settings, data, 0, compute.stepper(dtype=torch.bfloat16, checkpoint=flag)).net
        for flag in (False, True)
    ]
    assert all(map(torch.equal, found[0].parameters(), found[1].parameters()))


def test_a_network_without_blocks_to_checkpoint_is_one_line() -> None:
    with pytest.raises(StudyError, match="Linear has no blocks for it"):
        compute.enable_checkpointing(nn.Linear(2, 2))
