"""Stored models measured: bytes on disk, seconds to read them back, and whether their answers are the same."""

import copy
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Literal

import torch

from visionquant.bench import fidelity, interleave, torch_flags
from visionquant.bench.backends import convert
from visionquant.core.machine import Environment
from visionquant.core.paths import Project
from visionquant.deploy import serialization
from visionquant.records.recipe import Recipe, Value
from visionquant.settings.params import Params
from visionquant.settings.precision import Nf4Precision

MODELS = ("deit-tiny-ultra-efficient", "vit-base-224-production")
PRECISIONS = ("fp32", "fp16", "int8", "nf4")
DOUBLE = "nf4, double quantisation"
ROUNDS = 5


def run(project: Project, params: Params, machine: Environment) -> Recipe:
    """A row a model and precision. ``ready_s`` is the median time from folder to first answer, on one image, in turns.

    Files are in the page cache by then and their hashes known: reading, building and one pass are timed, the disk and
    hashing are not. A file's tensors are read as they are used, so that restoring alone would say little.
    """
    begun = time.monotonic()
    torch_flags.begin(machine.device)
    import bitsandbytes  # noqa: F401 its import is no part of a conversion

    device = machine.device
    rows: list[dict[str, Value]] = []
    precisions = {name: params.precisions[name] for name in PRECISIONS}
    nf4 = precisions["nf4"]
    assert isinstance(nf4, Nf4Precision)
    precisions[DOUBLE] = nf4.model_copy(update={"double_quantization": not nf4.double_quantization})
    for model in MODELS:
        net, images = interleave.seeded(project, params, model, 2)
        side = params.models[model].input_size
        with tempfile.TemporaryDirectory() as root:
            sizes, converting_s, same = {}, {}, {}
            for row in precisions.values() if device == "cuda" else ():  # each one's first kernels start once, untimed
                convert.convert(copy.deepcopy(net), row, device)
            for name, row in precisions.items():
                folder, own = Path(root) / name, copy.deepcopy(net)
                interleave.synchronize(device)
                start = time.perf_counter()
                converted = convert.convert(own, row, device)
                interleave.synchronize(device)
                converting_s[name] = round(time.perf_counter() - start, 3)
                made = serialization.save(
                    converted, row, folder, device=device, input_size=side, weights="seeded", source="a recipe"
                )
                sizes[name] = sum(file.bytes for file in made.files)
                with torch.inference_mode():
                    first = fidelity.features_of(converted(images.to(device, convert.dtype_of(row, device))))
                same[name] = "yes" if torch.equal(first, _answer(folder, images, device)) else "no"
                del converted
            times = interleave.take(
                {name: partial(_answer, Path(root) / name, images[:1], device) for name in precisions},
                device,
                ROUNDS,
                warmups=1,
            )
        rows += [
            {
                "model": model,
                "precision": name,
                "file_bytes": sizes[name],
                "share_of_fp32": round(sizes[name] / sizes["fp32"], 4),
                "convert_s": converting_s[name],
                "ready_s": round(median(times[name]), 3),
                "ready_speedup": interleave.speedup(times, name, "fp32"),
                "identical": same[name],
            }
            for name in precisions
        ]
    return Recipe(
        name="storage",
        command="visionquant recipe storage",
        weights="seeded",
        environment=machine,
        elapsed_s=round(time.monotonic() - begun, 1),
        rows=tuple(rows),
    )


def _answer(folder: Path, images: torch.Tensor, device: Literal["cpu", "cuda"]) -> torch.Tensor:
    found = serialization.restore(folder, device)
    with torch.inference_mode():
        return fidelity.features_of(found.net(images.to(device, convert.dtype_of(found.description.precision, device))))
