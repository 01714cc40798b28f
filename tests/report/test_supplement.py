"""The supplement's page: every heading, figure and claim of the document, listings that run, and the page as a PDF."""

import re
from pathlib import Path

import nbformat
import pytest
import tiny
import torch
from typer.main import get_command

from visionquant.analysis.claims import ledger
from visionquant.analysis.study import Study, gather
from visionquant.cli import app
from visionquant.core.errors import StudyError
from visionquant.report import pdf
from visionquant.report.items import fixed, supported
from visionquant.report.pages import supplement_page

NOTEBOOK = nbformat.read(tiny.ROOT / "notebooks" / "13_supplement.ipynb", as_version=4)
WORDS = "\n".join(cell.source for cell in NOTEBOOK.cells if cell.cell_type == "markdown")
LISTINGS = {kind: re.findall(rf"```{kind}\n(.*?)```", WORDS, re.S) for kind in ("python", "sh")}


def page(study: Study) -> str:
    return (study.project.reports / "supplement.html").read_text()


def test_the_sections_of_the_claims_are_headings_in_their_order(rendered: Study) -> None:
    sections = ledger.check_claims(rendered).sections
    places = [re.search(rf"<h[23][^>]*>{section.heading}", page(rendered)) for section in sections]
    assert None not in places
    starts = [place.start() for place in places if place]
    assert starts == sorted(starts)


def test_every_claim_is_on_the_page_with_its_verdict(rendered: Study) -> None:
    text = page(rendered)
    for row in ledger.check_claims(rendered).claims:
        verdict = rf'href="claims\.html#{row.anchor}".{{1,400}}?class="(?:mark|verdict) {row.internal.word}"'
        assert re.search(verdict, text, re.S), row.claim.id


def test_every_printed_figure_stands_beside_what_was_measured(rendered: Study) -> None:
    checked = ledger.check_claims(rendered)
    table = supplement_page.published_table(rendered, rendered.measured, checked, "latency")
    assert [group for group, _ in table.groups[1:]] == [
        "FP32 (ms)", "FP16 (ms)", "INT8 (ms)", "INT4 (ms)", "FP16 Speedup", "INT8 Speedup"
    ]  # fmt: skip
    huge = table.rows[0]
    assert [item.text for item in huge[1:4:2]] == ["25.59", "10.24"]
    measured = rendered.row("local", huge[0].text, "fp16", 1, "latency_median")
    assert measured.value is not None
    assert huge[4].text == fixed(measured.value, supported(2, measured.low, measured.high))
    assert huge[10].word == rendered.row("local", huge[0].text, "fp16", 1, "speedup").verdict != ""


def test_rows_that_are_not_printed_are_there_with_their_reason(rendered: Study) -> None:
    checked = ledger.check_claims(rendered)
    rows = supplement_page.published_table(rendered, rendered.measured, checked, "memory").rows
    assert len(rows) == 16
    unprinted = [row for row in rows if row[1].status == "not_published"]
    assert len(unprinted) == 6
    assert all(row[1].note and not row[2].status for row in unprinted)


def test_bytes_are_judged_and_times_of_another_machine_are_not(rendered: Study) -> None:
    checked = ledger.check_claims(rendered)
    tables = [
        supplement_page.published_table(rendered, rendered.measured, checked, name) for name in ("latency", "memory")
    ]
    times, memory = ({item.word for row in table.rows for item in row[2:9:2]} for table in tables)
    assert times == {""}
    assert {"supported", "refuted"} & memory
    assert "not comparable" in tables[0].caption


def test_without_measurements_the_page_says_so_and_keeps_what_is_published(tmp_path: Path) -> None:
    project, params = tiny.project(tmp_path)
    study = gather(project, params)
    checked = ledger.check_claims(study)
    for name in supplement_page.TITLES:
        table = supplement_page.published_table(study, study.measured, checked, name)
        for row in table.rows:
            for column, item in zip(table.columns, row, strict=True):
                if column.heading == "measured":
                    assert item.status, (name, row[0].text)
                    assert item.note, (name, row[0].text)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_the_listings_run_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On tiny networks in place of those that they name; torch.compile traces, and another test compiles for real."""
    tiny.project(tmp_path, tiny.settings(("tiny-deit",), ("fp32", "int8")))
    monkeypatch.chdir(tmp_path)
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda net=None, **options: compile_(net, **options | {"backend": "eager"}))
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    found: dict[str, object] = {}
    for listing in LISTINGS["python"]:
        own = listing.replace("deit-tiny-ultra-efficient", "tiny-deit").replace("digits-vit", "tiny-digits")
        exec(compile(own, "listing", "exec"), found)
    model, half, proof = found["model"], found["half"], found["proof"]
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}  # type: ignore[attr-defined]
    assert {parameter.dtype for parameter in half.net.parameters()} == {torch.bfloat16}  # type: ignore[attr-defined]
    assert proof.quantized_modules > 0  # type: ignore[attr-defined]
    learnt = [parameter.grad for parameter in found["learner"].layers.parameters()]  # type: ignore[attr-defined]
    assert all(gradient is not None for gradient in learnt)
    assert found["largest"] == 4
    assert torch.isfinite(found["one"]).all()  # type: ignore[arg-type]
    assert found["verdict"].decision in ("pass", "fail", "too few samples")  # type: ignore[attr-defined]
    assert found["refuted"] == []


def test_commands_on_the_page_exist() -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    asked = re.findall(r"visionquant ([a-z-]+)(.*)", "\n".join(LISTINGS["sh"]))
    assert asked
    for verb, options in asked:
        known = {option for parameter in commands[verb].params for option in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", options)) <= known


def test_no_line_of_the_published_listings_is_carried_over() -> None:
    published = {"def optimize_fp16_inference", "def replace_linear_layers", "class QuantizedModelServer", "fuser2"}
    assert not [line for line in published if line in "\n".join(LISTINGS["python"])]


@pytest.mark.browser
def test_the_page_becomes_a_pdf(rendered: Study, tmp_path: Path) -> None:
    made_ = pdf.save_pdf(rendered.project.reports / "supplement.html", tmp_path / "new" / "supplement.pdf")
    before = made_.read_bytes()
    assert before.startswith(b"%PDF-")
    assert before.count(b"/Type /Page\n") + before.count(b"/Type /Page ") > 5
    assert pdf.save_pdf(rendered.project.reports / "supplement.html", made_) == made_  # a PDF is replaced
    assert [path.name for path in made_.parent.iterdir()] == ["supplement.pdf"]


def test_what_hinders_a_pdf_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, other = tmp_path / "supplement.html", tmp_path / "notes.txt"
    with pytest.raises(StudyError, match="not rendered yet; run `visionquant notebooks && visionquant report`"):
        pdf.save_pdf(source, tmp_path / "a.pdf")
    source.write_text("<p>found</p>")
    other.write_text("mine")
    with pytest.raises(StudyError, match="exists and is no PDF; name another file"):
        pdf.save_pdf(source, other)
    assert other.read_text() == "mine"
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        StudyError, match=r"no browser on PATH of chromium, .*; install one, e\.g\. `apt install chromium`"
    ):
        pdf.save_pdf(source, tmp_path / "a.pdf")
    broken = tmp_path / "chromium"
    broken.write_text("#!/bin/sh\necho no display >&2\nexit 4\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(StudyError, match="chromium: made no PDF: no display"):
        pdf.save_pdf(source, tmp_path / "a.pdf")
    assert not (tmp_path / "a.pdf").exists()
    assert not list(tmp_path.glob(".a.pdf*"))


def test_a_pdf_is_no_part_of_the_repository() -> None:
    assert "/reports/*.pdf" in (tiny.ROOT / ".gitignore").read_text().splitlines()
