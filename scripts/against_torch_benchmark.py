"""Our median beside torch.utils.benchmark's, on the same modules, in one interleaved run.

    python scripts/against_torch_benchmark.py

In a fresh process a cell, blocks of both take turns: our clock around synchronised passes, and ``Timer.timeit`` of the
same call with as many passes and threads. The ratio of the medians over blocks is printed for every cell.
"""

import statistics
import sys
import tempfile
from pathlib import Path

import torch
from torch.utils.benchmark import Timer

from visionquant.bench import device as devices
from visionquant.bench import inputs, loading, torch_flags, worker
from visionquant.bench.backends import convert
from visionquant.bench.clock import TimingPlan, time_steps
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
BLOCKS, BLOCK_S = 20, 0.25
LOW, HIGH = 0.98, 1.02


def compare(project: Project, model: str, precision: str) -> tuple[float, float]:
    """Milliseconds of one pass at batch size 1: ours, torch's."""
    study = params.load(Project.find())
    spec, row, protocol = study.models[model], study.precisions[precision], study.protocol
    device = machine.probe(study.study.device).device
    torch_flags.quiet(device)
    devices.of(device).require()
    torch.set_num_threads(1)
    manifest = checkpoint.download(project, study, model)
    net = loading.load(project, model, spec, manifest, protocol.attention, protocol.seed)
    net = convert.convert(net, row, device)
    threads = torch_flags.apply(row, protocol)
    prepared = loading.preprocessing(project, model, spec, None)
    image = inputs.batch(1, prepared).to(device, convert.dtype_of(row, device))
    clock = devices.of(device).clock()
    timer = Timer("net(image)", globals={"net": net, "image": image}, num_threads=threads)
    ours: list[float] = []
    theirs: list[float] = []
    with torch.inference_mode():
        first = time_steps(lambda i: net(image), clock, TimingPlan(0, 3, 0.5, 3, 3, None))
        count = max(2, int(BLOCK_S * 1e3 / statistics.median(first.wall_ms)))
        for block in range(BLOCKS):
            for own in (block % 2 == 0, block % 2 == 1):
                if own:
                    found = time_steps(lambda i: net(image), clock, TimingPlan(0, 1, 0.0, count, 1, None))
                    ours.append(statistics.mean(found.wall_ms))
                else:
                    theirs.append(timer.timeit(count).mean * 1e3)
    return statistics.median(ours), statistics.median(theirs)


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
            ours, theirs = worker.in_fork(lambda m=model, p=precision: compare(project, m, p))  # type: ignore[misc]
            within += LOW <= ours / theirs <= HIGH
            sys.stdout.write(
                f"{model} {precision}: ours {ours:.3f} ms, torch {theirs:.3f} ms, ratio {ours / theirs:.4f}\n"
            )
    sys.stdout.write(f"{within} of {len(CELLS)} ratios within {LOW:g} to {HIGH:g}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
