"""What networks predict in each precision, image by image: those trained here, and those with pretrained weights.

A network trained here is asked about the images that it has not learned from. A pretrained backbone runs in each
precision, its own head in FP32 on the features, on labelled images of the reader's: top-1 and top-5. A model without a
head is asked whether its features still find the same neighbours (leave-one-out, by cosine) and whether they span the
same space as FP32's (linear CKA: Kornblith et al., Similarity of Neural Network Representations Revisited, ICML 2019).
"""

from collections.abc import Callable

import numpy as np
import torch

from visionquant.accuracy import image_folder, model_source, training
from visionquant.accuracy.image_folder import ImageFolder
from visionquant.accuracy.model_source import ModelSource
from visionquant.bench import fidelity, pair_fingerprint, torch_flags
from visionquant.bench.backends import convert, graph_engine
from visionquant.core.errors import StudyError
from visionquant.core.files import sha256
from visionquant.core.machine import Environment
from visionquant.core.paths import Project
from visionquant.records import outcomes
from visionquant.records.outcomes import Labelled, LabelledPredictions, LabelledResult, Predictions, Scores
from visionquant.records.record import sha256_of
from visionquant.settings.params import Params, settings_at
from visionquant.settings.precision import FP32, Precision

BATCH = 16
SEEDED = "seeded weights name nothing"


def evaluate_trained(
    project: Project, params: Params, network: str, folds: tuple[int, ...], machine: Environment
) -> Scores:
    """Every precision of the study, and those of ``training.also``, on the held-out images of ``folds``.

    A prediction is the class of the highest logit, its confidence that class's softmax probability.
    """
    torch_flags.begin(machine.device)
    spec = params.training.networks[network]
    data = training.load(project, spec)
    split = data.splits(params.training)
    held_out = torch.cat([split[fold][1] for fold in folds])
    precisions = {}
    for name in dict.fromkeys((*params.study.precisions, *params.training.also)):
        row, quantised, logits = params.precisions[name], 0, []
        for fold in folds:
            net = convert.convert(training.load_trained(project, params, network, fold), row, machine.device)
            quantised = convert.prove(net, row, machine.device).quantized_modules
            images = data.images[split[fold][1]]
            logits.append(training.logits_of(net, images, convert.dtype_of(row, machine.device), machine.device))
        confidence, classes = torch.cat(logits).softmax(1).max(1)
        precisions[name] = Predictions(
            precision=row,
            quantized_modules=quantised,
            classes=tuple(classes.tolist()),
            confidence=tuple(round(value, 4) for value in confidence.tolist()),
        )
    return Scores(
        network=network,
        spec=spec,
        training=params.training.model_copy(update={"networks": {network: spec}, "chosen": (network,)}),
        folds=folds,
        environment=machine,
        images=tuple(held_out.tolist()),
        labels=tuple(data.labels[held_out].tolist()),
        precisions=precisions,
    )


def evaluate_labelled(project: Project, params: Params, machine: Environment, tell: Callable[[str], None]) -> Labelled:
    """Every model of the study that has pretrained weights, in every precision; a rerun goes on where it was ended.

    ``evaluation.images`` names images; where it is null see :func:`visionquant.records.outcomes.write_off`.
    """
    torch_flags.begin(machine.device)
    images = image_folder.find_images(project, params.evaluation)
    rows = {name: params.precisions[name] for name in params.study.precisions}
    identity = [images.classes, images.labels, [(path, sha256(images.root / path)) for path in images.paths]]
    asked = [row.model_dump(mode="json") for row in rows.values()]
    how = [params.protocol.attention, params.protocol.seed, *map(pair_fingerprint.measuring_sha256, rows.values())]
    pretrained: dict[str, ModelSource] = {}
    missing: dict[str, str] = {}
    for model in params.study.models:
        source = model_source.open_model(project, params, model)
        if source.manifest and source.manifest.has_files:
            weights = [model, source.manifest.sha256(), machine.key()]
            pretrained[sha256_of([*weights, identity, params.evaluation.neighbours, asked, how])] = source
        else:
            missing[model] = SEEDED if source.weights == "seeded" or not source.manifest else source.manifest.reason
    before = outcomes.read_labelled(project.local)
    # What was answered to other images or settings goes at once: a model stands in the file once.
    done = {result.key: result for result in before.judged if result.key in pretrained} if before else {}

    def written() -> Labelled:
        results = (done[key].model_copy(update={"skipped": images.skipped}) for key in pretrained if key in done)
        outcomes.write_labelled(project, found := Labelled(judged=tuple(results), missing=missing))
        return found

    for key, source in pretrained.items():
        if key not in done:
            beside = f"; passed over: {outcomes.counted(images.skipped)}" if images.skipped else ""
            tell(f"{source.name}: {len(images.paths)} images, {len(rows)} precisions{beside}")
            if source.preprocessing.note:
                tell(source.preprocessing.note)
            done[key] = _evaluated(source, images, rows, machine, key)
            written()
    return written()


def _evaluated(
    source: ModelSource, images: ImageFolder, rows: dict[str, Precision], machine: Environment, key: str
) -> LabelledResult:
    head, description = source.head()
    assert head is not None
    own = description == fidelity.OWN_HEAD
    targets = _targets(source, images.classes) if own else None
    base = _outputs(source, images, FP32, machine.device, head)
    answers = {}
    for name, row in rows.items():
        outputs, quantised = base if row == FP32 else _outputs(source, images, row, machine.device, head)
        best = np.argsort(-outputs.logits, axis=1, kind="stable")[:, :5] if own else np.empty((0, 5), int)
        answers[name] = LabelledPredictions(
            precision=row,
            quantized_modules=quantised,
            top5=tuple(map(tuple, best.tolist())),
            neighbours=vote(outputs.features, images.labels, source.params.evaluation.neighbours),
            cka=round(cka(base[0].features, outputs.features), 6),
        )
    settings = (f"models.{source.name}", "evaluation", "protocol.attention", "protocol.seed")
    return LabelledResult(
        settings=settings_at(source.params, settings),
        key=key,
        model=source.name,
        weights=source.origin,
        environment=machine,
        images=images.paths,
        classes=images.classes,
        targets=targets,
        labels=images.labels,
        precisions=answers,
    )


def _targets(source: ModelSource, classes: tuple[str, ...]) -> tuple[int, ...]:
    """The head's label of each class folder: its number, its name, or one of the names joined by commas."""
    from transformers import AutoConfig

    labels = {int(number): str(name) for number, name in AutoConfig.from_pretrained(source.folder).id2label.items()}
    targets: list[int] = []
    for name in classes:
        fits = _fitting(name, labels)
        if len(fits) != 1:
            shown = ", ".join(list(labels.values())[:3])
            what = f"{len(fits)} labels" if fits else f"no label (it has {len(labels)}, e.g. {shown})"
            remedy = "name class folders by the label's number"
            raise StudyError(image_folder.KEY, f"{source.name} has {what} for {name!r}", remedy)
        targets += fits
    return tuple(targets)


def _fitting(name: str, labels: dict[int, str]) -> list[int]:
    """The labels that a class may mean: its number, else those of the whole name, else of one of the names."""
    if name.isdigit() and int(name) in labels:
        return [int(name)]
    asked = {name.replace("_", " ").lower(), name.lower()}
    parts = {number: {part.strip().lower() for part in label.split(",")} for number, label in labels.items()}
    whole = [number for number, label in labels.items() if label.strip().lower() in asked]
    return whole or [number for number in labels if asked & parts[number]]


def _outputs(
    source: ModelSource, images: ImageFolder, row: Precision, device: str, head: fidelity.Head
) -> tuple[fidelity.Outputs, int]:
    """Pooled features (n, width) and logits (n, labels) of all images, and how many layers were quantised."""
    base = source.build()
    graph_engine.show_crop(base, row, source.preprocessing)
    net = convert.convert(base, row, device, source.shape)
    proof = convert.prove(net, row, device)
    features, logits = [], []
    for start in range(0, len(images.paths), BATCH):
        paths = images.paths[start : start + BATCH]
        pixels = np.stack([source.preprocessing.prepare(images.picture(path)) for path in paths])
        batch = torch.from_numpy(pixels).to(device, convert.dtype_of(row, device))
        outputs = fidelity.outputs(net, batch, head)
        # One vector an image: the mean of a map (n, c, h, w), the first token of a sequence (n, tokens, width).
        pooled = outputs.features.mean((2, 3)) if outputs.features.ndim == 4 else outputs.features[:, 0]
        features.append(pooled)
        logits.append(outputs.logits)
    joined = fidelity.Outputs(np.concatenate(features), np.concatenate(logits))
    if not (np.isfinite(joined.features).all() and np.isfinite(joined.logits).all()):
        raise StudyError(f"{source.name} in {row.method}", "outputs that are not finite", "leave it out of the study")
    return joined, proof.quantized_modules


def vote(features: np.ndarray, labels: tuple[int, ...], neighbours: int) -> tuple[int, ...]:
    """The class that the nearest other images vote for, by cosine; a tie goes to the class of the nearest of them."""
    from sklearn.neighbors import NearestNeighbors

    space = NearestNeighbors(n_neighbors=min(neighbours, len(labels) - 1), metric="cosine").fit(features)
    votes = np.asarray(labels)[space.kneighbors(return_distance=False)].tolist()
    return tuple(max(row, key=row.count) for row in votes)


def cka(a: np.ndarray, b: np.ndarray) -> float:
    """Linear centred kernel alignment of features (n, p) and (n, q) of the same images, 0 to 1."""
    x, y = (features - features.mean(0) for features in (a.astype(np.float64), b.astype(np.float64)))
    across = np.linalg.norm(y.T @ x) ** 2
    return float(across / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)))
