"""Weights from a real HTTP server on loopback that speaks the hub's protocol, and all that can go wrong on the way."""

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from loopback_hub import Hub, serving

from visionquant.accuracy import model_source
from visionquant.bench import loading, sampling
from visionquant.bench.command import Matrix
from visionquant.core import machine
from visionquant.core.errors import StudyError
from visionquant.core.paths import Project
from visionquant.settings.params import Params, parse
from visionquant.weights import hub as hubs
from visionquant.weights import sources as weights
from visionquant.weights.checkpoint import download
from visionquant.weights.sources import Manifest

REPO, REVISION = "tiny/tiny-vit", "1234567890" * 4


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A tiny classifier's files, as its author would push them: safetensors, pickle, and things nobody needs."""
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(7)
    raw = {name: value for name, value in tiny.CONFIGS["tiny-vit"].items() if name != "model_type"}
    net = ViTForImageClassification(ViTConfig(**raw, num_labels=5))
    folder = tmp_path_factory.mktemp("checkpoint")
    net.save_pretrained(folder)
    torch.save(net.state_dict(), folder / "pytorch_model.bin")
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.4] * 3, "image_std": [0.3] * 3}))
    (folder / "README.md").write_text("a model")
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@dataclass
class Place:
    hub: Hub
    project: Project
    raw: dict[str, Any]
    cache: Path

    def params(self, weights: str = "pretrained") -> Params:
        self.raw["study"]["weights"] = weights
        return parse(self.raw)

    def download(self, weights: str = "pretrained") -> Manifest:
        return download(self.project, self.params(weights), "tiny-vit")

    @property
    def snapshot(self) -> Path:
        return self.cache / "models--tiny--tiny-vit" / "snapshots" / REVISION


@pytest.fixture
def place(tmp_path: Path, checkpoint: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    raw = tiny.settings()
    raw["models"]["tiny-vit"] |= {"repo_id": REPO, "revision": REVISION}
    (tmp_path / "project").mkdir()
    project, _ = tiny.project(tmp_path / "project", raw)
    with serving() as hub:
        hub.repositories[REPO, REVISION] = dict(checkpoint)
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.delenv("HF_HUB_OFFLINE")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr(hubs, "_unreachable", set())
        yield Place(hub, project, raw, tmp_path / "cache")


def unplug(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """No connection: a port on which nobody listens."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")


def test_the_manifest_holds_commit_sizes_and_hashes_of_what_is_needed(place: Place) -> None:
    manifest = place.download()
    assert (manifest.weights, manifest.repo_id, manifest.revision) == ("pretrained", REPO, REVISION)
    assert [file.name for file in manifest.files] == ["config.json", "preprocessor_config.json", "model.safetensors"]
    weights = manifest.files[-1]
    content = place.hub.repositories[REPO, REVISION]["model.safetensors"]
    assert (weights.bytes, weights.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert Manifest.load(place.project.manifest("tiny-vit"), place.params().models["tiny-vit"].source) == manifest
    assert place.hub.sent("pytorch_model.bin") == place.hub.sent("README.md") == []


def test_a_manifest_of_another_revision_than_the_rows_is_refused(place: Place) -> None:
    place.download()
    place.raw["models"]["tiny-vit"]["revision"] = "f" * 40
    with pytest.raises(StudyError, match=r"the row names another; run `visionquant download --model tiny-vit`"):
        Manifest.load(place.project.manifest("tiny-vit"), place.params().models["tiny-vit"].source)


def test_the_model_has_the_checkpoints_weights(place: Place) -> None:
    from transformers import ViTForImageClassification

    manifest = place.download()
    net = loading.load(place.project, "tiny-vit", place.params().models["tiny-vit"], manifest, "sdpa", 0)
    own = net.state_dict()
    expected = ViTForImageClassification.from_pretrained(place.snapshot).base_model.state_dict()
    assert expected.keys() == {name for name in own if not name.startswith("pooler.")}
    assert all(torch.equal(own[name], value) for name, value in expected.items())
    seeded = download(place.project, place.params("seeded"), "tiny-vit")
    other = loading.load(place.project, "tiny-vit", place.params().models["tiny-vit"], seeded, "sdpa", 0)
    assert not torch.equal(next(net.parameters()), next(other.parameters()))


def test_a_second_download_fetches_nothing(place: Place) -> None:
    first = place.download()
    place.hub.requests.clear()
    assert place.download() == first
    assert [line for line in place.hub.requests if "/resolve/" in line] == []


def test_a_pickle_is_taken_only_where_there_is_nothing_better(place: Place) -> None:
    del place.hub.repositories[REPO, REVISION]["model.safetensors"]
    manifest = place.download()
    assert manifest.files[-1].name == "pytorch_model.bin"
    net = loading.load(place.project, "tiny-vit", place.params().models["tiny-vit"], manifest, "sdpa", 0)
    assert sum(parameter.numel() for parameter in net.parameters()) > 10_000


def test_a_pickle_that_would_run_code_is_refused(place: Place, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            import os

            return os.system, (f"touch {tmp_path / 'sprung'}",)

    files = place.hub.repositories[REPO, REVISION]
    del files["model.safetensors"]
    files["pytorch_model.bin"] = pickle.dumps(Trap(), protocol=2)
    manifest = place.download()
    with pytest.raises(StudyError, match="its checkpoint does not load"):
        loading.load(place.project, "tiny-vit", place.params().models["tiny-vit"], manifest, "sdpa", 0)
    assert not (tmp_path / "sprung").exists()


def test_a_sharded_checkpoint_is_fetched_whole(place: Place, checkpoint: dict[str, bytes]) -> None:
    from safetensors.torch import load as tensors
    from safetensors.torch import save

    files = place.hub.repositories[REPO, REVISION]
    stored = sorted(tensors(files.pop("model.safetensors")).items())
    halves = {"model-00001-of-00002.safetensors": stored[:9], "model-00002-of-00002.safetensors": stored[9:]}
    files |= {name: save(dict(part), {"format": "pt"}) for name, part in halves.items()}
    places = {key: name for name, part in halves.items() for key, _ in part}
    files["model.safetensors.index.json"] = json.dumps({"metadata": {}, "weight_map": places}).encode()
    manifest = place.download()
    assert {file.name for file in manifest.files} >= {*halves, "model.safetensors.index.json"}
    assert loading.load(place.project, "tiny-vit", place.params().models["tiny-vit"], manifest, "sdpa", 0)
    del files["model-00002-of-00002.safetensors"]
    shutil.rmtree(place.cache)
    with pytest.raises(StudyError, match=r"model-00002-of-00002\.safetensors is missing"):
        place.download()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"status": 503}, "the hub answered 503"),
        ({"gated": True}, "gated; accept its terms"),
        ({"altered": {"model.safetensors"}}, r"model\.safetensors has another hash than the hub announced"),
        ({"altered": {"config.json"}}, r"config\.json has another hash"),
        ({"cut": {"model.safetensors"}}, r"the download of model\.safetensors broke off"),
        ({"lost": {"model.safetensors"}}, r"model\.safetensors is not there"),
        ({"claimed_bytes": {"model.safetensors": 10**15}}, r"1000000000 MB to download, \d+ MB free .*HF_HOME"),
    ],
    ids=["503", "gated", "wrong hash", "wrong hash of a small file", "cut", "missing file", "no disk space"],
)
@pytest.mark.parametrize("weights", ["pretrained", "auto"])
def test_a_fault_is_one_line_and_leaves_no_manifest(
    place: Place, fault: dict[str, Any], message: str, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    for name, value in fault.items():
        setattr(place.hub, name, value)
    with pytest.raises(StudyError, match=message) as caught:
        place.download(weights)
    assert "\n" not in str(caught.value)
    assert REPO in str(caught.value)
    assert not place.project.manifest("tiny-vit").exists()
    for name in fault:
        setattr(place.hub, name, getattr(Hub(), name))
    assert place.download().weights == "pretrained"


def test_a_connection_that_drops_is_taken_up_where_it_broke_off(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 4096)  # whole chunks are kept
    place.hub.cut, place.hub.cuts_left = {"model.safetensors"}, 2
    assert place.download().weights == "pretrained"
    first, *others = place.hub.sent("model.safetensors")
    assert "bytes=" not in first
    assert len(others) == 2
    assert all("bytes=" in line for line in others)


def test_nothing_half_written_is_used_and_finished_files_are_kept(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    place.hub.cut = {"model.safetensors"}
    with pytest.raises(StudyError, match="finished files are kept"):
        place.download()
    assert not (place.snapshot / "model.safetensors").exists()
    place.hub.cut = set()
    place.hub.requests.clear()
    place.download()
    assert place.hub.sent("config.json") == []


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"repo_id": "tiny/absent"}, "no such repository"),
        ({"revision": "0" * 40}, "no such revision"),
    ],
)
def test_a_wrong_row_is_named(place: Place, row: dict[str, str], message: str) -> None:
    place.raw["models"]["tiny-vit"] |= row
    with pytest.raises(StudyError, match=message):
        place.download("auto")


def test_without_a_hub_auto_seeds_and_says_so_and_pretrained_is_an_error(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    unplug(place, monkeypatch)
    manifest = place.download("auto")
    assert (manifest.weights, manifest.reason) == ("seeded", "the hub could not be reached")
    with pytest.raises(StudyError, match="pretrained and the hub could not be reached"):
        place.download("pretrained")
    assert Manifest.load(place.project.manifest("tiny-vit"), place.params().models["tiny-vit"].source) == manifest


def test_without_a_hub_a_whole_cache_will_do_and_a_broken_one_will_not(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = place.download()
    unplug(place, monkeypatch)
    assert place.download("auto") == first
    blob = (place.snapshot / "model.safetensors").resolve()
    blob.write_bytes(blob.read_bytes()[:-100])
    assert place.download("auto").weights == "seeded"


def test_no_hub_and_no_architecture_is_an_error(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    unplug(place, monkeypatch)
    shutil.rmtree(place.project.architectures / "tiny-vit")
    with pytest.raises(StudyError, match=r"no data/architectures/tiny-vit/config\.json"):
        place.download("auto")


def test_seeded_never_asks_the_hub(place: Place) -> None:
    assert place.download("seeded").weights == "seeded"
    assert place.hub.requests == []


@pytest.mark.parametrize("damage", ["cut", "altered", "gone"])
def test_files_are_checked_again_when_they_are_used(place: Place, damage: str) -> None:
    manifest = place.download()
    path = place.snapshot / "model.safetensors"
    blob = path.resolve()
    content = blob.read_bytes()
    if damage == "gone":
        blob.unlink()
    else:
        blob.write_bytes(content[:-64] if damage == "cut" else content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(StudyError, match=r"model\.safetensors: .*visionquant download --model tiny-vit"):
        weights.resolve(place.project, manifest)
    assert place.download() == manifest  # fetched anew
    assert weights.resolve(place.project, manifest) == place.snapshot


def test_a_local_folder_is_a_model_too(place: Place, checkpoint: dict[str, bytes]) -> None:
    folder = place.project.root / "mine"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes(checkpoint[name])
    place.raw["models"]["tiny-vit"] = {"path": "mine", "input_size": 32}
    manifest = place.download("auto")
    assert (manifest.weights, manifest.path) == ("pretrained", "mine")
    assert weights.resolve(place.project, manifest) == folder
    assert loading.load(place.project, "tiny-vit", place.params().models["tiny-vit"], manifest, "sdpa", 0)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(StudyError, match="only a pickle"):
        place.download("auto")
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(StudyError, match=r"no model\.safetensors"):
        place.download("auto")
    shutil.rmtree(folder)
    with pytest.raises(StudyError, match=r"models\.tiny-vit\.path: no folder mine"):
        place.download("auto")


def flipped(path: Path) -> None:
    """Another byte, the same size and time of modification."""
    content, before = path.read_bytes(), path.stat()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "preprocessor_config.json"])
def test_a_changed_byte_in_a_local_folder_is_a_changed_model(
    place: Place, checkpoint: dict[str, bytes], name: str
) -> None:
    """Wherever weights are used; a file that came later is a change as well."""

    folder = place.project.root / "mine"
    folder.mkdir()
    for one in ("config.json", "model.safetensors"):
        (folder / one).write_bytes(checkpoint[one])
    place.raw["models"]["tiny-vit"] = {"path": "mine", "input_size": 32}
    manifest, before = place.download("auto"), weights.sources(place.project, place.params())
    assert weights.sources(place.project, place.params()) == before
    if (folder / name).is_file():
        flipped(folder / name)
    else:
        (folder / name).write_text("{}")
    assert weights.sources(place.project, place.params()) != before
    machine.declare(place.project, machine.probe("cpu"))
    params = place.params()
    for use in (
        lambda: weights.manifest_of(place.project, params, "tiny-vit"),
        lambda: model_source.open_model(place.project, params, "tiny-vit"),
        lambda: sampling.sample(place.project, params, Matrix.of(params, ["tiny-vit"], ["fp32"])),
    ):
        with pytest.raises(StudyError, match=rf"tiny-vit: {name}: .*run `visionquant download --model tiny-vit`"):
            use()
    assert weights.altered(place.project, manifest).keys() == {name}
    if name == "model.safetensors":  # the others are broken now
        assert place.download("auto").sha256() != manifest.sha256()


def test_a_changed_byte_in_the_hubs_cache_is_named_before_anything_runs(place: Place) -> None:
    manifest = place.download()
    before = weights.sources(place.project, place.params())
    blob = (place.snapshot / "model.safetensors").resolve()
    flipped(blob)
    with pytest.raises(StudyError, match=r"model\.safetensors: has another sha256.*visionquant download"):
        weights.sources(place.project, place.params())
    assert weights.altered(place.project, manifest)
    blob.unlink()  # a cache that was emptied takes nothing back of what was measured
    assert weights.sources(place.project, place.params()) == before
    assert weights.altered(place.project, manifest) == {}


def test_a_broken_manifest_names_itself(place: Place) -> None:
    path = place.project.manifest("tiny-vit")
    with pytest.raises(StudyError, match="visionquant download --model tiny-vit"):
        Manifest.load(path, place.params().models["tiny-vit"].source)
    path.parent.mkdir(parents=True)
    path.write_text('{"model": "tiny-vit"')
    with pytest.raises(StudyError, match=r"data/machines/local/models/tiny-vit\.json: broken"):
        Manifest.load(path, place.params().models["tiny-vit"].source)


def test_the_reason_does_not_change_what_the_weights_are(place: Place) -> None:
    manifest = place.download("seeded")
    assert manifest.model_copy(update={"reason": "another"}).sha256() == manifest.sha256()
    assert manifest.model_copy(update={"config_sha256": "0"}).sha256() != manifest.sha256()


def test_fidelity_goes_through_the_checkpoints_own_head(place: Place) -> None:
    """The replayed backbone gives exactly what the whole classifier gives."""
    from transformers import AutoModelForImageClassification

    from visionquant.bench import fidelity

    manifest = place.download()
    head, description = fidelity.head_of(place.project, manifest, 0)
    assert description == "the checkpoint's own head"
    net = loading.load(place.project, "tiny-vit", place.params().models["tiny-vit"], manifest, "sdpa", 0)
    images = tiny.pictures(3, 32)
    full = AutoModelForImageClassification.from_pretrained(weights.resolve(place.project, manifest)).eval()
    with torch.inference_mode():
        expected = full(images).logits
    found = fidelity.outputs(net, images, head).logits
    assert found.shape == (3, 5)
    assert torch.allclose(torch.from_numpy(found), expected, atol=1e-5)
