"""Features under heads that were fitted on FP32's: on pictures in the data set's own format, from disk and by HTTP."""

import gzip
import threading
from collections.abc import Iterator
from functools import partial
from hashlib import sha256
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from visionquant.accuracy import fashion, model_source, probe
from visionquant.accuracy.probe import Pictures
from visionquant.core import machine
from visionquant.core.errors import StudyError
from visionquant.core.paths import Project
from visionquant.records import outcomes
from visionquant.settings import params as parameters
from visionquant.settings.params import Params
from visionquant.weights.checkpoint import download


def idx(folder: Path, part: str, count: int, seed: int) -> None:
    """Bright squares whose place tells the class, in the format of MNIST."""
    noise = np.random.default_rng(seed)
    labels = noise.permutation(count).astype(np.uint8) % 10
    images = noise.integers(0, 60, (count, 28, 28), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        y, x = divmod(int(label), 4)
        image[8 * y : 8 * y + 8, 7 * x : 7 * x + 7] += 190
    for kind, values, dimensions in (("images-idx3", images, 3), ("labels-idx1", labels, 1)):
        sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
        content = bytes([0, 0, 8, dimensions]) + sizes + values.tobytes()
        (folder / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(content))


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a small data set in its format, known by its hashes; where Debian puts it there is nothing."""
    folder = tmp_path / "published"
    folder.mkdir()
    idx(folder, "train", 300, 0)
    idx(folder, "t10k", 60, 1)
    hashes = {path.stem: sha256(gzip.decompress(path.read_bytes())).hexdigest() for path in folder.iterdir()}
    assert hashes.keys() == fashion.SHA256.keys()
    monkeypatch.setattr(fashion, "SHA256", hashes)
    monkeypatch.setattr(fashion, "DEBIAN", tmp_path / "debian")
    monkeypatch.setattr(fashion, "PUBLISHED", "http://127.0.0.1:9")  # nobody listens
    return folder


@pytest.fixture
def server(published: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serves what was published."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Tells nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(published))) as listening:
        thread = threading.Thread(target=listening.serve_forever, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listening.server_address[1]}"
        monkeypatch.setattr(fashion, "PUBLISHED", url)
        yield url
        listening.shutdown()
        thread.join()


def opened(root: Path, published: Path | None = None, **changed: Any) -> tuple[Project, Params]:
    raw = tiny.settings(("mine", "tiny-vit"), ("fp32", "int8"))
    raw["study"]["weights"] = "auto"
    raw["models"]["mine"] = {"path": "mine", "input_size": 32, "group": "tiny"}
    raw["evaluation"]["probe"] |= changed
    project, params = tiny.project(root, raw)
    if published:
        (project.local / "datasets").mkdir(parents=True)
        published.rename(project.local / "datasets" / "fashion-mnist")
    tiny.checkpoint(root / "mine", False)
    seeded = params.model_copy(update={"study": params.study.model_copy(update={"weights": "seeded"})})
    download(project, params, "mine")
    download(project, seeded, "tiny-vit")
    return project, params


def run(project: Project, params: Params, model: str = "mine", told: list[str] | None = None) -> outcomes.Probe:
    tell = (lambda line: None) if told is None else told.append
    return probe.evaluate(project, params, model, machine.probe("cpu"), tell)


def test_every_precision_is_asked_about_the_same_images_through_the_same_heads(tmp_path: Path, published: Path) -> None:
    project, params = opened(tmp_path, published, also=["nf4"])
    found = run(project, params)
    assert (found.model, found.task, len(found.labels)) == ("mine", "fashion-mnist", 40)
    assert list(found.precisions) == ["fp32", "int8", "nf4"]
    fp32, int8, nf4 = found.precisions.values()
    assert (fp32.cosine, fp32.least_cosine, fp32.quantized_modules) == (1.0, 1.0, 0)
    assert 0.9 < nf4.cosine < int8.cosine < 1.0
    assert int8.least_cosine < int8.cosine
    assert int8.quantized_modules == 12
    assert nf4.stored_weights < int8.stored_weights < fp32.stored_weights
    right = np.equal(fp32.classes, found.labels).mean()
    assert right > 0.25  # of ten classes: even a network that learned nothing tells places apart
    assert found.missing == {}
    assert outcomes.read_probe(project.local / "probes" / "mine.json") == found


def test_heads_are_those_of_the_library_on_fp32s_features(tmp_path: Path, published: Path) -> None:
    """Worked out once more from a pass over every image alone."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    project, params = opened(tmp_path, published)
    found = run(project, params).precisions["fp32"]
    source = model_source.open_model(project, params, "mine")
    net, pictures = source.build(), Pictures(source, 32)
    training, test = fashion.load(project)
    learned = probe.drawn(100, 300, 0)

    def features(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            each = [net(pictures.batch(image[None])).last_hidden_state[0] for image in images]
        return np.stack([torch.cat([one[0], one[1:].mean(0)]).numpy() for one in each])

    known, asked = features(training.images[learned]), features(test.images[:40])
    scaler = StandardScaler().fit(known)
    head = LogisticRegression(max_iter=1000).fit(scaler.transform(known), training.labels[learned])
    assert head.predict(scaler.transform(asked)).tolist() == list(found.classes)


def test_a_rerun_goes_on_with_what_is_missing_and_a_changed_row(tmp_path: Path, published: Path) -> None:
    project, params = opened(tmp_path, published)
    first, told = run(project, params), list[str]()
    assert run(project, params, told=told) == first
    assert told == []
    raw = params.model_dump(mode="json")
    raw["precisions"]["int8"]["threshold"] = 0.0
    changed = parameters.parse(raw)
    again = run(project, changed, told=told)
    assert [line.partition(":")[0] for line in told] == ["mine", "int8"]
    assert again.precisions["fp32"] == first.precisions["fp32"]
    assert again.precisions["int8"].key != first.precisions["int8"].key


def test_tokens_and_maps_are_pooled_as_the_family_asks() -> None:
    tokens = torch.arange(24.0).reshape(1, 6, 4)
    assert probe.pooled(tokens, 6).tolist() == tokens.mean(1).tolist()  # no class token
    for before in (1, 2):  # a class token, and the one of a distilled network beside it
        found = probe.pooled(tokens, 6 - before)
        assert found.tolist() == torch.cat([tokens[:, 0], tokens[:, before:].mean(1)], 1).tolist()
    assert probe.pooled(tokens.reshape(1, 4, 2, 3), 99).shape == (1, 4)


@pytest.mark.parametrize("name", ["tiny-deit", "tiny-beit", "tiny-dinov2", "tiny-mobilevit"])
def test_every_family_gives_features(tmp_path: Path, name: str) -> None:
    raw = tiny.settings((name,), ("fp32",))
    project, params = tiny.project(tmp_path, raw)
    download(project, params, name)
    source = model_source.open_model(project, params, name)
    net, side = source.build(), tiny.CONFIGS[name]["image_size"]
    batch = Pictures(source, side).batch(np.zeros((2, 28, 28), np.uint8))
    found = probe.features(net, [batch], probe.patch_count(net, side, side), torch.float32, "cpu")
    width = 64 if name == "tiny-mobilevit" else 128
    assert found.shape == (2, width)


def test_what_recognises_nothing_and_sizes_that_are_refused_are_one_line(tmp_path: Path, published: Path) -> None:
    project, params = opened(tmp_path, published, pixels=64)
    with pytest.raises(StudyError, match=r"^probe of tiny-vit: seeded weights recognise nothing; take a model with"):
        run(project, params, "tiny-vit")
    with pytest.raises(StudyError, match=r"it takes no images of 64 x 64 pixels .*; set evaluation.probe.pixels to nu"):
        run(project, params)
    assert not (project.local / "probes").exists()


def test_the_data_set_is_fetched_once_and_checked(tmp_path: Path, server: str, published: Path) -> None:
    project, _ = opened(tmp_path)
    training, test = fashion.load(project)
    assert (training.images.shape, test.images.shape) == ((300, 28, 28), (60, 28, 28))
    assert np.bincount(test.labels).tolist() == [6] * 10
    for path in published.iterdir():
        path.unlink()
    assert np.array_equal(fashion.load(project)[1].images, test.images)  # from this machine's folder


def test_another_file_and_none_at_all_are_one_line(tmp_path: Path, server: str, published: Path) -> None:
    project, _ = opened(tmp_path)
    name = "train-images-idx3-ubyte"
    (published / f"{name}.gz").write_bytes(gzip.compress(b"something else"))
    with pytest.raises(StudyError, match=rf"^Fashion-MNIST: {name}: {server}/{name}.gz has another sha256 than"):
        fashion.load(project)
    (published / f"{name}.gz").unlink()
    with pytest.raises(
        StudyError, match=r"could not be had \(HTTP Error 404.*; install Debian's dataset-fashion-mnist,"
    ):
        fashion.load(project)
    assert not (project.local / "datasets").exists()
