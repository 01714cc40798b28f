"""The FP32 outputs that every precision of a model is compared with, made once per model.

FP32 must repeat itself: a network whose two passes over the same images differ (ViT-MAE masks at random) gives nothing
to compare with, and its cells say so.
"""

import io
import json
import zipfile
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from visionquant.bench import fidelity, inputs, loading, model_size, torch_flags, worker
from visionquant.bench.backends import convert
from visionquant.bench.fingerprint import measuring_sha256
from visionquant.core.errors import MachineMismatch, StudyError
from visionquant.core.machine import Environment, require_declared
from visionquant.core.paths import Project, write_atomically
from visionquant.records.record import sha256_of
from visionquant.settings.params import ModelSpec, Params
from visionquant.settings.precision import FP32
from visionquant.weights import architectures, hub
from visionquant.weights.manifest import Manifest

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


def identity(params: Params, model: str, manifest: Manifest, machine: dict[str, object]) -> str:
    """The digest of all that a reference depends on."""
    protocol = params.protocol
    asked = [protocol.fidelity_images, protocol.fidelity_gmacs, protocol.seed, protocol.attention]
    spec = params.models[model].model_dump(mode="json")
    return sha256_of([spec, manifest.sha256(), machine, asked, measuring_sha256()])


def make(project: Project, params: Params, model: str) -> Reference:
    """Compute and write the reference of ``model``; one that is up to date is left alone.

    A model that does not load or fit into memory, or whose FP32 outputs are not finite or do not repeat themselves,
    gets a reference that says so; the traceback of what nobody foresaw goes to the log that it names.

    Raises:
        StudyError: weights are missing or altered, or the machine is not the declared one.
    """
    environment = require_declared(project, params.study.device)
    manifest = hub.manifest_of(project, params, model)
    key = identity(params, model, manifest, environment.key())
    path = project.reference(model)
    if path.is_file():
        try:
            found = read(project, model)
            if found.identity == key and not found.failed:
                return found
        except StudyError:
            pass  # an unreadable reference is made again
    torch_flags.quiet(environment.device)
    torch_flags.default_threads()
    torch.set_num_threads(1)
    spec, protocol = params.models[model], params.protocol
    facts = architectures.facts(project, model)
    known_macs = facts.macs if facts else None
    folder = hub.resolve(project, manifest) if manifest.weights == "pretrained" else None

    def compute() -> tuple[fidelity.Outputs, float, str, int]:
        torch_flags.require(environment.device)
        torch_flags.apply(FP32, protocol)
        device = environment.device
        assert net is not None
        count = model_size.macs(net, prepared.shape) if known_macs is None else known_macs
        images = fidelity.image_count(count, protocol.fidelity_images, protocol.fidelity_gmacs)
        head, description = fidelity.head_of(project, manifest, protocol.seed)
        converted = convert.convert(net, FP32, device)
        batch = inputs.batch(images, prepared).to(device)
        first = fidelity.outputs(converted, batch, head, blocks=True)
        again = fidelity.outputs(converted, batch, head)
        return first, fidelity.lowest_cosine(first.features, again.features), description, count

    found, log, net = Reference(key, None, "", known_macs), project.failure(model), None
    log.unlink(missing_ok=True)
    try:
        prepared = loading.preprocessing(project, model, spec, folder)
        net = loading.load(project, model, spec, manifest, protocol.attention, protocol.seed)
        outputs, cosine, logits_from, macs = worker.in_fork(compute)
        found = replace(found, logits_from=logits_from, macs=macs)
        if not (np.isfinite(outputs.features).all() and np.isfinite(outputs.logits).all()):
            found = replace(found, reason="FP32 outputs are not finite")
        elif not cosine >= REPEATS:
            why = f"FP32 does not repeat itself: two passes over the same image agree to a cosine of {cosine:.6f}"
            found = replace(found, reason=why, fault=why)
        else:
            found = replace(found, outputs=outputs)
    except worker.Failed as failure:
        found = replace(found, reason=f"FP32: {failure.reason}")
    except MemoryError:
        found = replace(found, reason="FP32: out of memory")
    except MachineMismatch:
        raise
    except StudyError as error:
        found = replace(found, reason=f"FP32: {error}", failed=True)
    except Exception as error:
        defect = worker.Defect.of(error)
        write_atomically(log, f"{defect}\n")
        place = log.relative_to(project.root)
        reason = f"FP32: {_misfit(net, spec)}{defect.line}; traceback in {place}"
        found = replace(found, reason=reason, failed=True)
    write_atomically(path, _packed(found))
    return found


def _misfit(net: torch.nn.Module | None, spec: ModelSpec) -> str:
    """What to say before the error of a network that was fed another size than its config names; else nothing."""
    config = net.config.to_dict() if net is not None else {}  # type: ignore[union-attr, operator]
    if not config.get("image_size"):
        return ""
    made, fed = (" x ".join(map(str, one[1:])) for one in (architectures.shape(config), spec.shape(3)))
    return f"made for {made} pixels, fed {fed} (input_size of its row): " if made != fed else ""


def _packed(found: Reference) -> bytes:
    about = {name: value for name, value in vars(found).items() if name != "outputs"}
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
            return Reference(outputs=outputs, **about)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        raise StudyError(
            f"data/references/{model}.npz", "missing or broken", f"run `visionquant reference --model {model}`"
        ) from None
