"""The fastest setting of a model on this machine: CPU threads, precision with its engine, and batch size.

Each number of threads is measured as any study is, in rounds of processes that take turns, in a folder of its own; the
numbers of threads take turns round by round, so that a ratio between two of them is formed within a round as well.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats

from visionquant.bench import sampling, turns
from visionquant.bench.command import Command, Matrix, Observer
from visionquant.core.paths import Project
from visionquant.records import record as records
from visionquant.records.cell import BASELINE
from visionquant.settings.params import Params


class Setting(NamedTuple):
    """What can be chosen."""

    threads: int
    precision: str
    batch_size: int


@dataclass(frozen=True)
class Tuned:
    """What was measured of one setting: the median pass of each round in ms, by the round's number; or why nothing."""

    setting: Setting
    rounds_ms: Mapping[int, float]
    why: str = ""

    @property
    def batch_ms(self) -> float:
        """Median over rounds."""
        return float(np.median(list(self.rounds_ms.values())))

    @property
    def images_per_s(self) -> float:
        return 1e3 * self.setting.batch_size / self.batch_ms


class Ratio(NamedTuple):
    """How many times as many images a second, with its 95 % interval (None from one round)."""

    value: float
    low: float | None
    high: float | None


def measure(
    project: Project,
    params: Params,
    model: str,
    precisions: Sequence[str],
    batch_sizes: Sequence[int],
    threads: Sequence[int],
    rounds: int,
    observer: Observer,
) -> list[Tuned]:
    """Every setting, FP32 among them, in ``rounds``; what is there of an earlier call is kept.

    Raises:
        StudyError: settings, weights or machine are not what they should be.
    """
    sides = {count: (_folder(project, count), _study(params, model, count, rounds)) for count in threads}
    names = tuple(dict.fromkeys((BASELINE, *precisions)))
    for number in range(1, rounds + 1):
        for count in turns.order(threads, number - 1):
            own, asked = sides[count]
            for size in batch_sizes:
                take = sampling.sample if own.environment.is_file() else sampling.sweep
                take(own, asked, Matrix((model,), names, (size,)), Command(observer, rounds=number))
    return [
        _tuned(own, model, Setting(count, name, size))
        for count, (own, _) in sides.items()
        for name in names
        for size in batch_sizes
    ]


def best(found: Sequence[Tuned], latency_limit_ms: float | None = None) -> Tuned | None:
    """The setting with most images a second among those whose batch keeps the limit; None where none does."""
    fitting = [one for one in found if one.rounds_ms and (not latency_limit_ms or one.batch_ms <= latency_limit_ms)]
    return max(fitting, key=lambda one: one.images_per_s, default=None)


def over(one: Tuned, other: Tuned) -> Ratio:
    """Images a second of ``one`` over those of ``other``: the mean of the rounds' logs, Student's t interval."""
    shared = sorted(one.rounds_ms.keys() & other.rounds_ms.keys())
    per_image = [np.array([each.rounds_ms[number] for number in shared]) for each in (other, one)]
    logs = np.log(per_image[0] / other.setting.batch_size) - np.log(per_image[1] / one.setting.batch_size)
    middle = float(logs.mean())
    if len(shared) < 2:
        return Ratio(float(np.exp(middle)), None, None)
    half = float(stats.t.ppf(0.975, len(shared) - 1) * logs.std(ddof=1) / np.sqrt(len(shared)))
    low, value, high = (float(np.exp(end)) for end in (middle - half, middle, middle + half))
    return Ratio(value, low, high)


def _folder(project: Project, threads: int) -> Project:
    return replace(project, results=project.local / "tuning" / f"threads-{threads}")


def _study(params: Params, model: str, threads: int, rounds: int) -> Params:
    """The settings with so many threads and rounds, whatever time they take."""
    protocol = params.protocol.model_copy(update={"threads": threads, "rounds": rounds, "rounds_of_batches": rounds})
    study = params.study.model_copy(update={"models": (model,), "minutes": None})
    return params.model_copy(update={"study": study, "protocols": {**params.protocols, study.protocol: protocol}})


def _tuned(project: Project, model: str, setting: Setting) -> Tuned:
    path: Path = project.samples(model, setting.precision)
    record = records.read_samples(path) if path.is_file() else None
    cell = record.cell(setting.batch_size) if record else None
    if record is None or cell is None:
        return Tuned(setting, {}, record.failure if record and record.failure else "not measured")
    arms = ((each.number, each.of(setting.precision, cell.paired)) for each in cell.rounds)
    times = {number: [ms for slot in slots for ms in slot.wall_ms] for number, slots in arms}
    known = {number: float(np.median(each)) for number, each in times.items() if each}
    return Tuned(setting, known, "" if known else cell.reason or cell.status.replace("_", " "))
