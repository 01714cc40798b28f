"""A model in its precision as a folder, and back: the same tensors, so the same outputs to the last bit.

What bitsandbytes keeps beside a weight goes through its own ``state_dict`` hooks into one safetensors file. On the way
back the architecture is built without weights, the conversion itself replaces its layers on the meta device, and the
stored tensors are put in: nothing is quantised twice, and no FP32 weight is ever there. A folder is bound to its
library version and to its target's half type. A CPU with BF16 instructions rounds NF4's scales at their first pass, so
a model is stored before it has run.
"""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from visionquant.accuracy.model_source import ModelSource
from visionquant.bench import torch_flags
from visionquant.bench.backends import convert
from visionquant.bench.backends.bnb import QUANTISED
from visionquant.core import files
from visionquant.core.errors import StudyError
from visionquant.core.frozen import Size, height_width
from visionquant.deploy import model_folder
from visionquant.deploy.model_folder import CONFIG, PREPROCESSOR, TENSORS, ModelManifest, Weights
from visionquant.settings.params import known
from visionquant.settings.precision import Precision
from visionquant.weights import architectures
from visionquant.weights.sources import HubFile

Device = Literal["cpu", "cuda"]
ANEW = "export it again with this version"
KEPT_HERE = {  # engines whose networks can't be stored, and why
    "ort": "a graph of ONNX Runtime is no torch model",
    "openvino": "a graph of OpenVINO is no torch model",
    "hqq": "how HQQ packed its codes is not stored",
}


@dataclass(frozen=True)
class RestoredModel:
    """A model as it was stored, in evaluation mode on its device."""

    net: nn.Module
    manifest: ModelManifest

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of its images."""
        config: Any = self.net.config
        return architectures.channels(config.to_dict()), *height_width(self.manifest.input_size)


def export_model(source: ModelSource, precision: str, device: Device, folder: Path) -> ModelManifest:
    """Convert a model to a row of ``precisions``, to run on ``device``, and write it as a new ``folder``.

    Raises:
        StudyError: the precision can't be exported, the weights do not load, or as :func:`save`.
    """
    known("precisions", [precision], source.params.precisions)
    row = source.params.precisions[precision]
    if row.planted_outliers:
        raise StudyError(f"precision {precision}", "its outliers are planted to measure with", "export int8")
    if why := KEPT_HERE.get(row.engine):
        raise StudyError(f"precision {precision}", why, "export int8 or fp32")
    torch_flags.quiet("cpu")
    net = convert.convert(source.build(), precision_on(row, device), "cpu")
    preprocessing = source.preprocessing.settings
    return save(net, row, folder, device, source.size, source.weights, source.origin, preprocessing)


def precision_on(row: Precision, device: str) -> Precision:
    """``row`` with the type that it has on ``device``, wherever the conversion itself takes place."""
    return row.model_copy(update=dict.fromkeys(("dtype", "cpu_dtype"), row.dtype_on(device)))


def save(
    net: nn.Module,
    precision: Precision,
    folder: Path,
    device: Device,
    input_size: Size,
    weights: Weights,
    source: str,
    preprocessing: Mapping[str, Any] | None = None,
) -> ModelManifest:
    """Write a converted model that has not run yet as a new ``folder``, whole or not at all.

    Args:
        net: as :func:`visionquant.bench.backends.convert.convert` made it with ``precision_on(precision, device)``.
        device: where it shall run.
        input_size: of its images in pixels: the side of a square, or height and width.
        source: where the weights are from, in words.
        preprocessing: kept as ``preprocessor_config.json``.

    Raises:
        StudyError: the folder is there already, can't be written, the model is not what ``precision`` says, or has run
            on a CPU that repacked it.
    """
    from safetensors.torch import save_file

    if folder.exists():
        raise StudyError(f"export to {folder.name}", "there is something already", "name a new folder, or remove it")
    convert.prove(net, precision_on(precision, device), next(net.parameters()).device.type)
    config: Any = copy.deepcopy(net.config)
    config.architectures = [type(net).__name__]
    with files.new_folder(folder, f"export to {folder.name}") as partial:
        save_file(_tensors(net), str(partial / TENSORS))
        files.save(partial / CONFIG, config.to_json_string())
        if preprocessing is not None:
            files.save(partial / PREPROCESSOR, json.dumps(preprocessing, indent=2) + "\n")
        manifest = ModelManifest(
            precision=precision,
            device=device,
            dtype=precision.dtype_on(device),
            attention=str(config._attn_implementation),
            input_size=input_size,
            weights=weights,
            source=source,
            versions={name: metadata.version(name) for name in model_folder.LIBRARIES},
            files=tuple(
                HubFile(name=path.name, bytes=path.stat().st_size, sha256=files.sha256(path))
                for path in sorted(partial.iterdir())
            ),
        )
        manifest = manifest.model_copy(update={"sha256": manifest.digest()})
        files.save(partial / model_folder.NAME, manifest.model_dump_json(indent=1) + "\n")
    return manifest


def restore(folder: Path, device: Device = "cpu") -> RestoredModel:
    """Read a folder that :func:`save` wrote.

    Raises:
        StudyError: it is not whole, of another version, holds a pickle, or was written for another kind of device.
    """
    from safetensors.torch import load_file

    manifest = model_folder.check(folder)
    row = precision_on(manifest.precision, device)
    if row.dtype_on(device) != manifest.dtype:
        what = f"made for {manifest.device}, in {manifest.dtype}"
        raise StudyError(f"model folder {folder.name}", what, f"export it again with `--device {device}`")
    net = _skeleton(folder, manifest)
    _fill(net, load_file(str(folder / TENSORS), device=device), f"model folder {folder.name}: {TENSORS}")
    net = net.to(device).eval()
    convert.prove(net, row, device)
    return RestoredModel(net, manifest)


def _skeleton(folder: Path, manifest: ModelManifest) -> nn.Module:
    """The converted architecture on the meta device; what is no parameter and in no file stays as it was computed."""
    from transformers import AutoConfig, AutoModel, AutoModelForImageClassification
    from transformers.initialization import no_init_weights

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        classifies = any("ImageClassification" in name for name in config.architectures or ())
        kind = AutoModelForImageClassification if classifies else AutoModel
        with no_init_weights():
            net: nn.Module = kind.from_config(config, attn_implementation=manifest.attention, dtype=torch.float32)
    except (OSError, ValueError, KeyError) as error:
        raise StudyError(f"model folder {folder.name}: {CONFIG}", str(error).strip().splitlines()[0], ANEW) from None
    stored = net.state_dict().keys()
    computed = {name: buffer for name, buffer in net.named_buffers() if name not in stored}
    net = convert.convert(net.to("meta"), precision_on(manifest.precision, manifest.device), "meta")
    for name, buffer in computed.items():
        parent, _, leaf = name.rpartition(".")
        own = net.get_buffer(name).dtype  # what the conversion made of it: in a policy each module has its own
        net.get_submodule(parent).register_buffer(leaf, buffer.to(own), persistent=False)
    return net


def _fill(net: nn.Module, tensors: dict[str, torch.Tensor], asked: str) -> None:
    """Put the stored tensors in; what belongs to a quantised layer is taken out of ``tensors`` first."""
    import bitsandbytes as bnb

    quantised = [(name, layer) for name, layer in net.named_modules() if type(layer).__name__ in QUANTISED]
    try:
        layer: Any
        for name, layer in quantised:
            codes = tensors.pop(f"{name}.weight")
            if isinstance(layer, bnb.nn.Linear8bitLt):
                tensors.pop(f"{name}.weight_format")
                given = {"CB": codes, "SCB": tensors.pop(f"{name}.SCB"), "has_fp16_weights": False}
                layer.weight = bnb.nn.Int8Params(codes, requires_grad=False, **given)
            else:
                prefix = f"{name}.weight."
                state = {key.removeprefix(prefix): tensors.pop(key) for key in [*tensors] if key.startswith(prefix)}
                layer.weight = bnb.nn.Params4bit.from_prequantized(codes, state, device=codes.device, module=layer)
        result = net.load_state_dict(tensors, strict=False, assign=True)
    except (KeyError, ValueError, RuntimeError) as error:
        why = f"a tensor is missing or of another shape ({str(error).splitlines()[0]})"
        raise StudyError(asked, why, ANEW) from None
    if wrong := {*result.missing_keys, *result.unexpected_keys} - {f"{name}.weight" for name, _ in quantised}:
        why = f"{len(wrong)} tensors do not belong to this architecture or lack, e.g. {min(wrong)}"
        raise StudyError(asked, why, ANEW)


def _tensors(net: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict as safetensors wants it: contiguous, on the CPU, none sharing memory with another."""
    seen: set[int] = set()
    tensors = {}
    for name, tensor in net.state_dict().items():
        tensors[name] = tensor.detach().cpu().contiguous()
        if tensors[name].untyped_storage().data_ptr() in seen:
            tensors[name] = tensors[name].clone()
        seen.add(tensors[name].untyped_storage().data_ptr())
    return tensors
