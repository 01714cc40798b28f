"""What a fresh machine installs: exact, in step, and the same for pip and conda users."""

import os
import re
import shutil
import signal
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml

ROOT = tiny.ROOT


def name_of(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found
    return re.sub(r"[._-]+", "-", found.group(0)).lower()


def locked(name: str = "requirements.lock") -> dict[str, str]:
    lines = (ROOT / name).read_text().splitlines()
    pins = [line.strip() for line in lines if line.strip() and not line.startswith(("#", "--"))]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[^=\s]+", pin) for pin in pins)
    return {name_of(pin): pin.split("==")[1] for pin in pins}


def direct() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    optional = project["project"]["optional-dependencies"].values()
    return [
        *project["project"]["dependencies"],
        *(text for group in optional for text in group),
        *project["dependency-groups"]["dev"],
    ]


def test_the_lock_has_no_local_versions() -> None:
    assert [f"{name}=={version}" for name, version in locked().items() if "+" in version] == []
    assert locked()["torch"] == "2.13.0"


def test_the_lock_holds_every_direct_dependency_within_its_bounds() -> None:
    from packaging.requirements import Requirement

    pins = locked("requirements-hqq.lock") | locked("requirements-engines.lock") | locked()
    for text in direct():
        requirement = Requirement(text)
        assert requirement.specifier.contains(pins[name_of(text)]), text


def test_every_locked_version_takes_the_oldest_python_that_the_project_takes() -> None:
    from importlib import metadata

    from packaging.specifiers import SpecifierSet

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    oldest = project["requires-python"].removeprefix(">=") + ".0"
    asked = {name: metadata.metadata(name)["Requires-Python"] for name in locked()}
    assert {name: text for name, text in asked.items() if text and not SpecifierSet(text).contains(oldest)} == {}


def test_conda_users_get_the_versions_of_the_lock() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    pins = {name_of(line): line.split("==")[1] for line in pip if "==" in line}
    assert pins == {name: version for name, version in locked().items() if name in {name_of(text) for text in direct()}}
    assert "-c requirements.lock" in pip
    assert "python=3.11" in environment["dependencies"]


def test_what_is_installed_here_is_what_the_lock_says() -> None:
    from importlib import metadata

    for name in ("torch", "transformers", "bitsandbytes", "dvc", "papermill", "scipy"):
        assert metadata.version(name).split("+")[0] == locked()[name]


def test_the_repository_can_travel() -> None:
    """A lender's machine takes it whole, tracked files and history apart."""
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True, check=True)
    sizes = {name: (ROOT / name).stat().st_size for name in listed.stdout.split("\0") if (ROOT / name).is_file()}
    largest = sorted(sizes, key=sizes.__getitem__)[-3:]
    assert sum(sizes.values()) < 20e6, f"the largest: {', '.join(largest)}"


def test_the_repository_names_no_registry_and_no_machine_path() -> None:
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard", "-z"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    banned = re.compile(r"--(extra-)?index-url|find[-]links|(?<![\w.])/(work|root|home)/[a-z]")
    texts = (".py", ".yaml", ".yml", ".md", ".toml", ".lock", ".ipynb", ".json", ".csv", ".html", ".css", ".js")
    for name in listed:
        path = ROOT / name
        if name and path.is_file() and (path.suffix in texts or path.name in ("Makefile", "run")):
            assert not banned.search(path.read_text()), name


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        ("no python", "no python-that-is-not-there found"),
        ("old python", "3.11 or newer is needed"),
        ("no venv", "has no venv module"),
        ("no git", "git is not installed"),
        ("no checkout", "is no git checkout"),
    ],
)
def test_setup_says_what_is_missing(break_it: str, said: str, tmp_path: Path) -> None:
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    for tool in ("sh", "make", "grep", "sed", "touch", "rm"):
        found = shutil.which(tool)
        assert found
        (bin_folder / tool).symlink_to(found)
    python = bin_folder / "python-of-the-test"
    answers = {
        "old python": 'case "$*" in *version_info*) exit 1;; -V) echo Python 3.9.1;; esac',
        "no venv": 'case "$*" in *ensurepip*) exit 1;; esac',
    }
    python.write_text(f"#!/bin/sh\n{answers.get(break_it, 'exit 0')}\n")
    python.chmod(0o755)
    if break_it not in ("no git",):
        git = shutil.which("git")
        assert git
        (bin_folder / "git").symlink_to(git)
    name = "python-that-is-not-there" if break_it == "no python" else str(python)
    done = subprocess.run(
        ["make", "setup", f"PYTHON={name}"],
        cwd=tmp_path,
        env={"PATH": str(bin_folder), "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert said in done.stderr
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize("python", ["/python/that/is/gone", shutil.which("false")])
def test_an_environment_whose_python_is_gone_or_another_is_said_to_be(python: str, tmp_path: Path) -> None:
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(python)
    (tmp_path / ".venv" / ".ready").touch()
    done = subprocess.run(["make", "report"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert "setup: .venv does not work any more" in done.stderr
    assert "run make clean, then this again" in done.stderr


def test_repro_ends_with_the_answer_also_where_it_was_interrupted(tmp_path: Path) -> None:
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    says = {"python": "exit 0", "visionquant": 'echo "said: $1"', "dvc": "echo measuring; exec sleep 300"}
    for name, does in says.items():
        program = tmp_path / ".venv" / "bin" / name
        program.write_text(f"#!/bin/sh\n{does}\n")
        program.chmod(0o755)
    (tmp_path / ".venv" / ".ready").touch()
    told: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = ["make", "--no-print-directory", "repro"]
    with subprocess.Popen(command, cwd=tmp_path, start_new_session=True, **told) as making:
        assert making.stdout
        assert making.stdout.readline() == "measuring\n"
        os.killpg(making.pid, signal.SIGINT)
        said, _ = making.communicate(timeout=60)
    assert making.returncode != 0
    assert said.splitlines() == ["said: summary"]
