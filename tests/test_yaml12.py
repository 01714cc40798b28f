"""A file of settings is read as DVC reads it, and says where it can't be."""

import math
import re
from pathlib import Path

import pytest
import tiny
from dvc.utils.serialize import loads_yaml, modify_yaml

from visionquant.core import yaml12
from visionquant.core.errors import StudyError
from visionquant.core.paths import Project
from visionquant.settings import params as parameters

SPELLINGS = [
    "5e-05", "5E-05", "1e3", "1E3", "1e+3", "-1e3", "+1e3", "5.e3", ".5", ".5e3", ".5e+3", "5.", "1.5e-05", "1_000",
    "1_000.5", "1_0e1_0", "1e1.5", "0e0", "-.5", "-0.0", ".", "_", "e1", "1e", ".inf", "-.inf", "+.inf", ".INF",
    ".nan", "inf", "nan", "0", "00", "010", "08", "0o10", "0O10", "0b11", "0x1f", "0xe1", "-0x1f", "+7", "1:30",
    "1:30.5", "190:20:30", "12e", "1,000", "true", "True", "TRUE", "tRUE", "false", "yes", "Yes", "no", "on", "off",
    "y", "n", "null", "Null", "~", "nULL", "none", "2026-01-01", "2026-1-1", "2001-12-14t21:59:43.1Z", "<<", "3.11.2",
    "47b73ee", "9e2727", "9e2727f", "1e2", "0e99", "00e1", "-", "--", "1-", "1_", "1__0", "._5", "'5e-05'", '"1"',
    "!!str 5e-05", "!!int 010", "!!float 1",
]  # fmt: skip


def read(tmp_path: Path, text: str) -> object:
    path = tmp_path / "some.yaml"
    path.write_bytes(text.encode())
    return yaml12.read(path, "some.yaml")


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_plain_value_means_what_dvc_takes_it_for(spelling: str, tmp_path: Path) -> None:
    """Where DVC reads no value at all we say so."""
    text = f"key: {spelling}\nrow: [{spelling}]\n"
    try:
        expected = loads_yaml(text)
    except Exception:
        with pytest.raises(StudyError):
            read(tmp_path, text)
        return
    found = read(tmp_path, text)
    assert isinstance(found, dict)
    for mine, theirs in ((found["key"], expected["key"]), (found["row"][0], expected["row"][0])):
        assert type(mine) is type(theirs)
        assert mine == theirs or (math.isnan(mine) and math.isnan(theirs))


@pytest.mark.parametrize("name", ["params.yaml", "dvc.yaml", "data/supplement/claims.yaml"])
def test_committed_files_mean_what_dvc_takes_them_for(name: str) -> None:
    assert yaml12.read(tiny.ROOT / name, name) == loads_yaml((tiny.ROOT / name).read_text(encoding="utf-8"))


def test_settings_are_read_as_dvc_writes_them(tmp_path: Path) -> None:
    """By what ``dvc exp run -S`` edits params.yaml with."""
    project, _ = tiny.project(tmp_path)
    with modify_yaml(str(project.params)) as raw:
        raw["training"]["networks"]["tiny-digits"]["learning_rate"] = 0.00005
        raw["cost"]["spread"] = 1e-7
    assert "learning_rate: 5e-05\n" in project.params.read_text()
    params = parameters.load(project)
    assert (params.training.networks["tiny-digits"].learning_rate, params.cost.spread) == (0.00005, 1e-7)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models:\n  a: 1\n  b: 2\n  a: 3\n", "some.yaml: models.a: stands there twice, in lines 2 and 4; keep one"),
        ("a: 1\nb: 2\n'a': 1\n", "some.yaml: a: stands there twice, in lines 1 and 3; keep one"),
        ("rows:\n- {x: 1, x: 1}\n", "some.yaml: rows.0.x: stands there twice, in lines 2 and 2; keep one"),
        ("a: [1\nb: 2\n", "some.yaml: not YAML at line 2; mend it there, or restore it from git"),
        ("a: 1\n---\nb: 2\n", "some.yaml: not YAML at line 2; mend it there, or restore it from git"),
        ("a: 1\n\tb: 2\n", "some.yaml: not YAML at line 2; mend it there, or restore it from git"),
    ],
)
def test_what_can_not_be_read_is_one_line_that_names_lines(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=f"^{re.escape(message)}$"):
        read(tmp_path, text)


def test_an_alias_and_a_merged_row_are_no_second_key(tmp_path: Path) -> None:
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\nc: [*a, *a]\n"
    assert read(tmp_path, text) == loads_yaml(text)
    assert read(tmp_path, "") is None


def test_two_rows_of_one_name_and_files_that_are_no_text_are_one_line(tmp_path: Path) -> None:
    project, _ = tiny.project(tmp_path)
    text = project.params.read_text()
    lines = text.splitlines()
    first = lines.index("  tiny-vit:") + 1
    project.params.write_text(text.replace("  tiny-beit:\n", "  tiny-vit:\n"))
    second = project.params.read_text().splitlines().index("  tiny-vit:", first) + 1
    message = rf"^params\.yaml: models\.tiny-vit: stands there twice, in lines {first} and {second}; keep one$"
    with pytest.raises(StudyError, match=message):
        parameters.load(Project(tmp_path))
    project.params.write_bytes(text.encode() + b"# caf\xe9\n")
    with pytest.raises(StudyError, match=r"^params\.yaml: unreadable: no UTF-8 text; save it as UTF-8"):
        parameters.load(Project(tmp_path))
    project.params.unlink()
    with pytest.raises(StudyError, match=r"^params\.yaml: No such file or directory; restore it from git$"):
        parameters.load(Project(tmp_path))


@pytest.mark.parametrize("prefix", [b"", b"\xef\xbb\xbf"], ids=["plain", "with a byte order mark"])
def test_line_ends_of_an_editor_change_nothing(prefix: bytes, tmp_path: Path) -> None:
    project, params = tiny.project(tmp_path)
    project.params.write_bytes(prefix + project.params.read_bytes().replace(b"\n", b"\r\n"))
    assert parameters.load(project) == params
