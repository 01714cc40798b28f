"""The monitor tried out: false alarms at its limit, and how late it finds a fall, on simulated streams of answers."""

import time

import numpy as np

from visionquant.core.machine import Environment
from visionquant.core.paths import Project
from visionquant.deploy.accuracy_monitor import FALLS, capital, staked_after
from visionquant.records.recipe import Recipe
from visionquant.settings.params import Params

BASELINE, THRESHOLD = 0.97, 0.95
STREAMS, LENGTH = 4000, 3000
FELL, FALLING, AFTER = 500, (0.90, 0.85, 0.70), 1000  # streams, accuracies after the fall, and answers before it


def run(project: Project, params: Params, machine: Environment) -> Recipe:
    """Streams whose accuracy is at the limit of what is allowed, and streams that fall below it."""
    begun = time.monotonic()
    rng = np.random.default_rng(params.training.seed)
    limit = BASELINE * THRESHOLD
    rows: list[dict[str, str | int | float | None]] = []
    first = {alpha: alarms(rng.random((STREAMS, LENGTH)) >= limit, limit, 1 / alpha) for alpha in (0.05, 0.01)}
    for alpha, found in first.items():
        rows.append(_row("at the limit", alpha, limit, found, 0, LENGTH))
    for accuracy in FALLING:
        shares = np.r_[np.full(AFTER, BASELINE), np.full(LENGTH - AFTER, accuracy)]
        found = alarms(rng.random((FELL, LENGTH)) >= shares, limit, 100.0)
        rows.append(_row("falls", 0.01, accuracy, found, AFTER, LENGTH))
    return Recipe(
        name="monitor",
        command="visionquant recipe monitor",
        weights="none",
        environment=machine,
        elapsed_s=round(time.monotonic() - begun, 1),
        rows=tuple(rows),
    )


def alarms(wrong: np.ndarray, limit: float, alarm_at: float) -> np.ndarray:
    """(streams,) number of the answer at which each row of ``wrong`` (streams, answers) raises the alarm; 0: never."""
    staked = np.zeros((len(wrong), len(FALLS)))
    first = np.zeros(len(wrong), int)
    for count in range(1, wrong.shape[1] + 1):
        staked = staked_after(staked, wrong[:, count - 1 : count], limit, count)
        raised = (capital(staked, count) >= alarm_at) & (first == 0)
        first[raised] = count
    return first


def _row(
    case: str, alpha: float, accuracy: float, first: np.ndarray, fell_at: int, length: int
) -> dict[str, str | int | float | None]:
    late = first[first > fell_at] - fell_at
    return {
        "case": case,
        "baseline": BASELINE,
        "threshold": THRESHOLD,
        "alpha": alpha,
        "accuracy": round(accuracy, 6),
        "streams": len(first),
        "answers": length,
        "answers_before": fell_at,
        "alarms_before": int(((first > 0) & (first <= fell_at)).sum()),
        "alarms": int((first > fell_at).sum()),
        "median_delay": float(np.median(late)) if fell_at and len(late) else None,
    }
