"""A model by its name in params.yaml, whichever weights it has: a checkpoint's, seeded ones, or trained here."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from visionquant.accuracy import training
from visionquant.bench import fidelity, inputs, loading
from visionquant.bench.inputs import Preprocessing
from visionquant.core.errors import StudyError
from visionquant.core.frozen import Size
from visionquant.core.paths import Project
from visionquant.records.record import TRAINED, WeightsKind
from visionquant.settings.params import Params, known
from visionquant.weights import architectures, sources
from visionquant.weights.sources import Manifest


@dataclass(frozen=True)
class ModelSource:
    """A model that is there to be built: a plain value, also for another process.

    ``size`` is that of its images in pixels, ``origin`` says in words where its weights are from. ``fold`` is the one
    that a network trained here has not learned from; any other model has a ``manifest``.
    """

    project: Project
    params: Params
    name: str
    weights: WeightsKind | Literal["trained here"]
    origin: str
    size: Size
    preprocessing: Preprocessing
    manifest: Manifest | None = None
    fold: int = 0

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one prepared image."""
        return self.preprocessing.shape

    @property
    def folder(self) -> Path | None:
        """The checkpoint's files, every byte checked, or None for weights that come from none."""
        return sources.resolve(self.project, self.manifest) if self.manifest and self.manifest.has_files else None

    def build(self, attention: str | None = None) -> nn.Module:
        """The network in FP32 on the CPU, in evaluation mode; ``attention`` is the protocol's unless it is given."""
        if self.manifest is None:
            return training.load_trained(self.project, self.params, self.name, self.fold)
        spec, protocol = self.params.models[self.name], self.params.protocol
        return loading.load(
            self.project, self.name, spec, self.manifest, attention or protocol.attention, protocol.seed
        )

    def head(self) -> tuple[fidelity.Head | None, str]:
        """What turns the network's features into logits, None where it gives logits itself, and its description."""
        if self.manifest is None:
            return None, "its own head, trained here"
        return fidelity.head_of(self.project, self.manifest, self.params.protocol.seed)

    def labels(self) -> dict[int, str]:
        """The checkpoint's own names of its classes, by number."""
        folder = self.folder
        return architectures.labels(json.loads((folder / sources.CONFIG).read_bytes())) if folder else {}


def open_model(project: Project, params: Params, name: str, *, seeded: bool = False) -> ModelSource:
    """A row of ``models`` with the weights that the download stage found, or with ``seeded`` ones.

    Raises:
        StudyError: no such row, nothing was downloaded, or a file of it is missing or altered.
    """
    known("models", [name], params.models)
    spec = params.models[name]
    manifest = Manifest(model=name, weights="seeded", source="seeded for a recipe", config_sha256="")
    if not seeded:
        manifest = sources.manifest_of(project, params, name)
    folder = sources.resolve(project, manifest) if manifest.has_files else None
    prepared = loading.preprocessing(project, name, spec, folder)
    return ModelSource(project, params, name, manifest.weights, manifest.source, spec.input_size, prepared, manifest)


def open_trained(project: Project, params: Params, name: str, to: str) -> ModelSource:
    """The same of a model with trained weights; a StudyError, also where it has none: ``to`` is what they are for."""
    source = open_model(project, params, name)
    if source.weights not in TRAINED:
        why = "seeded weights recognise nothing" if source.weights == "seeded" else source.origin
        raise StudyError(f"{to} of {name}", why, "take a model with trained weights, e.g. one of a package")
    return source


def open_network(project: Project, params: Params, name: str, fold: int) -> ModelSource:
    """A row of ``training.networks``, as it was trained here on all folds but ``fold``."""
    known("training.networks", [name], params.training.networks)
    training.require_trained(project, name, fold)
    spec = params.training.networks[name]
    held_out = f"digits fold {fold}" if spec.task == "digits" else f"test images of {spec.task}"
    origin, prepared = f"{name}, {held_out} held out", training.preprocessing(spec)
    return ModelSource(project, params, name, "trained here", origin, spec.image_size, prepared, fold=fold)


def seeded_model(project: Project, params: Params, name: str, count: int) -> tuple[nn.Module, torch.Tensor]:
    """A row of ``models`` with seeded weights and fused attention, and ``count`` photographs (count, *shape) for it."""
    source = open_model(project, params, name, seeded=True)
    return source.build("sdpa"), inputs.batch(count, source.preprocessing)
