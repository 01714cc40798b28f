"""Records of earlier versions of this code as today's: pure functions of a parsed file.

Files stay as they are; a reader brings what it read up to date. What an earlier version did not record is None or
empty, never a guess. Up to schema 4 a cell was a few processes of one pair, one after the other: each is a round of one
slot here, in which no arm took turns with another.
"""

from typing import Any

Raw = dict[str, Any]
LAST = 4


def upgraded(raw: Raw, schema: int) -> Raw:
    """A record as a version of ``schema`` writes it; one of an unknown schema, or of none, as it is."""
    now = raw.get("schema_version")
    if not isinstance(now, int) or not 1 <= now <= LAST:
        return raw
    cells = [_cell(cell, raw["precision"]) for cell in raw["cells"]]
    added = {"operations": None, "outlier_layers": None}
    return added | raw | {"schema_version": schema, "cells": cells}


def _cell(cell: Raw, precision: str) -> Raw:
    """Schema 1 had one throughput window a cell, in its first process."""
    kept = ("batch_size", "status", "reason", "memory", "audit", "energy", "energy_reason", "launch")
    replicates = [dict(replicate) for replicate in cell.get("replicates", ())]
    if cell.get("throughput"):
        replicates[0]["throughput"] = cell["throughput"]
    rounds = [_round(replicate, number, precision) for number, replicate in enumerate(replicates, 1)]
    return {name: cell[name] for name in kept if name in cell} | {"rounds": rounds}


def _round(replicate: Raw, number: int, precision: str) -> Raw:
    seen = replicate.get("conditions") or {}
    slot = {
        "arm": precision,
        "block": 0,
        "order": 0,
        "wall_ms": replicate["wall_ms"],
        "gpu_ms": replicate["gpu_ms"],
        "window": replicate.get("throughput"),
        "others": seen.get("others_share"),
    }
    return {
        "number": number,
        "started_at": replicate.get("started_at"),
        "threads": replicate["threads"],
        "omp_wait_policy": seen.get("omp_wait_policy", "not recorded"),
        "warmup_ms": replicate["warmup_ms"],
        "host_peak": replicate.get("host_peak"),
        "load_1m": seen.get("load_1m"),
        "frequency_mhz": seen.get("frequency_mhz"),
        "gpu": seen.get("gpu"),
        "slots": [slot],
    }
