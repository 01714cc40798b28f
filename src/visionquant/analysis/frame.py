"""Records as one tidy frame: a row a source, model, precision, batch size and quantity.

Tables pivot it, figures plot it, claims join it. Columns: ``value``, ``low`` and ``high`` in the unit that
``core.quantities`` names, NaN where there is none; ``n`` values behind it; ``verdict`` on a placebo, and on a speedup
or a change, from the effect and error that also give the bounds, with its grounds in ``reason``; ``status`` is ok
wherever there is a value, else it and ``reason`` say why not. ``batch_size`` is 0 for quantities of the model itself.
Sources are "published" (as printed), "arithmetic" (from parameter counts, no model loaded), "local" and
"recorded:<platform>". Rows over models name what they are over ("all models", "edge (as listed)") as their model.
Values have twelve digits, for the last ones differ between processors.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from visionquant.analysis import accuracy, estimators, ratios, verdicts
from visionquant.analysis.estimators import DEVICE_MEMORY, FIDELITY, SIZES, Estimate, absent
from visionquant.analysis.published import GROUP_BOUNDS, SUBJECTS
from visionquant.core.quantities import STATISTICS
from visionquant.records.cell import BASELINE

if TYPE_CHECKING:
    from visionquant.analysis.study import Study

PUBLISHED, ARITHMETIC = "published", "arithmetic"
CELL = ["source", "model", "precision", "batch_size"]
COLUMNS = [*CELL, "quantity", "value", "low", "high", "n", "verdict", "status", "reason"]
OF_MODEL = (*SIZES, "model_size", *FIDELITY)
REDUCTIONS = ("memory_reduction", "memory_reduction_stored", "memory_reduction_workspace")
UNCOUNTED = "no committed counts for this model and precision"
BEFORE_ROUNDS = "before rounds: no interval, no verdict"
PLACEBO_BOUND = 0.02  # FP32 against itself has to lie within this share; fixed before any set was recorded
Row = tuple[object, ...]


def figures(study: "Study") -> pd.DataFrame:
    """Every figure of the study, and every one that is missing."""
    timed = list[Row]()
    rows = [*_published(study), *_accuracy(study), *_measured(study, timed)]
    cells = pd.DataFrame(timed, columns=[*CELL, "cell", "base", "base_reason"]).astype({"base": object})
    parts = [pd.DataFrame(rows, columns=COLUMNS), *(_times(study, cells) if timed else ())]
    found = pd.concat([part.reindex(columns=COLUMNS) for part in parts], ignore_index=True)
    missing = found[(found.quantity == "speedup") & (found.status != "ok")]
    own = [missing[missing.precision.isin(names)].assign(quantity=name) for name, names in study.families.items()]
    found = pd.concat([found, *own, *_over_models(study, found)], ignore_index=True)
    found = found.sort_values("quantity", kind="stable", ignore_index=True)
    found = found.assign(n=found.n.where(found.value.notna())).fillna({"n": 0, "verdict": "", "reason": ""})
    for name in ("value", "low", "high"):
        found[name] = [float(f"{number:.12g}") for number in found[name].astype(float)]
    return found.astype({"n": int, "batch_size": int})


def of_cell(study: "Study") -> list[str]:
    """The quantities of a cell."""
    percentiles = [f"latency_p{percent}" for percent in study.params.statistics.percentiles]
    times = ["latency_median", "latency_mean", "latency_std", *percentiles, "latency_outliers", "gpu_median"]
    speeds = ["speedup", "speedup_pooled", "speedup_prediction", "placebo", "throughput", "throughput_change"]
    return [*times, "launch_share", *speeds, "energy_per_image", *DEVICE_MEMORY, "memory_host_peak", "memory_reduction"]


def _rows_of(source: str, model: str, precision: str, size: int, estimates: Iterable[Estimate]) -> Iterator[Row]:
    return ((source, model, precision, size, *vars(estimate).values()) for estimate in estimates)


def _published(study: "Study") -> Iterator[Row]:
    """What the supplement prints, at batch size 1, and memory worked out from parameter counts."""
    cells, workspace = study.published.cells, study.params.report.workspace_mib
    for model in study.models:
        for quantity, precision in dict.fromkeys((quantity, precision) for quantity, _, precision in cells):
            printed = cells.get((quantity, model, precision))
            missing = absent(quantity, "not printed", "not_published")
            found = Estimate(quantity, printed.value) if printed else missing
            yield from _rows_of(PUBLISHED, model, precision, 1, [found])
        facts = study.facts(model)
        counts = facts.model_bytes if facts else {}
        for name in dict.fromkeys([*study.precisions, *counts]):
            sizes = estimators.of_sizes(counts.get(name), counts.get(BASELINE), workspace, UNCOUNTED, UNCOUNTED)
            yield from _rows_of(ARITHMETIC, model, name, 0, sizes)


def _accuracy(study: "Study") -> Iterator[Row]:
    """Networks trained here and models with pretrained weights, on labelled images."""
    judge = accuracy.Judge(study.params.statistics.confidence, study.params.statistics.accuracy_margin)
    for one in study.sets:
        judged, unjudged = (one.labelled.judged, one.labelled.missing) if one.labelled else ((), {})
        evaluated = (judge.trained(one.accuracy.values()), judge.probed(one.probes.values()), judge.pretrained(judged))
        for network, precision, found in chain.from_iterable(evaluated):
            yield from _rows_of(one.source, network, precision, 0, [found])
        stale = {Path(name).stem: why for name, why in one.stale.items() if name.startswith("accuracy/")}
        for network, why in (stale | unjudged).items():
            missing = absent("top1", why, "stale" if network in stale else "not_measured")
            for name in study.params.study.precisions:
                yield from _rows_of(one.source, network, name, 0, [missing])


def _measured(study: "Study", timed: list[Row]) -> Iterator[Row]:
    """What every pair and every cell says without a test; ``timed`` gets the cells that have times, beside FP32's."""
    quantities, choice = of_cell(study), study.params.statistics
    for one in study.sets:
        precisions = dict.fromkeys([*study.precisions, *(name for _, name in one.records)])
        for model, precision in product(study.models, precisions):
            record, base_record = (one.records.get((model, name)) for name in (precision, BASELINE))
            if record is None:
                state = one.state(model, precision, 1)
                found = [absent(name, state.reason, state.status) for name in OF_MODEL]
            else:
                found = [*estimators.of_pair(record, base_record, study.params.report.workspace_mib)]
            yield from _rows_of(one.source, model, precision, 0, found)
            for size in study.batch_sizes:
                state, base = one.state(model, precision, size), one.state(model, BASELINE, size)
                if state.status != "ok" or record is None or state.cell is None:
                    found = [absent(name, state.reason, state.status) for name in quantities]
                elif not state.cell.times_ms(precision):
                    found = [absent(name, "no round was measured", "not_measured") for name in quantities]
                else:
                    base_cell = base.cell if base.status == "ok" else None
                    found = [*estimators.of_cell(record, state.cell, base_cell, base.reason, choice)]
                    timed.append((one.source, model, precision, size, state.cell, base_cell, base.reason))
                yield from _rows_of(one.source, model, precision, size, found)


def _times(study: "Study", timed: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Medians, rates and ratios over FP32 of every timed cell, the ratios with their verdicts."""
    confidence, cells = study.params.statistics.confidence, [*zip(timed.cell, timed.precision, strict=True)]
    wall = estimators.logs(cell.times_ms(precision) for cell, precision in cells)
    rates = estimators.logs(estimators.rates(*one) for one in cells)
    logs = {"latency_median": wall, "latency_p50": wall, "throughput": rates}
    logs["gpu_median"] = estimators.logs(estimators.gpu_times(*one) for one in cells)
    for quantity in [name for name in logs if name in of_cell(study)]:
        found = estimators.medians(logs[quantity], confidence)
        unclocked = found.value.isna() & (quantity == "gpu_median")
        yield _beside(timed, quantity, found.assign(reason=found.reason.mask(unclocked, "no GPU clock on a CPU")))
    paired = np.array([cell.paired for cell in timed.cell])
    yield from _before_rounds(study, timed[~paired], wall.value[~paired], rates.value[~paired])
    if paired.any():
        yield from _paired(study, timed[paired].reset_index(drop=True))


def _before_rounds(study: "Study", timed: pd.DataFrame, ms: pd.Series, rate: pd.Series) -> Iterator[pd.DataFrame]:
    """Ratios of the medians of cells in which no arms took turns."""
    keys = pd.MultiIndex.from_frame(timed[CELL])
    base = pd.MultiIndex.from_frame(timed[CELL].assign(precision=BASELINE))
    over = [pd.Series(side.to_numpy(), keys).reindex(base).to_numpy() for side in (ms, rate)]
    why = np.where(timed.base.isna(), "no FP32 cell to compare with: " + timed.base_reason, BEFORE_ROUNDS)
    found = timed[CELL].assign(n=[len(cell.rounds) for cell in timed.cell], reason=why)
    found = found.assign(reason=found.reason.mask(timed.precision == BASELINE, ""))
    values = {"speedup": over[0] / ms, "throughput_change": 100 * (rate / over[1] - 1)}
    for quantity, precisions in (_families(study, "speedup") | _families(study, "throughput_change")).items():
        value = values.get(quantity, values["speedup"])
        shown = timed.precision.isin(precisions) | np.isin(quantity, [*values])
        status = np.where(value.notna(), "ok", "not_available")
        yield found.assign(quantity=quantity, value=value, status=status)[shown]
    for quantity in ("speedup_pooled", "speedup_prediction", "placebo"):
        yield found.assign(quantity=quantity, value=np.nan, status="not_available", reason="before rounds")


def _families(study: "Study", quantity: str) -> dict[str, tuple[str, ...]]:
    """Tables of a ratio, with the precisions whose verdicts are corrected together there."""
    return {quantity: study.compared} | (study.families if quantity == "speedup" else {})


def _paired(study: "Study", timed: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Ratios over FP32 from the blocks of rounds, and FP32 over the placebo in the same blocks."""
    confidence, itself = study.params.statistics.confidence, timed.precision == BASELINE
    turned = ratios.turns(zip(timed.cell, timed.precision, strict=True))
    rounds = ratios.rounds_of(turned, turned.fp32 - turned.placebo)
    family = _family(timed)
    found = ratios.interval(ratios.contrasts(rounds, family, drift=0.0), confidence)
    low, high, bound = found.low, found.high, 1 + PLACEBO_BOUND
    outside = (low > bound) | (high < 1 / bound)
    words = np.select([outside, (low >= 1 / bound) & (high <= bound)], ["outside", "within"], "not resolved")
    yield _beside(timed, "placebo", found.assign(verdict=pd.Series(words).mask(found.value.isna())))
    rounds = ratios.rounds_of(turned, ratios.over_fp32(turned, ratios.TIMES))
    contrast = ratios.contrasts(rounds, family)
    yield from _judged(study, "speedup", timed, contrast, outside)
    others, own = timed[~itself], contrast[~itself]
    pooled = ratios.pooled(rounds[rounds.cell.isin(others.index)], own.dropna(subset="n"), family)
    for quantity, contrasts, runs in (("speedup_pooled", pooled, 1), ("speedup_prediction", own, 2)):
        found = ratios.interval(contrasts.reindex(own.index), confidence, runs)
        yield _beside(others, quantity, found.assign(value=found.value.where(found.low.notna())))
    windowed = ratios.rounds_of(turned, ratios.over_fp32(turned, ratios.WINDOWS))
    rates = ratios.contrasts(windowed, family)
    contrast = rates.where(rates.n.notna(), contrast)  # without windows the passes themselves give the rate
    yield from _judged(study, "throughput_change", timed, contrast, outside)


def _family(timed: pd.DataFrame) -> pd.Series:
    return timed.source + " " + timed.precision + " " + timed.batch_size.astype(str)


def _judged(
    study: "Study", quantity: str, timed: pd.DataFrame, contrast: pd.DataFrame, outside: pd.Series
) -> Iterator[pd.DataFrame]:
    """A ratio with its verdicts, family by family; none where the placebo lies ``outside`` its bound."""
    choice, itself = study.params.statistics, timed.precision == BASELINE
    found, lost = ratios.interval(contrast, choice.confidence), outside & ~itself
    found[["low", "high"]] = found[["low", "high"]].mask(itself)
    found["reason"], found["value"] = found.reason.mask(itself, ""), found.value.mask(itself & found.value.notna(), 1.0)
    if quantity == "throughput_change":
        found[["value", "low", "high"]] = 100 * (found[["value", "low", "high"]] - 1)
    for name, precisions in _families(study, quantity).items():
        members = timed.precision.isin(precisions)
        family = contrast.join(timed[["source", "batch_size"]])[members & ~itself & contrast.n.notna()]
        words = verdicts.decide(family, ["source", "batch_size"], choice.confidence, choice.equivalence_margin)
        grounds = verdicts.grounds(family, words, choice.confidence, choice.equivalence_margin)
        reasons = pd.Series(grounds, family.index, dtype=object).reindex(found.index)
        reasons = reasons.mask(lost, f"undecided: the placebo lies outside {100 * PLACEBO_BOUND:g} %")
        reasons = reasons.where(found.reason == "", found.reason).fillna("")
        decided = found.assign(verdict=words.verdict.mask(lost, "UNDECIDED"), reason=reasons)
        shown = members | (name == quantity)
        yield _beside(timed[shown], name, decided[shown])


def _beside(keys: pd.DataFrame, quantity: str, found: pd.DataFrame) -> pd.DataFrame:
    """Keys with their estimates, row by row; without a value they are not available."""
    status = np.where(found.value.notna(), "ok", "not_available")
    return keys[CELL].assign(quantity=quantity, status=status).join(found)


def _over_models(study: "Study", found: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """The statistics block and the group patterns, as printed and as measured."""
    printed = [("all models", row.statistic, row) for row in study.published.statistics]
    readings: dict[str, tuple[str, ...]] = {}
    for group in GROUP_BOUNDS:
        of_group = study.published.readings(group)
        readings |= {f"{group} ({name})": models for name, models in of_group.items()}
        rows = [row for row in study.published.groups if row.group == group]
        printed += [(f"{group} ({name})", row.computed, row) for name in of_group for row in rows]
    yield pd.DataFrame([
        (PUBLISHED, label, about.precision, 1, f"{about.quantity}_over_models_{name}", row.printed.value, "ok")
        for label, name, row in printed for about in [SUBJECTS[row.subject]]
    ], columns=[*CELL, "quantity", "value", "status"])  # fmt: skip
    known = found.quantity.isin(["speedup", *REDUCTIONS]) & (found.status == "ok")
    values = found[known & found.source.isin([one.source for one in study.sets]) & found.precision.isin(study.compared)]
    yield from _summaries("all models", values[values.model.isin([*study.published.models])], STATISTICS)
    patterns = {(one.precision, one.quantity) for one in SUBJECTS.values()}
    patterns |= {(precision, f"{quantity}_workspace") for precision, quantity in patterns}
    own = pd.MultiIndex.from_frame(values[["precision", "quantity"]]).isin(patterns)
    values = values[own & (values.batch_size <= 1)]
    for label, models in readings.items():
        yield from _summaries(label, values[values.model.isin(models)], ("mean", "median", "min", "max"))


def _summaries(label: str, values: pd.DataFrame, statistics: Sequence[str]) -> Iterator[pd.DataFrame]:
    """A statistic of values over their models; std with n-1, p95 by numpy's linear rule."""
    groups = values.groupby(["source", "precision", "batch_size", "quantity"], sort=False).value
    for name in statistics:
        over = groups.quantile(0.95) if name == "p95" else groups.agg(name)
        rows = pd.DataFrame({"value": over, "n": groups.count()}).dropna().reset_index()
        yield rows.assign(model=label, quantity=rows.quantity + f"_over_models_{name}", status="ok")
