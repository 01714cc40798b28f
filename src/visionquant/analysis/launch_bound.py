"""Which published cells wait for the host: time per operation against the work that the GPU could do meanwhile.

A forward pass issues so many operations, counted on the same networks (the published software may have issued a few
more or less). The host needs some microseconds for each, whatever the GPU does. How many is read off the models that
leave the GPU next to nothing to do; where the published time of another model is no more than that rate says, and its
work would take far less, the cell is launch-bound: a faster number format can't help it.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from visionquant.analysis.study import BASELINE, Study

FLOATS = ("fp32", "fp16")
NEAR = 1.25  # published time within this factor of the host's is explained by it
IDLE = 0.1  # a model whose work takes at most this share of its published FP32 time shows the host's rate


@dataclass(frozen=True)
class Floors:
    """What explains the published times.

    ``cells`` has a row a published FP32 or FP16 cell whose operations are counted: model, precision, published_ms,
    operations of a pass, us_per_operation, the two floors work_ms and host_ms, and the reading ("launch-bound", "beyond
    the host" or "neither"). ``idle`` models show the host alone; ``host_us`` are the microseconds that it spends on an
    operation, the median over their cells; None without counts.
    """

    cells: pd.DataFrame
    idle: tuple[str, ...]
    host_us: float | None


def floors(study: Study) -> Floors:
    """The floors of every published FP32 and FP16 cell."""
    rows = []
    for model in study.published.models:
        facts = study.facts(model)
        for precision in FLOATS:
            ms = study.published.value("latency_median", model, precision)
            if facts is not None and ms is not None:
                work = study.published.floor_ms(facts.macs, facts.model_bytes[precision], precision)
                rows.append((model, precision, ms, facts.operations[precision], work))
    cells = pd.DataFrame(rows, columns=["model", "precision", "published_ms", "operations", "work_ms"])
    cells["us_per_operation"] = 1e3 * cells.published_ms / cells.operations
    idle = cells.model[(cells.precision == BASELINE) & (cells.work_ms <= IDLE * cells.published_ms)]
    host = cells.us_per_operation[cells.model.isin(idle)].median()
    cells["host_ms"] = host * cells.operations / 1e3
    beyond, waits = cells.published_ms > NEAR * cells.host_ms, 2 * cells.work_ms <= cells.published_ms
    cells["reading"] = np.select([beyond, waits], ["beyond the host", "launch-bound"], "neither")
    return Floors(cells if len(idle) else cells[:0], tuple(idle), float(host) if len(idle) else None)
