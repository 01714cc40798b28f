"""The fastest setting of a model on this machine: CPU threads, precision with its engine, and batch size.

Each number of threads is measured as any study is, in rounds of processes that take turns, in a folder of its own
which each search begins anew. The numbers of threads take turns, so that a ratio of two settings is formed within one.
"""

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from scipy import stats

from visionquant.bench import loading, sampling, turns
from visionquant.bench.command import Command, Matrix, Observer
from visionquant.core import machine
from visionquant.core.paths import Project
from visionquant.records import record as records
from visionquant.records.cell import BASELINE, Cell
from visionquant.settings.params import Params
from visionquant.weights import checkpoint


class Setting(NamedTuple):
    """What can be chosen."""

    threads: int
    precision: str
    batch_size: int


@dataclass(frozen=True)
class Tuned:
    """What was measured of one setting: the median pass of a batch in ms, by turn; or why nothing counts."""

    setting: Setting
    turns_ms: Mapping[int, float]
    why: str = ""

    @property
    def batch_ms(self) -> float:
        """Median over turns."""
        return float(np.median(list(self.turns_ms.values())))

    @property
    def images_per_s(self) -> float:
        return 1e3 * self.setting.batch_size / self.batch_ms


class Ratio(NamedTuple):
    """How many times as many images a second, with its 95 % interval (None from one turn)."""

    value: float
    low: float | None
    high: float | None


@dataclass
class Search:
    """A search under way: every setting of ``precisions`` and FP32, in so many ``turns``."""

    project: Project
    params: Params
    model: str
    precisions: Sequence[str]
    batch_sizes: Sequence[int]
    threads: Sequence[int]
    turns: int
    observer: Observer
    _seen: dict[Setting, int] = field(default_factory=dict)  # rounds of it that earlier turns took
    _turns_ms: dict[Setting, dict[int, float]] = field(default_factory=dict)
    _why: dict[Setting, str] = field(default_factory=dict)

    def run(self) -> list[Tuned]:
        """All of it.

        Raises:
            StudyError: settings, weights or machine are not what they should be.
        """
        checkpoint.download(self.project, self.params, self.model, loading.agreement)
        names = tuple(dict.fromkeys((BASELINE, *self.precisions)))
        sides = {count: self._side(count) for count in self.threads}
        done, begun_s = 0, time.monotonic()
        for turn in range(1, self.turns + 1):
            for count in turns.order(self.threads, turn - 1):
                for size in self.batch_sizes:
                    own, params = sides[count]
                    command = Command(_Quiet(self.observer), rounds=turn)
                    sampling.sample(own, params, Matrix((self.model,), names, (size,)), command)
                    for name in names:
                        self._note(own, Setting(count, name, size), turn)
                    done += 1
                    left = self.turns * len(self.threads) * len(self.batch_sizes) - done
                    taken = [Setting(count, name, size) for name in names]
                    medians = {name: ms for one in taken for ms in self._of(one, turn) for name in [one.precision]}
                    what = f"{self.model}, {count} thread{'s' if count > 1 else ''}"
                    left_s = left * (time.monotonic() - begun_s) / done
                    self.observer.round(what, size, turn, self.turns, medians, left_s)
        return [
            Tuned(one, {} if why else self._turns_ms.get(one, {}), why)
            for one in self._seen
            for why in [self._why.get(one, "") or ("" if self._turns_ms.get(one) else "not measured")]
        ]

    def _side(self, threads: int) -> tuple[Project, Params]:
        """The folder and the settings of a number of threads; what is there of an earlier search goes."""
        own = replace(self.project, results=self.project.local / "tuning" / f"threads-{threads}")
        shutil.rmtree(own.local, ignore_errors=True)
        machine.declare(own, machine.probe(self.params.study.device))
        own.manifest(self.model).parent.mkdir(parents=True)
        shutil.copyfile(self.project.manifest(self.model), own.manifest(self.model))
        fixed = {"threads": threads, "rounds": 100, "rounds_of_batches": 100}  # how many are taken, the command says
        protocol = self.params.protocol.model_copy(update=fixed)
        study = self.params.study.model_copy(update={"models": (self.model,), "minutes": None})
        protocols = {**self.params.protocols, study.protocol: protocol}
        return own, self.params.model_copy(update={"study": study, "protocols": protocols})

    def _of(self, setting: Setting, turn: int) -> list[float]:
        ms = self._turns_ms.get(setting, {}).get(turn)
        return [] if ms is None else [ms]

    def _note(self, own: Project, setting: Setting, turn: int) -> None:
        """Keep what a turn added: a disturbed round is taken again within it, so it may be more than one round."""
        path = own.samples(self.model, setting.precision)
        record = records.read_samples(path) if path.is_file() else None
        cell: Cell | None = record.cell(setting.batch_size) if record else None
        seen = self._seen.setdefault(setting, 0)
        if cell is None or cell.status != "ok":
            self._why[setting] = (cell.reason or cell.status.replace("_", " ")) if cell else "not measured"
            return
        slots = [slot for each in cell.rounds[seen:] for slot in each.of(setting.precision, cell.paired)]
        self._seen[setting] = len(cell.rounds)
        if times := [ms for slot in slots for ms in slot.wall_ms]:
            self._turns_ms.setdefault(setting, {})[turn] = float(np.median(times))


class _Quiet(Observer):
    """Hands on what precedes a round alone: how far a search is, it says itself."""

    def __init__(self, to: Observer) -> None:
        self.preparing, self.waiting = to.preparing, to.waiting  # type: ignore[method-assign]


def best(found: Sequence[Tuned], latency_limit_ms: float | None = None) -> Tuned | None:
    """The setting with most images a second among those whose batch keeps the limit; None where none does.

    Chosen among many by few turns, it looks a little better than it is.
    """
    fitting = [one for one in found if one.turns_ms and (not latency_limit_ms or one.batch_ms <= latency_limit_ms)]
    return max(fitting, key=lambda one: one.images_per_s, default=None)


def over(one: Tuned, other: Tuned) -> Ratio | None:
    """Images a second of ``one`` over those of ``other``: the mean of the turns' logs with Student's t interval.

    None where no turn has both.
    """
    shared = sorted(one.turns_ms.keys() & other.turns_ms.keys())
    if not shared:
        return None
    own, others = (np.log([each.turns_ms[turn] / each.setting.batch_size for turn in shared]) for each in (one, other))
    logs = others - own
    middle = float(logs.mean())
    if len(shared) < 2:
        return Ratio(float(np.exp(middle)), None, None)
    half = float(stats.t.ppf(0.975, len(shared) - 1) * logs.std(ddof=1) / np.sqrt(len(shared)))
    low, value, high = (float(np.exp(end)) for end in (middle - half, middle, middle + half))
    return Ratio(value, low, high)
