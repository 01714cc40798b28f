"""What a precision costs a model with trained weights: its features under heads that were fitted on FP32's.

A backbone without a head of its own, or with one for other classes, still tells: a linear head (logistic regression)
and a vote of nearest neighbours are fitted once, on FP32's features of training images; then every precision gives
features of the same test images, and the same heads classify them. So a difference is the precision's alone. A linear
head fitted on a precision's own features tells whether they lost what the task needs, or only moved.

Features of an image are its first token beside the mean of its patches, where the network has such a token; else the
mean over the map or the patches. Pictures are scaled bilinearly, and have the mean and deviation of the checkpoint's
preprocessing. Sources: Oquab et al., DINOv2 (2023), section 7.1 (linear and k-NN evaluation of frozen features).
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from visionquant.accuracy import fashion, freed_memory, model_source, reference_features
from visionquant.accuracy.fashion import LabelledImages
from visionquant.accuracy.model_source import ModelSource
from visionquant.accuracy.reference_features import Found, ReferenceFeatures
from visionquant.bench import fidelity, torch_flags
from visionquant.bench.backends import convert, graph_engine
from visionquant.bench.pair_fingerprint import measuring_sha256
from visionquant.core.errors import StudyError
from visionquant.core.frozen import height_width
from visionquant.core.machine import Environment
from visionquant.core.paths import Project
from visionquant.records import outcomes
from visionquant.records.outcomes import Probe, ProbePredictions
from visionquant.records.record import sha256_of
from visionquant.settings.params import Params, known, settings_at
from visionquant.settings.precision import FP32, Precision

BATCH = 50
TASK: Literal["fashion-mnist"] = "fashion-mnist"
MOST_STEPS = 1000  # of the linear head's solver
DECIDED_BY = (
    *(f"evaluation.probe.{key}" for key in ("pixels", "training_images", "test_images", "neighbours", "seed")),
    "protocol.attention",
    "protocol.seed",
)


class Heads(NamedTuple):
    """What classifies features: of (n, width) the probabilities (n, classes), and the class of the neighbours (n,)."""

    linear: Callable[[np.ndarray], np.ndarray]
    neighbours: Callable[[np.ndarray], np.ndarray]


class Pictures:
    """Grey pictures as a network is fed them: ``mean`` and ``deviation`` by channel, (height, width) in pixels."""

    def __init__(self, source: ModelSource, pixels: int | None) -> None:
        settings = source.preprocessing.settings
        channels, *size = source.shape
        self.size = (pixels, pixels) if pixels else (size[0], size[1])
        self._mean, self._deviation = (
            torch.tensor(settings.get(key, [0.5] * channels)).view(1, -1, 1, 1) for key in ("image_mean", "image_std")
        )
        if settings.get("do_normalize") is False:
            self._mean, self._deviation = torch.zeros_like(self._mean), torch.ones_like(self._deviation)

    def batch(self, images: np.ndarray) -> torch.Tensor:
        """(n, 28, 28) uint8 to (n, channels, height, width) float32."""
        grey = torch.from_numpy(images.astype(np.float32) / 255)[:, None]
        scaled = functional.interpolate(grey, size=self.size, mode="bilinear", align_corners=False)
        return (scaled - self._mean) / self._deviation


def pooled(hidden: torch.Tensor, patches: int) -> torch.Tensor:
    """Features (n, width) of a last hidden state: of a map (n, c, h, w), or of tokens (n, t, c).

    The last ``patches`` tokens are patches; what stands before them, if anything, begins with the class token.
    """
    if hidden.ndim == 4:
        return hidden.mean((2, 3))
    mean = hidden[:, -patches:].mean(1)
    return mean if hidden.shape[1] == patches else torch.cat([hidden[:, 0], mean], 1)


def features(
    net: nn.Module, batches: Iterable[torch.Tensor], patches: int, dtype: torch.dtype, device: str
) -> np.ndarray:
    """Features (n, width), float32, of a network that lies on ``device`` in ``dtype``."""
    found = []
    with torch.inference_mode():
        for batch in batches:
            hidden = fidelity.features_of(net(batch.to(device, dtype)))
            found.append(pooled(hidden.float(), patches).cpu().numpy())
            freed_memory.give_back()
    return np.concatenate(found)


def linear_head(known: np.ndarray, labels: np.ndarray) -> Any:
    """Logistic regression on standardised features (n, width), fitted on their classes (n,)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):  # see `reference_features`
        return make_pipeline(StandardScaler(), LogisticRegression(max_iter=MOST_STEPS)).fit(known, labels)


def fit(known: np.ndarray, labels: np.ndarray, neighbours: int) -> Heads:
    """Heads fitted on features (n, width) and their classes; neighbours by cosine, a tie goes to the lowest class."""
    from sklearn.neighbors import KNeighborsClassifier

    linear = linear_head(known, labels)
    nearest = KNeighborsClassifier(neighbours, metric="cosine").fit(known, labels)
    return Heads(linear.predict_proba, nearest.predict)


class ProbedNetwork(nn.Module):
    """A backbone and a linear head in FP32 on its pooled features, called as a classifier of the library is."""

    def __init__(self, backbone: nn.Module, patches: int, linear: Any) -> None:
        super().__init__()
        scaler, logistic = (step for _, step in linear.steps)
        weights = logistic.coef_ / scaler.scale_
        biases = logistic.intercept_ - weights @ scaler.mean_
        # No parameters: a conversion leaves them alone.
        self._head = tuple(torch.from_numpy(np.asarray(values, np.float32)) for values in (weights, biases))
        self.backbone, self._patches = backbone, patches

    def forward(self, images: torch.Tensor) -> SimpleNamespace:
        """Logits (n, classes), float32, of images (n, channels, height, width)."""
        hidden = fidelity.features_of(self.backbone(images))
        return SimpleNamespace(logits=functional.linear(pooled(hidden.float(), self._patches), *self._head))


def drawn(count: int, total: int, seed: int) -> np.ndarray:
    """Which of ``total`` images heads learn from: ``count`` of them, drawn by ``seed``, in ascending order."""
    return np.sort(np.random.default_rng(seed).permutation(total)[:count])


def evaluate(project: Project, params: Params, model: str, machine: Environment, tell: Callable[[str], None]) -> Probe:
    """Every precision of the study, and those of ``evaluation.probe``; a rerun goes on where it was ended.

    What is there of other precisions, under today's settings, stays.

    Raises:
        StudyError: no such row or data set, the model has seeded weights, or its outputs are not finite.
    """
    source = model_source.open_trained(project, params, model, "probe")
    torch_flags.begin(machine.device)
    choice = params.evaluation.probe
    known("evaluation.probe.own_head", choice.own_head, params.precisions)
    training, test = fashion.load(project)
    test = LabelledImages(test.images[: choice.test_images], test.labels[: choice.test_images])
    settings = settings_at(params, (f"models.{model}", *DECIDED_BY))
    assert source.manifest is not None
    identity = [TASK, source.manifest.sha256(), settings]
    names = dict.fromkeys((*params.study.precisions, *choice.also, *choice.own_head))
    rows = {name: params.precisions[name] for name in names}

    def key_of(row: Precision, own_head: bool) -> str:
        how = [machine.key(row.libraries), row.model_dump(mode="json"), measuring_sha256(row), own_head]
        return sha256_of([*identity, *how])

    keys = {name: key_of(row, name in choice.own_head) for name, row in rows.items()}
    path = project.local / "probes" / f"{model}.json"
    before = outcomes.read_probe(path).precisions if path.is_file() else {}
    done = {
        name: one
        for name, one in before.items()
        if name in params.precisions and one.key == keys.get(name, key_of(params.precisions[name], bool(one.own_head)))
    }
    unsupported = {name: convert.backend_of(row.engine).unsupported(machine.device) for name, row in rows.items()}
    missing = {name: why for name, why in unsupported.items() if why}
    todo = [name for name in rows if name not in {*done, *missing}]
    unfinished = path.with_name(f"{model}.npz")

    def written() -> Probe:
        probe = Probe(
            model=model,
            task=TASK,
            weights=source.origin,
            environment=machine,
            settings=settings,
            labels=tuple(test.labels.tolist()),
            precisions={name: done[name] for name in {**rows, **done} if name in done},
            missing=missing,
        )
        outcomes.write_probe(project, probe)
        return probe

    if todo:
        course = _Course(source, Pictures(source, choice.pixels), machine.device)
        learned = drawn(choice.training_images, len(training.labels), choice.seed)
        tell(f"{model}: heads learn from {len(learned)} images")
        images, labels = training.images[learned], training.labels[learned]
        reference = reference_features.kept(
            unfinished,
            key_of(FP32, False),
            lambda: ReferenceFeatures(course.run(FP32, images).features, course.run(FP32, test.images)),
        )
        heads, exact = fit(reference.learned, labels, choice.neighbours), reference.test
        for name in todo:
            row = rows[name]
            try:
                found = exact if row == FP32 else course.run(row, test.images)
                own = linear_head(course.run(row, images).features, labels) if name in choice.own_head else None
            except StudyError as error:
                missing[name] = str(error)
            else:
                done[name] = _answers(row, keys[name], found, exact, heads, own)
                right = int(np.sum(np.equal(done[name].classes, test.labels)))
                tell(f"{name}: {right} of {len(test.labels)} right, {found.seconds:.0f} s")
            written()
    unfinished.unlink(missing_ok=True)
    return written()


class _Course:
    """A model that gives features in one precision after the other."""

    def __init__(self, source: ModelSource, pictures: Pictures, device: str) -> None:
        self._source, self._pictures, self._device = source, pictures, device

    def run(self, row: Precision, images: np.ndarray) -> Found:
        source, device, (height, width) = self._source, self._device, self._pictures.size
        base = source.build()
        patches = patch_count(base, height, width)
        shape = source.shape[0], height, width
        graph_engine.show_crop(base, row, replace(source.preprocessing, shape=shape))
        net, proof = convert.proved(base, row, device, shape)
        stored, _ = convert.backend_of(row.engine).bytes_of(net)
        parts = (self._pictures.batch(images[at : at + BATCH]) for at in range(0, len(images), BATCH))
        begun_s, asked = time.monotonic(), f"probe of {source.name} in {row.method}"
        try:
            found = features(net, parts, patches, convert.dtype_of(row, device), device)
        except ValueError as error:
            why = f"it takes no images of {height} x {width} pixels ({str(error).splitlines()[0]})"
            raise StudyError(asked, why, "set evaluation.probe.pixels to null") from None
        if not np.isfinite(found).all():
            raise StudyError(asked, "features that are not finite", "leave it out")
        assert proof is not None
        return Found(found, proof.quantized_modules, stored, round(time.monotonic() - begun_s, 1))


def patch_count(net: Any, height: int, width: int) -> int:
    """How many patches an image has; of a network of maps it does not matter."""
    size = getattr(net.config, "patch_size", 1)
    high, wide = height_width(size if isinstance(size, int) else tuple(size))
    return (height // high) * (width // wide)


def _answers(row: Precision, key: str, found: Found, exact: Found, heads: Heads, own: Any) -> ProbePredictions:
    shares = heads.linear(found.features)
    norms = np.linalg.norm(found.features, axis=1) * np.linalg.norm(exact.features, axis=1)
    cosines = np.sum(found.features * exact.features, axis=1) / norms
    return ProbePredictions(
        precision=row,
        quantized_modules=found.quantized_modules,
        classes=tuple(shares.argmax(1).tolist()),
        confidence=tuple(round(float(share), 4) for share in shares.max(1)),
        key=key,
        neighbours=tuple(heads.neighbours(found.features).tolist()),
        cosine=round(float(cosines.mean()), 6),
        least_cosine=round(float(cosines.min()), 6),
        stored_weights=found.stored_weights,
        seconds=found.seconds,
        own_head=() if own is None else tuple(own.predict(found.features).tolist()),
    )
