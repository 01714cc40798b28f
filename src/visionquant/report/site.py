"""The pages: executed notebooks in one shell, and an index that opens with what was found.

No page asks the network for anything: style sheet, scripts and figures are files beside them.
"""

import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from visionquant.analysis import frame_files, provenance
from visionquant.analysis import study as evidence
from visionquant.analysis.claims import ledger
from visionquant.analysis.claims.ledger import Ledger
from visionquant.analysis.study import Study
from visionquant.core import files
from visionquant.core.errors import StudyError
from visionquant.core.paths import Project
from visionquant.report import notebooks
from visionquant.report.page_map import PAGES, place
from visionquant.report.pages import answer_page, claims_page, explorer_page, index_page, study_page
from visionquant.report.table import SHELL, banner, marked
from visionquant.settings.params import Params

ASSETS = (
    "style.css",
    "sort.js",
    "switch.js",
    "filter.js",
    "explorer.js",
    "d3.min.js",
    "plot.umd.min.js",
    "libraries.txt",
)
OVERVIEW = re.compile(r'<figure class="figure" id="figure-answer">.*?</figure>', re.S)  # shown on the index alone


class Part(NamedTuple):
    """A notebook: its name, its heading, and the sentence under that."""

    name: str
    title: str
    lead: str
    notebook: str


class Page(NamedTuple):
    """A page beside the index, of one notebook or of several."""

    name: str
    title: str
    parts: tuple[Part, ...]


def build_site(project: Project, params: Params) -> Path:
    """Write the index, a page a section, and the assets; return the index.

    Raises:
        StudyError: a notebook was not executed yet, a record is broken, or the folder can't be written.
    """
    study = evidence.gather(project, params)
    made = contents(study, ledger.check_claims(study))
    for path, content in made.items():
        files.save(path, content)
    for path in {*(project.reports / explorer_page.NAME).iterdir()} - {*made}:
        path.unlink()  # of a machine that is gone
    return project.reports / "index.html"


def contents(study: Study, checked: Ledger) -> dict[Path, str]:
    """Every page and asset, and what reads for programs, with what belongs into it; see :func:`build_site`."""
    project = study.project
    shown, explorer = pages_of(project), Page(explorer_page.NAME, explorer_page.TITLE, ())
    pages = (*shown, explorer)
    found = {project.reports / "assets" / name: (SHELL / name).read_text(encoding="utf-8") for name in ASSETS}
    bodies = {part.name: fragment(project.executed / part.notebook) for page in shown for part in page.parts}
    overview = OVERVIEW.search(bodies.get("study", ""))
    leads = answer_page.leads(study, checked)
    for page in shown:
        lead = "".join(f"<p>{marked(sentence)}</p>" for sentence in leads.get(page.name, ()))
        lead = f'<div class="answer">{lead}</div>' if lead else ""
        own = {"page": page, "lead": Markup(lead), "bodies": _bodies(page, bodies, lead)}
        found[project.reports / f"{page.name}.html"] = _render("section.html", study, pages, **own)
    found[project.reports / "index.html"] = _render(
        "index.html", study, pages, overview=Markup(overview[0] if overview else ""), **_index(study, checked)
    )
    sources = frame_files.as_json(study)
    found[project.reports / "explorer.html"] = _render(
        "explorer.html", study, pages, page=explorer, explorer=explorer_page.choices(study, sources)
    )
    found |= explorer_page.contents(study, sources)
    counted = {"answer": answer_page.answer(study), "counted": checked.counted("internal")}
    for name in ("llms.txt", "badge.svg"):
        found[project.reports / name] = _render(name, study, pages, **counted)
    return found


def pages_of(project: Project) -> tuple[Page, ...]:
    """The pages beside the index, with the notebooks that are there."""
    parts = {part.name: part for part in map(_part, notebooks.source_notebooks(project))}
    pages = [Page(name, title, tuple(parts.pop(one) for one in of if one in parts)) for name, title, of in PAGES]
    own = (Page(part.name, part.title, (part,)) for part in parts.values())
    return (*(page for page in pages if page.parts), *own)


def fragment(path: Path) -> str:
    """An executed notebook as HTML without code, its figures found from ``reports``.

    Raises:
        StudyError: the notebook is missing or broken.
    """
    notebook = notebooks.read(path)
    if notebook is None:
        state = "broken" if path.is_file() else "not executed yet"
        raise StudyError(f"reports/notebooks/{path.name}", state, "run `visionquant notebooks`")
    body, _ = _exporter().from_notebook_node(notebook)
    return str(body).replace('="../figures/', '="figures/')


@cache
def _exporter() -> Any:
    from nbconvert import HTMLExporter

    return HTMLExporter(template_name="basic", exclude_input=True, exclude_output_prompt=True)


def _bodies(page: Page, bodies: dict[str, str], lead: str) -> dict[str, Markup]:
    """The notebooks of a page; one alone brings the heading of the page, below which its lead stands."""
    own = {part.name: OVERVIEW.sub("", bodies[part.name]) for part in page.parts}
    if len(own) == 1:
        return {name: Markup(body.replace("</h1>", f"</h1>{lead}", 1)) for name, body in own.items()}
    return {name: Markup(_demoted(name, body)) for name, body in own.items()}


def _demoted(name: str, body: str) -> str:
    """A notebook on a page of several: headings a level lower, places of its own name, without the page's banner."""
    without = re.sub(r'<aside class="banner.*?</aside>', "", body, flags=re.S)
    without = re.sub(r' id="cell-id=[^"]*"', "", without)  # those of another notebook are the same
    for place_ in re.findall(r'<h[1-6] id="([^"]+)"', without):
        for key in ('id="', 'href="#'):
            without = without.replace(f'{key}{place_}"', f'{key}{name}-{place_}"')
    return re.sub(r"(</?h)([1-5])\b", lambda found: f"{found[1]}{int(found[2]) + 1}", without)


def _part(path: Path) -> Part:
    """Title and lead from the first cell of the source notebook: its heading, and the paragraph below."""
    first = nbformat.read(path, as_version=4).cells[0].source
    heading, _, rest = first.partition("\n")
    lead = re.sub(r"\s+", " ", rest.strip().split("\n\n")[0])
    return Part(notebooks.section(path), heading.lstrip("# ").strip(), lead, path.name)


def _index(study: Study, checked: Ledger) -> dict[str, object]:
    run = study.measured
    return {
        "answer": answer_page.answer(study),
        "doors": answer_page.doors(study, checked),
        "answers": Markup(index_page.answers(study, run).html),
        "story": claims_page.story(checked),
        "findings": index_page.findings(study),
        "unanswered": [Markup(marked(line)) for line in index_page.unanswered(study)],
        "absences": Markup(study_page.absences(study, run).html if run.records else ""),
        "sets": Markup(study_page.sets(study).html),
    }


def _render(template: str, study: Study, pages: tuple[Page, ...], **values: object) -> str:
    environment = Environment(
        loader=FileSystemLoader(SHELL),
        autoescape=select_autoescape(disabled_extensions=("txt",), default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(
        report_title=study.params.report.title,
        pages=pages,
        place=place,
        banner=Markup(banner(study).html),
        provenance=provenance.line(study),
        **values,
    )
