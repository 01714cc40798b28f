"""The monitor on simulated streams of predictions: false alarms at its limit, and how late it finds a fall."""

from collections.abc import Iterator

import numpy as np

from visionquant.deploy.accuracy_monitor import FALLS, capital, staked_after
from visionquant.recipes import Environment, Params, Project, Row, recipe

BASELINE, THRESHOLD = 0.97, 0.95
STREAMS, LENGTH = 4000, 3000
FELL, FALLING, AFTER = 500, (0.90, 0.85, 0.70), 1000  # streams, accuracies after the fall, and answers before it


@recipe("monitor", weights="none")
def run(project: Project, params: Params, machine: Environment) -> Iterator[Row]:
    """Streams whose accuracy is at the limit of what is allowed, and streams that fall below it."""
    rng = np.random.default_rng(params.training.seed)
    limit = BASELINE * THRESHOLD
    for alpha in (0.05, 0.01):
        first = alarms(rng.random((STREAMS, LENGTH)) >= limit, limit, 1 / alpha)
        yield _row("at the limit", alpha, limit, first, 0)
    for accuracy in FALLING:
        shares = np.repeat([BASELINE, accuracy], [AFTER, LENGTH - AFTER])
        first = alarms(rng.random((FELL, LENGTH)) >= shares, limit, 100.0)
        yield _row("falls", 0.01, accuracy, first, AFTER)


def alarms(wrong: np.ndarray, limit: float, alarm_at: float) -> np.ndarray:
    """(streams,) number of the answer at which each row of ``wrong`` (streams, answers) raises the alarm; 0: never."""
    staked, first = np.zeros((len(wrong), len(FALLS))), np.zeros(len(wrong), int)
    for count, errors in enumerate(wrong.T, 1):
        staked = staked_after(staked, errors[:, None], limit, count)
        first[(capital(staked, count) >= alarm_at) & (first == 0)] = count
    return first


def _row(case: str, alpha: float, accuracy: float, first: np.ndarray, fell_at: int) -> Row:
    late = first[first > fell_at] - fell_at
    stream: Row = {"case": case, "baseline": BASELINE, "threshold": THRESHOLD, "alpha": alpha, "accuracy": accuracy}
    counts: Row = {"streams": len(first), "answers": LENGTH, "answers_before": fell_at}
    alarmed: Row = {"alarms_before": int(((first > 0) & (first <= fell_at)).sum()), "alarms": len(late)}
    return {**stream, **counts, **alarmed, "median_delay": float(np.median(late)) if fell_at and len(late) else None}
