"""The CUDA paths rehearsed where no card is: on a stub driver and a make-believe card, a line for each check.

    python scripts/rehearse_cuda.py            # all of it, some minutes
    python scripts/rehearse_cuda.py --quick    # what the fast tests run

The stubs (``rehearsal/*.c``) are built with the C compiler at hand. They note which process opens the driver, and which
one is forked from a process that had: such a fork can't use a GPU. The card (``rehearsal/sitecustomize.py``) lets the
package's own code run to its end. With a CUDA build of torch its real libraries meet the stubs as well: a library that
opens the driver by itself in a process that forks shows, and a driver that is too old for torch can be played.
Exit code 1: a check failed.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
STUBS = {"cuda.c": "libcuda.so.1", "nvml.c": "libnvidia-ml.so.1"}
BAD = ("forked after cuInit", "in a fork of", "inherited")
COMMAND = (sys.executable, "-c", "from visionquant.cli import main; main()")
ROWS = ("fp32", "int8", "nf4")
FAMILIES = ("tiny-vit", "tiny-deit", "tiny-beit", "tiny-dinov2", "tiny-mobilevit")
OLD, NOT_SO_OLD = {"REHEARSAL_NVML_CUDA": "12040", "REHEARSAL_CUDA": "12040"}, {"REHEARSAL_CUDA": "12040"}


# --- the stage


def compiler() -> str | None:
    """The C compiler that the stubs are built with, None if there is none."""
    return shutil.which("cc")


def build(folder: Path) -> Path:
    """The stub libraries and a program nvidia-smi, made in ``folder``.

    Raises:
        subprocess.CalledProcessError: there is no working C compiler.
    """
    folder.mkdir()
    for source, library in STUBS.items():
        command = ["cc", "-shared", "-fPIC", "-w", "-o", folder / library, ROOT / "scripts" / "rehearsal" / source]
        subprocess.run([*map(str, command), "-ldl", "-lpthread"], check=True)
    (folder / "nvidia-smi").write_text("#!/bin/sh\n", encoding="utf-8")
    (folder / "nvidia-smi").chmod(0o755)
    return folder


def environment(stubs: Path, log: Path, card: bool, **more: str) -> dict[str, str]:
    """The environment of a process on the stage: stubs before the machine's own driver, this checkout's code."""
    found = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    code = [ROOT / name for name in ("scripts/rehearsal", "src", "tests", "tests/accuracy", "tests/deploy")]
    return found | more | {
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, (str(stubs), found.get("LD_LIBRARY_PATH")))),
        "PATH": f"{stubs}{os.pathsep}{found['PATH']}",
        "PYTHONPATH": os.pathsep.join([*map(str, code), *filter(None, [found.get("PYTHONPATH")])]),
        "REHEARSAL_LOG": str(log),
        "REHEARSAL_CARD": "1" if card else "",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip


def told(log: Path) -> str:
    """The stubs' log in a few words.

    Raises:
        AssertionError: a process was forked from one that had opened the driver, or used its parent's NVML.
    """
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    bad = [line for line in lines if line.endswith(BAD) or any(words in line for words in BAD)]
    assert not bad, f"{len(bad)} bad events, e.g. process, parent, event: {bad[0]}"
    opened, nvml = (sum(line.endswith(words) for line in lines) for words in ("cuInit", "nvml opened"))
    nvml = sum(line.startswith("nvml") and line.endswith(" opened") for line in lines)
    return f"{opened} processes called cuInit, none forked then; NVML opened {nvml} times, never inherited"


# --- what runs on the make-believe card, in a process of its own


def tiny_study(folder: Path, precisions: tuple[str, ...] = ("fp32",), device: str = "cuda") -> Any:
    """(project, params) of the tiny models."""
    import tiny

    raw = tiny.settings(FAMILIES, precisions)
    raw["study"] |= {"device": device, "batch_sizes": [1, 2]}
    raw["protocols"]["tiny"] |= {"rounds": 1, "rounds_of_batches": 1}
    folder.mkdir()
    return tiny.project(folder, raw)


@contextmanager
def without_tf32() -> Iterator[None]:
    """Every forward pass within the block is made with TF32 off."""
    import torch

    seen = set()

    def note(*_: Any) -> None:
        backends = torch.backends
        seen.add((backends.cuda.matmul.fp32_precision, backends.cudnn.conv.fp32_precision))  # type: ignore[attr-defined]

    hook = torch.nn.modules.module.register_module_forward_pre_hook(note)
    try:
        yield
    finally:
        hook.remove()
    assert seen, "no forward pass was made"
    assert not any("tf32" in one for one in seen), f"passes were made with TF32: {seen}"


def pairs(folder: Path, rows: dict[str, tuple[str, ...]], batch_sizes: tuple[int, ...] = (1, 2)) -> str:
    """Models in precisions, through every step of a round; their times mean nothing."""
    import tiny

    from visionquant.bench import sampling
    from visionquant.bench.command import Matrix
    from visionquant.records import record as kept

    project, params = tiny_study(folder, ROWS)
    parts = [Matrix.of(params, [model], precisions, batch_sizes) for model, precisions in rows.items()]
    for part in parts:
        sampling.sweep(project, params, part)
    records = [kept.write(project.record(*pair)) for part in parts for pair in part.pairs]
    for record in records:
        assert record.environment.device == "cuda", record.environment
        assert record.environment.gpu == "NVIDIA Rehearsal", record.environment
        for cell in record.cells:
            measured = cell.status in tiny.MEASURED or "repeated batch" in cell.reason
            assert measured, f"{record.model} {record.precision}: {cell.status}, {cell.reason}"
            assert cell.launch, cell
            assert all(slot.gpu_ms for one in cell.rounds for slot in one.slots), cell
    return f"{len(records)} pairs, {sum(len(record.cells) for record in records)} cells"


def families(folder: Path) -> str:
    """Five families in FP32, INT8 and NF4, and planted outliers."""
    return pairs(folder, {name: (*ROWS, "int8-outliers") if name == FAMILIES[0] else ROWS for name in FAMILIES})


def quick(folder: Path) -> str:
    """Four families and each precision once, then the recipes and the adaptive batch, in one process.

    Without MobileViT, whose FP16 convolutions take a CPU as long as all the rest.
    """
    folder.mkdir()
    once = (("int8", "int8-outliers"), ("fp32",), ("nf4",), ("int8",))
    forked = pairs(folder / "pairs", dict(zip(FAMILIES, once, strict=False)), (1,))
    return f"{forked}; {recipes(folder / 'recipes')}; adaptive batch {batch(folder)}"


def recipes(folder: Path) -> str:
    """The recipes that use the device, in this process, and the accuracy stages."""
    import test_judging

    from visionquant.accuracy import evaluation, training
    from visionquant.core import machine
    from visionquant.recipes import checkpointing, half, storage, validation

    project, params = tiny_study(folder, ("fp32", "fp16", "int8", "nf4"))
    here = machine.probe("cuda")
    spec = params.training.networks["tiny-digits"]
    net = training.train(spec, params.training, training.load_digits(spec.image_size), 0).net
    training.save_trained(project, "tiny-digits", 0, net)
    half.NETWORK, half.EPOCHS, half.MODEL = "tiny-digits", 1, "tiny-vit"
    storage.MODELS = checkpointing.MODELS = ("tiny-vit",)
    done = []
    for run in (half.run, storage.run, checkpointing.run, validation.run):
        with defaults(), without_tf32():
            done.append(run(project, params, here))
    assert all(one.environment.device == "cuda" and one.rows for one in done), done
    with defaults(), without_tf32():
        scores = evaluation.evaluate_trained(project, params, "tiny-digits", (0,), here)
    with defaults(), without_tf32():
        judged = evaluation.evaluate_labelled(*test_judging.opened(folder / "labelled"), here, lambda line: None)
    assert scores.environment.device == judged.judged[0].environment.device == "cuda"
    return f"{', '.join(one.name for one in done)}, evaluate, judge; no pass with TF32"


@contextmanager
def defaults() -> Iterator[None]:
    """torch's own switches at the start, in which convolutions take TF32."""
    import torch

    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = False, True
    yield


def batch(folder: Path) -> str:
    """The adaptive batch, to the size that the card still holds."""
    import torch

    from visionquant.deploy import batch_size

    def run(size: int) -> None:
        if size > 37:
            raise torch.OutOfMemoryError("CUDA out of memory")

    found = batch_size.largest_that_fits(run, "cuda")
    assert found == 37, found
    return "37 of 37"


def serve(folder: Path) -> str:
    """A server that answers, loses its GPU, and answers again."""
    import numpy as np
    import requests
    import serving_process

    from visionquant.weights import checkpoint

    project, params = tiny_study(folder, ("int8",))
    checkpoint.download(project, params, "tiny-vit")
    os.environ["REHEARSAL_LOST"] = str(folder / "lost")
    options = ("--model", "tiny-vit", "--precision", "int8", "--timeout-s", "60")
    with serving_process.running(project.root, *options) as server:
        kind = {"Content-Type": "application/octet-stream"}

        def ask() -> int:
            data = np.zeros((3, 32, 32), np.float32).tobytes()
            url = f"{server.url}/predict/tensor"
            return requests.post(url, data=data, params={"shape": "3,32,32"}, headers=kind, timeout=90).status_code

        server.wait_until(server.ready)
        first = ask()
        (folder / "lost").touch()
        lost = ask()
        server.wait_until(lambda: server.shown("visionquant_worker_restarts_total") == 1)
        server.wait_until(server.ready)
        again = ask()
    assert (first, lost, again) == (200, 503, 200), (first, lost, again)
    return "200, then 503 from a worker that lost its GPU, then 200 from a new one"


def serving(folder: Path) -> str:
    """The recipe that loads two servers, shortened."""
    from visionquant.core import machine
    from visionquant.recipes import serving as recipe

    project, params = tiny_study(folder)
    recipe.MODEL, recipe.PRECISIONS, recipe.CLIENTS, recipe.ROUNDS = "tiny-vit", ("int8",), (2,), 1
    recipe.ROUND_S, recipe.KILLED_S = 0.5, 0.5
    rows = recipe.run(project, params, machine.probe("cuda")).rows
    assert rows, "no rows"
    return f"{len(rows)} rows"


def borrowed(folder: Path) -> str:
    """The script for borrowed machines in chunks, each resuming the last, and packed."""
    import test_borrowed

    project = test_borrowed.study(folder)
    before: list[Any] = []
    for number in range(1, 20):
        minutes = 0.34 + 12 / 60 if number == 1 else 5
        results = folder / f"chunk{number}"
        more = ("--resume", before[-1]) if before else ()
        arguments = ("run", "--device", "cuda", "--results", results, "--minutes", minutes, *more)
        done = subprocess.run(
            [sys.executable, ROOT / "scripts" / "borrowed_sweep.py", "--project", project.root, *map(str, arguments)],
            capture_output=True, encoding="utf-8", check=False,
        )  # fmt: skip
        log = (results / "log.txt").read_text(encoding="utf-8")[-2000:] if (results / "log.txt").is_file() else ""
        assert done.returncode in (0, 75), f"chunk {number}: {done.stderr}{log}"
        before.append(results)
        if done.returncode == 0:
            break
    pack = [sys.executable, ROOT / "scripts" / "borrowed_sweep.py", "--project", project.root, "pack", "--results"]
    subprocess.run([*map(str, pack), str(before[-1]), "--platform", "made-up-card"], check=True, capture_output=True)
    assert len(before) > 1, "one chunk did all of it"
    return f"{len(before)} chunks, packed"


DRIVES: dict[str, Callable[[Path], str]] = {
    one.__name__: one for one in (quick, families, recipes, batch, serve, serving, borrowed)
}


# --- the checks


def drive(name: str, stubs: Path, work: Path) -> str:
    """One of ``DRIVES`` in a process of its own."""
    log = work / f"{name}.log"
    done = subprocess.run(
        [sys.executable, __file__, "--drive", name, str(work / name)],
        env=environment(stubs, log, card=True), capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == 0, (done.stderr or done.stdout).strip()[-3000:]
    return f"{done.stdout.strip().splitlines()[-1]}; {told(log)}"


def tests(stubs: Path, work: Path) -> str:
    """tests/bench/test_gpu.py on the card."""
    log = work / "tests.log"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/bench/test_gpu.py"],
        cwd=ROOT, env=environment(stubs, log, card=True), capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    return f"{done.stdout.strip().splitlines()[-1]}; {told(log)}"


def collection(stubs: Path, work: Path) -> str:
    """Collecting every test opens no GPU."""
    log = work / "collection.log"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--collect-only", "-m", "gpu"],
        cwd=ROOT, env=environment(stubs, log, card=False), capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    opened = (
        [line for line in log.read_text(encoding="utf-8").splitlines() if line.startswith("cuda")]
        if log.is_file()
        else []
    )
    assert not opened, opened
    return f"{done.stdout.strip().splitlines()[-1]}; no process called cuInit"


def old_driver(stubs: Path, work: Path) -> str:
    """A driver for CUDA 12.4 under a torch for 13: auto takes the CPU and says so, cuda is one line, in every verb."""
    from visionquant.accuracy import training
    from visionquant.weights import checkpoint

    for device in ("auto", "cuda"):
        project, params = tiny_study(work / device, ("int8",), device=device)
        checkpoint.download(project, params, "tiny-vit")
    spec = params.training.networks["tiny-digits"]
    net = training.train(spec, params.training, training.load_digits(spec.image_size), 0).net
    training.save_trained(project, "tiny-digits", 0, net)

    def ask(device: str, words: str, driver: dict[str, str]) -> tuple[int, str, str]:
        done = subprocess.run(
            [*COMMAND, *words.split()], cwd=work / device, encoding="utf-8", check=False, timeout=300,
            env=environment(stubs, work / "old.log", card=False, **driver), capture_output=True,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    code, out, err = ask("auto", "environment", OLD)
    assert (code, out[:4], err.count("\n")) == (0, "cpu:", 1), (code, out, err)
    assert "driver 580 or newer" in err, err
    code, out, err = ask("cuda", "environment", OLD)
    assert (code, err.count("\n")) == (1, 1), err
    # NVML says that all is well, and the driver's own library is older: only opening it tells.
    code, out, err = ask("cuda", "environment", NOT_SO_OLD)
    assert (code, out[:5]) == (0, "cuda:"), (code, out, err)
    verbs = (
        "sample --model tiny-vit", "serve --model tiny-vit --precision int8 --port 0", "recipe validation",
        "recipe half", "recipe storage", "recipe checkpointing", "recipe compile", "recipe serving",
        "evaluate --network tiny-digits", "evaluate-pretrained",
    )  # fmt: skip
    for verb in verbs:
        code, _, err = ask("cuda", verb, NOT_SO_OLD)
        assert code == 1, f"{verb}: code {code}, {err[-2000:]}"
        assert err.count("\n") == 1, f"{verb}: {err[-2000:]}"
        assert "too old" in err, f"{verb}: {err}"
        assert "driver 580 or newer" in err, f"{verb}: {err}"
    return f"environment and {len(verbs)} verbs end in one line"


def checks(only_quick: bool) -> Iterator[tuple[str, Callable[[Path, Path], str] | str]]:
    """Name and check, or why it can't be made here."""
    names = [name for name in DRIVES if (name == "quick") is only_quick]
    yield from ((name, lambda stubs, work, name=name: drive(name, stubs, work)) for name in names)  # type: ignore[misc]
    if only_quick:
        return
    yield "tests", tests
    from visionquant.core import driver

    built_for = driver.torch_cuda()
    for check in (collection, old_driver):
        yield check.__name__, check if built_for else "torch is a build without CUDA"


def main() -> int:
    """Run the checks; 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="what needs no servers and no chunks")
    parser.add_argument("--drive", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.drive:
        sys.stdout.write(DRIVES[asked.drive[0]](Path(asked.drive[1])) + "\n")
        return 0
    sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]
    failed = 0
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as name:
        work = Path(name)
        stubs = build(work / "stubs")
        for title, check in checks(asked.quick):
            begun = time.monotonic()
            if isinstance(check, str):
                word, said = "skip", check
            else:
                try:
                    word, said = "ok", check(stubs, work)
                except (AssertionError, subprocess.SubprocessError) as error:
                    word, said, failed = "FAIL", str(error), failed + 1
            sys.stdout.write(f"{word:4} {title} ({time.monotonic() - begun:.0f} s): {said}\n")
            sys.stdout.flush()
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
