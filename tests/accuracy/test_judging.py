"""Labelled images of the reader's own: found, named through a checkpoint's head, and refused in one line."""

import shutil
from pathlib import Path
from typing import Any

import loopback_hub
import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from visionquant.accuracy import evaluation, image_folder
from visionquant.accuracy.model_source import ModelSource
from visionquant.core import machine
from visionquant.core.errors import StudyError
from visionquant.core.paths import Project
from visionquant.records import outcomes
from visionquant.settings.params import Params
from visionquant.weights.checkpoint import download

CLASSES = ("blue", "green", "red")
REVISION = "a" * 40


def paint(root: Path, each: int = 4) -> None:
    """Noisy squares of one colour, a folder a class."""
    noise = np.random.default_rng(0)
    for channel, name in enumerate(reversed(CLASSES)):
        (root / name).mkdir(parents=True)
        for i in range(each):
            pixels = noise.integers(0, 90, (40, 48, 3), dtype=np.uint8)
            pixels[..., channel] += 160
            Image.fromarray(pixels).save(root / name / f"{i}.png")


def opened(root: Path, head: bool = True, given: Any = "photographs") -> tuple[Project, Params]:
    raw = tiny.settings(("mine", "tiny-vit"), ("fp32", "int8"))
    raw["study"]["weights"] = "auto"
    raw["models"]["mine"] = {"path": "mine", "input_size": 32, "group": "tiny"}
    raw["models"]["tiny-vit"] = {"repo_id": "tiny/tiny-vit", "revision": "0" * 40, "input_size": 32, "group": "tiny"}
    raw["evaluation"] |= {"images": given, "most_images": 12, "neighbours": 3}
    root.mkdir(exist_ok=True)
    project, params = tiny.project(root, raw)
    if not (root / "photographs").exists():
        paint(root / "photographs")
    tiny.checkpoint(root / "mine", head)
    seeded = params.model_copy(update={"study": params.study.model_copy(update={"weights": "seeded"})})
    download(project, params, "mine")
    download(project, seeded, "tiny-vit")
    return project, params


def run(project: Project, params: Params) -> outcomes.Labelled:
    return evaluation.evaluate_labelled(project, params, machine.probe("cpu"), lambda line: None)


def test_a_checkpoint_with_a_head_names_the_images_as_the_whole_classifier_does(tmp_path: Path) -> None:
    from transformers import ViTForImageClassification

    project, params = opened(tmp_path)
    found = run(project, params)
    assert found.missing == {"tiny-vit": "seeded weights name nothing"}
    (mine,) = found.judged
    assert mine.classes == CLASSES
    assert mine.targets == (3, 2, 1)  # "red" is one of the names of "red, crimson"
    assert mine.labels == (0,) * 4 + (1,) * 4 + (2,) * 4
    whole = ViTForImageClassification.from_pretrained(tmp_path / "mine").eval()
    given = image_folder.find_images(project, params.evaluation)
    from visionquant.bench import loading

    prepared = loading.preprocessing(project, "mine", params.models["mine"], tmp_path / "mine")
    pixels = [prepared.prepare(Image.open(given.root / path)) for path in given.paths]
    with torch.inference_mode():
        logits = whole(torch.from_numpy(np.stack(pixels))).logits
    assert [five[0] for five in mine.precisions["fp32"].top5] == logits.argmax(1).tolist()
    assert mine.precisions["fp32"].cka == pytest.approx(1.0)
    assert 0.9 < mine.precisions["int8"].cka < 1.0
    assert mine.precisions["int8"].quantized_modules == 12
    assert mine.precisions["fp32"].neighbours == mine.labels  # colours are told apart by any network
    assert outcomes.read_labelled(project.local) == found


def test_a_model_without_a_head_is_judged_by_its_features_alone(tmp_path: Path) -> None:
    project, params = opened(tmp_path, head=False)
    (mine,) = run(project, params).judged
    assert mine.targets is None
    assert mine.precisions["fp32"].top5 == ()
    assert len(mine.precisions["fp32"].neighbours) == 12


def test_a_rerun_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    project, params = opened(tmp_path)
    first = run(project, params)
    told: list[str] = []
    assert evaluation.evaluate_labelled(project, params, machine.probe("cpu"), told.append) == first
    assert told == []
    Image.new("RGB", (64, 64)).save(tmp_path / "photographs" / "red" / "0.png")
    evaluation.evaluate_labelled(project, params, machine.probe("cpu"), told.append)
    assumed = "mine has no preprocessor_config.json: pixels are resized, with mean and deviation of one half"
    assert told == ["mine: 12 images, 2 precisions", assumed]
    copied = tmp_path / "photographs" / "red"
    shutil.copy(copied / "1.png", copied / "1 (copy).png")
    (copied / ".DS_Store").write_bytes(b"")
    found = evaluation.evaluate_labelled(project, params, machine.probe("cpu"), told.append)
    assert told[2] == "mine: 12 images, 2 precisions; passed over: 1 copies, 1 hidden"
    assert found.judged[0].skipped == {"copies": 1, "hidden": 1}
    assert outcomes.read_labelled(project.local) == found


def test_an_interrupted_rerun_leaves_each_model_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project, params = opened(tmp_path)
    study = params.study.model_copy(update={"models": ("mine", "other")})
    params = params.model_copy(update={"study": study, "models": params.models | {"other": params.models["mine"]}})
    download(project, params, "other")
    first = run(project, params)
    assert [result.model for result in first.judged] == ["mine", "other"]
    evaluated = evaluation._evaluated

    def interrupted(source: ModelSource, *given: Any) -> outcomes.LabelledResult:
        if source.name == "other":
            raise KeyboardInterrupt
        return evaluated(source, *given)

    monkeypatch.setattr(evaluation, "_evaluated", interrupted)
    neighbours = params.evaluation.model_copy(update={"neighbours": 1})
    with pytest.raises(KeyboardInterrupt):
        run(project, params.model_copy(update={"evaluation": neighbours}))
    left = outcomes.read_labelled(project.local)
    assert left is not None
    assert [result.model for result in left.judged] == ["mine"]
    assert left.judged[0].key != first.judged[0].key


def test_images_are_fetched_from_a_hub_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paint(tmp_path / "source")
    files = {f"validation/{p.relative_to(tmp_path / 'source')}": p.read_bytes() for p in tmp_path.rglob("*.png")}
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with loopback_hub.serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.repositories["tiny/colours", REVISION] = {**files, "README.md": b"colours"}
        asked = {"repo_id": "tiny/colours", "revision": REVISION, "folder": "validation"}
        project, params = opened(tmp_path / "study", given=asked)
        (mine,) = run(project, params).judged
        assert mine.images[0] == "blue/0.png"
        assert hub.sent("README.md") == []
        shutil.rmtree(tmp_path / "cache")
        hub.altered = {"validation/red/0.png"}
        with pytest.raises(StudyError, match=r"tiny/colours@aaaaaaaaaaaa: 0\.png has another hash"):
            image_folder.find_images(project, params.evaluation)
        hub.repositories.clear()
        with pytest.raises(StudyError, match="no such repository"):
            image_folder.find_images(project, params.evaluation)


def test_without_images_nothing_is_judged_and_the_file_says_so(tmp_path: Path) -> None:
    project, params = opened(tmp_path, given=None)
    outcomes.write_off(project, params.study.models)
    found = outcomes.read_labelled(project.local)
    assert found is not None
    assert found.judged == ()
    assert found.missing == dict.fromkeys(params.study.models, "evaluation.images is null in params.yaml")


def test_what_can_not_be_judged_is_one_line(tmp_path: Path) -> None:
    project, params = opened(tmp_path)
    with pytest.raises(StudyError, match="no folder"):
        image_folder.read_folder(tmp_path / "nowhere", 5)
    (tmp_path / "empty" / "red").mkdir(parents=True)
    with pytest.raises(StudyError, match="no class folder with images"):
        image_folder.read_folder(tmp_path / "empty", 5)
    paint(tmp_path / "one", each=1)
    shutil.rmtree(tmp_path / "one" / "red")
    shutil.rmtree(tmp_path / "one" / "blue")
    with pytest.raises(StudyError, match="a single image"):
        image_folder.read_folder(tmp_path / "one", 5)
    with pytest.raises(StudyError, match="2 images of 3 classes"):
        image_folder.read_folder(tmp_path / "photographs", 2)
    (tmp_path / "photographs" / "red" / "1.png").write_bytes(b"no image")
    with pytest.raises(StudyError, match=r"red/1\.png: not one of JPEG, PNG, WEBP, BMP; remove"):
        run(project, params)
    (tmp_path / "photographs" / "red").rename(tmp_path / "photographs" / "purple")
    with pytest.raises(StudyError, match=r"mine has no label \(it has 5.* for 'purple'"):
        run(project, params)


def test_a_class_that_may_mean_two_labels_is_not_guessed() -> None:
    labels = {0: "crane", 1: "crane", 2: "maillot", 3: "maillot, tank suit", 4: "Tank_Suit"}
    assert evaluation._fitting("crane", labels) == [0, 1]
    assert evaluation._fitting("maillot", labels) == [2]
    assert evaluation._fitting("tank suit", labels) == [3]
    assert evaluation._fitting("1", labels) == [1]
    assert evaluation._fitting("9", labels) == []


def test_the_images_are_spread_evenly_over_the_classes(tmp_path: Path) -> None:
    paint(tmp_path / "photographs")
    found = image_folder.read_folder(tmp_path / "photographs", 7)
    assert [found.labels.count(number) for number in range(3)] == [3, 2, 2]


def test_votes_and_alignment_are_those_of_independent_computations() -> None:
    from sklearn.neighbors import KNeighborsClassifier

    generator = np.random.default_rng(3)
    features, labels = generator.normal(size=(40, 6)), tuple(int(one) for one in generator.integers(0, 3, 40))
    expected = []
    for i in range(40):
        rest = [j for j in range(40) if j != i]
        near = KNeighborsClassifier(1, metric="cosine").fit(features[rest], np.asarray(labels)[rest])
        expected.append(int(near.predict(features[i : i + 1])[0]))
    assert list(evaluation.vote(features, labels, 1)) == expected
    turned, _ = np.linalg.qr(generator.normal(size=(6, 6)))
    assert evaluation.cka(features, 3 * features @ turned + 1) == pytest.approx(1.0)
    x, y = features - features.mean(0), generator.normal(size=(40, 4))
    centre = np.eye(40) - 1 / 40
    k, kernel = centre @ x @ x.T @ centre, centre @ y @ y.T @ centre
    assert evaluation.cka(x, y) == pytest.approx((k * kernel).sum() / np.linalg.norm(k) / np.linalg.norm(kernel))
