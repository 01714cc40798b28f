"""Published accuracies on their page: every value once, ours beside them, and each marked as whose it is."""

import re
from pathlib import Path
from statistics import median

import made
import pytest

from visionquant.analysis import published_accuracy
from visionquant.analysis.study import Study, gather
from visionquant.core.paths import Project
from visionquant.report.pages import published_accuracy_page as page
from visionquant.report.table import Table
from visionquant.settings import params

FOUND = published_accuracy.load(Project(made.ROOT))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The committed evidence, whatever this machine evaluated."""
    project = Project(made.ROOT, tmp_path_factory.mktemp("none"))
    return gather(project, params.load(project))


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Study:
    project = made.project(tmp_path_factory.mktemp("empty"))
    return gather(project, params.load(project))


def texts(table: Table) -> list[dict[str, str]]:
    return [{c.heading: box.text for c, box in zip(table.columns, row, strict=True)} for row in table.rows]


def test_every_value_is_shown_once_with_its_drop(study: Study) -> None:
    deployment, research = page.values(study)
    assert len(deployment.rows) == sum(row.group == "deployment" for row in FOUND)
    shown = [box for row in research.rows for box in row if box.key is not None and "quantised" in box.note]
    assert sorted(box.text for box in shown) == sorted(str(row.drop) for row in FOUND if row.group == "research")
    assert all(row["Source"] for table in (deployment, research) for row in texts(table))
    assert all("Not ours" in table.caption for table in (deployment, research, page.traps(study)))


def test_drops_are_counted_by_whose_they_are_and_by_bits(study: Study) -> None:
    rows = {(row["From"], row["Bits"]): row for row in texts(page.drops(study))}
    four = [float(row.drop) for row in FOUND if row.bits == "W4A4"]
    seen = rows["published, research", "W4A4"]
    assert (seen["values"], seen["over 1 point"]) == (str(len(four)), str(sum(drop > 1 for drop in four)))
    points = (median(four), min(four), max(four))
    assert (seen["median"], seen["least"], seen["most"]) == tuple(f"{drop:.2f}" for drop in points)
    assert rows["published, deployment", "W16A16"]["median"] == "—"  # of a collapse and its mending
    assert rows["published, deployment", "W8A8"]["most"] == "85.19"


def test_ours_stand_beside_them_where_something_was_evaluated(study: Study, empty: Study) -> None:
    run = study.most_evaluated
    fp32, nf4 = (study.column(run.source, "top1", name, run.accuracy, 0) for name in ("fp32", "nf4"))
    lost = {network: fp32[network] - nf4[network] for network in run.accuracy}
    rows = {row["Bits"]: row for row in texts(page.drops(study)) if row["From"] == page.HERE}
    assert rows["NF4"]["values"] == str(len(lost)) == "3"
    assert rows["NF4"]["most"] == f"{max(lost.values()):.2f}"
    assert "FP32" not in rows
    assert page.HERE not in {row["From"] for row in texts(page.drops(empty))}
    assert "nothing was evaluated" in page.drops(empty).source


def test_the_figure_has_a_mark_a_value_hollow_where_published(study: Study, empty: Study) -> None:
    found = page.drops_figure(study)
    assert found == page.drops_figure(study)
    assert page.HERE in found.svg
    assert page.HERE not in page.drops_figure(empty).svg


def test_every_collapse_is_a_warning_with_its_row(study: Study) -> None:
    rows = texts(page.traps(study))
    collapsed = {row.stack for row in FOUND if row.drop > 25 and row.bits != "W6A6"}
    assert collapsed <= {row["Stack"] for row in rows}
    notebook = (made.ROOT / "notebooks" / "10_accuracy.ipynb").read_text()
    assert {row["Warning"] for row in rows} == set(re.findall(r"- \*\*([^*]+)\*\*:", notebook))


def test_the_accuracy_page_has_the_section(rendered: Study) -> None:
    html = (rendered.project.reports / "accuracy.html").read_text()
    section = html[html.index("Ours beside published") :]
    for place in ("table-published-drops", "figure-published-drops", "table-published-traps"):
        assert f'id="{place}"' in section
    assert all(f'id="table-published-{group}"' in section for group in ("deployment", "research"))
    assert "not ours" in section


def test_a_changed_value_is_seen_by_the_digest_and_a_broken_one_by_verify(tmp_path: Path) -> None:
    from visionquant.analysis import provenance
    from visionquant.report.verify import verify

    project = made.project(tmp_path)
    settings, path = params.load(project), project.published / "accuracy.csv"
    before = provenance.evidence_digest(project, settings)
    path.write_text(path.read_text().replace("73.61", "73.62", 1))
    assert provenance.evidence_digest(project, settings) != before
    path.write_text(path.read_text().replace("73.62", "much", 1))
    (fault,) = verify(project, settings, lambda precision: "c0de" * 16)
    assert fault.text.startswith("evidence: data/published/accuracy.csv line 2: quantised: ")
