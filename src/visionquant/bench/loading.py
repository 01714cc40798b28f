"""A model as ``AutoModel`` builds it, in FP32 on the CPU: from a checkpoint, or from its config with seeded weights.

The study measured ``AutoModel`` (its memory figures fit that class, pooler included), so do we. Of a model of images
and text (CLIP, SigLIP) it is that of the ``vision_config``; the record names the class. Seeded weights are read
from one run of normal values, again and again, which fills 632 million parameters in a second instead of a quarter of
a minute; its length is prime, so that no two layers line up. A MobileViT on such weights is dead (its BatchNorms divide
by nothing that fits), so convolutions take Kaiming's scale, norms start at one, and running statistics are taken from
photographs.
"""

import json
from contextlib import suppress
from functools import cache
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import nn

from visionquant.bench import inputs, torch_flags, worker
from visionquant.bench.inputs import DEFAULT, Preprocessing
from visionquant.core.errors import StudyError
from visionquant.core.paths import Project
from visionquant.settings.params import ModelSpec
from visionquant.weights import architectures, sources
from visionquant.weights.sources import Manifest

NORMALS = 4_194_301  # values
AGREES = 1e-4  # of the largest value: how far two engines may be apart in FP32
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)


@cache
def normal_values(seed: int) -> torch.Tensor:
    """``NORMALS`` seeded standard normal values, float32; the same on every platform."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(NORMALS, dtype=np.float32))


def seed_weights(model: nn.Module, seed: int, std: float = 0.02) -> None:
    """Fill all parameters in place: Linear and embeddings N(0, std), convolutions Kaiming, norms one, biases zero."""
    values, at = normal_values(seed), 0

    def fill(target: torch.Tensor, std: float) -> None:
        """From where the last one ended, beginning again at the end of the values."""
        nonlocal at
        flat, done = target.detach().view(-1), 0
        while done < flat.numel():
            count = min(flat.numel() - done, NORMALS - at)
            torch.mul(values[at : at + count], std, out=flat[done : done + count])
            done, at = done + count, (at + count) % NORMALS

    config = getattr(model, "config", None)
    scale = float(getattr(config, "layerscale_value", None) or getattr(config, "layer_scale_init_value", None) or 1.0)
    with torch.no_grad():
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if name == "bias":
                    parameter.zero_()
                elif isinstance(module, NORMS):
                    parameter.fill_(1.0)
                elif isinstance(module, nn.Conv2d):
                    fill(parameter, (2.0 / parameter[0].numel()) ** 0.5)
                elif name.startswith("lambda"):
                    parameter.fill_(scale)
                else:
                    fill(parameter, std)
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.reset_running_stats()


def recalibrate(model: nn.Module, images: torch.Tensor) -> None:
    """Take the running statistics of every BatchNorm from ``images``; models without one are left alone."""
    if norms := [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        with torch.no_grad():
            model(images)
        model.eval()


def preprocessing(project: Project, model: str, spec: ModelSpec, folder: Path | None) -> Preprocessing:
    """The preprocessing of ``model``: its checkpoint's, else the committed one, else mean and std of one half.

    The size is the row's; the channels are those of the config beside it. A file that is no JSON is a StudyError.
    """
    if folder:
        config = _json(folder, sources.CONFIG)
        own = _json(folder, sources.PROCESSOR).get("image_processor") or _json(folder, sources.PREPROCESSOR)
    else:
        config, own = architectures.config(project, model) or {}, None
    settings = own or architectures.preprocessing(project, model) or DEFAULT
    return Preprocessing(settings, spec.shape(architectures.channels(config)), str(config.get("model_type", "")), model)


def _json(folder: Path, name: str) -> dict[str, Any]:
    """The object in a file of a checkpoint's, empty where there is no such file."""
    if not (folder / name).is_file():
        return {}
    content = None
    with suppress(ValueError):
        content = json.loads((folder / name).read_bytes())
    if not isinstance(content, dict):
        raise StudyError(f"model folder {folder.name}: {name}", "no JSON object", "fetch or mend it")
    return content


def load(project: Project, model: str, spec: ModelSpec, manifest: Manifest, attention: str, seed: int) -> nn.Module:
    """Build ``model`` in FP32 on the CPU, in evaluation mode.

    Args:
        manifest: what the download stage found.
        attention: "sdpa" or "eager"; a class that has no sdpa gets eager, and its config says so.
        seed: of seeded weights, and of a pooler that the checkpoint lacks.

    Raises:
        StudyError: weights are missing, cut, of another shape, or the architecture is unknown.
    """
    if manifest.has_files:
        return _pretrained(sources.resolve(project, manifest), model, attention, seed)
    if manifest.weights == "missing":
        raise StudyError(f"model {model}", "it has no weights", manifest.reason)
    return seeded(project, model, spec, attention, seed)


def agreement(model: str, folder: Path, graph: bytes, output: str) -> str:
    """How near a folder's network is to the ONNX graph that its weights were read from, on a photograph, in words.

    Args:
        output: name of the last hidden state among the graph's outputs.

    Raises:
        StudyError: the network does not load, or its last hidden state is another.
    """
    try:
        return worker.in_fork(lambda: _agreement(model, folder, graph, output))
    except (worker.Failed, worker.Defect) as error:
        found = f"its graph does not run: {worker.first_line(error)}"
        raise StudyError(f"model {model}", found, "name another file") from None


def _agreement(model: str, folder: Path, graph: bytes, output: str) -> str:
    try:
        import onnxruntime
    except ImportError:
        return "not checked against its graph: ONNX Runtime is not installed"
    torch_flags.quiet("cpu")
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    given, config = session.get_inputs()[0], _json(folder, sources.CONFIG)
    made = (1, *architectures.shape(config))
    _, *shape = (own if isinstance(own, int) else other for own, other in zip(given.shape, made, strict=True))
    settings: Any = _json(folder, sources.PREPROCESSOR) or DEFAULT, tuple(shape), config["model_type"], model
    image = inputs.batch(1, Preprocessing(*settings))
    with torch.inference_mode():
        own = _pretrained(folder, model, "eager", 0)(image).last_hidden_state.numpy()
    [theirs] = session.run([output], {given.name: image.numpy()})
    largest = float(np.abs(theirs).max())
    apart = float(np.abs(own - theirs).max()) if own.shape == theirs.shape else float("inf")
    if not apart <= AGREES * largest:
        found = f"its last hidden state is {apart:.2g} off the graph's"
        raise StudyError(f"model {model}", found, "correct its config.json, or name another file")
    return f"last hidden state within {apart:.1e} of the graph's own, whose values reach {largest:.0f}"


def seeded(project: Project, model: str, spec: ModelSpec, attention: str, seed: int) -> nn.Module:
    """``model`` from its committed config with seeded weights; see :func:`load`."""
    from transformers import AutoConfig, AutoModel
    from transformers.initialization import no_init_weights

    raw = architectures.config(project, model)
    if raw is None:
        found = "seeded weights need data/architectures/<model>/config.json"
        raise StudyError(f"model {model}", found, "add it, or reach the hub")
    config = AutoConfig.for_model(**raw)
    config = getattr(config, "vision_config", None) or config
    with no_init_weights():
        net: nn.Module = with_attention(lambda kind: AutoModel.from_config(config, attn_implementation=kind), attention)
    seed_weights(net, seed, float(getattr(config, "initializer_range", 0.02)))
    recalibrate(net.eval(), inputs.batch(8, preprocessing(project, model, spec, None)))
    return net


def _pretrained(folder: Path, model: str, attention: str, seed: int) -> nn.Module:
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(seed)
    safely: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}

    def attempt(kind: str) -> Any:
        config = AutoConfig.from_pretrained(folder, **safely)
        own = {"config": getattr(config, "vision_config", None) or config, "attn_implementation": kind}
        return AutoModel.from_pretrained(folder, **own, **safely, dtype=torch.float32, output_loading_info=True)

    try:
        net, info = with_attention(attempt, attention)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError, UnpicklingError) as error:
        why = f"its checkpoint does not load: {worker.first_line(error)}"
        raise StudyError(f"model {model}", why, "check repo_id and path") from None
    if absent := sorted(name for name in info["missing_keys"] if not name.startswith("pooler.")):
        found = f"the checkpoint lacks {absent[0]} ({len(absent)} in all)"
        raise StudyError(f"model {model}", found, "name a complete checkpoint")
    loaded: nn.Module = net.eval()
    return loaded


def with_attention(build: Any, attention: str) -> Any:
    """``build(attention)``, or ``build("eager")`` for a class that has no scaled-dot-product attention."""
    try:
        return build(attention)
    except ValueError as error:
        if attention == "eager" or "attention implementation" not in str(error):
            raise
        return build("eager")
