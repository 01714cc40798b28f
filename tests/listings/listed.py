"""What claims.yaml says of the listings, and the small networks that they are tried on."""

from typing import Any

import tiny
import torch
import yaml
from torch import nn
from transformers import AutoConfig, AutoModel

FILE = tiny.ROOT / "data" / "supplement" / "claims.yaml"


def behaviours() -> dict[str, dict[str, Any]]:
    """The claims that a test shows by running something, by id."""
    claims = yaml.safe_load(FILE.read_text(encoding="utf-8"))["claims"]
    return {claim["id"]: claim for claim in claims if claim["kind"] == "behaviour"}


def outcome(claim: str) -> str:
    found: str = behaviours()[claim]["outcome"]
    return found


def network(name: str = "tiny-vit") -> nn.Module:
    """A random network of one of the study's families, in FP32, the same at every call."""
    config = dict(tiny.CONFIGS[name])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net: nn.Module = AutoModel.from_config(AutoConfig.for_model(config.pop("model_type"), **config))
    return net.eval()


def images(name: str = "tiny-vit", count: int = 2, seed: int = 1) -> torch.Tensor:
    size = tiny.CONFIGS[name]["image_size"]
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def features(net: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = net(pixels).last_hidden_state
    return found


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.cosine_similarity(a.detach().float().flatten(), b.detach().float().flatten(), dim=0))


def dtypes(net: nn.Module) -> set[torch.dtype]:
    return {parameter.dtype for parameter in net.parameters()}


def linears(net: nn.Module) -> dict[str, nn.Linear]:
    """Linear layers and what bitsandbytes derives from them, by name."""
    return {name: module for name, module in net.named_modules() if isinstance(module, nn.Linear)}
