"""The explorer in a real browser: what is chosen in the form or named in the address is what is shown."""

import hashlib
import re
import time
from collections.abc import Iterator

import browser
import pytest

from visionquant.analysis.claims import ledger
from visionquant.analysis.study import Study, gather
from visionquant.report import site
from visionquant.report.table import SHELL
from visionquant.settings import params

MODEL = "vit-base-224-production"
PAGE_BYTES = 2_000_000
ROWS = "[...document.querySelectorAll('#table-explorer tbody tr')].map(r => [...r.cells].map(c => c.textContent))"
MARKS = "document.querySelectorAll('#explorer-figure g[data-mark=dot] path').length"
STATE = "document.getElementById('explorer-state').textContent"


@pytest.fixture(scope="module")
def tab() -> Iterator[browser.Page]:
    with browser.page() as found:
        yield found


def opened(tab: browser.Page, study: Study, address: str = "", width: int = 1400) -> None:
    tab.open("about:blank", width)  # from the same page an address that differs behind # alone loads nothing
    tab.open((study.project.reports / "explorer.html").as_uri() + address, width)
    settled(tab)


def settled(tab: browser.Page, complaints: int = 0) -> None:
    """The script of a source is loaded, and what was chosen shown."""
    deadline = time.monotonic() + browser.LIMIT_S
    while tab.evaluate("document.getElementById('explorer-figure').getAttribute('aria-busy')") != "false":
        assert time.monotonic() < deadline
        assert len(tab.complaints) <= complaints, tab.complaints
    assert len(tab.complaints) <= complaints, tab.complaints


def choose(tab: browser.Page, name: str, value: str, complaints: int = 0) -> None:
    tab.evaluate(f"document.querySelector('#explorer select[name={name}]').value = '{value}'")
    tab.evaluate("document.getElementById('explorer').dispatchEvent(new Event('input', {bubbles: true}))")
    settled(tab, complaints)


@pytest.mark.browser
def test_at_first_it_shows_speedups_of_the_measured_set(rendered: Study, tab: browser.Page) -> None:
    opened(tab, rendered)
    rows = tab.evaluate(ROWS)
    assert len(rows) == 64
    assert [MODEL, "FP16", "2.00", "1.99–2.01", "3", "▲ faster", "seeded"] in [row[:7] for row in rows]  # noqa: RUF001
    assert tab.evaluate(MARKS) == 64
    assert "Speedup over FP32 (x) at batch size 1: 64 of 68 figures" in tab.evaluate(STATE)
    assert "Made-up CPU" in tab.evaluate("document.getElementById('explorer-about').textContent")


@pytest.mark.browser
def test_another_machine_and_quantity_load_its_script_and_change_figure_table_and_address(
    rendered: Study, tab: browser.Page
) -> None:
    opened(tab, rendered)
    assert not any("published.js" in url for url in tab.requests)
    choose(tab, "machine", "published")
    choose(tab, "quantity", "latency_median")
    assert any("published.js" in url for url in tab.requests)
    assert all(url.startswith(("file:", "data:")) for url in tab.requests)
    rows = {(row[0], row[1]): row[2] for row in tab.evaluate(ROWS)}
    printed = rendered.value("published", MODEL, "fp32", 1, "latency_median")
    assert rows[MODEL, "FP32"] == f"{printed:.2f}"
    assert tab.evaluate(MARKS) == 64
    assert tab.evaluate("location.hash") == "#machine=published&quantity=latency_median&batch_size=1"
    assert "published" in tab.evaluate("document.getElementById('explorer-about').textContent")


@pytest.mark.browser
def test_an_address_is_a_choice_and_says_what_is_not_here(rendered: Study, tab: browser.Page) -> None:
    address = f"#machine=local&quantity=cosine&batch_size=8&precisions=fp16+nf4&models={MODEL}+resnet"
    opened(tab, rendered, address)
    assert [row[:3] for row in tab.evaluate(ROWS)] == [[MODEL, "FP16", "0.9900"], [MODEL, "NF4", "0.9900"]]
    said = tab.evaluate(STATE)
    assert "at any batch size: 2 of 2 figures" in said
    assert said.endswith("not here, and left out: resnet")
    address = "#machine=local&quantity=latency_median&batch_size=4&models="
    going = f"addEventListener('hashchange', () => r(), {{once: true}}); location.hash = '{address}'"
    tab.ask("Runtime.evaluate", expression=f"new Promise(r => {{ {going} }})", awaitPromise=True)
    settled(tab)
    assert tab.evaluate(ROWS) == []
    assert tab.evaluate("document.getElementById('explorer-figure').textContent") == "Choose a model and a precision."


@pytest.mark.browser
def test_what_is_missing_keeps_its_reason(rendered: Study, tab: browser.Page) -> None:
    opened(tab, rendered, "#machine=local&quantity=latency_median&batch_size=8&models=vit-huge-patch14-2020")
    rows = {row[1]: row for row in tab.evaluate(ROWS)}
    assert rows["FP16"][2] == "— time"
    assert rows["FP16"][7] == "7 passes"
    choose(tab, "machine", "published")
    assert tab.evaluate(MARKS) == 0
    said = tab.evaluate("document.getElementById('explorer-missing').textContent")
    assert said == "No figure, not part of this set: vit-huge-patch14-2020"


@pytest.mark.browser
def test_controls_are_the_browsers_own_and_keys_change_them(rendered: Study, tab: browser.Page) -> None:
    opened(tab, rendered)
    tab.evaluate("document.querySelector('#explorer input[value=int8]').focus()")
    for kind in ("keyDown", "keyUp"):
        tab.ask("Input.dispatchKeyEvent", type=kind, key=" ", code="Space", text=" ", windowsVirtualKeyCode=32)
    settled(tab)
    assert {row[1] for row in tab.evaluate(ROWS)} == {"FP32", "FP16", "NF4"}
    assert "precisions=fp32+fp16+nf4" in tab.evaluate("location.hash")


@pytest.mark.browser
@pytest.mark.parametrize("width", [400, 1400])
def test_the_figure_fits_the_window(rendered: Study, tab: browser.Page, width: int) -> None:
    opened(tab, rendered, "#machine=local&quantity=latency_median&batch_size=1", width)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    drawn = "document.querySelector('#explorer-figure svg[role=img]').getBoundingClientRect()"
    assert 300 < tab.evaluate(f"{drawn}.right") <= width


@pytest.mark.browser
def test_a_script_that_is_gone_is_said(rendered: Study, tab: browser.Page) -> None:
    opened(tab, rendered)
    path = rendered.project.reports / "explorer" / "published.js"
    content = path.read_bytes()
    path.unlink()
    try:
        choose(tab, "machine", "published", complaints=1)  # the browser logs what it can't load
        assert tab.evaluate(STATE) == "reports/explorer/published.js can't be read; run `visionquant report`"
        assert tab.evaluate(ROWS) == []
    finally:
        path.write_bytes(content)


def test_page_and_the_largest_machine_are_at_most_2_mb(rendered: Study) -> None:
    page = rendered.project.reports / "explorer.html"
    named = re.findall(r'(?:src|href)="(assets/[^"]+)"', page.read_text())
    of_page = [page, *(page.parent / name for name in named)]
    largest = max(path.stat().st_size for path in (page.parent / "explorer").iterdir())
    assert sum(path.stat().st_size for path in of_page) + largest <= PAGE_BYTES


def test_libraries_are_those_that_their_licence_file_names() -> None:
    listed = dict(re.findall(r"^(\S+\.js) .*sha256 ([0-9a-f]{64})$", (SHELL / "libraries.txt").read_text(), re.M))
    assert {name: hashlib.sha256((SHELL / name).read_bytes()).hexdigest() for name in listed} == listed
    assert set(listed) == {"d3.min.js", "plot.umd.min.js"}


def test_programs_are_told_what_there_is(rendered: Study) -> None:
    reports = rendered.project.reports
    text = (reports / "llms.txt").read_text()
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert {"explorer.html", "results.json", "claims.html"} <= set(links)
    assert [name for name in links if not (reports / name).exists()] == []
    assert "&#" not in text
    badge = (reports / "badge.svg").read_text()
    assert re.search(r"<title>\d+ published claims: \d+ follow · \d+ contradicted · \d+ open</title>", badge)


def test_the_same_records_give_the_same_scripts(rendered: Study) -> None:
    study = gather(rendered.project, params.load(rendered.project))
    again = site.contents(study, ledger.check_claims(study))
    kept = {path: path.read_text() for path in again}
    assert again == kept
