"""Records of earlier versions of this code as today's: pure functions of a parsed file, one a step of the schema.

Files stay as they are; a reader brings what it read up to date. What an earlier version did not record is None or
empty, never a guess. A setting that it did not know gets the value that says the same: what it did then.
"""

from collections.abc import Callable, Mapping
from typing import Any

Raw = dict[str, Any]
# Replicates were counted and not aimed at a goal, warm-up was a count, nobody looked for other processes.
PROTOCOL_OF_1 = {"most_replicates": None, "goal": None, "warmup_s": 0.0, "busy": "allow", "energy_s": None}
CONDITIONS_OF_1 = {"isolation": "unknown", "omp_wait_policy": "not recorded"} | dict.fromkeys(
    ("others_share", "load_1m", "frequency_mhz")
)
REPLICATE_OF_1 = {"turns_with": [], "conditions": CONDITIONS_OF_1} | dict.fromkeys(
    ("position", "started_at", "settled", "throughput", "sentinel")
)


def upgraded(raw: Raw, schema: int) -> Raw:
    """A record as a version of ``schema`` writes it; one of an unknown schema, or of none, as it is."""
    while isinstance(now := raw.get("schema_version"), int) and now in STEPS and now < schema:
        raw = STEPS[now](raw) | {"schema_version": now + 1}
    return raw


def _from_1(raw: Raw) -> Raw:
    """Schema 2 added settings of the protocol, and to every replicate where, when and beside what it ran."""
    protocol = PROTOCOL_OF_1 | raw["settings"]["protocol"]
    return (
        {"operations": None, "outlier_layers": None}
        | raw
        | {
            "settings": raw["settings"] | {"protocol": protocol},
            "cells": [_cell_from_1(cell) for cell in raw["cells"]],
        }
    )


def _cell_from_1(cell: Raw) -> Raw:
    """The window for throughput was the cell's, in one of its processes, and is now a replicate's: the first one's."""
    replicates = [REPLICATE_OF_1 | replicate for replicate in cell["replicates"]]
    for first in replicates[:1]:
        first["throughput"] = cell.get("throughput")
    return {name: value for name, value in cell.items() if name != "throughput"} | {"replicates": replicates}


# Schema 3 added to the environment what sets the speed of the same hardware, which has no value here. Schema 4 keeps
# libraries by name; an environment reads its former fields wherever it is written.
STEPS: Mapping[int, Callable[[Raw], Raw]] = {1: _from_1, 2: dict, 3: dict}
