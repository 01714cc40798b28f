"""The FP32 outputs that every precision of a model is compared with, made once per model.

FP32 must repeat itself: a network whose two passes over the same images differ (ViT-MAE masks at random) gives nothing
to compare with, and its cells say so.
"""

import io
import json
import zipfile
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from visionquant.bench import device as devices
from visionquant.bench import fidelity, inputs, loading, op_count, torch_flags, worker
from visionquant.bench.backends import convert
from visionquant.bench.pair_fingerprint import measuring_sha256
from visionquant.core import files
from visionquant.core.errors import MachineMismatch, StudyError
from visionquant.core.machine import Environment, require_declared
from visionquant.core.paths import Project
from visionquant.records.record import sha256_of
from visionquant.settings.params import ModelSpec, Params
from visionquant.settings.precision import FP32
from visionquant.weights import architectures, sources
from visionquant.weights.sources import Manifest

REPEATS = 0.999999  # cosine of two FP32 passes over the same image, at least


@dataclass(frozen=True)
class Reference:
    """FP32 outputs on the fidelity images of one model; ``macs`` are multiply-accumulates of one image.

    Where FP32 could not be computed here, ``outputs`` is None and ``reason`` says why: pairs are timed all the same,
    unless it ``failed`` unexpectedly, which fails them too and is tried again. ``fault`` is what is wrong with the
    outputs in any precision, or empty.
    """

    identity: str
    outputs: fidelity.Outputs | None
    logits_from: str
    macs: int | None
    reason: str = ""
    fault: str = ""
    failed: bool = False


def identity(params: Params, model: str, manifest: Manifest, machine: Environment) -> str:
    """The digest of all that a reference depends on."""
    protocol = params.protocol
    asked = [protocol.fidelity_images, protocol.fidelity_gmacs, protocol.seed, protocol.attention]
    spec = params.models[model].model_dump(mode="json")
    return sha256_of([spec, manifest.sha256(), machine.key(FP32.libraries), asked, measuring_sha256(FP32)])


def make(project: Project, params: Params, model: str) -> Reference:
    """Compute and write the reference of ``model``; one that is up to date is left alone.

    A model that does not load or fit into memory, or whose FP32 outputs are not finite or do not repeat themselves,
    gets a reference that says so; the traceback of what nobody foresaw goes to the log that it names.

    Raises:
        StudyError: weights are missing or altered, or the machine is not the declared one.
    """
    environment = require_declared(project, params.study.device)
    manifest = sources.manifest_of(project, params, model)
    key = identity(params, model, manifest, environment)
    with suppress(StudyError):  # one that is not there or unreadable is made
        reference = read(project, model)
        if reference.identity == key and not reference.failed:
            return reference
    torch_flags.quiet(environment.device)
    torch_flags.default_threads()
    torch.set_num_threads(1)
    made = _made(project, params, model, manifest, environment.device, key)
    files.save(project.reference(model), _packed(made))
    return made


def _made(project: Project, params: Params, model: str, manifest: Manifest, device: str, key: str) -> Reference:
    spec, protocol, log = params.models[model], params.protocol, project.failure(model)
    facts, net = architectures.facts(project, model), None
    without = Reference(key, None, "", facts.macs if facts else None)

    def compute() -> Reference:
        devices.of(device).require()
        torch_flags.apply(FP32, protocol)
        macs = op_count.macs(loaded, prepared.shape) if without.macs is None else without.macs
        count = fidelity.image_count(macs, protocol.fidelity_images, protocol.fidelity_gmacs)
        head, logits_from = fidelity.head_of(project, manifest, protocol.seed)
        converted, batch = convert.convert(loaded, FP32, device), inputs.batch(count, prepared).to(device)
        first, second = (fidelity.outputs(converted, batch, head, blocks=blocks) for blocks in (True, False))
        made = replace(without, logits_from=logits_from, macs=macs)
        if not (np.isfinite(first.features).all() and np.isfinite(first.logits).all()):
            return replace(made, reason="FP32 outputs are not finite")
        if (cosine := fidelity.lowest_cosine(first.features, second.features)) >= REPEATS:
            return replace(made, outputs=first)
        why = f"FP32 does not repeat itself: two passes over the same image agree to a cosine of {cosine:.6f}"
        return replace(made, reason=why, fault=why)

    folder = sources.resolve(project, manifest) if manifest.weights == "pretrained" else None
    log.unlink(missing_ok=True)
    try:
        prepared = loading.preprocessing(project, model, spec, folder)
        loaded = net = loading.load(project, model, spec, manifest, protocol.attention, protocol.seed)
        return worker.in_fork(compute)
    except (worker.Failed, MemoryError) as error:
        return replace(without, reason=f"FP32: {getattr(error, 'reason', 'out of memory')}")
    except StudyError as error:
        if isinstance(error, MachineMismatch):
            raise
        return replace(without, reason=f"FP32: {error}", failed=True)
    except Exception as error:
        defect = worker.Defect.of(error)
        files.save(log, f"{defect}\n")
        reason = f"FP32: {_misfit(net, spec)}{defect.line}; traceback in {project.shown(log)}"
        return replace(without, reason=reason, failed=True)


def _misfit(net: torch.nn.Module | None, spec: ModelSpec) -> str:
    """What to say before the error of a network that was fed another size than its config names; else nothing."""
    config = net.config.to_dict() if net is not None else {}  # type: ignore[union-attr, operator]
    if not config.get("image_size"):
        return ""
    made, fed = (" x ".join(map(str, shape[1:])) for shape in (architectures.shape(config), spec.shape(3)))
    return f"made for {made} pixels, fed {fed} (input_size of its row): " if made != fed else ""


def _packed(reference: Reference) -> bytes:
    about = {name: value for name, value in vars(reference).items() if name != "outputs"}
    outputs, buffer = reference.outputs or fidelity.Outputs(np.empty(0), np.empty(0)), io.BytesIO()
    blocks: dict[str, Any] = {f"block{number:03}": value for number, value in enumerate(outputs.blocks)}
    np.savez(buffer, about=np.array(json.dumps(about)), features=outputs.features, logits=outputs.logits, **blocks)
    return buffer.getvalue()


def require(project: Project, params: Params, model: str, manifest: Manifest, environment: Environment) -> Reference:
    """The reference of ``model``, made for exactly these settings on this machine; a StudyError where there is none."""
    reference = read(project, model)
    if reference.identity == identity(params, model, manifest, environment):
        return reference
    raise _unusable(model, "made with other settings, weights, code or on another machine")


def read(project: Project, model: str) -> Reference:
    """Read the reference of ``model``; a StudyError where it is missing or broken."""
    try:
        with np.load(project.reference(model), allow_pickle=False) as arrays:
            about = json.loads(str(arrays["about"]))
            blocks = tuple(arrays[name] for name in sorted(arrays.files) if name.startswith("block"))
            outputs = None if about["reason"] else fidelity.Outputs(arrays["features"], arrays["logits"], blocks)
            return Reference(outputs=outputs, **about)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        raise _unusable(model, "missing or broken") from None


def _unusable(model: str, found: str) -> StudyError:
    return StudyError(f"reference of {model}", found, f"run `visionquant reference --model {model}`")
