"""The published supplement in its own order: each figure with its verdict and what was measured beside it."""

from dataclasses import replace

from visionquant.analysis.claims.ledger import CheckedClaim, Ledger
from visionquant.analysis.published import BY_MODEL, PRECISIONS, QUANTITIES
from visionquant.analysis.study import MachineSet, Study
from visionquant.report import items
from visionquant.report.columns import estimate, source
from visionquant.report.items import MEASURED, NUMBER, PUBLISHED, TEXT, Item, missing, number
from visionquant.report.pages import answer_page, claims_page
from visionquant.report.table import Column, Displayed, Table, build, marked, render

# The published tables: their titles, and the headings of their columns by the file's.
TITLES = {
    "models": "Model Selection Criteria",
    "latency": "Latency Analysis (Batch Size 1)",
    "memory": "Memory Usage Analysis (Batch Size 1)",
    "throughput": "Throughput Analysis (Samples per Second)",
    "costs": "AWS EC2 Instance Comparison (Monthly Costs)",
}
HEADINGS = {
    "parameters_millions": "Parameters (M)", "ms": "{} (ms)", "speedup": "{} Speedup", "mb": "{} (MB)",
    "reduction_percent": "{} Reduction (%)", "sps": "{} (SPS)", "improvement_percent": "{} Improvement (%)",
    "impact_percent": "{} Impact (%)", "fp32_instances": "FP32 Requirement", "fp16_instances": "FP16 Requirement",
    "monthly_savings_usd": "Monthly Savings ($)", "annual_savings_usd": "Annual Savings ($)",
}  # fmt: skip


def summary(study: Study, ledger: Ledger) -> Displayed:
    """What was measured, and what became of the claims, in sentences."""
    sentences = (*answer_page.answer(study), *(part.sentence for part in claims_page.story(ledger)))
    return Displayed("\n".join(f"<p>{marked(one)}</p>" for one in sentences))


def margin(ledger: Ledger, *names: str) -> Displayed:
    """Claims by section, or by how their ids begin, without those that stand as figures in a table of the page."""
    found = [row for row in _claims(ledger, names) if row.claim.entry.table in ("", "setup")]
    return Displayed(render("margin", [(row, _words(row)) for row in found]))


def figures(ledger: Ledger, title: str, *names: str) -> Table:
    """The figures among claims so named: as published, recomputed from the document, and measured."""
    shown = [
        Column("Statement", lambda row: row.claim.says, TEXT),
        Column("published", _published, PUBLISHED),
        Column("recomputed", _recomputed),
        Column("measured", _measured, MEASURED),
    ]
    rows = [row for row in _claims(ledger, names) if row.claim.entry.table not in ("", "setup")]
    name = "published-" + names[0].strip("/").replace("/", "-")
    return build(name, title, "", shown, rows)


def published_table(study: Study, run: MachineSet, ledger: Ledger, name: str) -> Table:
    """A published table, beside each of its columns what was measured, else what the document's other figures give."""
    claims = {(one.claim.row, one.claim.entry.column): one for one in ledger.claims if one.claim.entry.table == name}
    shown = [Column("Instance Type" if name == "costs" else "Model", str, TEXT)]
    if name == "models":
        shown.append(Column("Group", lambda model: study.published.models[model].group, TEXT))
    for column in dict.fromkeys(column for _, column in claims):
        shown += _beside(study, run, name, claims, column)
    rows = dict.fromkeys(row for row, _ in claims) if name == "costs" else study.published.names
    apart = study.comparable(run) if name in ("latency", "throughput") else ""
    caption = f"Measured times have no mark, for they are not comparable: {apart}." if apart else ""
    return build(f"published-{name}", TITLES[name], caption, shown, rows, source(run, study))


def _beside(
    study: Study, run: MachineSet, name: str, claims: dict[tuple[str, str], CheckedClaim], column: str
) -> list[Column]:
    """A published column with its neighbours."""
    precision, _, kind = column.partition("_")
    group = HEADINGS.get(column) or HEADINGS[kind].format(precision.upper())

    def published(row: str) -> Item:
        claim = claims.get((row, column))
        return _published(claim) if claim else items.printed(None)

    def of_model(row: str) -> Item:
        quantity, claim = study.counterpart(run, QUANTITIES[kind]), claims.get((row, column))
        found = _judged(estimate(study.row(run.source, row, PRECISIONS[precision], 1, quantity)), claim)
        if found.word or not found.bounds:
            return found
        return replace(found, bounds="", note=f"{found.bounds}; {found.note}")  # thirteen columns have no room for it

    shown = [Column("published", published, PUBLISHED, group)]
    if name in BY_MODEL:
        return [*shown, Column("measured", of_model, MEASURED, group)]
    shown.append(Column("recomputed", lambda row: _recomputed(claims[row, column]), NUMBER, group))
    if name == "models":
        shown.append(Column("measured", lambda row: _measured(claims[row, column]), MEASURED, group))
    return shown


def _claims(ledger: Ledger, names: tuple[str, ...]) -> list[CheckedClaim]:
    """The claims of these sections, and those whose ids begin with one of the names."""
    return [row for row in ledger.claims if row.claim.entry.section in names or row.claim.id.startswith(names)]


def _published(row: CheckedClaim) -> Item:
    """A printed figure, which leads to its claim, with the internal verdict."""
    href = f"claims.html#{row.anchor}"
    return replace(items.printed(row.claim.printed), href=href, word=row.internal.word, note=row.internal.why)


def _recomputed(row: CheckedClaim) -> Item:
    """What the rest of the document gives in its place."""
    check = row.internal
    if check.value is None:
        return missing("not_available", row.claim.entry.why or check.why)
    found = number(check.value, _decimals(row) + (check.value < 1000), low=check.low, high=check.high, note=check.why)
    low, _, high = found.bounds.partition("–")  # noqa: RUF001
    return replace(found, bounds="") if low == high else found


def _measured(row: CheckedClaim) -> Item:
    found = row.reproductions[0]
    shown = number(found.value, _decimals(row), found.why, low=found.low, high=found.high, status="not_measured")
    return _judged(shown, row)


def _judged(measured: Item, row: CheckedClaim | None) -> Item:
    """A measured figure with what it says of the published one, where it says something and has no verdict yet."""
    word, why = (row.reproduction, row.reproductions[0].why) if row else ("", "")
    if measured.status or measured.word or word not in ("supported", "refuted"):
        return measured
    return replace(measured, word=word, note=why)


def _decimals(row: CheckedClaim) -> int:
    return len(row.claim.printed.text.partition(".")[2]) if row.claim.printed else 0


def _words(row: CheckedClaim) -> tuple[tuple[str, str], ...]:
    """The verdicts on a claim in the margin: (word, in which light); of a listing how its run ends."""
    if row.claim.entry.outcome:
        return ((row.internal.word, f"{row.claim.entry.outcome} when it is run"),)
    judged = row.reproduction in ("supported", "refuted", "undecided")
    return ((row.internal.word, row.internal.word), (row.reproduction, "measured: " * judged + row.reproduction))
