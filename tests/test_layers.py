"""Packages are layers: each imports those below it, none above, and no two modules import each other in a circle."""

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
import tiny

PACKAGE = tiny.ROOT / "src" / "visionquant"
MODULES = sorted(PACKAGE.rglob("*.py"))
# Each package may import those named; within a package all is allowed but a circle.
LAYERS = {
    "core": "",
    "settings": "core",
    "records": "core settings",
    "weights": "core settings records",
    "bench": "core settings records weights",
    "accuracy": "core settings records weights bench",
    "deploy": "core settings records weights bench accuracy",
    "recipes": "core settings records weights bench accuracy deploy",
    "analysis": "core settings records weights",
    "report": "core settings records weights analysis",
    "cli": "core settings records weights bench accuracy deploy recipes analysis report",
}
TORCH = {"torch", "transformers", "bitsandbytes"}


def package_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0]


def imports(path: Path) -> set[str]:
    """Dotted names that a module imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def imported_at_once(path: Path) -> set[Path]:
    """Modules of ours that importing this one imports."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("visionquant"):
            for name in (*(f"{node.module}.{alias.name}" for alias in node.names), node.module):
                place = PACKAGE.joinpath(*name.split(".")[1:])
                found |= {one for one in (place.with_suffix(".py"), place / "__init__.py") if one.is_file()}
    return found - {path}


def test_every_module_is_in_a_package_of_which_one_sentence_says_what_it_is() -> None:
    assert {package_of(path) for path in MODULES} - {"__init__.py"} == set(LAYERS)
    for package in LAYERS:
        tree = ast.parse((PACKAGE / package / "__init__.py").read_text())
        assert ast.get_docstring(tree), package


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_module_imports_only_the_layers_below_it(path: Path) -> None:
    package = package_of(path)
    used = {name.split(".")[1] for name in imports(path) if name.startswith("visionquant.")} - {package}
    assert used <= set(LAYERS.get(package, "").split())


def circle(imported: Mapping[str, Iterable[str]]) -> list[str]:
    """Modules that import each other, the first one twice; none where there is no circle."""
    try:
        TopologicalSorter(imported).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circle({str(path): map(str, imported_at_once(path)) for path in MODULES}) == []
    assert set(circle({"a": ["b"], "b": ["a"], "c": ["a"]})) == {"a", "b"}


def test_no_two_modules_or_public_classes_have_one_name() -> None:
    classes = [
        node.name for path in MODULES for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)
    ]
    names = [path.stem for path in MODULES if path.stem != "__init__"]
    assert [name for name, count in Counter(names).items() if count > 1] == []
    assert [name for name, count in Counter(classes).items() if count > 1 and not name.startswith("_")] == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_torch_is_imported_where_networks_run_alone(path: Path) -> None:
    used = {name.split(".")[0] for name in imports(path)}
    assert package_of(path) in ("accuracy", "bench", "deploy", "recipes") or not used & TORCH


def test_commands_that_do_not_measure_never_load_torch() -> None:
    script = (
        "import sys\n"
        "import visionquant.cli, visionquant.weights.hub, visionquant.core.machine, visionquant.records.record\n"
        "import visionquant.analysis.study, visionquant.report.site, visionquant.report.notebooks\n"
        "visionquant.core.machine.probe('cpu')\n"
        f"print(sorted({TORCH!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_modules_stay_small() -> None:
    long = {path.name: count for path in MODULES if (count := len(path.read_text().splitlines())) > 300}
    assert long == {}
