"""What a notebook cell ends with: a table, a figure or a text, as HTML that the page takes over.

A figure is written to the folder that the notebook names, and linked as ``../figures``, so that the page and the
notebook show the same file; the link carries the file's sha256, by which a figure of another run is found out.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from visionquant.analysis import render
from visionquant.analysis.figures.canvas import Figure
from visionquant.analysis.study import Evidence
from visionquant.analysis.table import Table
from visionquant.core.paths import write_atomically


@dataclass(frozen=True)
class Shown:
    """A piece of HTML that Jupyter displays."""

    html: str

    def _repr_html_(self) -> str:
        return self.html


def banner(evidence: Evidence) -> Shown:
    """What must be known before any figure."""
    return Shown(render.banner(evidence))


def table(found: Table) -> Shown:
    """One table."""
    return Shown(render.html(found))


def tables(found: Sequence[Table]) -> Shown:
    """Several tables of a kind, folded, the first one open."""
    return Shown(render.details(found))


def figure(found: Figure, folder: str) -> Shown:
    """Write the figure's file into ``folder`` and show it with its caption and provenance."""
    write_atomically(Path(folder) / f"{found.id}.svg", found.svg)
    digest = hashlib.sha256(found.svg.encode()).hexdigest()
    return Shown(
        f'<figure class="figure" id="figure-{escape(found.id)}">\n'
        f'<div class="scroll" tabindex="0" role="group" aria-label="{escape(found.title)}">'
        f'<img src="../figures/{escape(found.id)}.svg" data-sha256="{digest}" alt="{escape(found.alt)}"></div>\n'
        f"<figcaption><strong>{escape(found.title)}.</strong> {render.marked(found.caption)}</figcaption>\n"
        f'<p class="provenance">{render.marked(found.source)}</p>\n</figure>'
    )
