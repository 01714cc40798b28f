"""Forty families of vision networks in their tiniest configs, as backbones and as fine-tuned classifiers, and what is
asked of each: FP32 and BF16 run, INT8 and NF4 where a Linear layer is.
"""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import nn

from visionquant.bench import fidelity, inputs, loading
from visionquant.bench.backends import convert
from visionquant.bench.backends.eager import ENGINE as EAGER
from visionquant.core.errors import StudyError
from visionquant.core.paths import Project
from visionquant.settings.params import ModelSpec, Params

_PATCHES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
_WINDOWS = {
    "image_size": 32,
    "patch_size": 4,
    "embed_dim": 32,
    "depths": [2, 1],
    "num_heads": [2, 4],
    "window_size": 4,
}
_STAGES = {"hidden_sizes": [32, 32, 64, 64], "depths": [1, 1, 1, 1]}
_RESIDUAL = {"embedding_size": 32, **_STAGES}
_PYRAMID = {**_STAGES, "image_size": 64, "num_attention_heads": [1, 1, 2, 2], "mlp_ratios": [2, 2, 2, 2]}
_TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 99,
}
_MASKED = {
    "decoder_hidden_size": 32,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 32,
}
# By model_type. What has an image_size is fed it, the others 64 pixels.
CONFIGS: dict[str, dict[str, Any]] = {
    "vit": _PATCHES,
    "deit": _PATCHES,
    "beit": {**_PATCHES, "use_relative_position_bias": True},
    "data2vec-vision": {**_PATCHES, "use_relative_position_bias": True},
    "dinov2": _PATCHES,
    "dinov2_with_registers": _PATCHES,
    "dinov3_vit": _PATCHES,
    "ijepa": _PATCHES,
    "vit_msn": _PATCHES,
    "vit_mae": {**_PATCHES, **_MASKED},
    "dpt": _PATCHES,
    "yolos": {**_PATCHES, "image_size": [32, 32], "num_detection_tokens": 4},
    "vitdet": _PATCHES,
    "siglip_vision_model": _PATCHES,
    "clip_vision_model": _PATCHES,
    "aimv2_vision_model": _PATCHES,
    "siglip": {"vision_config": _PATCHES, "text_config": _TEXT},
    "clip": {"vision_config": _PATCHES, "text_config": _TEXT},
    "swin": _WINDOWS,
    "swinv2": _WINDOWS,
    "hiera": {
        "image_size": [32, 32],
        "embed_dim": 32,
        "depths": [1, 1, 1, 1],
        "num_heads": [1, 2, 2, 2],
        "patch_size": [3, 3],
        "patch_stride": [2, 2],
        "patch_padding": [1, 1],
        "masked_unit_size": [8, 8],
    },
    "focalnet": {
        "image_size": 32,
        "embed_dim": 32,
        "depths": [1, 1],
        "hidden_sizes": [32, 64],
        "focal_levels": [2, 2],
        "focal_windows": [3, 3],
    },
    "convnext": {**_STAGES, "image_size": 32},
    "convnextv2": {**_STAGES, "image_size": 32},
    "dinov3_convnext": {**_STAGES, "image_size": 32},
    "poolformer": _STAGES,
    "pvt": _PYRAMID,
    "pvt_v2": _PYRAMID,
    "segformer": {**_STAGES, "num_attention_heads": [1, 1, 2, 2]},
    "swiftformer": {"image_size": 64, "embed_dims": [32, 32, 64, 64], "depths": [1, 1, 1, 1]},
    "levit": {
        "image_size": 64,
        "hidden_sizes": [32, 48, 64],
        "num_attention_heads": [2, 3, 4],
        "depths": [1, 1, 1],
        "key_dim": [16, 16, 16],
    },
    "cvt": {
        "embed_dim": [32, 32, 64],
        "depth": [1, 2, 3],  # the library draws stage i's drop path from as many values as it has layers
        "num_heads": [1, 2, 2],
        "mlp_ratio": [2.0, 2.0, 2.0],
    },
    "mobilevit": {
        "image_size": 64,
        "hidden_sizes": [32, 48, 64],
        "neck_hidden_sizes": [8, 16, 16, 24, 32, 40, 64],
        "num_attention_heads": 4,
        "output_stride": 32,
    },
    "mobilevitv2": {"image_size": 64, "width_multiplier": 0.5},
    "mobilenet_v1": {"image_size": 64, "depth_multiplier": 0.25},
    "mobilenet_v2": {"image_size": 64, "depth_multiplier": 0.35},
    "efficientnet": {"image_size": 64, "width_coefficient": 0.25, "depth_coefficient": 0.2, "hidden_dim": 320},
    "resnet": _RESIDUAL,
    "regnet": {**_RESIDUAL, "groups_width": 32},
    "bit": {**_RESIDUAL, "num_groups": 8},
}
# Without a class of AutoModelForImageClassification.
HEADLESS = {
    "aimv2_vision_model",
    "clip_vision_model",
    "dinov3_convnext",
    "dinov3_vit",
    "dpt",
    "siglip_vision_model",
    "vit_mae",
    "vitdet",
    "yolos",
}
# Whose class in transformers divides image_size by patch_size as one number.
SQUARE = {
    "aimv2_vision_model",
    "clip",
    "clip_vision_model",
    "dinov2",
    "dinov2_with_registers",
    "dpt",
    "levit",
    "pvt",
    "siglip",
    "siglip_vision_model",
}
CLASSIFIERS = tuple(name for name in CONFIGS if name not in HEADLESS)


def input_size(name: str) -> Any:
    """What ``input_size`` of its row has to be."""
    config = CONFIGS[name].get("vision_config", CONFIGS[name])
    found = config.get("image_size", 64)
    return found if isinstance(found, int) else found[0]


CLASSES = 5
# Lowest cosine to FP32; of NF4 to FP32 with the weights that NF4 keeps: how far these are from the network's own is
# chance on a tiny network, and not the same on every processor.
FLOORS = {"bf16": 0.98, "int8": 0.95, "nf4": 0.98}
DEEP = ("MobileNet", "MobileViT", "Levit")  # many BatchNorms on seeded weights: each spreads the rounding of the last
DEEP_FLOORS = {"bf16": 0.5, "int8": 0.5, "nf4": 0.5}
QUANTISED = ("int8", "nf4")
GREY = tuple(f"{name}-grey" for name in CONFIGS)  # of one channel, and twice as wide as high
ROWS = (*CONFIGS, *(f"{name}-classifier" for name in CLASSIFIERS), *GREY)


def row(name: str) -> dict[str, Any]:
    """The row of ``models``: of a seeded backbone, or of a classifier in a local folder."""
    family = name.removesuffix("-classifier").removesuffix("-grey")
    classifier = {"path": f"models/{family}"} if name.endswith("-classifier") else None
    side = input_size(family)
    wide = name in GREY and family not in SQUARE
    source = classifier or {"repo_id": f"tiny/{name}", "revision": "0" * 40}
    return {**source, "input_size": [side, 2 * side] if wide else side, "group": "odd"}


def write(project: Project) -> None:
    """The configs as committed architectures."""
    for name in (*CONFIGS, *GREY):
        family = name.removesuffix("-grey")
        config = CONFIGS[family] if name == family else _grey(CONFIGS[family], row(name)["input_size"])
        folder = project.architectures / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps({"model_type": family, **config}))


def _grey(config: dict[str, Any], size: Any) -> dict[str, Any]:
    if "vision_config" in config:
        return {**config, "vision_config": _grey(config["vision_config"], size)}
    shaped = {"image_size": size} if "image_size" in config and isinstance(size, list) else {}
    return {**config, "num_channels": 1, **shaped}


def classifier(name: str, images: torch.Tensor) -> Any:
    """A classifier of the family with random weights; statistics of its BatchNorms are taken from ``images``."""
    import transformers
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES as CLASSES_OF

    torch.manual_seed(0)
    found = CLASSES_OF[name]
    kind = getattr(transformers, found if isinstance(found, str) else found[0])
    net = kind(AutoConfig.for_model(name, num_labels=CLASSES, **CONFIGS[name])).eval()
    loading.recalibrate(net, images)
    return net


def study(root: Path) -> tuple[Project, Params]:
    """A project with a row for every backbone and every classifier; those that have a folder are loaded from it."""
    raw = tiny.settings(ROWS, ("fp32", *FLOORS))
    raw["study"]["weights"] = "auto"
    raw["models"] |= {name: row(name) for name in ROWS}
    project, params = tiny.project(root, raw)
    write(project)
    return project, params


def images_of(project: Project, model: str, spec: ModelSpec, folder: Path | None) -> torch.Tensor:
    return inputs.batch(2, loading.preprocessing(project, model, spec, folder))


def with_kept_weights(net: nn.Module, converted: nn.Module) -> nn.Module:
    """``net`` in FP32 with the weights of the 4-bit layers of ``converted``, which has not run yet."""
    from bitsandbytes.functional import dequantize_4bit

    net = copy.deepcopy(net)
    for name, layer in converted.named_modules():
        if type(layer).__name__ == "Linear4bit":
            kept = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
            net.get_submodule(name).weight.data = kept.float()
    return net


def require_every_precision(
    net: nn.Module,
    params: Params,
    images: torch.Tensor,
    head: fidelity.Head,
    precisions: tuple[str, ...] = tuple(FLOORS),
) -> None:
    """Each precision is proven, finite and near FP32; one that quantises says so where there is nothing to quantise."""
    expected = fidelity.outputs(net, images, head, blocks=True)
    assert np.isfinite(expected.features).all()
    assert np.ptp(expected.features) > 0
    again = fidelity.outputs(net, images, head)
    if "MAE" in type(net).__name__:  # masks at random, so there is nothing to be near
        assert fidelity.lowest_cosine(expected.features, again.features) < 0.999999
        return
    assert fidelity.lowest_cosine(expected.features, again.features) >= 0.999999
    linear = sum(type(module) is nn.Linear for name, module in net.named_modules() if "pooler" not in name)
    floors = DEEP_FLOORS if type(net).__name__.startswith(DEEP) else FLOORS
    for name in precisions:
        floor, row = floors[name], params.precisions[name]
        if name in QUANTISED and not linear:
            with pytest.raises(StudyError, match="no Linear layer was quantised"):
                convert.convert(copy.deepcopy(net), row, "cpu")
            continue
        converted = convert.convert(copy.deepcopy(net), row, "cpu")
        proof = convert.prove(converted, row, "cpu")
        assert convert.backend_of(row.engine).bytes_of(converted)[0] < EAGER.bytes_of(net)[0]
        near = fidelity.outputs(with_kept_weights(net, converted), images, head) if name == "nf4" else expected
        found = fidelity.outputs(converted, images.to(convert.dtype_of(row, "cpu")), head, blocks=True)
        assert proof.knobs["class"] == type(net).__name__
        assert (proof.quantized_modules > 0) == (name in QUANTISED)
        assert fidelity.lowest_cosine(near.features, found.features) > floor, name
        assert np.isfinite(found.logits).all()
        assert len(found.blocks) == len(expected.blocks)
