"""Features under heads that were fitted on FP32's: on pictures in the data set's own format, from disk and by HTTP."""

import ctypes
import gzip
import json
import platform
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import clothes
import numpy as np
import psutil
import pytest
import tiny
import torch

from visionquant.accuracy import fashion, freed_memory, model_source, probe
from visionquant.accuracy.probe import Pictures
from visionquant.analysis.study import gather
from visionquant.bench.backends import convert, hqq
from visionquant.core import machine
from visionquant.core.errors import StudyError
from visionquant.core.paths import Project
from visionquant.recipes import calibration, clipping
from visionquant.records import outcomes
from visionquant.report.columns import recipe_tables
from visionquant.report.pages import keeping_page
from visionquant.settings import params as parameters
from visionquant.settings.params import Params
from visionquant.weights.checkpoint import download


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a small data set in its format, known by its hashes; where Debian puts it there is nothing."""
    folder = tmp_path / "published"
    clothes.publish(folder, monkeypatch)
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


def test_a_run_of_other_precisions_keeps_what_is_there(tmp_path: Path, published: Path) -> None:
    project, params = opened(tmp_path, published, also=["nf4"])
    first, raw = run(project, params), params.model_dump(mode="json")
    raw["evaluation"]["probe"]["also"] = ["fp16"]
    raw["precisions"]["nf4"]["blocksize"] = 128
    again = run(project, parameters.parse(raw))
    assert list(again.precisions) == ["fp32", "int8", "fp16"]  # what is of other settings is stale
    raw["study"]["precisions"], raw["evaluation"]["probe"]["also"] = ["fp32"], []
    assert run(project, parameters.parse(raw)) == again
    assert again.precisions["int8"] == first.precisions["int8"]


def test_a_run_that_was_ended_goes_on_with_the_same_heads(
    tmp_path: Path, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, params = opened(tmp_path, published)
    asked, real = list[str](), probe._Course.run

    def ended(course: Any, row: Any, images: Any) -> Any:
        asked.append(row.method)
        if row.method == "bitsandbytes_int8" and asked.count(row.method) == 1:
            raise KeyboardInterrupt
        return real(course, row, images)

    monkeypatch.setattr(probe._Course, "run", ended)
    with pytest.raises(KeyboardInterrupt):
        run(project, params)
    (features,) = (project.local / "probes").glob("*.npz")
    found = run(project, params)
    assert asked == ["float", "float", "bitsandbytes_int8", "bitsandbytes_int8"]
    assert not features.exists()
    (project.local / "probes" / "mine.json").unlink()
    features.write_bytes(b"cut off")
    whole = run(project, params)
    assert asked[4:] == ["float", "float", "bitsandbytes_int8"]
    assert all(
        mine.model_copy(update={"seconds": 0.0}) == other.model_copy(update={"seconds": 0.0})
        for mine, other in zip(whole.precisions.values(), found.precisions.values(), strict=True)
    )


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


def test_a_head_of_its_own_is_fitted_on_the_precisions_features(tmp_path: Path, published: Path) -> None:
    """Worked out once more from the converted network; the others have none, and a rerun adds it where it is asked."""
    project, params = opened(tmp_path, published, also=["nf4"])
    before = run(project, params)
    assert {name: one.own_head for name, one in before.precisions.items()} == dict.fromkeys(before.precisions, ())
    raw, told = params.model_dump(mode="json"), list[str]()
    raw["evaluation"]["probe"]["own_head"] = ["nf4"]
    found = run(project, parameters.parse(raw), told=told)
    assert [line.partition(":")[0] for line in told] == ["mine", "nf4"]
    assert found.precisions["int8"] == before.precisions["int8"]
    source = model_source.open_model(project, params, "mine")
    net = convert.convert(source.build(), params.precisions["nf4"], "cpu")
    training, test = fashion.load(project)
    learned, pictures = probe.drawn(100, 300, 0), Pictures(source, 32)

    def features(images: np.ndarray) -> np.ndarray:
        batches = [pictures.batch(images[at : at + probe.BATCH]) for at in range(0, len(images), probe.BATCH)]
        return probe.features(net, batches, probe.patch_count(net, 32, 32), torch.bfloat16, "cpu")

    head = probe.linear_head(features(training.images[learned]), training.labels[learned])
    assert head.predict(features(test.images[:40])).tolist() == list(found.precisions["nf4"].own_head)
    raw["evaluation"]["probe"]["own_head"] = ["nf5"]
    with pytest.raises(StudyError, match=r"evaluation.probe.own_head: no row named nf5; did you mean nf4"):
        run(project, parameters.parse(raw))


def test_a_probe_from_before_heads_of_their_own_is_read(tmp_path: Path, published: Path) -> None:
    project, params = opened(tmp_path, published)
    found, path = run(project, params), project.local / "probes" / "mine.json"
    raw = json.loads(path.read_bytes())
    for one in raw["precisions"].values():
        assert one.pop("own_head") == []
    path.write_text(json.dumps(raw))
    assert outcomes.read_probe(path) == found


def test_an_engine_that_is_not_here_is_missing_with_its_reason(
    tmp_path: Path, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hqq, "find_spec", lambda _: None)
    project, params = opened(tmp_path, published, also=["hqq3"])
    found, told = run(project, params), list[str]()
    assert found.missing == {"hqq3": hqq.INSTALL}
    assert list(found.precisions) == ["fp32", "int8"]
    assert run(project, params, told=told) == found
    assert told == []  # nothing is worked out for what can't be had


def test_the_calibration_of_trained_weights_asks_the_probes_head(
    tmp_path: Path, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("MODEL", "mine"), ("SIZES", (1, 4)), ("DRAWS", 1), ("TEST_IMAGES", 40)):
        monkeypatch.setattr(clipping, name, value)
    project, params = opened(tmp_path, published)
    found = clipping.run(project, params, machine.probe("cpu"))
    base, probed = found.rows[0], run(project, params)
    assert (base["statistic"], base["n"]) == ("fp32", 40)
    assert base["right"] == int(np.equal(probed.precisions["fp32"].classes, probed.labels).sum())
    ways = [row["statistic"] for row in found.rows]
    assert [ways.count(name) for name in ("min-max", "percentile", "mse", calibration.SMOOTH)] == [2, 2, 2, 1]
    assert not any(row["added"] for row in found.rows)
    assert all(row["quantised_layers"] >= 12 for row in found.rows[1:])
    assert all(row["sqnr_db"] > 15 for row in found.rows[1:] if row["images"] == 4)
    outcomes.write_recipe(project, found, params)
    (table,) = recipe_tables(gather(project, params), keeping_page.CLIPPING)
    assert len(table.rows) == len(found.rows)
    monkeypatch.setattr(clipping, "MODEL", "tiny-vit")
    with pytest.raises(StudyError, match=r"^calibration of tiny-vit: its weights are seeded; calibrate trained ones"):
        clipping.run(project, params, machine.probe("cpu"))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_pages_between_kept_blocks_go_back() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    blocks = [libc.malloc(100_000) for _ in range(2000)]
    for block in blocks:
        ctypes.memset(block, 1, 100_000)
    for block in blocks[:-1]:
        libc.free(block)
    before = psutil.Process().memory_info().rss
    freed_memory.give_back()
    assert before - psutil.Process().memory_info().rss > 100e6
    libc.free(blocks[-1])
