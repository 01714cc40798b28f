"""Notebooks run by papermill, each into a file that is there whole or not at all.

Time stamps, random ids and paths are taken out, so that two runs over the same records give the same bytes. An executed
notebook carries a stamp of the evidence, its cells and the code behind them, and is not executed again while that is
what it would be. Where one fails, its last good version stays, and the failed copy lies beside the progress files.
"""

import ast
import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from visionquant.analysis import provenance
from visionquant.core import files
from visionquant.core.errors import StudyError
from visionquant.core.files import code_sha256
from visionquant.core.paths import PACKAGE, Project
from visionquant.settings.params import Params

TIMEOUT_S = 600
FORGET = "forget"  # tag of a last cell that empties the kernel for the next notebook


def source_notebooks(project: Project) -> tuple[Path, ...]:
    """The notebooks of the study, in order.

    Raises:
        StudyError: there is none.
    """
    found = tuple(sorted(project.notebooks.glob("*.ipynb")))
    if not found:
        raise StudyError("notebooks", f"none in {project.notebooks}", "restore the folder from git")
    return found


def section(path: Path) -> str:
    """The name of a notebook's page: ``latency`` for ``02_latency.ipynb``."""
    return path.stem.partition("_")[2] or path.stem


def execute(project: Project, params: Params, names: Sequence[str] | None = None) -> None:
    """Execute the notebooks into ``reports/notebooks``: those named, or all that are not as they would be again.

    Raises:
        StudyError: a name is unknown, or a cell failed; says which, and where the failed copy is.
    """
    known = {path.stem: path for path in source_notebooks(project)}
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise StudyError(f"notebook {unknown[0]}", "there is none of that name", f"one of: {', '.join(known)}")
    evidence = provenance.evidence_digest(project, params)
    project.figures.mkdir(parents=True, exist_ok=True)
    stamps = {known[name]: stamp(known[name], evidence) for name in names or known}
    todo = {path: new for path, new in stamps.items() if names or not _is_current(project, path, new)}
    if todo:
        with _kernel(project) as kernel:
            for path, new in todo.items():
                _execute(project, path, new, kernel)
    if not names:
        _remove_strays(project, {path.name for path in known.values()})


def stamp(source: Path, evidence: str) -> str:
    """The sha256 over the digest of the evidence, a notebook, the pieces of HTML, and the report's code behind it.

    ``evidence`` (:func:`visionquant.analysis.provenance.evidence_digest`) stands for the packages below as well.
    """
    cells = [cell.source for cell in nbformat.read(source, as_version=4).cells if cell.cell_type == "code"]
    code = code_sha256(_imported("\n".join(cells)), PACKAGE)
    texts = [path.read_text(encoding="utf-8") for path in (source, PACKAGE / "report" / "shell" / "pieces.html")]
    return hashlib.sha256("\0".join([evidence, code, *texts]).encode()).hexdigest()


def linked_figures(notebook: NotebookNode) -> dict[str, str]:
    """The figures that an executed notebook shows, and their data: file name to sha256."""
    linked = _Linked()
    for output in (output for cell in notebook.cells for output in cell.get("outputs", ())):
        linked.feed(output.get("data", {}).get("text/html", ""))
    return linked.figures


class _Linked(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.figures: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if digest := values.get("data-sha256"):
            self.figures[Path(values.get("src") or values.get("href") or values.get("srcset") or "").name] = digest


def _imported(code: str) -> set[Path]:
    """The report's modules that code imports, and those that these import."""
    modules, todo = set[Path](), [code]
    while todo:
        for node in ast.walk(ast.parse(todo.pop())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("visionquant.report"):
                names = [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
                paths = {PACKAGE.joinpath(*name.split(".")[1:]).with_suffix(".py") for name in names}
                new = {path for path in paths - modules if path.is_file()}
                todo += [path.read_text(encoding="utf-8") for path in new]
                modules |= new
    return modules


def read(path: Path) -> NotebookNode | None:
    """An executed notebook; None where it is missing or none."""
    try:
        return nbformat.read(path, as_version=4)
    except (OSError, UnicodeDecodeError, nbformat.reader.NotJSONError, nbformat.ValidationError):
        return None


def _is_current(project: Project, source: Path, expected: str) -> bool:
    """Whether the executed copy is of this stamp and its figures are there."""
    executed = read(project.executed / source.name)
    if executed is None or executed.metadata.get("evidence_sha256") != expected:
        return False
    figures = {project.figures / name: digest for name, digest in linked_figures(executed).items()}
    return all(path.is_file() and files.sha256(path) == digest for path, digest in figures.items())


def _remove_strays(project: Project, names: set[str]) -> None:
    """Drop what earlier notebooks left: their executed copies, and figures that none shows any more."""
    shown: set[str] = set()
    for path in project.executed.glob("*.ipynb"):
        if path.name not in names:
            path.unlink()
        elif executed := read(path):
            shown |= set(linked_figures(executed))
    for path in project.figures.iterdir():
        if path.name not in shown:
            path.unlink()


@contextmanager
def _kernel(project: Project) -> Iterator[Any]:
    """One kernel for all notebooks: what they import takes longer than most of them; each ends by forgetting all."""
    from nbclient import NotebookClient

    quiet = ["--log-level=CRITICAL"]  # else it warns of TCP on loopback
    client = NotebookClient(nbformat.v4.new_notebook(), kernel_name="python3", extra_arguments=quiet)
    with client.setup_kernel(cwd=str(project.root)), ExitStack() as held:
        kernel: Any = client.km
        connect = kernel.client

        def connected(**given: Any) -> Any:  # papermill leaves the connections of a kernel that is not its own open
            made = connect(**given)
            held.callback(made.stop_channels)
            return made

        kernel.client = connected
        yield kernel


def _execute(project: Project, path: Path, expected: str, kernel: Any) -> None:
    import papermill
    from nbclient.exceptions import CellControlSignal, DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    notebook = nbformat.read(path, as_version=4)  # its path would be noted, which may hold what UTF-8 can't
    notebook.cells.append(nbformat.v4.new_code_cell("%reset -f", metadata={"tags": [FORGET]}))
    with tempfile.TemporaryDirectory() as folder:
        output, figures = Path(folder) / path.name, Path(folder) / "figures"
        try:
            papermill.execute_notebook(
                notebook,
                output,
                parameters={"figures": str(figures)},
                kernel_name="python3",
                cwd=project.root,
                progress_bar=False,
                execution_timeout=TIMEOUT_S,
                km=kernel,
            )
        except PapermillExecutionError as error:
            failed = project.local / "progress" / f"{path.stem}.failed.ipynb"
            files.save(failed, output.read_bytes())
            raise StudyError(
                f"notebook {path.name}",
                f"cell {error.cell_index + 1} failed with {error.ename}: {error.evalue}",
                f"see {failed.relative_to(project.root)}, mend it and run `visionquant notebooks {path.stem}`",
            ) from None
        except (DeadKernelError, CellControlSignal, TimeoutError) as error:
            why, remedy = str(error) or type(error).__name__, f"run `visionquant notebooks {path.stem}` again"
            raise StudyError(f"notebook {path.name}", f"did not end: {why.splitlines()[0]}", remedy) from None
        done = nbformat.read(output, as_version=4)
        for figure in sorted(figures.glob("*")):
            files.save(project.figures / figure.name, figure.read_bytes())
    files.save(project.executed / path.name, nbformat.writes(normalised(done, expected)) + "\n")


def normalised(notebook: NotebookNode, expected: str) -> NotebookNode:
    """The notebook with its stamp, without anything that differs between two runs: times, ids, paths, interpreter."""
    ours = {"injected-parameters", FORGET}
    notebook.cells = [cell for cell in notebook.cells if not ours & set(cell.metadata.get("tags", ()))]
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        cell.metadata = NotebookNode({"tags": list(cell.metadata.tags)} if cell.metadata.get("tags") else {})
    for count, cell in enumerate((cell for cell in notebook.cells if cell.cell_type == "code"), 1):
        for counted in (cell, *(output for output in cell.outputs if "execution_count" in output)):
            counted.execution_count = count
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = NotebookNode(evidence_sha256=expected, kernelspec=kernel)
    return notebook
