"""What a process is made to before it computes: a device that works, in one line if not, and FP32 that is FP32."""

from collections.abc import Callable, Iterator

import pytest
import torch

from visionquant.bench import device, torch_flags
from visionquant.core.errors import StudyError

TOO_OLD = (
    "The NVIDIA driver on your system is too old (found version 12040). Please update your GPU driver by downloading "
    "and installing a new version from the URL: http://www.nvidia.com/Download/index.aspx Alternatively, go to ..."
)


@pytest.fixture(autouse=True)
def _switches() -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def failing(text: str) -> Callable[..., torch.Tensor]:
    def zeros(*_: object, **__: object) -> torch.Tensor:
        raise RuntimeError(text)

    return zeros


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (TOO_OLD, r"here \(The NVIDIA driver .* \(found version 12040\)\); install driver 580 .*, or set it to cpu$"),
        ("CUDA error: all CUDA-capable devices are busy or unavailable\nMore.", r"; end what else uses it, or"),
        ("No CUDA GPUs are available", r"^study\.device: torch \S+ can't use .* \(No CUDA GPUs are available\)"),
    ],
)  # fmt: skip
def test_a_device_that_torch_can_not_use_is_one_line(monkeypatch: pytest.MonkeyPatch, said: str, line: str) -> None:
    """What NVML shows does not matter: it knows the card, and not whether its driver serves this torch."""
    monkeypatch.setattr(torch, "zeros", failing(said))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(StudyError, match=line) as error:
        device.of("cuda").require()
    assert "\n" not in str(error.value)
    device.of("cpu").require()


def test_a_full_gpu_is_no_matter_of_its_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "zeros", failing("CUDA error: out of memory\nCUDA kernel errors might be ..."))
    with pytest.raises(RuntimeError, match="out of memory"):
        device.of("cuda").require()


def test_a_gpu_is_alive_until_every_call_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    assert device.of("cpu").alive()
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    assert device.of("cuda").alive()
    monkeypatch.setattr(torch.cuda, "synchronize", failing("CUDA error: unspecified launch failure"))
    assert not device.of("cuda").alive()


def test_a_process_that_begins_to_compute_has_tf32_off_and_a_row_may_ask_for_it() -> None:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    torch_flags.begin("cpu")
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
    torch_flags.exact(tf32=True)
    assert torch.backends.cudnn.allow_tf32
