"""Files hold UTF-8 whatever the locale says, and a terminal that lacks a character is no reason to stop."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import made
import pytest
import tiny

from visionquant.analysis import frame_files, study
from visionquant.settings import params

SOURCES = [
    path
    for folder in ("src", "scripts")
    for path in sorted((tiny.ROOT / folder).rglob("*.py"))
]  # fmt: skip
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
COMMAND = [sys.executable, "-c", "from visionquant.cli import main; main()"]


def in_the_locales_encoding(tree: ast.AST) -> list[int]:
    """Lines that read or write text in whichever encoding the locale names."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", None) or getattr(node.func, "id", "")
        given = {word.arg: getattr(word.value, "value", None) for word in node.keywords}
        of_image = isinstance(node.func, ast.Attribute) and getattr(node.func.value, "id", "") in ("Image", "tarfile")
        place = 1 if isinstance(node.func, ast.Name) else 0
        modes = [*(getattr(one, "value", None) for one in node.args[place : place + 1]), given.get("mode")]
        opens = name == "open" and not of_image and not any("b" in mode for mode in modes if isinstance(mode, str))
        text = name in ("read_text", "write_text") or given.get("text") is True or "universal_newlines" in given
        if (opens or text) and "encoding" not in given:
            found.append(node.lineno)
    return found


@pytest.mark.parametrize("line", [
    "path.read_text()", "path.open()", "open(path, 'w')", "path.open(mode='r')", "path.write_text(text)",
    "subprocess.run(command, text=True)",
])  # fmt: skip
def test_the_scan_finds_what_depends_on_the_locale(line: str) -> None:
    assert in_the_locales_encoding(ast.parse(line)) == [1]


def test_text_is_read_and_written_as_utf8() -> None:
    found = {str(path): in_the_locales_encoding(ast.parse(path.read_text(encoding="utf-8"))) for path in SOURCES}
    assert {path: lines for path, lines in found.items() if lines} == {}


def test_a_study_is_rendered_in_a_locale_of_ascii_alone(tmp_path: Path) -> None:
    """Settings with letters beyond ASCII, in a folder with such a name."""
    project = made.project(tmp_path / "über pröjekt")
    text = project.params.read_text(encoding="utf-8").replace("group: edge", "group: Größe ✓", 1)
    project.params.write_text(text, encoding="utf-8")
    for arguments in (("analyse",), ("notebooks", "05_statistics"), ("validate",)):
        done = subprocess.run([*COMMAND, *arguments], cwd=project.root, env=os.environ | ASCII, capture_output=True)
        assert (done.returncode, done.stderr) == (0, b""), (arguments, done)
    for path, content in frame_files.contents(study.gather(project, params.load(project))).items():
        assert path.read_bytes().decode() == content
    assert not (project.executed / "05_statistics.ipynb").read_text(encoding="utf-8").isascii()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_message_goes_to_a_terminal_that_lacks_its_characters(encoding: str, tmp_path: Path) -> None:
    tiny.project(tmp_path)
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    command = [*COMMAND, "download", "--model", "größe-✓"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True)
    assert done.returncode == 1
    assert done.stderr.decode(encoding).count("\n") == 1
    assert "?" in done.stderr.decode(encoding)
