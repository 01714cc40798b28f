"""Small networks of three families of the study, built by the library's own classes from rows of params.yaml."""

from typing import Any

from torch import nn

from visionquant.accuracy.digits import CLASSES
from visionquant.bench import loading
from visionquant.settings.trained_networks import NetworkSpec


def build(spec: NetworkSpec, seed: int) -> nn.Module:
    """A network with seeded weights, in FP32 on the CPU.

    The library draws BatchNorm's weights near zero, where a MobileViT learns nothing for long; they start at one here.
    """
    from transformers import AutoModelForImageClassification

    net: nn.Module = AutoModelForImageClassification.from_config(config(spec), attn_implementation=_attention(spec))
    loading.seed_weights(net, seed)
    return net


def config(spec: NetworkSpec) -> Any:
    """The library's configuration of a row."""
    from transformers import BeitConfig, MobileViTConfig, ViTConfig

    if spec.family == "mobilevit":
        return MobileViTConfig(
            image_size=spec.image_size,
            patch_size=2,
            hidden_sizes=[64, 80, 96],
            neck_hidden_sizes=[16, 16, 24, 48, 64, 80, 320],
            expand_ratio=2.0,
            num_attention_heads=4,
            mlp_ratio=2.0,
            num_labels=CLASSES,
        )
    shared: dict[str, Any] = {
        "image_size": spec.image_size,
        "patch_size": spec.patch_size,
        "hidden_size": spec.hidden_size,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.hidden_size // 32,
        "intermediate_size": 2 * spec.hidden_size,
        "num_labels": CLASSES,
    }
    if spec.family == "beit":
        return BeitConfig(
            **shared,
            use_relative_position_bias=True,
            use_absolute_position_embeddings=True,
            use_mean_pooling=True,
            layer_scale_init_value=0.1,
        )
    return ViTConfig(**shared)


def _attention(spec: NetworkSpec) -> str:
    return "eager" if spec.family == "mobilevit" else "sdpa"
