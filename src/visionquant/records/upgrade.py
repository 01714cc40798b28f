"""Records of earlier versions of this code as today's: pure functions of a parsed file, one a step of the schema.

Files stay as they are; a reader brings what it read up to date. What an earlier version did not record is None or
empty, never a guess. A setting that it did not know gets the value that says the same: what it did then.
"""

from collections.abc import Callable, Mapping
from typing import Any

Raw = dict[str, Any]


def upgraded(raw: Raw, schema: int) -> Raw:
    """A record as a version of ``schema`` writes it; one of an unknown schema, or of none, as it is."""
    while isinstance(now := raw.get("schema_version"), int) and now in STEPS and now < schema:
        raw = STEPS[now](raw) | {"schema_version": now + 1}
    return raw


def _from_1(raw: Raw) -> Raw:
    """Schema 2 added settings of the protocol, and to every replicate where, when and beside what it ran."""
    settings = raw["settings"]
    # Replicates were counted and not aimed at a goal, warm-up was a count, nobody looked for other processes.
    protocol = {
        "most_replicates": None,
        "goal": None,
        "warmup_s": 0.0,
        "busy": "allow",
        "energy_s": None,
    } | settings["protocol"]
    return raw | {
        "settings": settings | {"protocol": protocol},
        "operations": None,
        "outlier_layers": None,
        "cells": [_cell_from_1(cell) for cell in raw["cells"]],
    }


def _cell_from_1(cell: Raw) -> Raw:
    """The window for throughput was the cell's, in one of its processes, and is now a replicate's: the first one's."""
    whole = {name: value for name, value in cell.items() if name != "throughput"}
    return whole | {
        "replicates": [
            {
                "position": None,
                "started_at": None,
                "turns_with": [],
                "settled": None,
                "throughput": cell.get("throughput") if number == 0 else None,
                "sentinel": None,
                "conditions": NOTHING_SEEN,
            }
            | replicate
            for number, replicate in enumerate(cell["replicates"])
        ]
    }


NOTHING_SEEN: Mapping[str, Any] = {
    "isolation": "unknown",
    "others_share": None,
    "load_1m": None,
    "frequency_mhz": None,
    "omp_wait_policy": "not recorded",
}


def _from_2(raw: Raw) -> Raw:
    """Schema 3 added to the environment what sets the speed of the same hardware; it has no value here."""
    return raw


def _from_3(raw: Raw) -> Raw:
    """Schema 4 keeps libraries by name; an environment reads its former fields wherever it is written."""
    return raw


STEPS: Mapping[int, Callable[[Raw], Raw]] = {1: _from_1, 2: _from_2, 3: _from_3}
