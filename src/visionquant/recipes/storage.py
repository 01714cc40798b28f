"""Stored models measured: bytes on disk, seconds to read them back, and whether their outputs are the same."""

import copy
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median

import torch

from visionquant.accuracy.model_source import seeded_model
from visionquant.bench import device as devices
from visionquant.bench import fidelity
from visionquant.bench.backends import convert
from visionquant.deploy import serialization
from visionquant.deploy.serialization import Device
from visionquant.recipes import Environment, Params, Project, Row, recipe, timing

MODELS = ("deit-tiny-ultra-efficient", "vit-base-224-production")
PRECISIONS = ("fp32", "fp16", "int8", "nf4")
DOUBLE = "nf4, double quantisation"
ROUNDS = 5


@recipe("storage", weights="seeded")
def run(project: Project, params: Params, machine: Environment) -> Iterator[Row]:
    """A row a model and precision. ``ready_s`` is the median time from folder to first output, on one image.

    Files are in the page cache by then and their hashes known: reading, building and one pass are timed, the disk and
    hashing are not. A file's tensors are read as they are used, so that restoring alone would say little.
    """
    import bitsandbytes  # noqa: F401 its import is no part of a conversion

    device = machine.device
    rows = {name: params.precisions[name] for name in PRECISIONS}
    rows[DOUBLE] = rows["nf4"].model_copy(update={"double_quantization": True})
    for model in MODELS:
        net, images = seeded_model(project, params, model, 2)
        side = params.models[model].input_size
        for row in rows.values() if device == "cuda" else ():  # each one's first kernels start once, untimed
            convert.convert(copy.deepcopy(net), row, device)
        figures: dict[str, Row] = {}
        sizes: dict[str, int] = {}
        with tempfile.TemporaryDirectory() as root:
            for name, row in rows.items():
                own, folder = copy.deepcopy(net), Path(root) / name
                devices.of(device).synchronize()
                begun = time.perf_counter()
                converted = convert.convert(own, row, device)
                devices.of(device).synchronize()
                convert_s = time.perf_counter() - begun
                manifest = serialization.save(converted, row, folder, device, side, "seeded", "a recipe")
                sizes[name] = sum(file.bytes for file in manifest.files)
                with torch.inference_mode():
                    output = fidelity.features_of(converted(images.to(device, convert.dtype_of(row, device))))
                identical = torch.equal(output, _output(folder, images, device))
                figures[name] = {"convert_s": convert_s, "identical": "yes" if identical else "no"}
                del converted
            ways = {name: partial(_output, Path(root) / name, images[:1], device) for name in rows}
            times = timing.take(ways, device, ROUNDS, warmups=1)
        for name in rows:
            size: Row = {"file_bytes": sizes[name], "share_of_fp32": sizes[name] / sizes["fp32"]}
            ready: Row = {"ready_s": median(times[name]), "ready_speedup": timing.speedup(times, name, "fp32")}
            yield {"model": model, "precision": name} | size | ready | figures[name]


def _output(folder: Path, images: torch.Tensor, device: Device) -> torch.Tensor:
    restored = serialization.restore(folder, device)
    dtype = convert.dtype_of(restored.manifest.precision, device)
    with torch.inference_mode():
        return fidelity.features_of(restored.net(images.to(device, dtype)))
