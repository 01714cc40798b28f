"""Experiments on what ``deploy`` offers, one a file, named as its command; this package itself imports no torch."""

import time
from collections.abc import Callable, Iterable
from functools import wraps
from importlib import import_module
from typing import Literal

from visionquant.core import machine as machines
from visionquant.core.machine import Environment
from visionquant.core.paths import Project
from visionquant.records.outcomes import Recipe, Value
from visionquant.settings.params import Params, known

__all__ = ["Environment", "Params", "Project", "Row", "recipe"]  # what every recipe needs
NAMES = (
    "calibration", "monitor", "validation", "onnxruntime", "serving", "half", "storage", "checkpointing", "compile",
    "sensitivity", "clipping", "profile",
)  # fmt: skip
DIGITS = 6  # of a figure that are kept
Row = dict[str, Value]
Weights = Literal["trained here", "seeded", "trained here and seeded", "pretrained", "pretrained and seeded", "none"]
Rows = Callable[[Project, Params, Environment], Iterable[Row]]
Run = Callable[[Project, Params, Environment], Recipe]


def recipe_named(name: str) -> Run:
    """The recipe that ``visionquant recipe NAME`` runs. Raises StudyError: there is none of this name."""
    known("recipes", [name], NAMES)
    run: Run = import_module(f"{__name__}.{name}").run
    return run


def recipe(name: str, *, weights: Weights, device: str | None = None) -> Callable[[Rows], Run]:
    """Make a recipe of what gives rows: timed, with the machine that it ran on, rounded, a key that a row lacks None.

    Args:
        weights: whose they are.
        device: where it runs, whatever device the study is on.
    """

    def of(rows: Rows) -> Run:
        @wraps(rows)
        def run(project: Project, params: Params, machine: Environment) -> Recipe:
            from visionquant.bench import torch_flags

            begun = time.perf_counter()
            here = machine if device in (None, machine.device) else machines.probe(device)
            torch_flags.begin(here.device)
            found = [
                {key: float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value for key, value in row.items()}
                for row in rows(project, params, here)
            ]
            blank: Row = dict.fromkeys(key for row in found for key in row)
            return Recipe(
                name=name,
                command=f"visionquant recipe {name}",
                weights=weights,
                environment=here,
                elapsed_s=round(time.perf_counter() - begun, 1),
                rows=tuple(blank | row for row in found),
            )

        return run

    return of
