"""The pages: complete, offline, the same twice, and right in a real browser."""

import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import browser
import made
import pytest

from visionquant.analysis.study import Study, gather
from visionquant.core.errors import StudyError
from visionquant.report import page_map, site
from visionquant.report.pages import answer_page
from visionquant.settings import params

PAGES = tuple(name for name, _, _ in page_map.PAGES)


class Links(HTMLParser):
    """What a page points to and which places it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.places: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name in ("href", "src") and value:
                self.targets.append(value)
            if name == "id" and value:
                self.places.append(value)


def html(study: Study) -> dict[str, str]:
    return {path.stem: path.read_text() for path in sorted(study.project.reports.glob("*.html"))}


def test_there_is_an_index_and_every_page(rendered: Study) -> None:
    assert set(html(rendered)) == {"index", "explorer", *PAGES}


def test_every_link_resolves_and_none_leaves_the_folder(rendered: Study) -> None:
    reports = rendered.project.reports
    for name, text in html(rendered).items():
        found = Links(text)
        assert len(found.places) == len(set(found.places)), name
        for target in found.targets:
            if target == "data:,":
                continue
            assert not re.match(r"[a-z]+:|//", target), f"{name} points to {target}"
            path, _, place = target.partition("#")
            assert not path or (reports / path).is_file(), f"{name} points to {target}"
            if place and not path:
                assert place in found.places, f"{name} has no {target}"


def test_every_page_says_which_weights_and_machine_it_shows(rendered: Study) -> None:
    for name, text in html(rendered).items():
        assert "seeded weights" in text, name
        assert "Made-up CPU" in text, name
        assert "not comparable" in text, name


def test_the_index_opens_with_what_was_found_and_the_state_of_the_run(rendered: Study) -> None:
    text = html(rendered)["index"]
    assert text.index("What was found") < text.index("What this run can't answer") < text.index("State of the run")
    assert "2.00 times FP32&#39;s speed in the median of 16 models" in text
    assert "316 of 320" in text
    assert "over the time budget" in text


@pytest.mark.parametrize("name", ["results", "accuracy", "decide", "trust", "claims"])
def test_a_page_opens_with_what_was_found(rendered: Study, name: str) -> None:
    head, _, rest = html(rendered)[name].partition('<div class="answer">')
    assert rest.startswith("<p>")
    assert not re.search("<(table|img|aside)", head)


def test_a_figure_stands_on_one_page_with_its_data_beside_it(rendered: Study) -> None:
    pages = html(rendered)
    for path in rendered.project.figures.glob("*.csv"):
        (page,) = (name for name, text in pages.items() if f'id="figure-{path.stem}"' in text)
        assert (page == "index") == (path.stem == "answer")
        assert f'href="figures/{path.stem}.csv"' in pages[page]
        assert path.read_text().startswith("panel,row,series,x,y,low,high\n")
    drawings = {path.stem.removesuffix("-narrow") for path in rendered.project.figures.glob("*.svg")}
    assert drawings == {path.stem for path in rendered.project.figures.glob("*.csv")}


def test_missing_cells_keep_their_reason_on_the_page(rendered: Study) -> None:
    assert 'title="7 passes">— <small>time</small>' in html(rendered)["results"]


def test_building_twice_gives_the_same_bytes(rendered: Study) -> None:
    before = html(rendered)
    site.build_site(rendered.project, rendered.params)
    assert html(rendered) == before


def test_a_page_without_its_notebook_names_the_command(tmp_path: Path) -> None:
    project = made.project(tmp_path)
    with pytest.raises(StudyError, match=r"02_latency\.ipynb: not executed yet; run `visionquant notebooks`"):
        site.build_site(project, params.load(project))
    project.executed.mkdir(parents=True)
    (project.executed / "02_latency.ipynb").write_text("{")
    with pytest.raises(StudyError, match=r"02_latency\.ipynb: broken; run `visionquant notebooks`"):
        site.build_site(project, params.load(project))


def test_the_summary_is_five_lines(rendered: Study) -> None:
    lines = answer_page.five_lines(gather(rendered.project, rendered.params))
    assert len(lines) == 5
    assert "FP16 runs at 2.00 times FP32's speed" in lines[0]
    assert "INT8 saves 73 %" in lines[1]
    assert lines[2].startswith("On trained weights (dinov2-small-packaged, ")
    assert lines[3].startswith("cells     316 of 320 ok; 4 over budget; 18.7 min measuring, ")
    assert lines[4] == f"report    {rendered.project.reports / 'index.html'}"


@pytest.fixture(scope="module")
def tab() -> Iterator[browser.Page]:
    with browser.page() as found:
        yield found


@pytest.mark.browser
@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("name", ["index", "explorer", *PAGES])
def test_a_page_loads_clean_and_fits_the_window(rendered: Study, tab: browser.Page, name: str, width: int) -> None:
    tab.open((rendered.project.reports / f"{name}.html").as_uri(), width)
    assert tab.complaints == []
    assert all(url.startswith(("file:", "data:")) for url in tab.requests)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate("[...document.images].filter(i => !i.complete || i.naturalWidth === 0).length") == 0


@pytest.mark.browser
def test_a_phone_has_a_menu_and_figures_of_its_own(rendered: Study, tab: browser.Page) -> None:
    tab.open((rendered.project.reports / "index.html").as_uri(), 400)
    seen = (
        "[document.querySelector('nav a').checkVisibility(), document.querySelector('nav summary').checkVisibility()]"
    )
    assert tab.evaluate(seen) == [False, True]
    tab.evaluate("document.querySelector('nav summary').click()")
    assert tab.evaluate(seen) == [True, True]
    assert tab.evaluate("document.querySelector('figure img').currentSrc.endsWith('answer-narrow.svg')")
    tab.open((rendered.project.reports / "index.html").as_uri(), 1200)
    assert tab.evaluate(seen) == [True, False]
    assert tab.evaluate("document.querySelector('figure img').currentSrc.endsWith('answer.svg')")
    assert tab.evaluate("new Set([...document.querySelectorAll('nav li')].map((one) => one.offsetTop)).size") == 1


@pytest.mark.browser
def test_a_table_sorts_by_number_and_keeps_missing_rows_last(rendered: Study, tab: browser.Page) -> None:
    tab.open((rendered.project.reports / "results.html").as_uri(), 1400)
    column = "[...document.querySelectorAll('#table-memory tbody tr')].map(r => r.cells[1].innerText.trim())"
    heading = "document.querySelectorAll('#table-memory thead tr:last-child th')[1]"
    tab.evaluate(f"{heading}.querySelector('button').click()")
    rising = tab.evaluate(column)
    numbers = [float(text) for text in rising if not text.startswith("—")]
    assert numbers == sorted(numbers)
    assert len(numbers) == 10
    assert all(text.startswith("—") for text in rising[10:])
    assert tab.evaluate(f"{heading}.getAttribute('aria-sort')") == "ascending"
    tab.evaluate(f"{heading}.querySelector('button').click()")
    falling = tab.evaluate(column)
    assert [float(text) for text in falling[:10]] == numbers[::-1]
    assert all(text.startswith("—") for text in falling[10:])


@pytest.mark.browser
def test_a_batch_size_is_picked_for_the_page_and_by_a_link_to_a_table(rendered: Study, tab: browser.Page) -> None:
    page, last = (rendered.project.reports / "results.html").as_uri(), rendered.batch_sizes[-1]
    shown = (
        "[...document.querySelectorAll('figure.table')].filter(f => f.offsetHeight"
        " && /^table-(latency|throughput)-/.test(f.id)).map(f => f.id)"
    )
    tab.open("about:blank", 1400)
    tab.open(page, 1400)
    assert tab.evaluate(shown) == ["table-latency-1", "table-throughput-1"]
    tab.evaluate(f"document.querySelector('.picks input[value=\"{last}\"]').click()")
    assert tab.evaluate(shown) == [f"table-latency-{last}", f"table-throughput-{last}"]
    tab.open("about:blank", 1400)
    tab.open(f"{page}#table-latency-{last}", 1400)
    assert tab.evaluate(shown)[0] == f"table-latency-{last}"


@pytest.mark.browser
def test_light_and_dark_differ_and_figures_follow(rendered: Study, tab: browser.Page) -> None:
    grounds = set()
    for dark in (False, True):
        tab.open((rendered.project.reports / "results.html").as_uri(), 1400, dark)
        grounds.add(tab.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(grounds) == 2
    figures = list(rendered.project.figures.glob("*.svg"))
    assert figures
    assert all("prefers-color-scheme:dark" in path.read_text() for path in figures)


def test_chromium_is_there_where_continuous_integration_installs_it() -> None:
    """``.ci/run`` installs Chromium, so that browser tests are no silent hole there."""
    import os

    assert os.environ.get("CI") != "true" or any(shutil.which(name) for name in browser.NAMES)
