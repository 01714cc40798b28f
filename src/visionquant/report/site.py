"""The pages: executed notebooks in one shell, and an index that opens with what was found.

No page asks the network for anything: one style sheet, one script for sorting tables, figures as files beside them.
"""

import re
from pathlib import Path
from typing import NamedTuple

import nbformat
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from visionquant.analysis import provenance
from visionquant.analysis import study as evidence
from visionquant.analysis.claims import ledger
from visionquant.analysis.claims.ledger import Ledger
from visionquant.analysis.study import Study
from visionquant.core import files
from visionquant.core.errors import StudyError
from visionquant.core.paths import Project
from visionquant.report import notebooks
from visionquant.report.pages import claims_page, index_page, study_page
from visionquant.report.table import SHELL, banner, marked
from visionquant.settings.params import Params

ASSETS = ("style.css", "sort.js", "filter.js")


class Section(NamedTuple):
    """A page beside the index: its name, its notebook's heading, and the sentence under that."""

    name: str
    title: str
    lead: str
    notebook: str


def build_site(project: Project, params: Params) -> Path:
    """Write the index, a page a section, and the assets; return the index.

    Raises:
        StudyError: a notebook was not executed yet, a record is broken, or the folder can't be written.
    """
    study = evidence.gather(project, params)
    for path, content in contents(study, ledger.check_claims(study)).items():
        files.save(path, content)
    return project.reports / "index.html"


def contents(study: Study, checked: Ledger) -> dict[Path, str]:
    """Every page and asset with what belongs into it; see :func:`build_site`."""
    project = study.project
    sources = notebooks.source_notebooks(project)
    sections = tuple(_section(path) for path in sources)
    pages = {project.reports / "assets" / name: (SHELL / name).read_text(encoding="utf-8") for name in ASSETS}
    for path, section in zip(sources, sections, strict=True):
        body = Markup(fragment(project.executed / path.name))
        pages[project.reports / f"{section.name}.html"] = _render(
            "section.html", study, sections, section=section, body=body
        )
    pages[project.reports / "index.html"] = _render("index.html", study, sections, **_index(study, checked))
    return pages


def fragment(path: Path) -> str:
    """An executed notebook as HTML without code, its figures found from ``reports``.

    Raises:
        StudyError: the notebook is missing or broken.
    """
    from nbconvert import HTMLExporter

    notebook = notebooks.read(path)
    if notebook is None:
        state = "broken" if path.is_file() else "not executed yet"
        raise StudyError(f"reports/notebooks/{path.name}", state, "run `visionquant notebooks`")
    exporter = HTMLExporter(template_name="basic", exclude_input=True, exclude_output_prompt=True)
    body, _ = exporter.from_notebook_node(notebook)
    return str(body).replace('src="../figures/', 'src="figures/')


def _section(path: Path) -> Section:
    """Title and lead from the first cell of the source notebook: its heading, and the paragraph below."""
    first = nbformat.read(path, as_version=4).cells[0].source
    heading, _, rest = first.partition("\n")
    lead = re.sub(r"\s+", " ", rest.strip().split("\n\n")[0])
    return Section(notebooks.section(path), heading.lstrip("# ").strip(), lead, path.name)


def _index(study: Study, checked: Ledger) -> dict[str, object]:
    run = study.measured
    return {
        "banner": Markup(banner(study).html),
        "answers": Markup(index_page.answers(study, run).html),
        "story": claims_page.story(checked),
        "findings": index_page.findings(study),
        "unanswered": [Markup(marked(line)) for line in index_page.unanswered(study)],
        "absences": Markup(study_page.absences(study, run).html if run.records else ""),
        "sets": Markup(study_page.sets(study).html),
    }


def _render(template: str, study: Study, sections: tuple[Section, ...], **values: object) -> str:
    environment = Environment(
        loader=FileSystemLoader(SHELL), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(template).render(
        report_title=study.params.report.title, sections=sections, provenance=provenance.line(study), **values
    )
