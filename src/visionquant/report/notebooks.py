"""Notebooks run by papermill, each into a file that is there whole or not at all.

An executed notebook carries time stamps, a random cell id and the path it was run from; they are taken out, so that two
runs over the same records give the same bytes. Where a notebook fails, the page's last good version stays, and the
failed copy lies beside the progress files for a look.
"""

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from visionquant.analysis import evidence_digest
from visionquant.core.errors import StudyError
from visionquant.core.paths import Project, write_atomically
from visionquant.settings.params import Params

TIMEOUT_S = 600


def sources(project: Project) -> tuple[Path, ...]:
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
    """Execute the notebooks (those named, or all) into ``reports/notebooks``.

    Raises:
        StudyError: a name is unknown, or a cell failed; says which, and where the failed copy is.
    """
    found = {path.stem: path for path in sources(project)}
    unknown = [name for name in names or () if name not in found]
    if unknown:
        raise StudyError(f"notebook {unknown[0]}", "there is none of that name", f"one of: {', '.join(found)}")
    digest = evidence_digest.of(project, params)
    project.figures.mkdir(parents=True, exist_ok=True)
    for name in names or found:
        _execute(project, found[name], digest)
    if not names:
        _remove_strays(project, {path.name for path in found.values()})


def linked_figures(text: str) -> dict[str, str]:
    """The figures that an executed notebook shows: file name to sha256."""
    return dict(re.findall(r"figures/([\w.-]+\.svg)\\\" data-sha256=\\\"([0-9a-f]{64})", text))


def _remove_strays(project: Project, names: set[str]) -> None:
    """Drop what earlier notebooks left: their executed copies, and figures that none shows any more."""
    shown: set[str] = set()
    for path in project.executed.glob("*.ipynb"):
        if path.name in names:
            shown |= set(linked_figures(path.read_text(encoding="utf-8")))
        else:
            path.unlink()
    for path in project.figures.iterdir():
        if path.name not in shown:
            path.unlink()


def _execute(project: Project, path: Path, digest: str) -> None:
    import papermill
    from nbclient.exceptions import CellControlSignal, DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    with tempfile.TemporaryDirectory() as folder:
        output, figures = Path(folder) / path.name, Path(folder) / "figures"
        try:
            papermill.execute_notebook(
                nbformat.read(path, as_version=4),  # its path would be noted, which may hold what UTF-8 can't
                output,
                parameters={"figures": str(figures)},
                kernel_name="python3",
                cwd=project.root,
                progress_bar=False,
                execution_timeout=TIMEOUT_S,
                extra_arguments=["--log-level=CRITICAL"],  # else each kernel warns of TCP on loopback
            )
        except PapermillExecutionError as error:
            failed = project.root / "data" / "progress" / f"{path.stem}.failed.ipynb"
            write_atomically(failed, output.read_bytes())
            raise StudyError(
                f"notebook {path.name}",
                f"cell {error.cell_index + 1} failed with {error.ename}: {error.evalue}",
                f"see {failed.relative_to(project.root)}, mend it and run `visionquant notebooks {path.stem}`",
            ) from None
        except (DeadKernelError, CellControlSignal, TimeoutError) as error:
            why = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise StudyError(
                f"notebook {path.name}", f"did not end: {why}", f"run `visionquant notebooks {path.stem}` again"
            ) from None
        done = nbformat.read(output, as_version=4)
        for figure in sorted(figures.glob("*.svg")):
            write_atomically(project.figures / figure.name, figure.read_bytes())
    write_atomically(project.executed / path.name, nbformat.writes(normalised(done, digest)) + "\n")


def normalised(notebook: NotebookNode, digest: str) -> NotebookNode:
    """The notebook without anything that differs between two runs: times, ids, the paths put in, interpreter details.

    ``digest`` says over which evidence it was executed (:func:`visionquant.analysis.evidence_digest.of`).
    """
    notebook.cells = [cell for cell in notebook.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        cell.metadata = NotebookNode({"tags": list(cell.metadata.get("tags", []))} if cell.metadata.get("tags") else {})
    notebook.metadata = NotebookNode(
        {
            "evidence_sha256": digest,
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        }
    )
    return notebook
