"""A Table as HTML, Markdown or plain text; the banner every notebook starts with.

HTML classes: ``figure.table`` around ``div.scroll > table.data``; boxes are ``text``, ``number``, ``published``,
``measured``, ``missing``, ``good``, ``bad``; ``data-sort`` holds the unrounded number.
"""

import re
from collections.abc import Sequence
from html import escape
from itertools import groupby

from visionquant.analysis import provenance
from visionquant.analysis.study import Evidence
from visionquant.analysis.table import CODES, Column, Item, Table


def html(table: Table) -> str:
    """The table with its title, caption, legend and provenance."""
    body = "".join(
        f"<tr>{''.join(_box(item, first=i == 0) for i, item in enumerate(row))}</tr>\n" for row in table.rows
    )
    if not table.rows:
        body = f'<tr><td class="text" colspan="{len(table.columns)}">nothing to show</td></tr>\n'
    narrowed = f' data-filters="{escape("|".join(table.filters))}"' if table.filters else ""
    below = "".join(f"<li>{marked(line)}</li>" for line in table.legend)
    return (
        f'<figure class="table" id="table-{escape(table.id)}">\n'
        f"<figcaption><strong>{escape(table.title)}.</strong> {marked(table.caption)}</figcaption>\n"
        f'<div class="scroll" tabindex="0" role="group" aria-label="{escape(table.title)}">'
        f'<table class="data sortable"{narrowed}>\n<thead>\n{_head(table.columns)}</thead>\n'
        f"<tbody>\n{body}</tbody>\n</table></div>\n"
        + (f'<ul class="legend">{below}</ul>\n' if below else "")
        + (f'<p class="provenance">{marked(table.source)}</p>\n' if table.source else "")
        + "</figure>"
    )


def details(tables: Sequence[Table]) -> str:
    """Several tables of a kind, folded, the first one open."""
    return "\n".join(
        f"<details{' open' if i == 0 else ''}><summary>{escape(table.label or table.title)}</summary>\n"
        f"{html(table)}\n</details>"
        for i, table in enumerate(tables)
    )


def markdown(table: Table) -> str:
    """A pipe table with title, caption and legend."""
    lines = [f"**{table.title}.** {table.caption}".rstrip(), ""]
    lines.append("| " + " | ".join(_pipe(_heading(column)) for column in table.columns) + " |")
    lines.append("|" + "|".join("---:" if "number" in column.css else "---" for column in table.columns) + "|")
    lines += ["| " + " | ".join(_pipe(_flat(item)) for item in row) + " |" for row in table.rows]
    lines += [""] * bool(table.legend) + [f"- {line}" for line in table.legend]
    return "\n".join(lines) + "\n"


def plain(table: Table) -> str:
    """Aligned columns for a terminal."""
    grid = [[_heading(column) for column in table.columns], *([_flat(item) for item in row] for row in table.rows)]
    widths = [max(len(row[i]) for row in grid) for i in range(len(table.columns))]
    lines = [
        "  ".join(
            text.rjust(width) if "number" in column.css else text.ljust(width)
            for text, width, column in zip(row, widths, table.columns, strict=True)
        ).rstrip()
        for row in grid
    ]
    return "\n".join([table.title, *lines, *table.legend]) + "\n"


def banner(evidence: Evidence) -> str:
    """What must be known before any figure: loud where weights are seeded, machines differ or nothing is measured."""
    found = provenance.warnings(evidence)
    source = f'<p class="provenance">{escape(provenance.line(evidence))}</p>'
    if not found:
        return f'<aside class="banner" role="note">{source}</aside>'
    items = "".join(f"<li>{marked(line)}</li>" for line in found)
    return f'<aside class="banner warning" role="note"><strong>Read first</strong><ul>{items}</ul>{source}</aside>'


def marked(text: str) -> str:
    """A sentence as HTML, its `code` marked as such."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _head(columns: tuple[Column, ...]) -> str:
    below = "".join(f'<th scope="col" class="{column.css}">{escape(column.heading)}</th>' for column in columns)
    if not any(column.group for column in columns):
        return f"<tr>{below}</tr>\n"
    above = ""
    for group, members in groupby(columns, key=lambda column: column.group):
        span = len(list(members))
        above += (
            f'<th scope="colgroup" class="group" colspan="{span}">{escape(group)}</th>'
            if group
            else (f'<td class="group" colspan="{span}"></td>')
        )
    return f"<tr>{above}</tr>\n<tr>{below}</tr>\n"


def _box(item: Item, first: bool) -> str:
    tag, scope = ("th", ' scope="row"') if first else ("td", "")
    key = "" if item.key is None else f' data-sort="{escape(str(item.key))}"'
    note = f' title="{escape(item.note)}"' if item.note else ""
    shown = f'<a href="{escape(item.href)}">{escape(item.text)}</a>' if item.href else escape(item.text)
    if item.more:
        lines = "".join(f"<li>{marked(line)}</li>" for line in item.more)
        shown = f"<details><summary>{shown}</summary><ul>{lines}</ul></details>"
    place = f' id="{escape(item.anchor)}"' if item.anchor else ""
    if item.status:
        shown += f" <small>{escape(CODES[item.status][0])}</small>"
    if item.bounds:
        shown += f' <span class="bounds">{escape(item.bounds)}</span>'
    if item.word:
        css = f"word {item.word.lower()}" if item.word.isalpha() else "word"
        shown += f' <span class="{css}">{escape(item.word)}</span>'
    return f'<{tag}{place}{scope} class="{item.css}"{key}{note}>{shown}</{tag}>'


def _flat(item: Item) -> str:
    code = f" {CODES[item.status][0]}" if item.status else ""
    return item.text + code + (f" ({item.bounds})" if item.bounds else "") + (f" {item.word}" if item.word else "")


def _heading(column: Column) -> str:
    return f"{column.group} {column.heading}".strip()


def _pipe(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
