"""A model in its precision as a folder, and back: the same tensors, so the same outputs to the last bit.

What bitsandbytes keeps beside a weight (scales, code book, block sizes) goes through its own ``state_dict`` hooks into
one safetensors file. On the way back the architecture is built without weights, its layers are replaced on the meta
device by the very conversion that quantised them, and the stored tensors put in: nothing is quantised twice, and no
FP32 weight is ever there. The trade-off against keeping FP32 and quantising at start: a quarter or less of the disk and
no time to quantise, but a folder is bound to its library version and to its target's half type.

A CPU with BF16 instructions repacks NF4 layers at their first pass and rounds their scales, so a model is stored before
it has run.
"""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from visionquant.bench.backends import convert
from visionquant.bench.kernels import QUANTISED
from visionquant.core.errors import StudyError
from visionquant.core.frozen import Size, height_width
from visionquant.core.paths import new_folder, write_atomically
from visionquant.deploy import model_manifest as description
from visionquant.deploy.model_manifest import CONFIG, PREPROCESSOR, TENSORS, Description
from visionquant.settings.precision import Dtype, Precision
from visionquant.weights import architectures, hub_cache
from visionquant.weights.manifest import HubFile

Weights = Literal["trained here", "seeded", "pretrained"]


@dataclass(frozen=True)
class Stored:
    """A model as it was stored, in evaluation mode on its device."""

    net: nn.Module
    description: Description

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of its images."""
        config: Any = self.net.config
        return architectures.channels(config.to_dict()), *height_width(self.description.input_size)


def precision_on(row: Precision, device: str) -> Precision:
    """``row`` with the type that it has on ``device``, wherever the conversion itself takes place."""
    name = str(convert.dtype_of(row, device)).removeprefix("torch.")
    return row.model_copy(update={"dtype": name, "cpu_dtype": name})


def save(
    net: nn.Module,
    precision: Precision,
    folder: Path,
    *,
    device: Literal["cpu", "cuda"],
    input_size: Size,
    weights: Weights,
    source: str,
    preprocessing: Mapping[str, Any] | None = None,
) -> Description:
    """Write a converted model that has not run yet as a new ``folder``, whole or not at all.

    Args:
        net: as :func:`visionquant.bench.backends.convert.convert` made it with ``precision_on(precision, device)``.
        device: where it shall run.
        input_size: of its images in pixels: the side of a square, or height and width.
        preprocessing: kept as ``preprocessor_config.json``.

    Raises:
        StudyError: the folder is there already, can't be written, the model is not what ``precision`` says, or has run
            on a CPU that repacked it.
    """
    from safetensors.torch import save_file

    if folder.exists():
        raise StudyError(f"export to {folder.name}", "there is something already", "name a new folder, or remove it")
    convert.prove(net, precision_on(precision, device), next(net.parameters()).device.type)
    with new_folder(folder, f"export to {folder.name}") as partial:
        save_file(_tensors(net), str(partial / TENSORS))
        config: Any = copy.deepcopy(net.config)
        config.architectures = [type(net).__name__]
        write_atomically(partial / CONFIG, config.to_json_string())
        if preprocessing is not None:
            write_atomically(partial / PREPROCESSOR, json.dumps(dict(preprocessing), indent=1) + "\n")
        made = Description(
            precision=precision,
            device=device,
            dtype=_dtype(precision, device),
            attention=str(net.config._attn_implementation),  # type: ignore[union-attr]
            input_size=input_size,
            weights=weights,
            source=source,
            versions=description.versions(),
            files=tuple(
                HubFile(name=path.name, bytes=path.stat().st_size, sha256=hub_cache.sha256(path))
                for path in sorted(partial.iterdir())
            ),
        )
        made = made.model_copy(update={"sha256": made.digest()})
        write_atomically(partial / description.NAME, made.model_dump_json(indent=1) + "\n")
    return made


def restore(folder: Path, device: Literal["cpu", "cuda"] = "cpu") -> Stored:
    """Read a folder that :func:`save` wrote.

    Raises:
        StudyError: it is not whole, of another version, holds a pickle, or was written for another kind of device.
    """
    from safetensors.torch import load_file

    found = description.check(folder)
    if _dtype(found.precision, device) != found.dtype:
        raise StudyError(
            f"model folder {folder.name}",
            f"made for {found.device}, in {found.dtype}",
            f"export it again with `--device {device}`",
        )
    net = _skeleton(folder, found)
    _fill(net, load_file(str(folder / TENSORS), device=device), folder.name)
    net = net.to(device).eval()
    convert.prove(net, precision_on(found.precision, device), device)
    return Stored(net, found)


def _skeleton(folder: Path, found: Description) -> nn.Module:
    """The converted architecture on the meta device; what is no parameter and in no file stays as it was computed."""
    from transformers import AutoConfig, AutoModel, AutoModelForImageClassification
    from transformers.initialization import no_init_weights

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        classifier = any("ImageClassification" in name for name in config.architectures or ())
        kind = AutoModelForImageClassification if classifier else AutoModel
        with no_init_weights():
            net: nn.Module = kind.from_config(config, attn_implementation=found.attention, dtype=torch.float32)
    except (OSError, ValueError, KeyError) as error:
        why = str(error).strip().splitlines()[0]
        raise StudyError(f"model folder {folder.name}: {CONFIG}", why, "export it again with this version") from None
    stored = net.state_dict().keys()
    computed = {name: buffer for name, buffer in net.named_buffers() if name not in stored}
    net = convert.convert(net.to("meta"), precision_on(found.precision, found.device), "meta")
    for name, buffer in computed.items():
        parent, _, leaf = name.rpartition(".")
        own = net.get_buffer(name).dtype  # what the conversion made of it: in a policy each module has its own
        net.get_submodule(parent).register_buffer(leaf, buffer.to(own), persistent=False)
    return net


def _fill(net: nn.Module, tensors: dict[str, torch.Tensor], folder: str) -> None:
    quantised = {name: one for name, one in net.named_modules() if type(one).__name__ in QUANTISED}
    try:
        for name, layer in quantised.items():
            _fill_layer(layer, name, tensors)
        result = net.load_state_dict(tensors, strict=False, assign=True)
    except (KeyError, ValueError, RuntimeError) as error:
        why = f"a tensor is missing or of another shape ({str(error).splitlines()[0]})"
        raise StudyError(f"model folder {folder}: {TENSORS}", why, "export it again with this version") from None
    wrong = {*result.missing_keys, *result.unexpected_keys} - {f"{name}.weight" for name in quantised}
    if wrong:
        why = f"{len(wrong)} tensors do not belong to this architecture or lack, e.g. {min(wrong)}"
        raise StudyError(f"model folder {folder}: {TENSORS}", why, "export it again with this version")


def _fill_layer(layer: Any, name: str, tensors: dict[str, torch.Tensor]) -> None:
    """Take what belongs to a quantised layer out of ``tensors`` and put it in."""
    import bitsandbytes as bnb

    codes = tensors.pop(f"{name}.weight")
    if isinstance(layer, bnb.nn.Linear8bitLt):
        tensors.pop(f"{name}.weight_format")
        scales = tensors.pop(f"{name}.SCB")
        layer.weight = bnb.nn.Int8Params(codes, requires_grad=False, has_fp16_weights=False, CB=codes, SCB=scales)
        return
    prefix = f"{name}.weight."
    beside = {key.removeprefix(prefix): tensors.pop(key) for key in list(tensors) if key.startswith(prefix)}
    layer.weight = bnb.nn.Params4bit.from_prequantized(codes, beside, device=codes.device, module=layer)


def _tensors(net: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict as safetensors wants it: contiguous, on the CPU, none sharing memory with another."""
    seen: set[int] = set()
    found = {}
    for name, tensor in net.state_dict().items():
        plain = tensor.detach().cpu().contiguous()
        if plain.untyped_storage().data_ptr() in seen:
            plain = plain.clone()
        seen.add(plain.untyped_storage().data_ptr())
        found[name] = plain
    return found


def _dtype(precision: Precision, device: str) -> Dtype:
    return precision.dtype_on(device)
