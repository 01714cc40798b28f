"""Does a measurement support a claim? Checked on each set of records, with the interval behind the word.

Times compare only with the published card, elsewhere they are "not comparable". Bytes and counts are the same on every
machine; a "universal" sentence is checked wherever something was measured. "supported" needs the whole interval within
the tolerance, "refuted" the whole of it outside, else it is "undecided". A claim with several readings (which group,
which percentile) is refuted only if every one of them is.

``MEASURES`` is what claims.yaml can ask for: methods of :class:`Evidence` by their names and arguments.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Literal

import numpy as np
from pydantic import ValidationError, validate_call

from visionquant.analysis.claims import formula, interval
from visionquant.analysis.claims.claim import FILE, Claim
from visionquant.analysis.claims.interval import Bounded
from visionquant.analysis.estimators import ONE_ROUND, PERCENTILE_METHODS, Estimate
from visionquant.analysis.published import SUBJECTS
from visionquant.analysis.study import BASELINE, MachineSet, Study
from visionquant.core.errors import StudyError
from visionquant.weights import architectures

ReproductionWord = Literal["supported", "refuted", "undecided", "not comparable", "not measured"]
Precision = Literal["fp32", "fp16", "int8", "nf4"]
Group = Literal["foundation", "production", "edge"]
Where = Literal["", "anywhere"]
BEST_FIRST: tuple[ReproductionWord, ...] = ("supported", "undecided", "not comparable", "refuted", "not measured")
SHARE = 0.05  # a measured time so near the published one supports it: the supplement's own tolerance
SLACK_MIB = 4.0  # what an allocator keeps beside weights and workspace, in blocks of 2 MiB
BYTES = "bytes of the weights and the workspace, the same on every machine; the allocator may keep up to 4 MiB more"
ALLOCATED = "allocated after the run; an allocator's blocks differ by up to 4 MiB"


@dataclass(frozen=True)
class Reproduction:
    """One claim on one set of records: the word, the measured figure with its bounds, and why."""

    source: str
    word: ReproductionWord
    why: str
    value: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def text(self) -> str:
        """Word, figure and why in one phrase."""
        bounds = "" if self.low is None or self.high is None else f" ({self.low:.3f} to {self.high:.3f})"
        figure = "" if self.value is None else f", measured {self.value:.3f}{bounds}"
        return f"{self.word}{figure}" + (f"; {self.why}" if self.why else "")


@dataclass(frozen=True)
class Evidence:
    """One set of records, and the claim that it is to support."""

    study: Study
    machine: MachineSet
    claim: Claim

    def reproduce(self) -> Reproduction:
        """Check the claim; a StudyError where it measures something that is not known here."""
        entry, arguments = self.claim.entry, dict(self.claim.entry.measures)
        if entry.outcome or not arguments:
            run = f"decided by a run: {entry.shown_by}" if entry.outcome else "no measurement here bears on it"
            return self._says("not measured", run)[0]
        what = str(arguments.pop("what", None))
        asked = f"{FILE}: {self.claim.id} measures {what}"
        if what not in MEASURES:
            raise StudyError(asked, "unknown", f"known: {', '.join(MEASURES)}")
        try:
            readings = MEASURES[what](self, **arguments)
        except ValidationError as error:  # of the arguments: no other model is made in there
            fault = error.errors()[0]
            raise StudyError(asked, f"{fault['loc'][0]}: {fault['msg'].lower()}", "mend it") from None
        return min(readings, key=lambda reading: BEST_FIRST.index(reading.word))

    def cell(
        self,
        quantity: Literal["latency_median", "speedup", "throughput", "throughput_change"],
        precision: Precision,
        model: str = "",
    ) -> list[Reproduction]:
        """A cell of the claim's own row, or of ``model``, at batch size 1."""
        return [self._compared(self._estimate(quantity, model or self.claim.row, precision))]

    def memory(self, precision: Precision) -> list[Reproduction]:
        """Weights by their bytes, with the workspace."""
        slack, why = (0.0, BYTES) if self._why_not else (SLACK_MIB, ALLOCATED)
        return [self._compared(self._estimate(self._allocated, self.claim.row, precision), why, True, slack)]

    def memory_reduction(self, precision: Precision) -> list[Reproduction]:
        """Memory saved against FP32."""
        if saved := self._reductions(precision, (self.claim.row,)):
            return [self._compared(saved[self.claim.row], BYTES, anywhere=True)]
        reason = self._estimate("memory_stored_weights", self.claim.row, precision).reason
        return self._says("not measured", reason or "no FP32 size to compare with")

    def parameters(self) -> list[Reproduction]:
        """Parameters of the network as built, in millions."""
        model = self.claim.row
        record = self.machine.records.get((model, BASELINE))
        if record is None or record.size is None:
            return self._says("not measured", self.machine.state(model, BASELINE, 1).reason)
        bare, built = record.size.parameters / 1e6, "parameters of the network as built"
        head = formula.head_millions(architectures.config(self.study.project, model) or {})
        readings = {f"{built}, without a head": bare, f"{built} and a head of 1000 classes": bare + head}
        return [self._compared(Estimate("parameters", value), why, True) for why, value in readings.items()]

    def over(
        self,
        subject: Literal["fp16_speedup", "fp16_memory_reduction", "int8_memory_reduction"],
        statistic: Literal["mean", "median", "std", "min", "max", "p95"],
        group: Group | None = None,
        scale: Literal["percent", "one"] = "percent",
    ) -> list[Reproduction]:
        """A statistic over models: every reading of the group, and of a spread or a percentile every definition.

        On a scale of "one" it is the validation protocol's own metric, which is of the published card alone.
        """
        (quantity, precision, _), readings = SUBJECTS[subject], []
        saved, divisor = quantity == "memory_reduction", interval.exact(100.0 if scale == "one" else 1.0)
        for reading, models in (self.study.published.readings(group) if group else {"": self._models}).items():
            values = self._reductions(precision, models) if saved else self._bounded(quantity, precision, models)
            missing, total = [model for model in models if model not in values], len(models)
            if missing:
                row = self._estimate(quantity, missing[0], precision)
                word: ReproductionWord = "not comparable" if self._why_not else "undecided"
                word, lack = ("not measured", "figure") if saved or row.value is None else (word, "interval")
                readings += self._says(word, f"{len(missing)} of {total} models have no {lack}, e.g. {missing[0]}")
                continue
            why = f"over {total} models" + (f", {reading}" if reading else "") + (f"; {BYTES}" if saved else "")
            for name, figure in _definitions(statistic, tuple(values.values())).items():
                named = why if name == statistic else f"{why}; {name}"
                readings.append(self._compared(figure / divisor, named, anywhere=saved and scale != "one"))
        return readings

    def energy(self, precision: Precision) -> list[Reproduction]:
        """Energy an image saved against FP32: the mean over models. One reading a cell has no confidence interval."""
        spent, base = (self._column("energy_per_image", name, self._models) for name in (precision, BASELINE))
        saved = [100 * (1 - spent[model] / base[model]) for model in spent if model in base]
        if not saved:
            return self._says("not measured", "no counter of energy was read on this machine")
        by_model = f"{min(saved):.3g} to {max(saved):.3g} % by model; one reading a cell: no interval"
        why = f"energy an image above idle, over {len(saved)} models, {by_model}"
        return [self._compared(Estimate("energy_per_image", fmean(saved)), why)]

    def published_bytes(self, precision: Precision) -> list[Reproduction]:
        """Every model's published memory against that precision's bytes."""
        printed = self.study.published.column("memory_published", precision)
        measured = self._column(self._allocated, precision, tuple(printed))
        off = {model: abs(printed[model] - value) for model, value in measured.items()}
        if far := [model for model in measured if off[model] > SLACK_MIB]:
            worst = max(far, key=off.__getitem__)
            shown = f"measured {measured[worst]:.2f}, published {printed[worst]:.2f} MiB"
            return self._says("refuted", f"{len(far)} of {len(measured)} models, e.g. {worst}: {shown}")
        if not measured:
            return self._says("not measured", "no size was measured")
        if len(measured) < len(printed):
            return self._says("undecided", f"{len(measured)} of {len(printed)} models have a figure, and fit")
        return self._says("supported", f"all {len(printed)} models")

    def faster_everywhere(self, precisions: tuple[Precision, ...], where: Where = "") -> list[Reproduction]:
        """Every model in each of ``precisions`` against FP32, by verdicts; "anywhere" if no machine is meant."""
        counts, total = Counter(self._speeds(precisions, self._models).values()), len(precisions) * len(self._models)
        words = [f"{word} {counts[word]}" for word in ("FASTER", "SLOWER", "SAME", "UNDECIDED") if counts[word]]
        if not words:
            return self._says("not measured", "no speed was measured")
        machine = self.machine.environment
        why = f"of {total} speeds {', '.join(words)}" + (f" on {machine.title}" if machine else "")
        if self._why_not and not where:
            return self._says("not comparable", f"{self._why_not}; there {why}")
        if counts["SLOWER"] or counts["SAME"]:
            return self._says("refuted", why)
        return self._says("supported" if counts["FASTER"] == total else "undecided", why)

    def faster_somewhere(self, precision: Precision, group: Group) -> list[Reproduction]:
        """At least one model of a group, by its rule, against FP32, by verdicts."""
        models = self.study.published.readings(group)["by its rule"]
        words = self._speeds((precision,), models)
        faster, of_all = [model for (model, _), word in words.items() if word == "FASTER"], f"of {len(models)}"
        if not words:
            return self._says("not measured", "no speed was measured")
        if self._why_not:
            return self._says("not comparable", f"{self._why_not}; there {len(faster)} {of_all} are FASTER")
        if faster:
            return self._says("supported", f"FASTER on {len(faster)} {of_all}, e.g. {faster[0]}")
        known = len(words) == len(models) and set(words.values()) <= {"SLOWER", "SAME"}
        return self._says("refuted" if known else "undecided", f"{of_all} models none is FASTER")

    def smaller_everywhere(self, precision: Precision) -> list[Reproduction]:
        """Stored weights against those of FP16, and FP16's against FP32's."""
        other, total = BASELINE if precision == "fp16" else "fp16", len(self._models)
        sizes, base = (self._column("memory_stored_weights", name, self._models) for name in (precision, other))
        larger = {model: sizes[model] >= base[model] for model in sizes if model in base}
        if len(larger) < total:
            return self._says("not measured", f"{total - len(larger)} of {total} models have no figure")
        if any(larger.values()):
            return self._says("refuted", f"not smaller than {other} on {', '.join(filter(larger.get, larger))}")
        return self._says("supported", f"bytes of the stored weights below {other}'s on all {total} models")

    @property
    def _models(self) -> tuple[str, ...]:
        return self.study.published.names

    @property
    def _why_not(self) -> str:
        """Why times of this set don't compare with the published ones; empty where they do."""
        return self.study.comparable(self.machine)

    @property
    def _allocated(self) -> str:
        """What was allocated on the published card; elsewhere bytes, for a workspace differs between cards."""
        return "memory_with_workspace" if self._why_not else "memory_allocated_after"

    def _estimate(self, quantity: str, model: str, precision: str) -> Estimate:
        return self.study.row(self.machine.source, model, precision, 1, quantity)

    def _column(self, quantity: str, precision: str, models: tuple[str, ...]) -> dict[str, float]:
        return self.study.column(self.machine.source, quantity, precision, models)

    def _bounded(self, quantity: str, precision: str, models: tuple[str, ...]) -> dict[str, Bounded]:
        """Model to value and interval, without the models that have none."""
        rows = {model: self._estimate(quantity, model, precision) for model in models}
        sides = {model: (row.value, row.low, row.high) for model, row in rows.items()}
        return {model: Bounded(*side) for model, side in sides.items() if None not in side}  # type: ignore[arg-type]

    def _speeds(self, precisions: tuple[str, ...], models: tuple[str, ...]) -> dict[tuple[str, str], str]:
        """The verdict on each speed that was measured, by (model, precision); before rounds there is none."""
        pairs = [(model, precision) for precision in precisions for model in models]
        found = {pair: self._estimate("speedup", *pair) for pair in pairs}
        return {pair: one.verdict or "UNDECIDED" for pair, one in found.items() if one.value is not None}

    def _reductions(self, precision: str, models: tuple[str, ...]) -> dict[str, Bounded]:
        """Memory saved against FP32 in percent, with what an allocator may keep beside the bytes in doubt.

        Bytes are the least that may have been published; what the card had allocated errs either way.
        """
        below = 0.0 if self._why_not else SLACK_MIB
        size, base = (
            {model: Bounded(mib, mib - below, mib + SLACK_MIB) for model, mib in column.items() if mib > below}
            for column in (self._column(self._allocated, name, models) for name in (precision, BASELINE))
        )
        percent, whole = interval.exact(100.0), interval.exact(1.0)
        return {model: percent * (whole - size[model] / base[model]) for model in size if model in base}

    def _says(self, word: ReproductionWord, why: str) -> list[Reproduction]:
        """A verdict on a sentence."""
        return [Reproduction(self.machine.source, word, why)]

    def _compared(
        self, figure: Estimate | Bounded, why: str = "", anywhere: bool = False, slack: float = 0.0
    ) -> Reproduction:
        """A measured figure against the printed one.

        Without bounds it is exact, if ``anywhere`` (no machine changes it), or has none. ``slack`` is by how much the
        published figure may differ from it either way, in its unit.
        """
        value, low, high = figure.value, figure.low, figure.high
        verdict = partial(Reproduction, self.machine.source, value=value, low=low, high=high)
        allowed, printed = self.claim.allowed, self.claim.printed
        if value is None or allowed is None or printed is None:
            return verdict("not measured", figure.reason if isinstance(figure, Estimate) else why)
        if not anywhere and self._why_not:
            return verdict("not comparable", self._why_not)
        if not anywhere and low is None:
            return verdict("undecided", why or (figure.reason if isinstance(figure, Estimate) else "") or ONE_ROUND)
        more = slack + (0.0 if anywhere else SHARE * abs(printed.value))
        least, most = allowed.low - more, allowed.high + more
        low, high = (value if low is None else low), (value if high is None else high)
        if high < least or low > most:
            return verdict("refuted", why)
        if least <= low and high <= most:
            return verdict("supported", why)
        return verdict("undecided", f"{why}; the interval reaches the published figure".lstrip("; "))


def _definitions(statistic: str, values: tuple[Bounded, ...]) -> dict[str, Bounded]:
    """A statistic under each of its definitions."""
    if statistic == "std":
        return {"std, n - 1": interval.spread(1, values), "std, n": interval.spread(0, values)}
    if statistic == "p95":
        rules = {f"p95_{rule}": partial(np.percentile, q=95, method=rule) for rule in PERCENTILE_METHODS}
        return {name: interval.rising(rule, values) for name, rule in rules.items()}
    return {statistic: interval.rising(getattr(np, statistic), values)}


MEASURES: dict[str, Callable[..., list[Reproduction]]] = {method.__name__: validate_call(method) for method in (
    Evidence.cell, Evidence.memory, Evidence.memory_reduction, Evidence.parameters, Evidence.over, Evidence.energy,
    Evidence.published_bytes, Evidence.faster_everywhere, Evidence.faster_somewhere, Evidence.smaller_everywhere,
)}  # fmt: skip
