"""The study on a borrowed machine: no DVC, no installation, in chunks of minutes, results in three files.

    python scripts/borrowed_sweep.py run --results OUT --minutes 9
    python scripts/borrowed_sweep.py pack --results OUT --platform NAME

``run`` measures in the order of ``STEPS`` until all is done (exit code 0) or the minutes are over (75); give it the
results of the last chunk with ``--resume`` and it goes on from the replicate it had reached, on this machine or another
of the same kind. What the machine lacks (pydantic, bitsandbytes, ...) is taken from a folder of wheels: ``--wheels``.
``pack``, at home, turns the results into record sets for ``data/recorded``.

Needs nothing but Python 3.11 itself; the package is used from the checkout that this file lies in. Weights are seeded.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[1]
NEEDED = ("torch", "transformers", "bitsandbytes", "pydantic", "yaml", "typer", "rich", "psutil", "pynvml",
          "sklearn", "PIL", "scipy")  # fmt: skip
COMMAND = (sys.executable, "-c", "from visionquant.cli import main; main()")
TIME_IS_UP, PAIRS_FAILED = 75, 3
MARGIN_S = 20.0  # for packing
RECORDS, LOG, STATUS = "records.tar.xz", "log.txt", "status.json"


@dataclass(frozen=True)
class Step:
    """What to measure with which protocol; no precisions: the study's."""

    protocol: str
    batch_sizes: tuple[int, ...]
    precisions: tuple[str, ...] = ()


BRACKET = ("int8-threshold-0", "int8-outliers", "int8-outliers-threshold-0")
# In the order of their value. Every step prepares its pairs anew, so sizes of like value share one.
STEPS = (
    Step("borrowed", (1,)),
    Step("borrowed", (32,)),
    Step("borrowed", (4, 8, 16)),
    Step("borrowed", (1,), BRACKET),
    Step("adaptive", (1,)),
    Step("adaptive", (32,)),
    Step("adaptive", (4, 8, 16)),
    Step("adaptive", (1,), BRACKET),
    Step("paper", (1,)),
)


def main() -> int:
    """Run or pack; a mistake is one line and exit code 1."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--project", type=Path, default=ROOT, help="checkout whose params.yaml and data/ are used")
    verbs = parser.add_subparsers(dest="verb", required=True)
    run_ = verbs.add_parser("run", help="measure until the minutes are over")
    run_.add_argument("--results", type=Path, required=True, help="where the three files go; may not exist")
    run_.add_argument("--minutes", type=float, default=9.0, help="of this chunk, all in all")
    run_.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="what to measure; no GPU is an error")
    run_.add_argument("--resume", type=Path, help="the results of the last chunk")
    run_.add_argument("--wheels", type=Path, help="folder of wheels that this machine lacks")
    pack_ = verbs.add_parser("pack", help="make record sets of the results")
    pack_.add_argument("--results", type=Path, required=True)
    pack_.add_argument("--platform", required=True, help="name of the machine, e.g. h100")
    asked = parser.parse_args()
    try:
        if asked.verb == "pack":
            return pack(asked.project, asked.results, asked.platform)
        return run(asked.project, asked.results, asked.minutes, asked.device, asked.resume, asked.wheels)
    except Mistake as error:
        sys.stderr.write(f"borrowed_sweep: {error}\n")
        return 1


class Mistake(Exception):
    """One line: what was asked, what was found, what to do."""


def run(project: Path, results: Path, minutes: float, device: str, resume: Path | None, wheels: Path | None) -> int:
    """Measure one chunk."""
    until_s = time.monotonic() + 60 * minutes - MARGIN_S
    if results.exists() and any(results.iterdir()):
        raise Mistake(f"--results {results}: not empty; name a new folder, and this one as --resume")
    if resume is not None and not (resume / RECORDS).is_file():
        raise Mistake(f"--resume {resume}: no {RECORDS} in it; name the results of the last chunk")
    results.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="visionquant-") as name:
        work = Path(name)
        environment = _environment(work, wheels)
        if resume is not None:
            _unpack(resume / RECORDS, work)
        done, failed = [False] * len(STEPS), False
        try:
            with (results / LOG).open("w", encoding="utf-8") as log:
                for i, step in enumerate(STEPS):
                    left_s = until_s - time.monotonic()
                    code = TIME_IS_UP
                    if left_s > 0:
                        code = _measure(project, work, step, device, left_s, environment, log)
                    done[i] = code in (0, PAIRS_FAILED)
                    failed |= code == PAIRS_FAILED
                    if code == TIME_IS_UP:
                        break
                    if not done[i]:
                        raise Mistake(f"step {i + 1} ended with code {code}; see {results / LOG}")
        finally:
            _pack_records(work, results / RECORDS)
            status = [{"protocol": s.protocol, "batch_sizes": s.batch_sizes, "precisions": s.precisions, "done": d}
                      for s, d in zip(STEPS, done, strict=True)]  # fmt: skip
            (results / STATUS).write_text(json.dumps(status, indent=1) + "\n", encoding="utf-8")
    failures = "; pairs failed, the next chunk tries them again" if failed else ""
    sys.stdout.write(f"{sum(done)} of {len(STEPS)} steps done{failures}; results in {results}\n")
    return TIME_IS_UP if not all(done) else PAIRS_FAILED if failed else 0


def _environment(work: Path, wheels: Path | None) -> dict[str, str]:
    """The environment of the measuring process: this checkout's package, and the wheels beside it.

    Raises:
        Mistake: the wheels can't be installed, or something is still missing.
    """
    site = work / "site"
    places = [str(ROOT / "src"), *([str(site)] if wheels else []), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))}
    if wheels is not None:
        found = sorted(wheels.glob("*.whl"))
        if not found:
            raise Mistake(f"--wheels {wheels}: no wheel in it")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(site)]
        if subprocess.run([*pip, *map(str, found)], check=False).returncode:
            raise Mistake(f"--wheels {wheels}: pip could not install them; are they for this Python?")
    look = f"import importlib.util as u; print(*[n for n in {NEEDED!r} if u.find_spec(n) is None])"
    missing = subprocess.run(
        [sys.executable, "-c", look], env=environment, capture_output=True, text=True, encoding="utf-8", check=True
    )
    if missing.stdout.strip():
        raise Mistake(f"this machine lacks {missing.stdout.strip()}; carry wheels of them: --wheels FOLDER")
    return environment


def _measure(
    project: Path, work: Path, step: Step, device: str, left_s: float, environment: dict[str, str], log: IO[str]
) -> int:
    """One step in its protocol's own working copy; the exit code of the sweep.

    It stops by itself, and is ended if it does not in time: what is finished lies on disk.
    """
    place = work / "study" / step.protocol
    _prepare(project, place, step.protocol, device)
    arguments = ["sweep", "--all-models", "--minutes", f"{left_s / 60:.3f}"]
    arguments += [word for size in step.batch_sizes for word in ("--batch-size", str(size))]
    arguments += [word for name in step.precisions for word in ("--precision", name)] or ["--all-precisions"]
    command = [*COMMAND, *arguments]
    try:
        done = subprocess.run(command, cwd=place, env=environment, stdout=log, stderr=log, check=False, timeout=left_s)
    except subprocess.TimeoutExpired:
        return TIME_IS_UP
    return done.returncode


def _prepare(project: Path, place: Path, protocol: str, device: str = "auto") -> None:
    """Settings and architectures of the study beside what was measured.

    Another protocol, the device, seeded weights, and no refusal of a busy machine: inside a lender's container the load
    of others can't be told from one's own, so cells are marked instead.
    """
    place.mkdir(parents=True, exist_ok=True)
    text = (project / "params.yaml").read_text(encoding="utf-8").replace("busy: refuse", "busy: allow")
    for key, value in (("protocol", protocol), ("device", device), ("weights", "seeded")):
        text, count = re.subn(rf"(?m)^  {key}: [\w-]+", f"  {key}: {value}", text, count=1)
        if not count:
            raise Mistake(f"{project / 'params.yaml'}: no study.{key}; restore it from git")
    (place / "params.yaml").write_text(text, encoding="utf-8")
    for name in ("architectures", "supplement"):
        target = place / "data" / name
        if not target.exists():
            shutil.copytree(project / "data" / name, target)


def _pack_records(work: Path, path: Path) -> None:
    """What has to survive: finished pairs, pairs under way, what failed, and which machine it was."""
    with tarfile.open(path, "w:xz") as archive:
        for name in ("measured", "progress", "failures", "environment.json"):
            for found in sorted((work / "study").glob(f"*/data/{name}")):
                archive.add(found, found.relative_to(work))


def _unpack(path: Path, work: Path) -> None:
    try:
        with tarfile.open(path) as archive:
            archive.extractall(work, filter="data")
    except (tarfile.TarError, EOFError, OSError) as error:
        raise Mistake(f"{path}: {str(error).splitlines()[0]} it is no result of this script") from None


def pack(project: Path, results: Path, platform: str) -> int:
    """Make a record set of each protocol's records: NAME for borrowed, NAME-<protocol> for another."""
    if not (results / RECORDS).is_file():
        raise Mistake(f"--results {results}: no {RECORDS} in it")
    with tempfile.TemporaryDirectory(prefix="visionquant-") as name:
        work = Path(name)
        _unpack(results / RECORDS, work)
        made, environment = [], _environment(work, None)
        for place in sorted((work / "study").glob("*")):
            if not list((place / "data" / "measured").glob("*.json")):
                continue
            _prepare(project, place, place.name)
            called = platform if place.name == STEPS[0].protocol else f"{platform}-{place.name}"
            target = project / "data" / "recorded" / called
            if target.exists():
                raise Mistake(f"data/recorded/{called}: there is such a set already; choose another name or remove it")
            command = [*COMMAND, "record", "--partial", "--platform", called]
            if subprocess.run(command, cwd=place, env=environment, check=False).returncode:
                raise Mistake(f"the records of protocol {place.name} could not be packed")
            made.append((place / "data" / "recorded" / called, target))
        for source, target in made:
            staging = target.with_name(f".{target.name}.partial")
            shutil.rmtree(staging, ignore_errors=True)
            shutil.copytree(source, staging)
            staging.rename(target)
    sys.stdout.write("".join(f"{target}\n" for _, target in made) or "no finished pair in these results\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
