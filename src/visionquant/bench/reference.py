"""The FP32 outputs that every precision of a model is compared with, made once per model."""

import io
import json
import zipfile
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from visionquant import hub, zoo
from visionquant.bench import backend, convert, fidelity, isolate, load, photographs, size
from visionquant.bench.code import measuring_sha256
from visionquant.environment import Environment, require_declared
from visionquant.errors import StudyError
from visionquant.manifest import Manifest
from visionquant.params import Params
from visionquant.paths import Project, write_atomically
from visionquant.precision import FP32
from visionquant.records import sha256_of


@dataclass(frozen=True)
class Reference:
    """FP32 outputs on the fidelity images of one model; ``macs`` are multiply-accumulates of one image.

    Where FP32 could not be computed here, ``outputs`` is None and ``reason`` says why: pairs are timed all the same.
    """

    identity: str
    outputs: fidelity.Outputs | None
    logits_from: str
    macs: int | None
    reason: str = ""


def identity(params: Params, model: str, manifest: Manifest, machine: dict[str, object]) -> str:
    """The digest of all that a reference depends on."""
    protocol = params.protocol
    asked = [protocol.fidelity_images, protocol.fidelity_gmacs, protocol.seed, protocol.attention]
    spec = params.models[model].model_dump(mode="json")
    return sha256_of([spec, manifest.sha256(), machine, asked, measuring_sha256()])


def make(project: Project, params: Params, model: str) -> None:
    """Compute and write the reference of ``model``; one that is up to date is left alone.

    A model that does not fit into memory, or whose FP32 outputs are not finite, gets a reference that says so.

    Raises:
        StudyError: weights are missing or broken, or the machine is not the declared one.
    """
    import torch

    environment = require_declared(project, params.study.device)
    manifest = hub.manifest_of(project, params, model)
    key = identity(params, model, manifest, environment.key())
    path = project.reference(model)
    if path.is_file():
        try:
            if read(project, model).identity == key:
                return
        except StudyError:
            pass  # an unreadable reference is made again
    backend.quiet(environment.device)
    backend.default_threads()
    torch.set_num_threads(1)
    spec, protocol = params.models[model], params.protocol
    facts = zoo.facts(project, model)
    known_macs = facts.macs if facts else None
    folder = hub.resolve(project, manifest) if manifest.weights == "pretrained" else None
    prepared = load.preprocessing(project, model, spec, folder)

    def compute() -> tuple[fidelity.Outputs, str, int]:
        backend.require(environment.device)
        backend.apply(FP32, protocol)
        device = environment.device
        count = size.macs(net, prepared.shape) if known_macs is None else known_macs
        images = fidelity.image_count(count, protocol.fidelity_images, protocol.fidelity_gmacs)
        head, description = fidelity.head_of(project, manifest, protocol.seed)
        converted = convert.convert(net, FP32, device)
        batch = photographs.batch(images, prepared).to(device)
        return fidelity.outputs(converted, batch, head, blocks=True), description, count

    found = Reference(key, None, "", known_macs)
    try:
        net = load.load(project, model, spec, manifest, protocol.attention, protocol.seed)
        outputs, logits_from, macs = isolate.in_fork(compute)
        found = Reference(key, outputs, logits_from, macs)
        if not (np.isfinite(outputs.features).all() and np.isfinite(outputs.logits).all()):
            found = Reference(key, None, logits_from, macs, "FP32 outputs are not finite")
    except isolate.Failed as failure:
        found = replace(found, reason=f"FP32: {failure.reason}")
    except MemoryError:
        found = replace(found, reason="FP32: out of memory")
    write_atomically(path, _packed(found))


def _packed(found: Reference) -> bytes:
    about = {"identity": found.identity, "logits_from": found.logits_from, "macs": found.macs, "reason": found.reason}
    empty = fidelity.Outputs(np.empty(0), np.empty(0))
    outputs, buffer = found.outputs or empty, io.BytesIO()
    named: dict[str, Any] = {f"block{number:03}": value for number, value in enumerate(outputs.blocks)}
    np.savez(buffer, about=np.array(json.dumps(about)), features=outputs.features, logits=outputs.logits, **named)
    return buffer.getvalue()


def require(project: Project, params: Params, model: str, manifest: Manifest, environment: Environment) -> Reference:
    """The reference of ``model``, made for exactly these settings on this machine.

    Raises:
        StudyError: it is missing, broken, or belongs to other settings.
    """
    found = read(project, model)
    if found.identity != identity(params, model, manifest, environment.key()):
        raise StudyError(
            f"data/references/{model}.npz",
            "made with other settings, weights, code or on another machine",
            f"run `visionquant reference --model {model}`",
        )
    return found


def read(project: Project, model: str) -> Reference:
    """Read the reference of ``model``.

    Raises:
        StudyError: it is missing or broken.
    """
    path = project.reference(model)
    try:
        with np.load(path, allow_pickle=False) as stored:
            about = json.loads(str(stored["about"]))
            blocks = tuple(stored[name] for name in sorted(stored.files) if name.startswith("block"))
            outputs = None if about["reason"] else fidelity.Outputs(stored["features"], stored["logits"], blocks)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        raise StudyError(
            f"data/references/{model}.npz", "missing or broken", f"run `visionquant reference --model {model}`"
        ) from None
    return Reference(about["identity"], outputs, about["logits_from"], about["macs"], about["reason"])
