"""A model of the study, or a network trained here, converted and stored as a folder."""

from pathlib import Path
from typing import Literal

from torch import nn

from visionquant.accuracy import training
from visionquant.bench import loading, torch_flags
from visionquant.bench.backends import convert
from visionquant.core.errors import StudyError
from visionquant.core.paths import Project
from visionquant.deploy import serialization
from visionquant.deploy.model_manifest import Description
from visionquant.settings.params import Params
from visionquant.settings.precision import Int8Precision, OnnxRuntimePrecision
from visionquant.weights import hub

Device = Literal["cpu", "cuda"]


def model(project: Project, params: Params, name: str, precision: str, device: Device, folder: Path) -> Description:
    """Export a row of ``models`` with the weights that its manifest names, to run on ``device``.

    Raises:
        StudyError: there is no manifest yet, the weights are not what it says, or the folder is there already.
    """
    spec, protocol = params.models[name], params.protocol
    manifest = hub.manifest_of(project, params, name)
    torch_flags.quiet("cpu")
    net = loading.load(project, name, spec, manifest, protocol.attention, protocol.seed)
    checkpoint = hub.resolve(project, manifest) if manifest.weights == "pretrained" else None
    return serialization.save(
        _converted(net, params, precision, device),
        params.precisions[precision],
        folder,
        device=device,
        input_size=spec.input_size,
        weights=manifest.weights,
        source=manifest.source,
        preprocessing=loading.preprocessing(project, name, spec, checkpoint).settings,
    )


def network(
    project: Project, params: Params, name: str, fold: int, precision: str, device: Device, folder: Path
) -> Description:
    """Export a row of ``training.networks`` as it was trained on all folds but ``fold``, to run on ``device``.

    Raises:
        StudyError: it was not trained yet, or the folder is there already.
    """
    spec = params.training.networks[name]
    torch_flags.quiet("cpu")
    net = training.restore(project, name, spec, params.training, fold)
    return serialization.save(
        _converted(net, params, precision, device),
        params.precisions[precision],
        folder,
        device=device,
        input_size=spec.image_size,
        weights="trained here",
        source=f"{name}, digits fold {fold} held out",
    )


def _converted(net: nn.Module, params: Params, precision: str, device: Device) -> nn.Module:
    row = params.precisions[precision]
    if isinstance(row, Int8Precision) and row.outliers:
        raise StudyError(f"precision {precision}", "its outliers are planted to measure with", "export int8")
    if isinstance(row, OnnxRuntimePrecision):
        raise StudyError(f"precision {precision}", "a graph of ONNX Runtime is no torch model", "export int8 or fp32")
    return convert.convert(net, serialization.precision_on(row, device), "cpu")
