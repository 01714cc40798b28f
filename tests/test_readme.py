"""The tree, commands and rows that the README and docs name are those of the repository."""

import re
import subprocess

import tiny
from typer.main import get_command

from visionquant.cli import app

PAGES = {path.name: path.read_text() for path in (tiny.ROOT / "README.md", *sorted((tiny.ROOT / "docs").glob("*.md")))}
README = "\n".join(PAGES.values())


def tree() -> list[str]:
    block = PAGES["README.md"].split("## The tree")[1].split("```")[1]
    return [line.split()[0] for line in block.strip().splitlines()]


def tracked() -> set[str]:
    command = ["git", "-C", str(tiny.ROOT), "ls-files", "-co", "--exclude-standard"]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


def test_everything_in_the_tree_exists() -> None:
    assert [name for name in tree() if not (tiny.ROOT / name).exists()] == []


def test_everything_at_the_top_is_in_the_tree() -> None:
    top = {name.split("/")[0] for name in tracked() if not name.startswith(".")}
    data = {"/".join(name.split("/")[:2]) for name in tracked() if name.startswith("data/")}
    assert (top - {"data"}) | data == {name for name in tree() if name.split("/")[0] != "src"} | {"src"}


def test_every_command_is_listed_and_exists() -> None:
    listed = set(re.findall(r"^\| `visionquant ([a-z-]+)`", README, re.M))
    assert listed == set(get_command(app).commands)  # type: ignore[attr-defined]


def test_options_shown_in_examples_exist() -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    shown = re.findall(r"visionquant ([a-z][a-z-]*)((?: --[a-z-]+(?: [A-Za-z0-9-]+)?)+)", README)
    assert shown
    for verb, options in shown:
        known = {option for parameter in commands[verb].params for option in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", options)) <= known


def test_make_targets_that_the_readme_names_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (tiny.ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"make ([a-z-]+)", README)) <= targets


def test_names_that_the_readme_uses_are_rows_of_the_settings() -> None:
    from visionquant.core.paths import Project
    from visionquant.settings import params as parameters

    params = parameters.load(Project(tiny.ROOT))
    pair = re.search(r"measure@([a-z0-9-]+)-(\w+)`", README)
    assert pair
    assert pair.groups() in params.pairs()
    assert set(re.findall(r"study\.models=\[([a-z0-9-]+)\]", README)) <= set(params.models)


def test_the_readme_fits_on_a_few_screens_and_its_links_lead_somewhere() -> None:
    assert len(PAGES["README.md"].splitlines()) <= 150
    for name, text in PAGES.items():
        folder = tiny.ROOT if name == "README.md" else tiny.ROOT / "docs"
        links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
        assert [link for link in links if not (folder / link).exists()] == []
