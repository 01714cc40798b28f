"""The first screen: what each precision does to speed, memory and accuracy, in three sentences and one figure."""

from collections import Counter
from itertools import cycle
from typing import Any, NamedTuple

from matplotlib.axes import Axes

from visionquant.analysis import decision, estimators, provenance, trained_evidence
from visionquant.analysis.claims.ledger import Ledger
from visionquant.analysis.frame import ARITHMETIC, PUBLISHED
from visionquant.analysis.study import BASELINE, MachineSet, Study
from visionquant.report import figure, int8_answers
from visionquant.report.columns import machine, verdict_counts
from visionquant.report.figure import INK, Figure, Look
from visionquant.report.items import precision_label
from visionquant.report.pages import claims_page, index_page
from visionquant.report.pages.index_page import Finding
from visionquant.report.table import say

MARKERS = ("s", "^", "D", "v", "P", "X")
STEP = 0.18  # rows apart, of two sources


class SourceMark(NamedTuple):
    """What one source says of one precision: middle and ends, and counted verdicts."""

    source: str
    precision: str
    value: float
    low: float | None
    high: float | None
    words: str = ""


def answer(study: Study, run: MachineSet | None = None) -> tuple[str, ...]:
    """The answer in sentences: speed, memory, accuracy; first that there is none, where others took the machine."""
    run, busy = run or study.measured, provenance.taken_by_others(study)
    values = {"speed": _speed(study, run), "memory": _memory(study), "accuracy": _accuracy(study)}
    found = (say(f"answer_{name}", {"v": value, "machine": machine(run.source)}) for name, value in values.items())
    return tuple(sentence for sentence in (busy, *found) if sentence)


def five_lines(study: Study) -> tuple[str, ...]:
    """The end of a run: the answer in words, what of this machine is there, where the report is."""
    run, index = study.local, study.project.reports / "index.html"
    counted, share = provenance.counts(study, run), provenance.timed_share(run)
    others = "".join(f", {count} {status.replace('_', ' ')}" for status, count in counted.items() if status != "ok")
    timed = "" if share is None else f", {100 * share:.0f} % of it inside timed passes"
    cells = f"{counted['ok']} of {sum(counted.values())} ok{others.replace(',', ';', 1)}"
    return (
        *answer(study, run)[-3:],
        f"cells     {cells}; {run.spent_s / 60:.1f} min measuring{timed}",
        f"report    {index if index.is_file() else 'none yet; run `make report`'}",
    )


def recommended(study: Study) -> str:
    """For how many models a precision is recommended, and for which not."""
    advised = decision.recommend(study, study.measured, study.params.study.models, study.params.decision)
    chosen = Counter(precision_label(one.chosen.precision) for one in advised if one.chosen)
    values = {"models": len(advised), "chosen": [f"{name} for {count}" for name, count in chosen.most_common()]}
    return say("recommended", values | {"seeded": sum("seeded" in one.why for one in advised if not one.chosen)})


def doors(study: Study, checked: Ledger) -> tuple[Finding, ...]:
    """The three questions that readers come with, each with its answer and its page."""
    trust = next((one.answer for one in index_page.findings(study) if one.section == "conditions"), "")
    holds, fails, _ = (part.sentence for part in claims_page.story(checked))
    return (
        Finding("Which precision for my model, on my machine?", recommended(study), "costs"),
        Finding("Can these measurements be believed?", trust or "Nothing was measured yet.", "conditions"),
        Finding("Does the published study hold?", f"{holds} {fails}", "claims"),
    )


def leads(study: Study, checked: Ledger) -> dict[str, tuple[str, ...]]:
    """What each page opens with, by its name: what was found."""
    (*costs, accuracy), (advice, trust, claims) = answer(study), doors(study, checked)
    kept = tuple(one.answer for one in index_page.findings(study) if one.section == "keeping")
    one_door = {"decide": advice, "trust": trust, "claims": claims}
    of_int8 = int8_answers.answers(study)
    slow = tuple(of_int8[question] for question in int8_answers.MAIN if question in of_int8)
    found = {"results": tuple(costs), "accuracy": (accuracy,), "recipes": kept, "int8": slow}
    return found | {name: (door.answer,) for name, door in one_door.items()}


def overview(study: Study) -> Figure:
    """Three panels: speed, memory saved, change of accuracy; a row a precision, a mark a source."""
    names = study.compared
    panels = (
        ("times FP32's speed, batch size 1", _speeds(study), 1.0),
        ("memory saved, %", _saved(study), 0.0),
        ("change of top-1 on trained weights, points", _changes(study), 0.0),
    )
    sources = dict.fromkeys(seen.source for _, found, _ in panels for seen in found)
    ours = (name for name in sources if name != PUBLISHED)
    marks = {PUBLISHED: "o"} | dict(zip(ours, cycle(MARKERS), strict=False))
    looks = figure.looks(study)

    def on(axes_of: Any) -> None:
        for axes, (label, found, none) in zip(axes_of.flat, panels, strict=True):
            _panel(axes, found, names, list(sources), marks, looks)
            figure.line_at(axes, none)
            axes.set_xlabel(label)
            figure.rows_of(axes, [precision_label(name) for name in names])
            if not found:
                figure.empty(axes)
        figure.log_scale(axes_of.flat[0])

    keys = [figure.key(Look(INK, marks[name]), name, name == PUBLISHED) for name in sources]
    caption = (
        "Speed and memory: median over the models, the line from the least to the most; memory is weights with the "
        "workspace that the published figures hold. Accuracy: the change with its 95 % interval, through a linear head "
        "fitted on FP32's features. Hollow: published, not ours. Beside a speed the verdicts on its models: F faster, "
        "S slower, = the same, ? undecided."
    )
    alt = "A row a precision; three panels tell how fast it is, how much memory it saves and what accuracy it costs."
    height = 1.6 + (0.3 + STEP * max(1, len(sources))) * max(1, len(names))
    svg = figure.draw((10.0, height), on, (1, 3), keys, stacked=(3, 1), sharey=True)
    below = f"Published: {study.published.setup.get('gpu', 'unknown')}. {'. '.join(map(_described, study.shown))}."
    return Figure("answer", "Speed, memory and accuracy against FP32", caption, alt, below, svg)


def _panel(
    axes: Axes, found: list[SourceMark], names: tuple[str, ...], sources: list[str], marks: dict[str, str], looks: Any
) -> None:
    for seen in found:
        y = names.index(seen.precision) + STEP * (sources.index(seen.source) - (len(sources) - 1) / 2)
        look = Look(looks[seen.precision].colour, marks[seen.source])
        figure.mark(axes, seen.value, y, look, 6, seen.source == PUBLISHED, (seen.low, seen.high))
        if seen.words:
            at = seen.high or seen.value
            axes.annotate(seen.words, (at, y), (4, 0), textcoords="offset points", fontsize=6.5, va="center")


def _over_models(source: str, precision: str, values: dict[str, float], words: str = "") -> list[SourceMark]:
    if not values:
        return []
    found = estimators.summary(list(values.values()))
    return [SourceMark(source, precision, found["median"], found["min"], found["max"], words)]


def _speeds(study: Study) -> list[SourceMark]:
    found = []
    for name in study.compared:
        found += _over_models(PUBLISHED, name, study.published.speedups(name))
        for run in study.shown:
            values = study.column(run.source, "speedup", name)
            words = verdict_counts(study, run, name, values)
            letters = " ".join(f"{words[word]}{letter}" for word, letter in figure.LETTERS.items() if words[word])
            found += _over_models(machine(run.source), name, values, letters)
    return found


def _saved(study: Study) -> list[SourceMark]:
    found = []
    for name in study.compared:
        found += _over_models(PUBLISHED, name, study.published.column("memory_reduction", name))
        for run in study.shown:
            values = study.column(run.source, study.counterpart(run, "memory_reduction"), name)
            found += _over_models(machine(run.source), name, values)
    return found


def _changes(study: Study) -> list[SourceMark]:
    changes = [
        (evidence.source, name, evidence.change(study, name))
        for evidence, _ in trained_evidence.probes(study)
        for name in study.compared
    ]
    return [
        SourceMark(machine(source), name, one.value, one.low, one.high)
        for source, name, one in changes
        if one.value is not None
    ]


def _described(run: MachineSet) -> str:
    return f"{machine(run.source)}: {run.environment.title if run.environment else 'nothing measured'}"


def _speed(study: Study, run: MachineSet) -> list[dict[str, Any]]:
    found = []
    for name in study.compared:
        if values := study.column(run.source, "speedup", name):
            words, middle = verdict_counts(study, run, name, values), _middle("median", values)
            found.append({"label": precision_label(name), "median": middle, "words": words, "n": len(values)})
    return found


def _memory(study: Study) -> list[str]:
    models = study.published.names
    columns = {name: study.column(ARITHMETIC, "memory_reduction_stored", name, models) for name in study.compared}
    return [f"{precision_label(name)} saves {_middle('mean', one):.0f} %" for name, one in columns.items() if one]


def _middle(statistic: str, values: dict[str, float]) -> float:
    return estimators.summary(list(values.values()))[statistic]


def _accuracy(study: Study) -> dict[str, Any]:
    """Of the first probe."""
    evidence, probe = next(iter(trained_evidence.probes(study)), (None, None))
    if evidence is None or probe is None:
        return {}
    by_word: dict[str, list[str]] = {}
    for name in study.compared:
        change = evidence.change(study, name)
        if change.value is not None:
            shown = precision_label(name) + (f" ({change.value:+.1f})" if change.verdict in ("LOWER", "HIGHER") else "")
            by_word.setdefault(change.verdict, []).append(shown)
    base = study.value(evidence.source, evidence.network, BASELINE, 0, "top1")
    margin = study.params.statistics.accuracy_margin
    return {"model": probe.model, "n": len(probe.labels), "by_word": by_word, "top1": base, "margin": margin}
