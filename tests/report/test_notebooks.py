"""Notebooks: stripped sources, real execution, the same bytes twice, and what a failing one leaves behind."""

import ast
import json
import re
import shutil
from pathlib import Path

import made
import nbformat
import pytest
import tiny
import yaml

from visionquant.analysis.study import Study
from visionquant.core.errors import StudyError
from visionquant.core.paths import PACKAGE, Project
from visionquant.report import notebooks, page_map
from visionquant.settings import params

SOURCES = sorted((tiny.ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_a_source_notebook_is_stripped_and_holds_text_and_calls(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    first, second = notebook.cells[:2]
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")
    assert len(first.source.split("\n\n")) > 1  # a heading and the sentence that the index shows
    tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert tagged == [second]
    assert [target.id for node in ast.parse(second.source).body for target in node.targets] == ["root", "figures"]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.execution_count is None
            assert cell.outputs == []
            kinds = {type(node) for node in ast.walk(ast.parse(cell.source))}
            assert not kinds & {ast.FunctionDef, ast.ClassDef, ast.Lambda, ast.For, ast.While, ast.If}
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}


def test_every_notebook_has_its_page_and_every_page_is_among_the_stages_outputs() -> None:
    named = [part for _, _, parts in page_map.PAGES for part in parts]
    assert sorted(named) == sorted(map(notebooks.section, SOURCES))
    stages = yaml.safe_load((tiny.ROOT / "dvc.yaml").read_text())["stages"]
    pages = {name for out in stages["report"]["outs"] for name in out if name.endswith(".html")}
    names = ("index", "explorer", *(name for name, _, _ in page_map.PAGES))
    assert pages == {f"reports/{name}.html" for name in names}


def test_every_table_and_figure_of_a_page_is_in_a_notebook() -> None:
    calls = "\n".join(cell.source for path in SOURCES for cell in nbformat.read(path, as_version=4).cells)
    apart = ("index_page", "explorer_page")  # pages of templates
    of_the_index = ("sets", "story", "answer", "recommended", "doors", "leads", "five_lines")
    for path in (tiny.ROOT / "src" / "visionquant" / "report" / "pages").glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and path.stem not in apart:
                assert f"{path.stem}.{node.name}(" in calls or node.name in of_the_index, f"{path.stem}.{node.name}"
            if (
                isinstance(node, ast.Assign)
                and getattr(node.value, "func", None)
                and ast.unparse(node.value.func) == "Spec"
            ):
                assert f"{path.stem}.{ast.unparse(node.targets[0])}" in calls


def test_executed_notebooks_carry_nothing_that_differs_between_runs(rendered: Study) -> None:
    project = rendered.project
    before = (project.executed / "05_statistics.ipynb").read_bytes()
    figure = (project.figures / "groups.svg").read_bytes()
    notebooks.execute(project, rendered.params, ["05_statistics"])
    assert (project.executed / "05_statistics.ipynb").read_bytes() == before
    assert (project.figures / "groups.svg").read_bytes() == figure
    for path in project.executed.glob("*.ipynb"):
        text = path.read_text()
        assert str(project.root) not in text
        assert not re.search(r"20\d\d-\d\d-\d\dT", text)
        assert "papermill" not in text
        assert "injected-parameters" not in text


def test_executed_notebooks_hold_no_error_and_no_stderr(rendered: Study) -> None:
    for path in rendered.project.executed.glob("*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            assert [out.output_type for out in cell.get("outputs", []) if out.output_type in ("error", "stream")] == []


@pytest.fixture
def small(tmp_path: Path) -> Project:
    project = made.project(tmp_path)
    for path in sorted(project.notebooks.glob("*.ipynb"))[1:]:
        path.unlink()
    return project


def broken(project: Project, code: str) -> Path:
    path = project.notebooks / "01_study.ipynb"
    notebook = json.loads(path.read_text())
    notebook["cells"][2]["source"] = code
    path.write_text(json.dumps(notebook))
    return path


def test_a_notebook_that_fails_is_one_line_and_leaves_the_last_good_page(small: Project) -> None:
    small.executed.mkdir(parents=True)
    good = small.executed / "01_study.ipynb"
    good.write_text("the last good one")
    broken(small, "raise ValueError('no such table')")
    with pytest.raises(StudyError) as error:
        notebooks.execute(small, params.load(small))
    assert re.fullmatch(
        r"notebook 01_study\.ipynb: cell 4 failed with ValueError: no such table; "
        r"see data/machines/local/progress/01_study\.failed\.ipynb, mend it and run `visionquant notebooks 01_study`",
        str(error.value),
    )
    assert good.read_text() == "the last good one"
    failed = nbformat.read(small.root / "data/machines/local" / "progress" / "01_study.failed.ipynb", as_version=4)
    assert any(out.output_type == "error" for cell in failed.cells for out in cell.get("outputs", []))


def test_a_notebook_that_fails_leaves_the_figures_of_the_last_good_one(small: Project) -> None:
    small.figures.mkdir(parents=True)
    (small.figures / "latency-1.svg").write_text("the last good one")
    lines = (
        "from visionquant.report.figure import Figure",
        "from visionquant.report.plotted import Drawn",
        "Figure('latency-1', 'Title', 'Caption', 'Alt', 'Source', Drawn('<svg/>')).save(figures)",
        "raise ValueError('too late')",
    )
    broken(small, "\n".join(lines))
    with pytest.raises(StudyError, match="too late"):
        notebooks.execute(small, params.load(small))
    assert (small.figures / "latency-1.svg").read_text() == "the last good one"


def test_a_figure_stays_however_its_notebook_is_escaped(rendered: Study, tmp_path: Path) -> None:
    """One change of escaping in nbformat is no reason to delete what notebooks show."""
    project = Project(shutil.copytree(rendered.project.root, tmp_path / "copy"))
    for path in project.executed.glob("*.ipynb"):
        path.write_text(path.read_text().replace('\\"', "\\u0022"))
    before = {path.name for path in project.figures.iterdir()}
    (project.figures / "foreign.svg").touch()
    notebooks.execute(project, rendered.params)
    assert {path.name for path in project.figures.iterdir()} == before


def test_only_notebooks_that_would_come_out_otherwise_are_executed(
    rendered: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project(shutil.copytree(rendered.project.root, tmp_path / "copy"))
    executed: list[str] = []
    monkeypatch.setattr(notebooks, "_execute", lambda _, path, *rest: executed.append(path.stem))
    notebooks.execute(project, rendered.params)
    assert executed == []
    source = project.notebooks / "03_memory.ipynb"
    source.write_text(source.read_text().replace("# Memory", "# Bytes", 1))
    (project.figures / "speedup-1.svg").write_text("<svg/>")
    notebooks.execute(project, rendered.params)
    assert executed == ["02_latency", "03_memory"]


def test_the_stamp_of_a_notebook_sees_its_page_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = Path(shutil.copytree(PACKAGE, tmp_path / "visionquant"))
    monkeypatch.setattr(notebooks, "PACKAGE", package)
    before = {path.stem: notebooks.stamp(path, "evidence") for path in SOURCES}
    page = package / "report" / "pages" / "memory_page.py"
    page.write_text(page.read_text().replace("Memory by precision", "Memory by format"))
    after = {path.stem: notebooks.stamp(path, "evidence") for path in SOURCES}
    assert {name for name in before if before[name] != after[name]} == {"03_memory"}
    template = package / "report" / "shell" / "pieces.html"
    template.write_text(template.read_text() + "\n")
    assert not {notebooks.stamp(path, "evidence") for path in SOURCES} & set(after.values())


def test_an_unknown_notebook_is_named(small: Project) -> None:
    with pytest.raises(StudyError, match=r"notebook 09_magic: there is none of that name; one of: 01_study"):
        notebooks.execute(small, params.load(small), ["09_magic"])


def test_a_checkout_without_notebooks_says_so(small: Project) -> None:
    for path in small.notebooks.glob("*.ipynb"):
        path.unlink()
    with pytest.raises(StudyError, match="restore the folder from git"):
        notebooks.execute(small, params.load(small))
