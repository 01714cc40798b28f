"""The claims page in a real browser, and every page before an accessibility checker."""

from collections.abc import Iterator

import axe
import browser
import pytest

from visionquant.analysis.study import Study
from visionquant.report import page_map

PAGES = ("index", "explorer", *(name for name, _, _ in page_map.PAGES))
# Dark differs from light in colours alone.
RULES = {False: ["wcag2a", "wcag2aa", "wcag21aa", "best-practice"], True: ["color-contrast"]}
ROWS = "[...document.querySelectorAll('#table-claims tbody tr')]"
SHOWN = f"{ROWS}.filter(r => !r.hidden)"


@pytest.fixture(scope="module")
def tab() -> Iterator[browser.Page]:
    with browser.page() as found:
        yield found


def choose(tab: browser.Page, label: str, value: str) -> None:
    tab.evaluate(
        f"(() => {{ const l = [...document.querySelectorAll('.filters label')].find(x => x.textContent.startsWith("
        f"'{label}')); const c = l.querySelector('select, input'); c.value = '{value}';"
        "c.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )


@pytest.mark.browser
def test_claims_are_narrowed_by_section_and_verdict(rendered: Study, tab: browser.Page) -> None:
    tab.open((rendered.project.reports / "claims.html").as_uri(), 1400)
    total = tab.evaluate(f"{ROWS}.length")
    assert tab.evaluate(f"{SHOWN}.length") == total > 300
    choose(tab, "Section", "Memory Usage Analysis")
    assert tab.evaluate(f"{SHOWN}.length") == 60
    choose(tab, "Internal", "contradicted")
    assert tab.evaluate(f"{SHOWN}.map(r => r.cells[0].innerText.includes('INT4'))") == [True] * 10
    assert tab.evaluate("document.querySelector('#table-claims .filters output').textContent") == f"10 of {total}"
    choose(tab, "Look for", "dinov2-large")
    assert tab.evaluate(f"{SHOWN}.length") == 1
    tab.evaluate("document.querySelector('#table-claims .filters button').click()")
    assert tab.ask("Runtime.evaluate", expression="new Promise(r => setTimeout(r, 50))", awaitPromise=True)
    assert tab.evaluate(f"{SHOWN}.length") == total


@pytest.mark.browser
def test_filtered_claims_sort_by_number(rendered: Study, tab: browser.Page) -> None:
    tab.open((rendered.project.reports / "claims.html").as_uri(), 1400)
    choose(tab, "Section", "Throughput Analysis")
    tab.evaluate("document.querySelectorAll('#table-claims thead tr:last-child th')[3].querySelector('button').click()")
    values = [float(text) for text in tab.evaluate(f"{SHOWN}.map(r => r.cells[3].innerText)")]
    assert len(values) == 36
    assert values == sorted(values)


@pytest.mark.browser
def test_a_link_from_the_index_unfolds_its_claim(rendered: Study, tab: browser.Page) -> None:
    tab.open("about:blank", 1400)  # from the same page a link to a place in it loads nothing
    tab.open((rendered.project.reports / "claims.html").as_uri() + "#claim-costs-roi", 1400)
    row = "document.getElementById('claim-costs-roi')"
    assert tab.evaluate(f"{row}.querySelector('details').open")
    said = tab.evaluate(f"{row}.innerText")
    for part in ("ownership.csv, roi, published", "Formula (gain over cost)", "Inputs: ", "Reproduction (local)"):
        assert part in said
    assert -1 <= tab.evaluate(f"{row}.getBoundingClientRect().top") < 900


@pytest.mark.browser
def test_a_link_on_the_page_finds_a_claim_that_a_filter_hides(rendered: Study, tab: browser.Page) -> None:
    tab.open("about:blank", 1400)
    tab.open((rendered.project.reports / "claims.html").as_uri(), 1400)
    choose(tab, "Section", "Memory Usage Analysis")
    row = "document.getElementById('claim-costs-roi')"
    assert tab.evaluate(f"{row}.closest('tr').hidden")
    tab.evaluate("document.querySelector('#table-claims-contradictions a').click()")
    tab.ask("Runtime.evaluate", expression="new Promise(r => setTimeout(r, 100))", awaitPromise=True)
    assert not tab.evaluate(f"{row}.closest('tr').hidden")
    assert tab.evaluate(f"{row}.querySelector('details').open")
    assert -1 <= tab.evaluate(f"{row}.getBoundingClientRect().top") < 900


@pytest.mark.browser
def test_every_claim_that_the_index_names_is_on_the_page(rendered: Study, tab: browser.Page) -> None:
    tab.open((rendered.project.reports / "index.html").as_uri(), 1400)
    links = tab.evaluate("[...document.querySelectorAll('.story a')].map(a => a.hash.slice(1))")
    assert len(links) > 5
    tab.open((rendered.project.reports / "claims.html").as_uri(), 1400)
    assert [name for name in links if not tab.evaluate(f"!!document.getElementById('{name}')")] == []


@pytest.mark.browser
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_no_page_fails_the_accessibility_checker(
    rendered: Study, tab: browser.Page, dark: bool, pytestconfig: pytest.Config
) -> None:
    script = axe.source(pytestconfig.cache.mkdir("axe"))  # type: ignore[union-attr]
    found = {}
    for name in PAGES if not dark else ("index", "results", "claims", "decide", "explorer"):
        tab.open((rendered.project.reports / f"{name}.html").as_uri(), 1400, dark)
        tab.evaluate(
            "for (const row of document.querySelectorAll('tbody tr:nth-child(n+9)')) row.remove()"
        )  # all alike
        tab.evaluate(script + "; 1")
        expression = (
            f"axe.run(document, {{runOnly: {RULES[dark]}}}).then(r => JSON.stringify("
            "r.violations.map(v => [v.id, v.nodes.length, v.nodes[0].html.slice(0, 160)])))"
        )
        answer = tab.ask("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        violations = answer["result"]["value"]
        if violations != "[]":
            found[name] = violations
    assert found == {}
