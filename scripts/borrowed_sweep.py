"""The study on a borrowed machine: no DVC, no installation, in chunks of minutes, results in three files.

    python scripts/borrowed_sweep.py run --results OUT --minutes 9
    python scripts/borrowed_sweep.py pack --results OUT --platform NAME

``run`` measures in the order of ``STEPS`` until all is done (exit code 0) or the minutes are over (75); give it the
results of the last chunk with ``--resume`` and it goes on from the round it had reached, on this machine or another
of the same kind. What the machine lacks (pydantic, ...) is taken from a folder of wheels: ``--wheels``. ``pack``, at
home, makes sets for ``data/machines`` of them. Needs nothing but Python 3.11; the package is that of this checkout.
"""

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NEEDED = ("torch", "transformers", "bitsandbytes", "pydantic", "yaml", "typer", "psutil", "pynvml", "sklearn", "PIL",
          "scipy", "filelock")  # fmt: skip
BRACKET = ("int8-threshold-0", "int8-outliers", "int8-outliers-threshold-0")
GROUPS = (((1,), ()), ((4, 8, 16, 32), ()), ((1,), BRACKET))  # every step prepares its pairs anew
# Protocol, batch sizes and precisions (none: the study's), in the order of their value.
STEPS = (*((protocol, *group) for protocol in ("borrowed", "quick") for group in GROUPS), ("paper", (1,), ()))
SETTINGS = "--set study.protocol={0} --set study.minutes=null --set study.weights=seeded --set study.device={1}"
DONE, TIME_IS_UP, MARGIN_S = (0, 3), 75, 20.0  # exit codes, 3: pairs failed; seconds for packing
KEPT = ("latency", "samples", "failures", "environment.json")  # of what a sweep leaves


def main() -> int:
    """Run or pack; a mistake is one line and exit code 1."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("verb", choices=("run", "pack"))
    parser.add_argument("--project", type=Path, default=ROOT, help="checkout whose params.yaml and data/ are used")
    parser.add_argument("--results", type=Path, required=True, help="folder of the three files")
    parser.add_argument("--minutes", type=float, default=9.0, help="of this chunk, all in all")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="what to measure; no GPU is an error")
    parser.add_argument("--resume", type=Path, help="the results of the last chunk")
    parser.add_argument("--wheels", type=Path, help="folder of wheels that this machine lacks")
    parser.add_argument("--platform", help="name of the machine for its record sets, e.g. h100")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="visionquant-") as work:
        return (run if asked.verb == "run" else pack)(asked, Path(work))


def run(asked: argparse.Namespace, work: Path) -> int:
    """Measure one chunk."""
    until_s, codes, log = time.monotonic() + 60 * asked.minutes - MARGIN_S, [], asked.results / "log.txt"
    if asked.results.exists() and any(asked.results.iterdir()):
        sys.exit(f"borrowed_sweep: --results {asked.results}: not empty; name a new folder, and this one as --resume")
    prepare(work, asked.wheels)
    if asked.resume is not None:
        unpack(asked.resume, work)
    asked.results.mkdir(parents=True, exist_ok=True)
    try:
        for protocol, sizes, names in STEPS:
            left_s = max(0.0, until_s - time.monotonic())
            words = [word for size in sizes for word in ("--batch-size", str(size))]
            words += [word for name in names for word in ("--precision", name)] or ["--all-precisions"]
            words = ["sweep", "--all-models", "--minutes", f"{left_s / 60:.3f}", *words]
            with log.open("ab") as output:
                more = {"stdout": output, "stderr": output, "timeout": left_s}
                codes.append(visionquant(asked, work / "study" / protocol, asked.device, words, **more))
            if codes[-1] not in DONE:
                break
    finally:
        done = [code in DONE for code in codes] + [False] * (len(STEPS) - len(codes))
        keys = ("protocol", "batch_sizes", "precisions", "done")
        status = [dict(zip(keys, (*step, over), strict=True)) for step, over in zip(STEPS, done, strict=True)]
        (asked.results / "status.json").write_text(json.dumps(status, indent=1) + "\n", encoding="utf-8")
        with tarfile.open(asked.results / "records.tar.xz", "w:xz") as archive:
            for path in sorted(path for path in (work / "study").glob("*/*") if path.name in KEPT):
                archive.add(path, path.relative_to(work))
    if codes[-1] not in (*DONE, TIME_IS_UP):
        sys.exit(f"borrowed_sweep: step {len(codes)} ended with code {codes[-1]}; see {log}")
    failures = "; pairs failed, the next chunk tries them again" if 3 in codes else ""
    sys.stdout.write(f"{sum(done)} of {len(STEPS)} steps done{failures}; results in {asked.results}\n")
    return max(codes)


def pack(asked: argparse.Namespace, work: Path) -> int:
    """Make a record set of each protocol's records: NAME for borrowed, NAME-<protocol> for another."""
    unpack(asked.results, work)
    prepare(work, None)
    for place in sorted(path.parent for path in (work / "study").glob("*/latency")):
        name = asked.platform if place.name == STEPS[0][0] else f"{asked.platform}-{place.name}"
        if code := visionquant(asked, place, "auto", ["record", "--partial", "--platform", str(name)]):
            return code
    return 0


def visionquant(asked: argparse.Namespace, place: Path, device: str, words: list[str], **more: object) -> int:
    """The exit code of a command with the settings of a protocol; ``place``, named as that, takes its results.

    It stops by itself, and is ended if it does not in time: what is finished lies on disk.
    """
    command = [sys.executable, "-c", "from visionquant.cli import main; main()", *words]
    command += [*SETTINGS.format(place.name, device).split(), "--results", str(place)]
    try:
        return subprocess.run(command, cwd=asked.project, check=False, **more).returncode
    except subprocess.TimeoutExpired:
        return TIME_IS_UP


def prepare(work: Path, wheels: Path | None) -> None:
    """Let commands find this checkout's package, and the wheels beside it."""
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(ROOT / "src"), str(work / "site"), os.environ.get("PYTHONPATH", "")]
    )
    if wheels is not None:
        found = sorted(map(str, wheels.glob("*.whl")))
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target"]
        if not found or subprocess.run([*pip, str(work / "site"), *found], check=False).returncode:
            why = "pip could not install them; are they for this Python?" if found else "no wheel in it"
            sys.exit(f"borrowed_sweep: --wheels {wheels}: {why}")
    look = f"import importlib.util as u; print(*[n for n in {NEEDED!r} if u.find_spec(n) is None])"
    missing = subprocess.run([sys.executable, "-c", look], capture_output=True, check=True).stdout.decode().strip()
    if missing:
        sys.exit(f"borrowed_sweep: this machine lacks {missing}; carry wheels of them: --wheels FOLDER")


def unpack(results: Path, work: Path) -> None:
    """Fetch what an earlier chunk has left."""
    try:
        with tarfile.open(results / "records.tar.xz") as archive:
            archive.extractall(work, filter="data")
    except (tarfile.TarError, EOFError, OSError) as error:
        sys.exit(f"borrowed_sweep: {results}: {str(error).splitlines()[0]}; name the results of this script")


if __name__ == "__main__":
    sys.exit(main())
