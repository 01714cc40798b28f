"""Small networks learn real images, are kept, and name what they have not seen, in every precision."""

import gzip
from pathlib import Path

import clothes
import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from visionquant.accuracy import evaluation, fashion, model_source, training
from visionquant.core import machine
from visionquant.core.errors import StudyError
from visionquant.core.paths import Project
from visionquant.records import archive, outcomes
from visionquant.settings.params import Params

NAME = "tiny-digits"


def opened(root: Path, precisions: tuple[str, ...] = ("fp32", "nf4")) -> tuple[Project, Params]:
    raw = tiny.settings(("tiny-vit",), precisions)
    raw["training"]["networks"][NAME]["epochs"] = 4
    raw["training"]["networks"][NAME]["learning_rate"] = 0.01
    return tiny.project(root, raw)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Params, training.Trained]:
    project, params = opened(tmp_path_factory.mktemp("trained"), ("fp32", "bf16", "int8", "nf4", "mixed-sensitive"))
    spec = params.training.networks[NAME]
    done = training.train(spec, params.training, training.load_digits(spec.image_size), 0)
    training.save_trained(project, NAME, 0, done.net)
    return project, params, done


def test_the_images_are_the_ones_that_ship_scaled_up() -> None:
    data = training.load_digits(32)
    assert data.images.shape == (1797, 3, 32, 32)
    assert data.labels.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert abs(float(data.images.mean())) < 0.05
    assert torch.equal(data.images[:, 0], data.images[:, 2])


def test_every_image_is_held_out_once_and_classes_stay_mixed() -> None:
    labels = training.load_digits(16).labels
    split = training.folds(labels, 5, seed=0)
    assert torch.equal(torch.cat([held for _, held in split]).sort().values, torch.arange(1797))
    for learn, held in split:
        assert not set(learn.tolist()) & set(held.tolist())
        assert labels[held].bincount().min() >= 30


def test_a_shifted_image_is_the_image_moved_by_at_most_a_source_pixel() -> None:
    images = training.load_digits(16).images[:20]
    moved = training.shifted(images, torch.Generator().manual_seed(1))
    assert moved.shape == images.shape
    inner = (slice(None), slice(2, -2), slice(2, -2))
    for one, other in zip(images, moved, strict=True):
        shifts = [(dy, dx) for dy in range(-2, 3) for dx in range(-2, 3)]
        assert any(torch.equal(torch.roll(one, s, (1, 2))[inner], other[inner]) for s in shifts)


def test_training_learns_and_is_the_same_twice(trained: tuple[Project, Params, training.Trained]) -> None:
    _, params, done = trained
    assert done.held_out == 899
    assert done.correct > 3 * 0.1 * done.held_out  # chance is a tenth
    spec = params.training.networks[NAME]
    again = training.train(spec, params.training, training.load_digits(spec.image_size), 0)
    assert all(torch.equal(a, b) for a, b in zip(done.net.parameters(), again.net.parameters(), strict=True))


def test_every_precision_names_the_held_out_images(trained: tuple[Project, Params, training.Trained]) -> None:
    project, params, done = trained
    found = evaluation.evaluate_trained(project, params, NAME, (0,), machine.probe("cpu"))
    assert set(found.precisions) == {"fp32", "bf16", "int8", "nf4", "mixed-sensitive"}
    right = {
        name: sum(a == b for a, b in zip(one.classes, found.labels, strict=True))
        for name, one in found.precisions.items()
    }
    assert right["fp32"] == done.correct
    assert min(right.values()) > 0.8 * done.correct
    assert found.precisions["nf4"].quantized_modules > 0
    assert found.precisions["fp32"].quantized_modules == 0
    path = outcomes.write_scores(project, found)
    assert outcomes.read_scores(path) == found
    assert archive.local(project, params).accuracy == {NAME: found}


def test_scores_may_be_kept_compressed(trained: tuple[Project, Params, training.Trained], tmp_path: Path) -> None:
    project, params, _ = trained
    found = evaluation.evaluate_trained(project, params, NAME, (0,), machine.probe("cpu"))
    path = tmp_path / f"{NAME}.json.gz"
    path.write_bytes(gzip.compress(outcomes.write_scores(project, found).read_bytes()))
    assert outcomes.read_scores(path) == found
    for broken in (path.read_bytes()[:-20], b"no gzip"):
        path.write_bytes(broken)
        with pytest.raises(StudyError, match="broken: not gzip"):
            outcomes.read_scores(path)


@pytest.mark.parametrize("family", ["vit", "beit", "mobilevit"])
def test_each_family_is_built_alive(family: str) -> None:
    spec = tiny.settings()["training"]["networks"][NAME]
    from visionquant.settings.sections import NetworkSpec

    size = 64 if family == "mobilevit" else 16
    net = training.build_network(
        NetworkSpec.model_validate(spec | {"family": family, "image_size": size}), seed=0
    ).eval()
    with torch.inference_mode():
        logits = net(training.load_digits(size).images[:8]).logits
    assert logits.shape == (8, 10)
    assert logits.std(0).min() > 1e-4


def test_what_is_not_there_or_of_another_shape_is_one_line(tmp_path: Path) -> None:
    project, params = opened(tmp_path)
    with pytest.raises(StudyError, match=r"not trained yet; run `visionquant train --network tiny-digits`"):
        evaluation.evaluate_trained(project, params, NAME, (0,), machine.probe("cpu"))
    project.weights(NAME, 0).parent.mkdir(parents=True)
    project.weights(NAME, 0).write_bytes(b"no weights")
    with pytest.raises(StudyError, match="holds another network; train it again"):
        evaluation.evaluate_trained(project, params, NAME, (0,), machine.probe("cpu"))
    with pytest.raises(StudyError, match="run `visionquant evaluate`"):
        outcomes.read_scores(tmp_path / "none.json")


def test_a_network_that_diverges_says_so(tmp_path: Path) -> None:
    _, params = opened(tmp_path)
    spec = params.training.networks[NAME].model_copy(update={"learning_rate": 1e30})
    with pytest.raises(StudyError, match="lower learning_rate"):
        training.train(spec, params.training, training.load_digits(16), 0)


def test_clothes_are_learned_from_the_training_images_and_classified_from_the_test_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tiny.settings(("tiny-vit",), ("fp32", "int8"))
    sizes = {"task": "fashion-mnist", "image_size": 28, "patch_size": 7, "hidden_size": 64, "epochs": 40}
    raw["training"]["networks"][NAME] |= sizes | {"learning_rate": 0.005}
    raw["training"]["run"] = [1]
    project, params = tiny.project(tmp_path, raw)
    clothes.publish(project.local / "datasets" / "fashion-mnist", monkeypatch)
    spec = params.training.networks[NAME]
    data = training.load(project, spec)
    assert data.images.shape == (360, 3, 28, 28)
    assert training.folds_of(spec, params.training, True) == training.folds_of(spec, params.training, False) == (0,)
    ((learned, held_out),) = data.splits(params.training)
    assert (learned.tolist(), held_out.tolist()) == ([*range(300)], [*range(300, 360)])
    picture = fashion.load(project)[0].images[5]
    expected = training.preprocessing(spec).prepare(Image.fromarray(picture))
    assert np.abs(expected - data.images[5].numpy()).max() < 1e-3
    done = training.train(spec, params.training, data, 0)
    assert done.held_out == 60
    assert done.correct > 30  # chance is six
    training.save_trained(project, NAME, 0, done.net)
    found = evaluation.evaluate_trained(project, params, NAME, (0,), machine.probe("cpu"))
    outcomes.write_scores(project, found)
    assert found.images == tuple(range(300, 360))
    assert sum(map(np.equal, found.precisions["fp32"].classes, found.labels)) == done.correct
    assert archive.local(project, params).accuracy == {NAME: found}
    assert (
        model_source.open_network(project, params, NAME, 0).origin == f"{NAME}, test images of fashion-mnist held out"
    )
