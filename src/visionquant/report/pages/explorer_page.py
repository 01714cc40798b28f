"""The explorer: what a reader may choose, and the figures of each source as a script that is loaded when it is chosen.

A page opened from disk may load scripts beside it and nothing else, hence scripts in place of JSON.
"""

from pathlib import Path
from typing import Any

from visionquant.analysis import frame_files
from visionquant.analysis.study import Study
from visionquant.core.quantities import QUANTITIES, quantity
from visionquant.report import figure
from visionquant.report.items import CODES, MARKS, precision_label

NAME, TITLE = "explorer", "Explorer"
FIRST = "speedup"  # what is shown before anything is chosen
# Marks of matplotlib, as the other figures have them, by the names that Observable Plot gives them.
SYMBOLS = {
    "o": "circle", "s": "square", "^": "triangle", "D": "diamond", "P": "cross", "X": "times", "v": "wye",
    "<": "plus", ">": "asterisk", "p": "hexagon", "h": "hexagon", "*": "star", "d": "diamond2", "8": "square2",
}  # fmt: skip


def choices(study: Study, sources: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What the form offers, in order, with what is chosen at first; ``sources`` are those of `results.json`."""
    shown = _shown(sources)
    rows = [row for source in shown.values() for row in source["figures"]["rows"]]
    models, precisions, quantities = ({row[place] for row in rows} for place in (0, 1, 3))
    looks = figure.looks(study)
    ordered = dict.fromkeys([*study.params.precisions, *sorted(precisions)])
    measured = file_name(study.measured.source)
    return {
        "machines": [{"name": file_name(source), "about": found["about"]} for source, found in shown.items()],
        "machine": measured if study.measured.source in shown else file_name(next(iter(shown))),
        "quantities": [
            vars(quantity(name)) | {"first": name == FIRST}
            for name in dict.fromkeys([*QUANTITIES, *sorted(quantities)])
            if name in quantities
        ],
        "batch_sizes": study.batch_sizes,
        "models": [name for name in dict.fromkeys([*study.models, *sorted(models)]) if name in models],
        "precisions": [
            {
                "name": name,
                "label": precision_label(name),
                "first": name in study.precisions,
                "colour": looks[name].colour,
                "symbol": SYMBOLS[looks[name].marker],
            }
            for name in ordered
            if name in precisions
        ],
        "codes": {status: code for status, (code, _) in CODES.items()},
        "marks": MARKS,
    }


def contents(study: Study, sources: dict[str, dict[str, Any]]) -> dict[Path, str]:
    """A script a source that has figures, with what belongs into it."""
    folder = study.project.reports / NAME
    return {
        folder / f"{file_name(source)}.js": f'(window.explored ??= {{}})["{file_name(source)}"] = {script};\n'
        for source, found in _shown(sources).items()
        for script in [frame_files.dumped(found)]
    }


def file_name(source: str) -> str:
    """A source as a file, and the address of the page, name it."""
    return source.replace(":", "-")


def _shown(sources: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The sources that have figures of models, without statistics over models."""
    found = {name: source | {"figures": _of_models(source["figures"])} for name, source in sources.items()}
    return {name: source for name, source in found.items() if source["figures"]["rows"]}


def _of_models(table: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return table | {"rows": [row for row in table["rows"] if "_over_models_" not in row[3]]}
