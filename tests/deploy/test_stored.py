"""A model in its precision as a folder: the same outputs to the last bit, and nothing but whole folders is read."""

import json
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import repacking
import tiny
import torch
from loopback_hub import Hub, serving
from torch import nn
from transformers import AutoConfig, AutoModel
from typer.testing import CliRunner

from visionquant.accuracy import training
from visionquant.bench import loading
from visionquant.bench.backends import convert
from visionquant.cli import app
from visionquant.core.errors import StudyError
from visionquant.deploy import model_folder, serialization
from visionquant.records.record import sha256_of
from visionquant.settings.params import parse
from visionquant.settings.precision import MixedPrecision, Precision
from visionquant.weights import checkpoint
from visionquant.weights import hub as hubs

# The client hands files to its HTTP library in a way that this has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning", "ignore:MatMul8bitLt")

PARAMS = parse(tiny.settings())
ROWS: dict[str, Precision] = {name: PARAMS.precisions[name] for name in ("fp32", "fp16", "bf16", "int8", "nf4", "fp4")}
ROWS["nf4-double"] = ROWS["nf4"].model_copy(update={"double_quantization": True})
MIXED = PARAMS.precisions["mixed-sensitive"]
POLICIES: dict[str, Precision] = {
    "mixed-sensitive": MIXED,
    "mixed-attention": PARAMS.precisions["mixed-attention"],
    "mixed-double": MixedPrecision.model_validate(
        {
            "method": "mixed",
            "dtype": "float16",
            "cpu_dtype": "bfloat16",
            "rules": ({"modules": "norm|embedding", "to": "fp32"}, {"modules": ".", "to": "nf4"}),
            "double_quantization": True,
        }
    ),
}
CONFIGS = tiny.CONFIGS | {  # and families with buffers that no file holds
    "tiny-dinov3": {"model_type": "dinov3_vit", **tiny._TRANSFORMER},
    "tiny-swin": {
        "model_type": "swin",
        "image_size": 32,
        "patch_size": 4,
        "embed_dim": 32,
        "depths": [2, 2],
        "num_heads": [2, 2],
        "window_size": 2,
    },
}


def network(name: str, hidden_size: int | None = None) -> nn.Module:
    config = dict(CONFIGS[name]) | ({"hidden_size": hidden_size, "intermediate_size": 1024} if hidden_size else {})
    made = AutoConfig.for_model(config.pop("model_type"), **config)
    net: nn.Module = AutoModel.from_config(made)
    loading.seed_weights(net, 0)
    loading.recalibrate(net, images(name))
    return net.eval()


def images(name: str) -> torch.Tensor:
    side = CONFIGS[name]["image_size"]
    return torch.rand(4, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


def answer(net: nn.Module, pixels: torch.Tensor, row: Precision) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = net(pixels.to(convert.dtype_of(row, "cpu"))).last_hidden_state
    return found


def save(net: nn.Module, row: Precision, folder: Path) -> model_folder.ModelManifest:
    return serialization.save(net, row, folder, device="cpu", input_size=32, weights="seeded", source="made up")


@pytest.mark.parametrize("precision", ROWS | POLICIES)
@pytest.mark.parametrize("name", CONFIGS)
def test_what_comes_back_answers_the_same_to_the_last_bit(name: str, precision: str, tmp_path: Path) -> None:
    row, pixels = (ROWS | POLICIES)[precision], images(name)
    net = convert.convert(network(name), row, "cpu")
    made = save(net, row, tmp_path / "stored")
    again = serialization.restore(tmp_path / "stored")
    found = answer(again.net, pixels, row)
    assert torch.equal(found, answer(net, pixels, row))
    assert found.std() > 0
    assert again.manifest == made
    assert not again.net.training
    assert convert.prove(again.net, row, "cpu") == convert.prove(net, row, "cpu")
    assert {k: (b.dtype, b.device) for k, b in again.net.named_buffers()} == {
        k: (b.dtype, b.device) for k, b in net.named_buffers()
    }


@pytest.mark.parametrize("precision", ["int8", "nf4", "nf4-double", "mixed-double"])
def test_a_cpu_that_repacks_layers_changes_no_precision(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repacking.on(monkeypatch)
    row, pixels = (ROWS | POLICIES)[precision], images("tiny-vit")
    net = convert.convert(network("tiny-vit"), row, "cpu")
    before = convert.prove(net, row, "cpu")
    save(net, row, tmp_path / "stored")
    again = serialization.restore(tmp_path / "stored").net
    found = answer(net, pixels, row)
    assert torch.equal(answer(again, pixels, row), found)
    for one in (net, again):
        repacked = [repacking.packed(layer) for layer in one.modules() if type(layer).__name__ == "Linear4bit"]
        assert all(repacked) if precision == "nf4" else not any(repacked)
        assert convert.prove(one, row, "cpu") == before
    if precision == "nf4":
        with pytest.raises(StudyError, match="repacked its NF4 layers and rounded their scales; convert it anew"):
            save(net, row, tmp_path / "late")
        assert not (tmp_path / "late").exists()
    else:
        save(net, row, tmp_path / "late")
        assert torch.equal(answer(serialization.restore(tmp_path / "late").net, pixels, row), found)
    assert torch.equal(answer(net, pixels, row), found)  # asking for its state has not changed it


def test_quantised_files_are_smaller_by_what_the_precision_saves(tmp_path: Path) -> None:
    sizes = {}
    for name, row in ROWS.items():
        made = save(convert.convert(network("tiny-vit", 512), row, "cpu"), row, tmp_path / name)
        sizes[name] = sum(file.bytes for file in made.files)
        on_disk = sum(path.stat().st_size for path in (tmp_path / name).iterdir())
        assert sizes[name] < on_disk < sizes[name] + 3000  # and the description
    share = {name: size / sizes["fp32"] for name, size in sizes.items()}
    assert share["fp16"] == pytest.approx(0.5, abs=0.01)
    assert share["bf16"] == pytest.approx(0.5, abs=0.01)
    assert 0.25 < share["int8"] < 0.35  # embeddings and pooler stay in 16 bit
    assert 0.13 < share["nf4-double"] < share["nf4"] < 0.25


def test_a_classifier_trained_here_comes_back_as_a_classifier(tmp_path: Path) -> None:
    spec = PARAMS.training.networks["tiny-digits"]
    net, row, data = training.build_network(spec, 0), ROWS["nf4"], training.load_digits(16)
    net = convert.convert(net, row, "cpu")
    serialization.save(
        net, row, tmp_path / "one", device="cpu", input_size=16, weights="trained here", source="made up"
    )
    again = serialization.restore(tmp_path / "one")
    pixels = data.images[:4].to(torch.bfloat16)
    with torch.inference_mode():
        assert torch.equal(again.net(pixels).logits, net(pixels).logits)


def test_a_folder_for_a_gpu_holds_its_half_type_and_says_so_on_a_cpu(tmp_path: Path) -> None:
    row = ROWS["int8"]
    net = convert.convert(network("tiny-vit"), serialization.precision_on(row, "cuda"), "cpu")
    made = serialization.save(
        net, row, tmp_path / "gpu", device="cuda", input_size=32, weights="seeded", source="made up"
    )
    assert made.dtype == "float16"
    assert {one.dtype for one in net.parameters()} == {torch.float16, torch.int8}
    with pytest.raises(StudyError, match="made for cuda, in float16; export it again with `--device cpu`"):
        serialization.restore(tmp_path / "gpu")


def test_a_model_that_is_not_what_its_row_says_is_not_stored(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="precision float"):
        save(network("tiny-vit").half(), ROWS["fp32"], tmp_path / "wrong")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(StudyError, match="there is something already"):
        save(network("tiny-vit"), ROWS["fp32"], tmp_path / "mine")


# --- folders that are not what they were


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None], sign: bool = True) -> None:
    path = folder / model_folder.NAME
    raw = json.loads(path.read_text())
    change(raw)
    if sign:
        raw["sha256"] = sha256_of({key: value for key, value in raw.items() if key != "sha256"})
    path.write_text(json.dumps(raw))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def shorten(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def another_architecture(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text()) | {"num_hidden_layers": 3}
    (folder / "config.json").write_text(json.dumps(config))
    listed = model_folder.HubFile(
        name="config.json",
        bytes=(folder / "config.json").stat().st_size,
        sha256=model_folder.files.sha256(folder / "config.json"),
    )
    rewrite(folder, lambda raw: raw.update(files=[listed.model_dump(), raw["files"][1]]))


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut tensors": (
        lambda folder: shorten(folder / "model.safetensors"),
        r"model\.safetensors: has \d+ bytes, \d+ exp",
    ),
    "altered tensors": (lambda folder: flip(folder / "model.safetensors"), r"model\.safetensors: has another sha256"),
    "altered config": (lambda folder: flip(folder / "config.json"), r"config\.json: has another sha256"),
    "no config": (lambda folder: (folder / "config.json").unlink(), r"config\.json: missing"),
    "no description": (lambda folder: (folder / "precision.json").unlink(), r"precision\.json: there is none"),
    "cut description": (lambda folder: shorten(folder / "precision.json"), r"precision\.json: broken: not JSON"),
    "edited row": (
        lambda folder: rewrite(folder, lambda raw: raw["precision"].update(blocksize=128), sign=False),
        "its fields do not have the sha256 that it states",
    ),
    "another schema": (lambda folder: rewrite(folder, lambda raw: raw.update(schema_version=2)), "schema_version"),
    "a file elsewhere": (
        lambda folder: rewrite(folder, lambda raw: raw["files"][0].update(name="../config.json")),
        r"it lists \.\./config\.json",
    ),
    "another bitsandbytes": (
        lambda folder: rewrite(folder, lambda raw: raw["versions"].update(bitsandbytes="0.41.0")),
        r"quantised by bitsandbytes 0\.41\.0, here is 0\.",
    ),
    "a pickle": (
        lambda folder: (folder / "pytorch_model.bin").write_bytes(pickle.dumps({})),
        r"pytorch_model\.bin is a pickle",
    ),
    "another architecture": (another_architecture, "model.safetensors: a tensor is missing"),
    "another precision": (
        lambda folder: rewrite(folder, lambda raw: raw["precision"].update(double_quantization=True)),
        "nf4 in blocks of 64, scales not quantised, asked was nf4 in blocks of 64, scales quantised",
    ),
    "more of it in NF4": (
        lambda folder: rewrite(folder, lambda raw: raw["precision"].update(skip=[])),
        "a tensor is missing or of another shape",
    ),
    "less of it in NF4": (
        lambda folder: rewrite(folder, lambda raw: raw["precision"].update(skip=["mlp", "pooler"])),
        r"model\.safetensors: ",
    ),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_folder_that_is_not_whole_is_one_line(how: str, tmp_path: Path) -> None:
    save(convert.convert(network("tiny-vit"), ROWS["nf4"], "cpu"), ROWS["nf4"], tmp_path / "stored")
    damage, says = BROKEN[how]
    damage(tmp_path / "stored")
    with pytest.raises(StudyError, match=says) as caught:
        serialization.restore(tmp_path / "stored")
    assert "\n" not in str(caught.value)


def test_a_folder_whose_row_was_edited_and_signed_anew_still_proves_its_dtypes(tmp_path: Path) -> None:
    save(convert.convert(network("tiny-vit"), ROWS["nf4"], "cpu"), ROWS["nf4"], tmp_path / "stored")
    rewrite(tmp_path / "stored", lambda raw: raw["precision"].update(blocksize=128))
    with pytest.raises(
        StudyError,
        match=r"precision nf4: layers\.0\.attention\.q_proj is nf4 in blocks of 64.*blocks of 128.*12 in all",
    ):
        serialization.restore(tmp_path / "stored")


# --- to a store and back


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving() as hub:
        hub.token = "hf_made_up"
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", "hf_made_up")
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)  # read from the environment at import
        monkeypatch.setattr(hubs, "_unreachable", set())
        yield hub


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(convert.convert(network("tiny-vit"), ROWS["int8"], "cpu"), ROWS["int8"], tmp_path / "stored")
    return tmp_path / "stored"


def test_a_folder_goes_to_a_store_and_comes_back_whole(store: Hub, folder: Path, tmp_path: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    revision = model_folder.push_folder(folder, "me/tiny-int8")
    assert set(store.repositories["me/tiny-int8", revision]) == {"config.json", "model.safetensors", "precision.json"}
    assert [line for line in store.requests if line.startswith("PUT")] == [
        f"PUT /lfs/{model_folder.files.sha256(folder / 'model.safetensors')}"
    ]
    found = model_folder.pull_folder("me/tiny-int8", revision, tmp_path / "back")
    assert found == model_folder.check(folder)
    for name in ("config.json", "model.safetensors", "precision.json"):
        assert (tmp_path / "back" / name).read_bytes() == (folder / name).read_bytes()
    nets = [serialization.restore(one).net for one in (folder, tmp_path / "back")]
    assert torch.equal(*(answer(net, images("tiny-vit"), ROWS["int8"]) for net in nets))


def test_a_second_push_is_another_revision_and_the_first_stays(store: Hub, folder: Path, tmp_path: Path) -> None:
    first = model_folder.push_folder(folder, "me/tiny")
    save(network("tiny-vit"), ROWS["fp32"], tmp_path / "other")
    second = model_folder.push_folder(tmp_path / "other", "me/tiny")
    assert first != second
    assert model_folder.pull_folder("me/tiny", first, tmp_path / "a").precision.method == "bitsandbytes_int8"
    assert model_folder.pull_folder("me/tiny", second, tmp_path / "b").precision.method == "float"
    with pytest.raises(StudyError, match="there is something already"):
        model_folder.pull_folder("me/tiny", second, tmp_path / "b")


def test_without_the_token_a_push_is_one_line_that_does_not_show_it(
    store: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(StudyError, match=r"push to me/tiny: .*; .*`hf auth login`") as caught:
        model_folder.push_folder(folder, "me/tiny")
    assert "hf_wrong" not in str(caught.value)
    assert store.repositories == {}


def test_a_broken_folder_is_not_pushed(store: Hub, folder: Path) -> None:
    flip(folder / "model.safetensors")
    with pytest.raises(StudyError, match="has another sha256"):
        model_folder.push_folder(folder, "me/tiny")
    assert store.requests == []


@pytest.mark.parametrize("revision", ["main", "abc", "A" * 40])
def test_a_revision_that_can_move_is_refused(revision: str, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="not a pinned revision"):
        model_folder.pull_folder("me/tiny", revision, tmp_path / "back")


def test_what_the_store_alters_is_refused_and_fetched_again_next_time(store: Hub, folder: Path, tmp_path: Path) -> None:
    revision = model_folder.push_folder(folder, "me/tiny")
    store.altered = {"model.safetensors"}
    with pytest.raises(StudyError, match=r"pull of me/tiny@.*model\.safetensors: has another sha256.*pull it again"):
        model_folder.pull_folder("me/tiny", revision, tmp_path / "back")
    assert not (tmp_path / "back").exists()
    store.altered = set()
    model_folder.pull_folder("me/tiny", revision, tmp_path / "back")
    assert serialization.restore(tmp_path / "back").manifest.precision == ROWS["int8"]


def test_what_another_bitsandbytes_quantised_is_refused_with_its_remedy_and_not_fetched_twice(
    store: Hub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    revision, version = model_folder.push_folder(folder, "me/tiny"), model_folder.metadata.version
    here = version("bitsandbytes")
    with monkeypatch.context() as other:
        other.setattr(
            model_folder.metadata, "version", lambda name: "9.9.1" if name == "bitsandbytes" else version(name)
        )
        with pytest.raises(StudyError, match=rf"by bitsandbytes {here}, here is 9\.9\.1; install bitsandbytes {here}"):
            model_folder.pull_folder("me/tiny", revision, tmp_path / "back")
    assert not (tmp_path / "back").exists()
    requests = [line for line in store.requests if line.startswith("GET") and "model.safetensors" in line]
    model_folder.pull_folder("me/tiny", revision, tmp_path / "back")
    assert requests == [line for line in store.requests if line.startswith("GET") and "model.safetensors" in line]


@pytest.mark.parametrize(
    ("repo", "revision", "says"),
    [
        ("me/tiny", "0" * 40, "no such revision"),
        ("me/none", "0" * 40, "no such repository"),
        ("no name", "0" * 40, "no name of a repository; give owner/name"),
    ],
)
def test_what_is_not_there_is_one_line(
    repo: str, revision: str, says: str, store: Hub, folder: Path, tmp_path: Path
) -> None:
    model_folder.push_folder(folder, "me/tiny")
    with pytest.raises(StudyError, match=says):
        model_folder.pull_folder(repo, revision, tmp_path / "back")


def test_a_store_that_is_away_is_one_line(
    store: Hub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client tries again for half a minute
    with pytest.raises(StudyError, match="check HF_ENDPOINT"):
        model_folder.push_folder(folder, "me/tiny")
    with pytest.raises(StudyError, match=r"broke off: .*; run the same command again"):
        model_folder.pull_folder("me/tiny", "0" * 40, tmp_path / "back")


# --- the command line


def test_the_command_line_exports_pushes_and_pulls(store: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "project"
    root.mkdir()
    project, params = tiny.project(root)
    checkpoint.download(project, params, "tiny-vit")
    spec = params.training.networks["tiny-digits"]
    training.save_trained(project, "tiny-digits", 0, training.build_network(spec, 0))
    monkeypatch.chdir(root)

    def say(*words: str) -> str:
        done = CliRunner().invoke(app, words, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    said = say("export", "--model", "tiny-vit", "--precision", "nf4", "--to", "one")
    assert said.startswith("one: bitsandbytes_nf4 in bfloat16 for cpu, 0.1 MiB; seeded weights")
    said = say("export", "--network", "tiny-digits", "--precision", "int8", "--to", "two", "--device", "cuda")
    assert "two: bitsandbytes_int8 in float16 for cuda" in said
    assert (root / "one" / "preprocessor_config.json").is_file()
    assert serialization.restore(root / "one").manifest.source.startswith("seeded from")
    pushed = say("push", "one", "me/tiny").strip()
    repo, _, revision = pushed.partition("@")
    assert "bitsandbytes_nf4" in say("pull", repo, revision, "--to", "back")
    assert serialization.restore(root / "back").manifest == serialization.restore(root / "one").manifest

    for words, says in (
        (("--precision", "nf4"), "one of --model and --network is needed"),
        (("--precision", "int8-outliers", "--model", "tiny-vit"), "outliers are planted"),
        (("--precision", "hqq3", "--model", "tiny-vit"), "how HQQ packed its codes is not stored; export int8"),
        (("--precision", "nf5", "--model", "tiny-vit"), "did you mean nf4"),
        (("--precision", "nf4", "--model", "tiny-deit"), "run `visionquant download --model tiny-deit`"),
    ):
        with pytest.raises(StudyError, match=says):
            CliRunner().invoke(app, ("export", *words, "--to", "three"), catch_exceptions=False)
