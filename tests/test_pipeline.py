"""The pipeline itself: a real clone, real DVC, tiny models; every step counts which stages ran."""

import copy
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny
import yaml

from visionquant.core.paths import Project
from visionquant.records import record as records
from visionquant.report import page_map
from visionquant.settings import params as parameters

BIN = Path(sys.executable).parent
NAMED = {"evaluate@tiny-digits"}
JUDGE = {"evaluate-pretrained"}
TAIL = {"analyse", "report"}
MODELS, PRECISIONS = ("tiny-vit", "tiny-deit"), ("fp32", "nf4")


CALM = "from visionquant.records import cell; cell.BUSY_OTHERS = cell.BUSY_STEAL = cell.BUSY_PRESSURE = 99.0"


def around(root: Path) -> dict[str, str]:
    """The environment of commands of the clone's own installation."""
    return os.environ | {
        "PATH": f"{root / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(root / "src"),
        "DVC_SITE_CACHE_DIR": str(root.parent / "site-cache"),
        "DVC_NO_ANALYTICS": "1",
        "GIT_AUTHOR_NAME": "test",
        "GIT_AUTHOR_EMAIL": "test@example.org",
        "GIT_COMMITTER_NAME": "test",
        "GIT_COMMITTER_EMAIL": "test@example.org",
    }


def command(root: Path, *words: str, ok: bool = True) -> str:
    """What a command of the clone's own installation says, on a machine that is never busy."""
    done = subprocess.run(words, cwd=root, env=around(root), capture_output=True, text=True)
    assert (done.returncode == 0) == ok, done.stdout + done.stderr
    return done.stdout + done.stderr


def dvc(root: Path, *arguments: str, ok: bool = True) -> str:
    return command(root, "dvc", *arguments, ok=ok)


def stages_run(output: str) -> set[str]:
    """Names of the stages that ran, without the one that looks at machine and weights, which always does."""
    return set(re.findall(r"Running stage '([^']+)'", output)) - {"environment"}


def clone(folder: Path, raw: dict[str, Any]) -> Path:
    """What git holds of this checkout, with tiny settings and one notebook, committed to a new repository."""
    root = folder / "clone"
    listing = ["git", "-C", str(tiny.ROOT), "ls-files", "-co", "--exclude-standard", "-z"]
    for name in subprocess.run(listing, capture_output=True, text=True, check=True).stdout.split("\0"):
        skipped = name.startswith(("reports/", "data/machines/", "tests/")) or name == "dvc.lock"
        if name and not skipped and (tiny.ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(tiny.ROOT / name, root / name)
    _keep_one_notebook(root)
    (root / "data" / "machines").mkdir()
    (root / "data" / "machines" / "README.md").touch()
    tiny.architectures(root)
    tiny.write_settings(root, raw)
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for arguments in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-q", "-m", "tiny"]):
        subprocess.run(["git", *arguments], cwd=root, check=True)
    _install(root)
    return root


def _install(root: Path) -> None:
    """The clone's .venv: this installation, with the clone's own code."""
    (root / ".venv" / "bin").mkdir(parents=True)
    calm = f"python -c '{CALM}; from visionquant.cli import main; main()'"
    for name, program in {"python": "python", "dvc": "python -m dvc", "visionquant": calm}.items():
        path = root / ".venv" / "bin" / name
        path.write_text(f'#!/bin/sh\nexec {BIN}/{program} "$@"\n')
        path.chmod(0o755)
    (root / ".venv" / ".ready").touch()


def _keep_one_notebook(root: Path) -> None:
    """One notebook with its figure and page, so that a run of the whole pipeline takes seconds."""
    pipeline = yaml.safe_load((root / "dvc.yaml").read_text())
    outs = pipeline["stages"]["report"]["outs"]
    for notebook in sorted((root / "notebooks").glob("*.ipynb")):
        if notebook.stem != "05_statistics":
            notebook.unlink()
    others = {f"reports/{name}.html" for name, _, parts in page_map.PAGES if "statistics" not in parts}
    outs[:] = [out for out in outs if not others & set(out)]
    (root / "dvc.yaml").write_text(yaml.safe_dump(pipeline, sort_keys=False))


def measured(models: tuple[str, ...] = MODELS, precisions: tuple[str, ...] = PRECISIONS) -> set[str]:
    return {f"measure@{model}-{precision}" for model in models for precision in precisions}


def of(stage: str, *models: str) -> set[str]:
    return {f"{stage}@{model}" for model in models}


Edit = Callable[[dict[str, Any]], None]


def set_(*path: str | int, to: Any) -> Edit:
    def edit(raw: dict[str, Any]) -> None:
        row: Any = raw
        for name in path[:-1]:
            row = row[name]
        row[path[-1]] = to

    return edit


SAMPLE = {"sample"}
EDITS: list[tuple[str, Edit, set[str], str]] = [  # which stages run, and of which cells samples lack
    ("a protocol that is not in force", set_("protocols", "paper", "rounds", to=4), set(), ""),
    ("a row outside the study", set_("precisions", "int8", "threshold", to=5.0), SAMPLE | NAMED | JUDGE, ""),
    ("a model", set_("models", "tiny-vit", "group", to="other"), SAMPLE | JUDGE, "tiny-vit 1, tiny-vit 2"),
    ("a network", set_("training", "networks", "tiny-digits", "epochs", to=2), {"train@tiny-digits"} | NAMED, ""),
    ("a precision", set_("precisions", "nf4", "blocksize", to=128), SAMPLE | NAMED | JUDGE,
     "tiny-vit 1, tiny-vit 2, tiny-deit 1, tiny-deit 2"),
    ("batch sizes, one more", set_("study", "batch_sizes", to=[1, 2, 3]), SAMPLE, "tiny-vit 3, tiny-deit 3"),
    ("batch sizes, one less", set_("study", "batch_sizes", to=[1]), SAMPLE, ""),
    ("precisions, one less", set_("study", "precisions", to=["fp32"]), SAMPLE | NAMED | JUDGE, ""),
    ("a value of the protocol", set_("protocols", "tiny", "slot_passes", to=3), SAMPLE | JUDGE,
     "tiny-vit 1, tiny-vit 2, tiny-deit 1, tiny-deit 2"),
]  # fmt: skip
ADDED = "tiny-beit"


def test_a_clone_is_reproduced_and_an_edit_samples_exactly_what_it_touches(tmp_path: Path) -> None:
    """What an edit would run, DVC and the plan say without running it; one, and an experiment, really run."""
    raw = tiny.settings(MODELS, PRECISIONS)
    root = clone(tmp_path, raw)
    said = command(root, "make", "repro")
    assert said.count("first figures: ") == 1
    assert said.index("first figures: ") < said.index("Running stage 'sample'")
    once = of("download", *MODELS) | SAMPLE | measured() | {"train@tiny-digits"} | NAMED | JUDGE | TAIL
    assert stages_run(said) == once
    assert f"report    {root / 'reports' / 'index.html'}" in said.splitlines()
    assert stages_run(dvc(root, "repro")) == set()
    assert "index.html" in dvc(root, "plots", "show")
    plotted = (root / "dvc_plots" / "index.html").read_text()
    assert all(f"{model} {precision}" in plotted for model in MODELS for precision in PRECISIONS)
    said = dvc(root, "repro", "--force", "--single-item", "sample")
    assert "nothing was measured: all samples are there; --again takes them anew" in said

    for (name, _, expected, lacking), (dry, plan) in zip(EDITS, _would_run(root, raw), strict=True):
        assert stages_run(dry) == expected, name
        planned = [line.split(": ", 1) for line in plan.splitlines()[:-1]]
        lacks = [f"{model} {size}" for model, text in planned for size in re.findall(r"batch (\d+): \d+ round", text)]
        assert ", ".join(lacks) == lacking, name

    before = _samples(root)
    raw["precisions"]["nf4"]["blocksize"] = 128
    tiny.write_settings(root, raw)
    assert stages_run(dvc(root, "repro", "measure")) == SAMPLE | measured(precisions=("nf4",))
    samples = _samples(root)
    assert {key for key, rounds in samples.items() if rounds != before[key]} == {key for key in samples if "nf4" in key}

    changed = ["-S", f"study.models=[tiny-deit,{ADDED}]", "-S", "study.batch_sizes=[1,3]"]
    changed += ["-S", "study.precisions=[fp32]"]
    added = of("download", ADDED) | SAMPLE | measured(("tiny-deit", ADDED), ("fp32",)) | NAMED | JUDGE
    assert stages_run(dvc(root, "exp", "run", *changed)) == added | TAIL
    assert yaml.safe_load((root / "params.yaml").read_text())["study"]["models"] == ["tiny-deit", ADDED]
    kept = {key: value for key, value in samples.items() if key[0] == "tiny-deit"}
    assert kept.items() <= _samples(root).items()  # a batch size is added to a record, and none is taken out of it
    assert (root / "reports" / "index.html").is_file()
    table = (root / "reports" / "tables" / "cells.csv").read_text()
    rates = [row.split(",") for row in table.splitlines() if ",throughput," in row and row.startswith("local,")]
    assert {row[3] for row in rates} == {"1", "3"}
    assert stages_run(dvc(root, "repro")) == set()


def test_an_interrupted_run_goes_on_and_shows_what_it_has(tmp_path: Path) -> None:
    """A process group is interrupted as a terminal's Ctrl-C does it, while rounds are taken."""
    raw = tiny.settings(("tiny-vit",), ("fp32", "nf4"))
    raw["study"]["batch_sizes"] = [1]
    raw["protocols"]["tiny"]["rounds"] = 60
    root = clone(tmp_path, raw)
    path, log = root / "data/machines/local" / "samples" / "tiny-vit-nf4.json.gz", tmp_path / "log"
    with log.open("wb") as said:
        words = ["dvc", "repro", "sample"]
        running = subprocess.Popen(words, cwd=root, env=around(root), stdout=said, stderr=said, start_new_session=True)
        while "round 3 of 60" not in log.read_text():
            assert running.poll() is None, log.read_text()
            time.sleep(0.1)
        os.killpg(running.pid, signal.SIGINT)
        assert running.wait() != 0
    assert "visionquant: interrupted; finished rounds are kept, the same command goes on from there" in log.read_text()
    (cell,) = records.read_samples(path).cells
    assert 3 <= len(cell.rounds) < 60
    command(root, "visionquant", "measure")
    assert records.read(root / "data/machines/local" / "latency" / "tiny-vit-nf4.json").cells == (cell,)
    command(root, "visionquant", "analyse")
    assert "1 rounds measured" in command(root, "visionquant", "sample", "--rounds", str(len(cell.rounds) + 1))
    assert records.read_samples(path).cells[0].rounds[:-1] == cell.rounds


# DVC and the plan over one settings file after another; in one process, whose start is most of what each takes.
ASK = """
import contextlib, shutil, sys
import dvc.cli
from visionquant import cli
for path in sys.argv[1:]:
    shutil.copyfile(path, "params.yaml")
    print("--- edit", flush=True)
    assert dvc.cli.main(["repro", "--dry", "measure", "evaluate", "evaluate-pretrained"]) == 0
    print("--- plan", flush=True)
    sys.argv = ["visionquant", "plan"]
    with contextlib.suppress(SystemExit):
        cli.main()
"""


def _would_run(root: Path, raw: dict[str, Any]) -> list[list[str]]:
    """Of each edit alone what ``dvc repro --dry`` says, and what ``visionquant plan`` does."""
    settings = []
    for number, (_, edit, *_) in enumerate(EDITS):
        edited = copy.deepcopy(raw)
        edit(edited)
        settings.append(root.parent / f"edit-{number}.yaml")
        settings[-1].write_text(yaml.safe_dump(edited, sort_keys=False))
    words = ["python", "-c", ASK, *map(str, settings)]
    done = subprocess.run(words, cwd=root, env=around(root), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return [part.split("--- plan\n") for part in done.stdout.split("--- edit\n")[1:]]


def _samples(root: Path) -> dict[tuple[str, str, int], Any]:
    found = {}
    for path in sorted((root / "data/machines/local" / "latency").glob("*.json")):
        record = records.read(path)
        for cell in record.cells:
            found[record.model, record.precision, cell.batch_size] = cell.rounds
    return found


def test_other_weights_in_a_local_folder_are_another_model(tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTModel

    raw = tiny.settings(("mine",), ("fp32",))
    raw["models"]["mine"] = {"path": "models/mine", "input_size": 32}
    raw["study"]["weights"] = "auto"
    root = clone(tmp_path, raw)
    config = ViTConfig(**{name: value for name, value in tiny.CONFIGS["tiny-vit"].items() if name != "model_type"})
    ViTModel(config).save_pretrained(root / "models" / "mine")
    weights, manifest = (
        root / "models" / "mine" / "model.safetensors",
        root / "data/machines/local" / "models" / "mine.json",
    )
    assert stages_run(dvc(root, "repro", "download@mine")) == {"download@mine"}
    before, content = manifest.read_text(), weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert stages_run(dvc(root, "repro", "download@mine")) == {"download@mine"}
    assert manifest.read_text() != before


def test_a_pair_that_fails_is_a_row_and_a_stage_that_fails_leaves_old_records_and_one_line(
    tmp_path: Path,
) -> None:
    raw = tiny.settings(("tiny-vit",), ("fp32", "nf4"))
    raw["precisions"]["nf4"]["skip"] = ["layers", "layer", "encoder", "pooler"]
    root = clone(tmp_path, raw)
    assert measured(("tiny-vit",), ("fp32", "nf4")) <= stages_run(dvc(root, "repro", "measure"))
    record = records.read(root / "data/machines/local" / "latency" / "tiny-vit-nf4.json")
    assert {cell.status for cell in record.cells} == {"failed"}
    assert "no Linear layer was quantised, of 13 in the model" in record.failure
    assert not stages_run(dvc(root, "repro", "measure"))
    command(root, "visionquant", "analyse")
    assert "visionquant: 1 of 2 pairs failed: each row says why" in command(root, "visionquant", "summary", ok=False)

    before = {path.name: path.read_bytes() for path in (root / "data/machines/local" / "latency").iterdir()}
    raw["models"]["tiny-vit"] = {"path": "mine", "input_size": 32}
    tiny.write_settings(root, raw | {"study": raw["study"] | {"weights": "pretrained"}})
    output = dvc(root, "repro", "measure@tiny-vit-fp32", ok=False)
    lines = [line for line in output.splitlines() if line.startswith("visionquant: ")]
    assert len(lines) == 1
    assert "models.tiny-vit.path: no folder mine" in lines[0]
    assert {path.name: path.read_bytes() for path in (root / "data/machines/local" / "latency").iterdir()} == before


def test_every_pair_of_the_committed_study_has_its_own_stage() -> None:
    params = parameters.load(Project(tiny.ROOT))
    listing = [BIN / "dvc", "stage", "list", "--name-only"]
    names = subprocess.run(listing, cwd=tiny.ROOT, capture_output=True, text=True, check=True).stdout.split()
    pairs = {f"measure@{model}-{precision}" for model, precision in params.pairs()}
    assert {name for name in names if name.startswith("measure@")} == pairs
    assert len(pairs) == len(params.study.models) * len(params.study.precisions)
    assert len(names) < 100  # DVC's own time grows with the square of the number
