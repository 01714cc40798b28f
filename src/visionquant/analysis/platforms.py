"""Many machines beside each other: what each is worth, what those of a kind have in common, and where verdicts turn.

A kind is a GPU's model, or a CPU's widest instructions among those that low precision uses. Speedups at batch size 1
are pooled where they have intervals (:mod:`~visionquant.analysis.random_effects`); medians of sets from before rounds
stand beside them and enter no pool. Nothing that is recorded tells two hosts of one type apart.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, get_args

import numpy as np
import pandas as pd
from scipy import stats

from visionquant.analysis import gates, provenance, verdicts
from visionquant.analysis.gates import Halves, PlaceboGate
from visionquant.analysis.random_effects import FEWEST, RandomEffects, random_effects
from visionquant.analysis.study import LOCAL, MachineSet, Study
from visionquant.core import processors
from visionquant.core.machine import Environment

KINDS = {
    "amx_int8": "CPU with AMX",
    "avx512_bf16": "CPU with AVX-512 BF16",
    "avx512_vnni": "CPU with AVX-512 VNNI",
    "avx512f": "CPU with AVX-512",
    "avx2": "CPU with AVX2",
    "i8mm": "ARM CPU with I8MM",
    "asimd": "ARM CPU",
}  # fmt: skip
Facts = Mapping[str, Sequence[str] | None]
FASTER, SLOWER, SAME, UNDECIDED = get_args(verdicts.Word)


class PlatformSummary(NamedTuple):
    """A machine: cells with a figure of all ``cells``, its gates, and how its speedups agree with the others'.

    ``half_width`` is the median half-width (log) of a speedup's interval at batch size 1, None without any. Of
    ``shared`` speedups, those that another machine has too, ``alike`` are on the side of the median of the others.
    """

    run: MachineSet
    kind: str
    ok: int
    cells: int
    half_width: float | None
    placebo: PlaceboGate
    halves: Halves
    alike: int
    shared: int


class PooledSpeedup(NamedTuple):
    """A speedup over machines of a kind with weights of a kind: of how many with an interval, beside how many medians.

    ``word`` is what its interval says beside the margin of equivalence; ``effects`` is None below ``FEWEST`` machines.
    """

    kind: str
    model: str
    precision: str
    weights: str
    machines: int
    medians: int
    effects: RandomEffects | None
    word: str


class Turnaround(NamedTuple):
    """A speedup that is on one side of 1 on some machines and on the other elsewhere: machine to value.

    ``explained`` names, for the slower machines that share them, the recorded facts that no faster one has. ``judged``:
    each side has a verdict; else one has only medians.
    """

    model: str
    precision: str
    faster: dict[str, float]
    slower: dict[str, float]
    explained: dict[tuple[str, ...], tuple[str, ...]]
    judged: bool


def kind_of(environment: Environment) -> str:
    """The kind of hardware of a machine."""
    if environment.gpu:
        return environment.gpu
    return next((name for flag, name in KINDS.items() if flag in environment.cpu_isa), "CPU of another kind")


def distinct(study: Study) -> tuple[MachineSet, ...]:
    """The sets that are shown, without this machine's where named ones hold all its samples."""
    named = {one.samples_sha256 for run in study.shown if run.name != LOCAL for one in run.records.values()} - {""}
    own = {one.samples_sha256 for run in study.shown if run.name == LOCAL for one in run.records.values()} - {""}
    twice = own and own <= named
    return tuple(run for run in study.shown if run.environment and not (twice and run.name == LOCAL))


def speedups(study: Study) -> pd.DataFrame:
    """A row a speedup at batch size 1 of :func:`distinct` machines.

    Beside the columns of the frame: ``kind``; ``weights``, their kind; ``log``, the effect; ``error``, its standard
    error (log), NaN where there is none or one round; ``side``, its verdict, or without an interval where the median
    lies beside the margin.
    """
    choice, rows = study.params.statistics, study.cells
    runs = {run.source: run for run in distinct(study)}
    kinds = {source: kind_of(run.environment) for source, run in runs.items() if run.environment}
    asked = (rows.quantity == "speedup") & (rows.batch_size == 1) & rows.precision.isin(study.compared)
    rows = rows[asked & rows.source.isin([*kinds])]
    half = np.log(rows.high / rows.low) / 2
    error = (half / stats.t.ppf(0.5 + choice.confidence / 2, (rows.n - 1).clip(lower=1))).where(rows.n > 1)
    ratio, margin = rows.value, 1 + choice.equivalence_margin
    by_median = np.select([ratio > margin, ratio < 1 / margin], [FASTER, SLOWER], SAME)
    side = rows.verdict.where(rows.verdict != "", by_median)
    pairs = zip(rows.source, rows.model, rows.precision, strict=True)
    weights = [runs[source].records[model, precision].settings.weights.kind for source, model, precision in pairs]
    found = rows.assign(kind=rows.source.map(kinds), weights=weights)
    return found.assign(log=np.log(ratio), half=half, error=error, side=side)


def summaries(study: Study) -> list[PlatformSummary]:
    """Each machine, in the order of the study."""
    found = speedups(study)
    logs = found.pivot_table(index=["model", "precision"], columns="source", values="log")
    logs = logs.reindex(columns=[run.source for run in distinct(study)])
    margin, rows = np.log1p(study.params.statistics.equivalence_margin), []
    for run in distinct(study):
        own, others = logs[run.source], logs.drop(columns=run.source).median(axis=1)
        sides = [np.sign(values.where(values.abs() > margin, 0.0)) for values in (own, others)]
        both, counted = own.notna() & others.notna(), provenance.counts(study, run)
        half = float(found.half[found.source == run.source].median())
        rows.append(
            PlatformSummary(
                run=run,
                kind=kind_of(run.environment) if run.environment else "",
                ok=counted["ok"],
                cells=sum(counted.values()),
                half_width=None if np.isnan(half) else half,
                placebo=gates.placebo_gate(study, run),
                halves=gates.halves(study, run),
                alike=int((sides[0] == sides[1])[both].sum()),
                shared=int(both.sum()),
            )
        )
    return rows


def pooled(study: Study) -> list[PooledSpeedup]:
    """Each speedup over the machines of each kind; of one machine it says how many are missing."""
    choice, rows = study.params.statistics, []
    groups: Any = speedups(study).groupby(["kind", "model", "precision", "weights"], sort=False)
    for (kind, model, precision, weights), group in groups:
        known = group[group.error > 0]
        effects = word = None
        if len(known) >= FEWEST:
            effects = random_effects(known.log.tolist(), known.error.tolist(), choice.confidence)
            word = _word(effects, choice.equivalence_margin)
        rows.append(
            PooledSpeedup(kind, model, precision, weights, len(known), len(group) - len(known), effects, word or "")
        )
    return rows


def _word(effects: RandomEffects, margin: float) -> str:
    if 1 / (1 + margin) <= effects.low and effects.high <= 1 + margin:
        return SAME
    return FASTER if effects.low > 1 else SLOWER if effects.high < 1 else UNDECIDED


def turnarounds(study: Study) -> list[Turnaround]:
    """Each speedup that is faster on one machine and slower on another, with what tells the two sides apart."""
    runs, rows = {run.source: run for run in distinct(study)}, []
    groups: Any = speedups(study).groupby(["model", "precision"], sort=False)
    for (model, precision), group in groups:
        sides = [group[group.side == word] for word in (FASTER, SLOWER)]
        if any(side.empty for side in sides):
            continue
        known = [{source: _facts(runs[source], model, precision) for source in side.source} for side in sides]
        explained: dict[tuple[str, ...], list[str]] = {}
        for source, facts in known[1].items():
            explained.setdefault(tuple(_only_here(facts, [*known[0].values()])), []).append(source)
        faster, slower = (dict(zip(side.source, side.value, strict=True)) for side in sides)
        judged = all((side.verdict != "").any() for side in sides)
        apart = {tuple(sources): facts for facts, sources in explained.items()}
        rows.append(Turnaround(model, precision, faster, slower, apart, judged))
    return rows


def _facts(run: MachineSet, model: str, precision: str) -> Facts:
    """What may set the speed of a pair on a machine: phrases by topic, None for what was not recorded."""
    environment, record = run.environment, run.records[model, precision]
    assert environment is not None
    isa = [f"{'has' if flag in environment.cpu_isa else 'no'} {flag}" for flag in processors.ISA]
    kernels = record.conversion.kernels if record.conversion else None
    waiting = {f"OMP_WAIT_POLICY {each.omp_wait_policy}" for cell in record.cells for each in cell.rounds}
    libraries = {"torch": environment.torch} | {
        name: environment.libraries.get(name) for name in record.settings.precision.libraries
    }
    return {
        "processor": [f"on {environment.gpu}"] if environment.gpu else isa,
        "limits": environment.isa_limits and [f"limited by {limit}" for limit in environment.isa_limits],
        "kernels": None if kernels is None else [f"kernel: {kernel}" for kernel in kernels],
        "cores": [f"{environment.cores} cores"],
        "waiting": None if any("not recorded" in policy for policy in waiting) else sorted(waiting),
        "weights": [f"{record.settings.weights.kind} weights"],
        "turns": ["before rounds" if run.before_rounds else "in turns with FP32"],
        **{name: version and [f"{name} {version}"] for name, version in libraries.items()},
    }


def _only_here(own: Facts, others: Sequence[Facts]) -> Iterator[str]:
    """The phrases that none of the others has, of topics that all of them recorded."""
    for topic, phrases in own.items():
        seen = [other.get(topic) for other in others]
        if None not in seen:
            yield from (phrase for phrase in phrases or () if not any(phrase in (one or ()) for one in seen))
