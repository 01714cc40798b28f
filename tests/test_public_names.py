"""What a user imports and asks for by name: lazily, in one line where a library is lacking, and by names that hold."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

import visionquant
from visionquant import recipes
from visionquant.weights import checkpoint

HIDDEN = "import sys; sys.modules.update(dict.fromkeys(({!r},))); from visionquant.cli import main; main()"


def python(script: str, *words: str, folder: Path = tiny.ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script, *words], cwd=folder, capture_output=True, text=True)


def test_names_are_imported_when_they_are_asked_for_and_recipes_are_known_without_torch() -> None:
    script = (
        "import sys, visionquant, visionquant.recipes\n"
        "heavy = {'torch', 'transformers', 'pandas', 'scipy'}\n"
        "assert not heavy & set(sys.modules)\n"
        "print(*(getattr(visionquant, name).__name__ for name in visionquant.__all__), *visionquant.recipes.NAMES)"
    )
    done = python(script)
    assert done.stdout.split() == [*visionquant.__all__, *recipes.NAMES], done.stderr
    with pytest.raises(AttributeError, match="no attribute 'predictor_'"):
        visionquant.predictor_  # noqa: B018


def test_every_recipe_is_a_file_of_its_name() -> None:
    folder = tiny.ROOT / "src" / "visionquant" / "recipes"
    found = {path.stem: re.findall(r'^@recipe\("([a-z]+)"', path.read_text(), re.M) for path in folder.glob("*.py")}
    assert {stem: names for stem, names in found.items() if names} == {name: [name] for name in recipes.NAMES}


@pytest.mark.parametrize("library", ["litserve", "fastapi", "uvicorn", "multipart"])
def test_without_a_library_of_the_server_serve_says_what_to_install(library: str, tmp_path: Path) -> None:
    project, params = tiny.project(tmp_path)
    checkpoint.download(project, params, "tiny-vit")
    done = python(HIDDEN.format(library), "serve", "--model", "tiny-vit", "--precision", "nf4", folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr == f'visionquant: serve: {library} is not installed; pip install --editable ".[serve]"\n'


def test_what_the_makefile_asks_python_for_is_there() -> None:
    scripts = re.findall(r"python -c '(.*print.*?)'\)", (tiny.ROOT / "Makefile").read_text())
    networks, probed, names = (python(script).stdout.split() for script in scripts)
    assert networks
    assert probed == ["dinov2-small-packaged"]
    assert set(names) == set(recipes.NAMES)
