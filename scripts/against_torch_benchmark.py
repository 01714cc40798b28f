"""Our median beside torch.utils.benchmark's, on the same modules, in one interleaved run.

    python scripts/against_torch_benchmark.py

In a fresh process a cell, slots of both take turns in the order of a round's arms: our slot, and ``blocked_autorange``
of the same call with as many threads for as long. Of each block the ratio of both medians, of each cell their median.
"""

import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch.utils.benchmark import Timer

from visionquant.bench import device as devices
from visionquant.bench import inputs, loading, torch_flags, turns, worker
from visionquant.bench.backends import convert
from visionquant.bench.clock import time_slot, warm_up
from visionquant.core import machine
from visionquant.core.paths import Project
from visionquant.settings import params
from visionquant.weights import checkpoint

CELLS = tuple(
    (model, precision)
    for model in (
        "mobilevit-xxs-edge",
        "deit-tiny-ultra-efficient",
        "dino-vits16-production",
        "vit-base-patch32-special",
    )
    for precision in ("fp32", "int8", "nf4")
)
BLOCKS, SLOT_S = 20, 0.25
LOW, HIGH = 0.98, 1.02


def compare(project: Project, model: str, precision: str) -> tuple[float, float, float]:
    """At batch size 1 milliseconds of a pass, ours and torch's, and the ratio of ours to torch's."""
    study = params.load(Project.find())
    spec, row, protocol = study.models[model], study.precisions[precision], study.protocol
    device = devices.of(machine.probe(study.study.device).device)
    torch_flags.quiet(device.kind)
    device.require()
    torch.set_num_threads(1)
    manifest = checkpoint.download(project, study, model)
    net = loading.load(project, model, spec, manifest, protocol.attention, protocol.seed)
    net = convert.convert(net, row, device.kind)
    threads = torch_flags.apply(row, protocol)
    prepared = loading.preprocessing(project, model, spec, None)
    image = inputs.batch(1, prepared).to(device.kind, convert.dtype_of(row, device.kind))
    clock = device.clock()
    timer = Timer("net(image)", globals={"net": net, "image": image}, num_threads=threads)
    slots: dict[str, list[float]] = {"ours": [], "torch's": []}
    with torch.inference_mode():
        warm_up(lambda i: net(image), clock, 3, 0.5)
        for block in range(BLOCKS):
            for name in turns.order(list(slots), block):
                if name == "ours":
                    seen = time_slot(lambda i: net(image), clock, 1, 1e3 * SLOT_S, discard=True)
                    slots[name].append(statistics.median(seen.wall_ms))
                else:
                    slots[name].append(1e3 * timer.blocked_autorange(min_run_time=SLOT_S).median)
    ours, theirs = map(np.array, slots.values())
    return float(np.median(ours)), float(np.median(theirs)), float(np.median(ours / theirs))


def main() -> int:
    """Compare every cell and print the ratios."""
    root = Project.find().root
    within = 0
    with tempfile.TemporaryDirectory() as name:
        for part in ("architectures", "supplement"):
            (Path(name) / "data").mkdir(exist_ok=True)
            (Path(name) / "data" / part).symlink_to(root / "data" / part)
        project = Project(Path(name))
        torch_flags.default_threads()
        for model, precision in CELLS:
            ours, theirs, ratio = worker.in_fork(lambda m=model, p=precision: compare(project, m, p))  # type: ignore[misc]
            within += LOW <= ratio <= HIGH
            sys.stdout.write(f"{model} {precision}: ours {ours:.3f} ms, torch {theirs:.3f} ms, ratio {ratio:.4f}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{within} of {len(CELLS)} ratios within {LOW:g} to {HIGH:g}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
