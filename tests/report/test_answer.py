"""The first screen: three sentences, one figure, three questions, each made of the frame."""

from pathlib import Path

import made
import pytest

from visionquant.analysis.claims import ledger
from visionquant.analysis.study import Study, gather
from visionquant.report.pages import answer_page, probe_page
from visionquant.settings import params


@pytest.fixture(scope="module")
def study(rendered: Study) -> Study:
    return gather(rendered.project, rendered.params)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Study:
    project = made.project(tmp_path_factory.mktemp("empty"))
    return gather(project, params.load(project))


def test_the_answer_is_speed_memory_and_accuracy(study: Study) -> None:
    speed, memory, accuracy = answer_page.answer(study)
    where = "On this machine, one image at a time and in the median of the models, "
    assert speed.startswith(f"{where}FP16 runs at 2.00 times FP32's speed (faster for 16, ")
    assert "INT8 runs at 0.50 times" in speed
    assert "FP16 saves 50 %, INT8 saves 73 %, NF4 saves 83 %" in memory
    assert accuracy == (
        "On trained weights (dinov2-small-packaged, 10,000 images, 90.0 % in FP32, linear head) FP16, NF4 cost less "
        "than 1 point, INT8 (-3.0) cost accuracy, in points."
    )


def test_without_evidence_it_says_what_to_run(empty: Study) -> None:
    speed, memory, accuracy = answer_page.answer(empty)
    assert speed == "Speed was not measured yet: `make repro`."
    assert "whatever the machine" in memory
    assert accuracy.endswith("no trained weights were evaluated: `make accuracy`.")
    assert "nothing to show" in answer_page.overview(empty).svg


def test_questions_have_answers_and_pages(study: Study) -> None:
    doors = answer_page.doors(study, ledger.check_claims(study))
    assert [door.section for door in doors] == ["costs", "conditions", "claims"]
    assert all(door.answer for door in doors)
    assert "FP16 for 2" in doors[0].answer  # of DINOv2, whose family was evaluated; FP16 is the fastest that is SAME
    assert "For 14 of 16 models nothing is recommended" in doors[0].answer


def test_the_figure_tells_whose_a_mark_is_and_what_the_verdicts_are(study: Study) -> None:
    found = answer_page.overview(study)
    assert "published" in found.svg
    assert "this machine" in found.svg
    assert "16F" in found.svg
    assert "16S" in found.svg


def test_a_probe_is_a_table_with_intervals_and_words(study: Study, empty: Study) -> None:
    (table,) = (one for one in probe_page.probes(study) if "this machine" in one.title)
    rows = {row[1].text: row for row in table.rows}
    headings = [column.heading for column in table.columns]
    top1, change, lost = (headings.index(name) for name in ("top-1, %", "change, points", "lost"))
    assert rows["FP32"][top1].text == "90.00"
    assert rows["FP32"][change].status == "not_available"
    assert (rows["INT8"][change].text, rows["INT8"][change].word) == ("-3.00", "LOWER")
    assert rows["INT8"][lost].text == "300"
    assert (rows["FP16"][change].word, rows["NF4"][change].word) == ("SAME", "SAME")
    own = headings.index("own head, points")
    assert (rows["INT8"][own].text, rows["INT8"][own].word) == ("-0.50", "SAME")
    assert rows["NF4"][own].status == "not_measured"
    assert "in INT8: -3.00 points through FP32's head (LOWER), -0.50 through its own (SAME)." in table.caption
    low, high = map(float, rows["INT8"][change].bounds.replace("–", " ").split())  # noqa: RUF001
    assert low < -3 < high < -2.6
    (nothing,) = probe_page.probes(empty)
    assert (nothing.rows, nothing.source) == ((), probe_page.NOT_RUN)
    assert "nothing to show" in probe_page.probe_figure(empty).svg


def test_classes_add_up_to_the_change(study: Study) -> None:
    table = probe_page.by_class(study)
    row = next(row for row in table.rows if row[1].text == "INT8")
    changes = [float(box.text) for box in row[2:]]
    assert sum(changes) / 10 == pytest.approx(-3.0)
    assert {column.heading for column in table.columns} >= set(probe_page.CLASSES)


def test_machines_are_named_where_several_were_measured() -> None:
    """The committed evidence: every set has its own mark and its own name."""
    from visionquant.core.paths import Project

    project = Project(made.ROOT, Path("/nonexistent"))
    found = gather(project, params.load(project))
    shown = answer_page.overview(found)
    assert all(run.name in shown.svg for run in found.shown if run.records)
