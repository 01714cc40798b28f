"""Models with pretrained weights on labelled images: top-1 and top-5 through their own head, features by neighbours.

The backbone runs in each precision of the study, the head in FP32 on its features, as everywhere in the study. A model
without a head is asked whether its features still find the same neighbours (leave-one-out, by cosine) and whether they
span the same space as FP32's (linear CKA). A rerun goes on with the models that are missing.
Source: Kornblith et al., Similarity of Neural Network Representations Revisited, ICML 2019, for CKA.
"""

from collections.abc import Callable

import numpy as np
import torch

from visionquant.accuracy import image_folder
from visionquant.accuracy.image_folder import Images
from visionquant.bench import fidelity, loading, pair_fingerprint, torch_flags
from visionquant.bench.backends import convert
from visionquant.core.errors import StudyError
from visionquant.core.machine import Environment
from visionquant.core.paths import Project
from visionquant.records import labelled
from visionquant.records.labelled import Answers, Judged, Labelled
from visionquant.records.record import sha256_of
from visionquant.settings.params import Params
from visionquant.settings.precision import FP32, Precision
from visionquant.weights import hub, hub_cache
from visionquant.weights.manifest import Manifest

BATCH = 16
SEEDED = "seeded weights name nothing"


def judge(project: Project, params: Params, machine: Environment, tell: Callable[[str], None]) -> Labelled:
    """Every model of the study that has pretrained weights, in every precision; written model by model.

    ``evaluation.images`` names images; where it is null see :func:`visionquant.records.labelled.write_off`.

    Raises:
        StudyError: images or weights are missing or broken, or a class has no label of its name in a model's head.
    """
    torch_flags.begin(machine.device)
    known = labelled.read(project)
    before = {one.key: one for one in known.judged} if known else {}
    judged: list[Judged] = []
    missing: dict[str, str] = {}
    given = image_folder.find(project, params.evaluation)
    beside = f"; passed over: {labelled.counted(given.skipped)}" if given.skipped else ""
    for model in params.study.models:
        manifest = hub.manifest_of(project, params, model)
        if manifest.weights == "seeded":
            missing[model] = SEEDED
            continue
        rows = {name: params.precisions[name] for name in params.study.precisions}
        how = [params.protocol.attention, params.protocol.seed, *map(pair_fingerprint.measuring_sha256, rows.values())]
        asked = [rows[name].model_dump(mode="json") for name in rows]
        key = sha256_of(
            [model, manifest.sha256(), machine.key(), _identity(given), params.evaluation.neighbours, asked, how]
        )
        one = before.get(key)
        if one is None:
            tell(f"{model}: {len(given.paths)} images, {len(rows)} precisions{beside}")
            prepared = loading.preprocessing(project, model, params.models[model], hub.resolve(project, manifest))
            if prepared.note:
                tell(prepared.note)
            one = _model(project, params, model, manifest, given, rows, machine, key)
        judged.append(one.model_copy(update={"skipped": given.skipped}))
        rest = tuple(one for one in before.values() if one.key not in {done.key for done in judged})
        labelled.write(project, Labelled(judged=(*judged, *rest), missing=missing))
    found = Labelled(judged=tuple(judged), missing=missing)
    labelled.write(project, found)
    return found


def _identity(given: Images) -> list[object]:
    return [given.classes, given.labels, [(path, hub_cache.sha256(given.root / path)) for path in given.paths]]


def _model(
    project: Project,
    params: Params,
    model: str,
    manifest: Manifest,
    given: Images,
    rows: dict[str, Precision],
    machine: Environment,
    key: str,
) -> Judged:
    folder = hub.resolve(project, manifest)
    head, description = fidelity.head_of(project, manifest, params.protocol.seed)
    own = description == fidelity.OWN_HEAD
    targets = _targets(folder, model, given.classes) if own else None
    base, _ = _run(project, params, model, manifest, given, FP32, machine.device, head)
    answers = {}
    for name, row in rows.items():
        found, quantised = _run(project, params, model, manifest, given, row, machine.device, head)
        best = np.argsort(-found.logits, axis=1, kind="stable")[:, :5] if own else np.empty((0, 5), int)
        answers[name] = Answers(
            precision=row,
            quantized_modules=quantised,
            top5=tuple(tuple(int(one) for one in five) for five in best),
            neighbours=vote(found.features, given.labels, params.evaluation.neighbours),
            cka=round(cka(base.features, found.features), 6),
        )
    return Judged(
        key=key,
        model=model,
        weights=manifest.source,
        environment=machine,
        images=given.paths,
        classes=given.classes,
        targets=targets,
        labels=given.labels,
        precisions=answers,
    )


def _targets(folder: object, model: str, classes: tuple[str, ...]) -> tuple[int, ...]:
    """The head's label of each class folder: its number, its name, or one of the names joined by commas."""
    from transformers import AutoConfig

    labels = {int(number): str(name) for number, name in AutoConfig.from_pretrained(folder).id2label.items()}
    found = []
    for name in classes:
        fits = _fitting(name, labels)
        if len(fits) != 1:
            shown = ", ".join(list(labels.values())[:3])
            what = f"{len(fits)} labels" if fits else f"no label (it has {len(labels)}, e.g. {shown})"
            raise StudyError(
                image_folder.KEY, f"{model} has {what} for {name!r}", "name class folders by the label's number"
            )
        found.append(fits[0])
    return tuple(found)


def _fitting(name: str, labels: dict[int, str]) -> list[int]:
    """The labels that a class may mean: its number, else those of the whole name, else of one of the names."""
    if name.isdigit() and int(name) in labels:
        return [int(name)]
    asked = name.replace("_", " ").lower()
    whole = [number for number, label in labels.items() if label.strip().lower() in (asked, name.lower())]
    return whole or [
        number
        for number, label in labels.items()
        if {asked, name.lower()} & {part.strip().lower() for part in label.split(",")}
    ]


def _run(
    project: Project,
    params: Params,
    model: str,
    manifest: Manifest,
    given: Images,
    row: Precision,
    device: str,
    head: fidelity.Head,
) -> tuple[fidelity.Outputs, int]:
    """Pooled features (n, width) and logits (n, labels) of all images, and how many layers were quantised."""
    spec, protocol = params.models[model], params.protocol
    net = loading.load(project, model, spec, manifest, protocol.attention, protocol.seed)
    prepared = loading.preprocessing(project, model, spec, hub.resolve(project, manifest))
    net = convert.convert(net, row, device, prepared.shape)
    proof = convert.prove(net, row, device)
    features, logits = [], []
    for start in range(0, len(given.paths), BATCH):
        pixels = np.stack([prepared.prepare(given.picture(path)) for path in given.paths[start : start + BATCH]])
        batch = torch.from_numpy(pixels).to(device, convert.dtype_of(row, device))
        found = fidelity.outputs(net, batch, head)
        features.append(_pooled(found.features))
        logits.append(found.logits)
    every = fidelity.Outputs(np.concatenate(features), np.concatenate(logits))
    if not (np.isfinite(every.features).all() and np.isfinite(every.logits).all()):
        raise StudyError(f"{model} in {row.method}", "answers that are not finite", "leave it out of the study")
    return every, proof.quantized_modules


def _pooled(features: np.ndarray) -> np.ndarray:
    """One vector an image: the mean of a map (n, c, h, w), the first token of a sequence (n, tokens, width)."""
    return features.mean((2, 3)) if features.ndim == 4 else features[:, 0]


def vote(features: np.ndarray, labels: tuple[int, ...], neighbours: int) -> tuple[int, ...]:
    """The class that the nearest other images vote for, by cosine; a tie goes to the class of the nearest of them."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    near = unit @ unit.T
    np.fill_diagonal(near, -np.inf)
    order = np.argsort(-near, axis=1, kind="stable")[:, : min(neighbours, len(labels) - 1)]
    voted = []
    for row in np.asarray(labels)[order]:
        counts = np.bincount(row)
        voted.append(next(int(one) for one in row if counts[one] == counts.max()))
    return tuple(voted)


def cka(a: np.ndarray, b: np.ndarray) -> float:
    """Linear centred kernel alignment of features (n, p) and (n, q) of the same images, 0 to 1."""
    x, y = (one.astype(np.float64) - one.astype(np.float64).mean(0) for one in (a, b))
    across = np.linalg.norm(y.T @ x) ** 2
    return float(across / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)))
