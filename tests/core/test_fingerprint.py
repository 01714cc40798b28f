"""The fingerprint of code is of what it does."""

from pathlib import Path

from visionquant.core.files import code_sha256

CODE = "def half(x):\n    return x / 2\n"


def digest(folder: Path, **modules: str) -> str:
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text)
    return code_sha256(sorted(folder.glob("*.py")), folder)


def test_comments_docstrings_and_line_breaks_change_nothing(tmp_path: Path) -> None:
    plain = digest(tmp_path, a=CODE)
    wordy = '"""A module."""\n\n\ndef half(\n    x,\n):\n    """Half of x."""\n    return x / 2  # exact\n'
    assert digest(tmp_path, a=wordy) == plain


def test_what_code_does_and_where_it_stands_is_told(tmp_path: Path) -> None:
    plain = digest(tmp_path, a=CODE)
    assert digest(tmp_path, a=CODE.replace("2", "3")) != plain
    assert digest(tmp_path, a=CODE.replace("def half(x):", "def half(x=1):")) != plain
    (tmp_path / "a.py").unlink()
    assert digest(tmp_path, b=CODE) != plain


def test_the_order_of_the_modules_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(CODE)
    (tmp_path / "b.py").write_text(CODE)
    one, other = tmp_path / "a.py", tmp_path / "b.py"
    assert code_sha256([one, other], tmp_path) == code_sha256([other, one, one], tmp_path)
