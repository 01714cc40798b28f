"""Imports form an hourglass: vocabulary, settings, records, two halves that never meet, report and command."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

PACKAGE = tiny.ROOT / "src" / "visionquant"
# Each layer may import those named; within a layer all is allowed. A new module must be put somewhere.
LAYERS = {
    "errors": set(),
    "paths": {"errors"},
    "lock": {"errors", "paths"},
    "quantities": set(),
    "row": set(),
    "complaint": {"errors"},
    "yaml12": {"errors"},
    "assumptions": {"complaint", "row"},
    "precision": {"row"},
    "labelled": {"environment", "errors", "paths", "precision", "row"},
    "params": {"assumptions", "complaint", "errors", "labelled", "paths", "precision", "row", "trainings", "yaml12"},
    "zoo": {"errors", "paths", "row"},
    "processors": set(),
    "driver": set(),
    "environment": {"driver", "errors", "paths", "processors"},
    "samples": set(),
    "intervals": set(),
    "drift": {"intervals", "samples"},
    "upgrade": set(),
    "records": {"precision", "errors", "paths", "params", "environment", "samples", "upgrade"},
    "manifest": {"errors", "paths", "records"},
    "recorded": {"errors", "paths", "params", "environment", "records"},
    "plan": {
        "hub",
        "precision",
        "environment",
        "errors",
        "manifest",
        "params",
        "paths",
        "recorded",
        "records",
        "samples",
        "zoo",
    },
    "progress": {"bench", "intervals", "params", "paths", "records", "samples", "sweep"},
    "cache": set(),
    "weights": {"errors", "paths", "params", "records", "manifest", "cache"},
    "hub": {"errors", "paths", "params", "records", "zoo", "manifest", "cache", "weights"},
    "bench": {
        "driver",
        "processors",
        "precision",
        "errors",
        "paths",
        "params",
        "environment",
        "samples",
        "intervals",
        "drift",
        "records",
        "zoo",
        "manifest",
        "hub",
        "lock",
    },
    "recipes": {"environment", "errors", "paths"},
    "deploy": {
        "accuracy",
        "bench",
        "cache",
        "environment",
        "errors",
        "hub",
        "manifest",
        "params",
        "paths",
        "precision",
        "recipes",
        "records",
        "row",
        "trainings",
        "zoo",
    },
    "sweep": {"errors", "paths", "params", "environment", "records", "hub", "lock", "bench"},
    "aa": {"errors", "params", "paths", "recorded", "sweep", "zoo"},
    "trainings": {"row"},
    "scores": {"precision", "environment", "errors", "params", "paths", "trainings"},
    "accuracy": {
        "bench",
        "cache",
        "environment",
        "errors",
        "hub",
        "labelled",
        "manifest",
        "params",
        "paths",
        "precision",
        "recipes",
        "records",
        "scores",
        "trainings",
    },
    "analysis": {
        "processors",
        "labelled",
        "precision",
        "recipes",
        "scores",
        "assumptions",
        "complaint",
        "errors",
        "row",
        "paths",
        "params",
        "environment",
        "samples",
        "intervals",
        "drift",
        "records",
        "recorded",
        "quantities",
        "yaml12",
        "zoo",
    },
    "report": {
        "errors",
        "paths",
        "params",
        "environment",
        "records",
        "recorded",
        "quantities",
        "yaml12",
        "zoo",
        "analysis",
        "manifest",
        "weights",
    },
    "cli": {
        "weights",
        "labelled",
        "precision",
        "deploy",
        "recipes",
        "aa",
        "accuracy",
        "scores",
        "errors",
        "paths",
        "params",
        "environment",
        "records",
        "recorded",
        "plan",
        "progress",
        "hub",
        "lock",
        "bench",
        "analysis",
        "report",
    },
    "__init__": set(),
}
TORCH = {"torch", "transformers", "bitsandbytes"}
MODULES = sorted(PACKAGE.rglob("*.py"))


def layer_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Dotted names that a module imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_module_imports_only_the_layers_below_it(path: Path) -> None:
    layer = layer_of(path)
    used = {name.split(".")[1] for name in imports(path) if name.startswith("visionquant.")} - {layer}
    assert used <= LAYERS[layer]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_torch_is_imported_where_networks_run_alone(path: Path) -> None:
    used = {name.split(".")[0] for name in imports(path)}
    assert layer_of(path) in ("accuracy", "bench", "deploy") or not used & TORCH


def test_commands_that_do_not_measure_never_load_torch() -> None:
    script = (
        "import sys\n"
        "import visionquant.cli, visionquant.hub, visionquant.environment, visionquant.records\n"
        "import visionquant.analysis.evidence, visionquant.report.pages, visionquant.report.notebooks\n"
        "visionquant.environment.probe('cpu')\n"
        f"print(sorted({TORCH!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_modules_stay_small() -> None:
    long = {path.name: count for path in MODULES if (count := len(path.read_text().splitlines())) > 300}
    assert long == {}
