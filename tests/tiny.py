"""A whole study of tiny models, built from configs in seconds: the real code on real (small) networks."""

import copy
import functools
import json
import shutil
from pathlib import Path
from typing import Any

import torch
import yaml

from visionquant.bench import inputs, sampling
from visionquant.bench.command import Command, Matrix, Observer
from visionquant.bench.inputs import DEFAULT, Preprocessing
from visionquant.core.paths import Project
from visionquant.records import record as records
from visionquant.records.record import Record
from visionquant.settings import params as parameters
from visionquant.settings.params import Params

ROOT = Path(__file__).parents[1]

_TRANSFORMER = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "image_size": 32,
    "patch_size": 8,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "tiny-vit": {"model_type": "vit", **_TRANSFORMER},
    "tiny-deit": {"model_type": "deit", **_TRANSFORMER},
    "tiny-beit": {"model_type": "beit", **_TRANSFORMER, "use_relative_position_bias": True},
    "tiny-dinov2": {"model_type": "dinov2", **_TRANSFORMER},
    "tiny-mobilevit": {
        "model_type": "mobilevit",
        "image_size": 64,
        "hidden_sizes": [32, 48, 64],
        "neck_hidden_sizes": [8, 16, 16, 24, 32, 40, 64],
        "num_attention_heads": 4,
        "output_stride": 32,
    },
}
PROTOCOL: dict[str, Any] = {
    "rounds": 2,
    "rounds_of_batches": 2,
    "blocks": 2,
    "round_s": 0.1,
    "warmup_passes": 1,
    "warmup_s": 0.0,
    "slot_passes": 2,
    "slot_ms": 0.0,
    "wait_s": 0.0,
    "fidelity_images": 4,
    "fidelity_gmacs": 1.0,
    "attention": "sdpa",
    "threads": 1,
    "cudnn_benchmark": False,
    "energy_s": None,
    "seed": 0,
}


MEASURED = {"ok", "busy"}  # what a cell may be that was measured: busy where other work took the cores


@functools.cache
def _committed() -> Any:
    """The committed params.yaml, read once; who changes it takes a copy."""
    return yaml.safe_load((ROOT / "params.yaml").read_text())


def settings(models: tuple[str, ...] = ("tiny-vit",), precisions: tuple[str, ...] = ("fp32", "nf4")) -> dict[str, Any]:
    """The committed params.yaml with tiny models and a short protocol in place of its own."""
    raw: dict[str, Any] = copy.deepcopy(_committed())
    raw["study"] |= {
        "models": list(models),
        "precisions": list(precisions),
        "batch_sizes": [1, 2],
        "protocol": "tiny",
        "minutes": None,
        "device": "cpu",
        "weights": "seeded",
    }
    raw["protocols"]["tiny"] = dict(PROTOCOL)
    raw["training"] |= {
        "chosen": ["tiny-digits"],
        "also": [],
        "folds": 2,
        "networks": {
            "tiny-digits": {
                "family": "vit",
                "image_size": 16,
                "patch_size": 8,
                "hidden_size": 32,
                "layers": 1,
                "epochs": 1,
                "learning_rate": 0.001,
            }
        },
    }
    raw["report"]["profiled"] = [models[0]]
    probe = {"models": [], "also": [], "own_head": [], "pixels": 32}
    raw["evaluation"]["probe"] |= probe | {"training_images": 100, "test_images": 40, "neighbours": 3}
    for name in CONFIGS:
        size = CONFIGS[name]["image_size"]
        raw["models"][name] = {"repo_id": f"tiny/{name}", "revision": "0" * 40, "input_size": size, "group": "tiny"}
    return raw


def write_settings(root: Path, raw: dict[str, Any]) -> None:
    (root / "params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))


def architectures(root: Path) -> None:
    """The tiny configs as committed architectures."""
    for name, config in CONFIGS.items():
        folder = root / "data" / "architectures" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config))


COLOURS = {0: "black", 1: "red, crimson", 2: "green", 3: "blue", 4: "white"}


def checkpoint(folder: Path, head: bool, labels: dict[int, str] = COLOURS) -> None:
    """A tiny ViT with seeded weights in the hub's layout, whose head, if it has one, knows ``labels``."""
    from transformers import ViTConfig, ViTForImageClassification, ViTModel

    torch.manual_seed(1)
    config = ViTConfig(
        **{key: value for key, value in CONFIGS["tiny-vit"].items() if key != "model_type"},
        id2label=labels,
        label2id={name: number for number, name in labels.items()},
    )
    net = ViTForImageClassification(config) if head else ViTModel(config)
    net.save_pretrained(folder)


def project(root: Path, raw: dict[str, Any] | None = None) -> tuple[Project, Params]:
    """A project folder with settings, architectures and the published tables, without git and DVC."""
    raw = raw or settings()
    write_settings(root, raw)
    architectures(root)
    shutil.copytree(ROOT / "data" / "supplement", root / "data" / "supplement")
    found = Project(root)
    return found, parameters.load(found)


def preprocessing(side: int, settings: dict[str, Any] = DEFAULT) -> Preprocessing:
    """Of a square of three channels."""
    return Preprocessing(settings, (3, side, side))


def pictures(count: int, side: int) -> torch.Tensor:
    """Photographs (count, 3, side, side)."""
    return inputs.batch(count, preprocessing(side))


def observer(**told: Any) -> Observer:
    """One that calls these functions in place of its methods of their names."""
    found = Observer()
    for name, function in told.items():
        setattr(found, name, function)
    return found


def measure(
    project: Project,
    params: Params,
    model: str,
    precision: str,
    batch_sizes: Any = None,
    again: bool = False,
    **told: Any,
) -> Record:
    """One pair sampled alone, and its record; ``told`` are functions for its observer."""
    matrix = Matrix.of(params, [model], [precision], batch_sizes, again)
    sampling.sample(project, params, matrix, Command(observer(**told)))
    return records.write(project.record(model, precision))
