"""The index page: what was found, in sentences made of records and published tables, never typed beside them.

A finding is a question, an answer, and the page that carries it. What can't be answered from the evidence at hand says
so, and what it would take.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, get_args

from visionquant.analysis import estimators, gates, launch_bound, provenance, trained_evidence
from visionquant.analysis.claims import ledger
from visionquant.analysis.frame import ARITHMETIC
from visionquant.analysis.published import SUBJECTS, Row
from visionquant.analysis.study import BASELINE, MachineSet, Study
from visionquant.records.cell import Status
from visionquant.report import int8_answers
from visionquant.report.columns import counted_words, estimate, median, source, verdict_counts
from visionquant.report.items import MEASURED, NUMBER, PUBLISHED, TEXT, Item, missing, precision_label
from visionquant.report.table import Column, Table, build, say
from visionquant.settings.precision import Int8Precision

Values = dict[str, Any]
WORDS = ("FASTER", "SAME", "SLOWER", "UNDECIDED")
HALF_PRINTED = 0.005  # of a figure with two decimals
NEAR = 0.025  # published milliseconds that differ by no more
WORKSPACE = "memory_reduction_workspace"
SPEED, SAVED = "speedup, x", "memory saved, %"


class Finding(NamedTuple):
    """``section`` is the name of the page that shows the figures behind the answer."""

    question: str
    answer: str
    section: str


def answers(study: Study, run: MachineSet) -> Table:
    """A row a precision: speed, memory and agreement with FP32, published and measured, over the models."""
    caption = (
        "Over FP32 at batch size 1: median over the models, with the range, and the verdicts on the single models. "
        "Speedup above 1 is faster. Accuracy: change against FP32, with its interval. The published INT4 column stands "
        "under NF4; its speedups are computed from its printed milliseconds."
    )
    models, reduction = study.published.names, study.counterpart(run, "memory_reduction")

    def over(heading: str, css: str, group: str, of: Callable[[str], dict[str, float]]) -> Column:
        fast, absent = group == SPEED, "not_published" if css == PUBLISHED else "not_measured"

        def item(precision: str) -> Item:
            words = counted_words(study, run, precision, study.models) if fast and css == MEASURED else ""
            return median(of(precision), 2 if fast else 1, absent, words)

        return Column(heading, item, css, group)

    evidence, probe = next(iter(trained_evidence.probes(study)), (None, None))

    def change(precision: str) -> Item:
        if evidence is None:
            return missing("not_measured", "no trained weights were evaluated")
        return estimate(evidence.change(study, precision))

    shown = [
        Column("Precision", precision_label, TEXT),
        over("published", PUBLISHED, SPEED, study.published.speedups),
        over("measured", MEASURED, SPEED, lambda p: study.column(run.source, "speedup", p)),
        over("published", PUBLISHED, SAVED, lambda p: study.published.column("memory_reduction", p)),
        over("by arithmetic", NUMBER, SAVED, lambda p: study.column(ARITHMETIC, WORKSPACE, p, models)),
        over("measured", MEASURED, SAVED, lambda p: study.column(run.source, reduction, p)),
        Column(probe.model if probe else "none", change, MEASURED, "top-1 on trained weights, points"),
    ]
    return build("answers", "The answer in one table", caption, shown, study.compared, source(run, study))


def findings(study: Study) -> tuple[Finding, ...]:
    """The answers that the evidence carries, most wanted first."""
    run = study.measured
    faster = {f"Is {precision_label(name)} faster than FP32?": _speed(study, run, name) for name in study.compared}
    asked = (
        *((question, "latency", "speed", values) for question, values in faster.items()),
        ("How much memory does each save?", "memory", "saved", _saved(study, run)),
        ("Was the published INT4 column measured in 4 bits?", "memory", "four_bit", _four_bit(study)),
        ("What did the supplement measure as memory?", "memory", "memory", _memory(study)),
        ("Was the published throughput measured?", "throughput", "throughput", _throughput(study)),
        ("Why is FP16 not faster for the small models in the supplement?", "latency", "launch", _launch(study)),
        ("Do the published summaries follow from the published tables?", "statistics", "summaries", _summaries(study)),
        ("What does precision cost on trained weights?", "accuracy", "accuracy", _accuracy(study)),
        ("Do the outputs stay what they were?", "fidelity", "fidelity", _fidelity(study, run)),
        ("How much does INT8's outlier path cost?", "keeping", "outliers", _outliers(study, run)),
        ("Can these measurements be trusted?", "conditions", "trust", _trust(study, run)),
        ("Does the supplement's own validation pass?", "statistics", "validation", _validation(study)),
    )
    answered = (Finding(question, say(sentence, values), page) for question, page, sentence, values in asked)
    of_int8 = int8_answers.answers(study)
    slow = (Finding(question, of_int8[question], "int8") for question in int8_answers.MAIN if question in of_int8)
    return (*(finding for finding in answered if finding.answer), *slow)


def unanswered(study: Study) -> tuple[str, ...]:
    """What this evidence can't tell, and what it takes to tell it."""
    run = study.measured
    counted = provenance.counts(study, run)
    values = {
        "measured": bool(run.records),
        "not_comparable": study.comparable(run),
        "reference_gpu": study.params.report.reference_gpu,
        "weights": run.weights,
        "failed": sum(counted.get(status, 0) for status in get_args(Status) if status != "ok"),
        "absent": sum(counted.get(status, 0) for status in ("not_measured", "stale")),
    }
    return tuple(line.strip() for line in say("unanswered", values).split("|") if line.strip())


def _speed(study: Study, run: MachineSet, precision: str) -> Values:
    values, printed = study.column(run.source, "speedup", precision), study.published.speedups(precision)
    words = verdict_counts(study, run, precision, values)
    kind = "Published" if study.published.column("speedup", precision) else "From the published milliseconds"
    return _summary(values) | {
        "n": len(values),
        "machine": run.environment.title if run.environment else "",
        "words": ", ".join(f"{word} for {words[word]}" for word in WORDS if words[word]),
        "kind": kind,
        "printed": len(printed),
        "printed_median": _summary(printed).get("median"),
        "slower": sum(value < 1 for value in printed.values()),
    }


def _saved(study: Study, run: MachineSet) -> Values:
    models, means, off = study.published.names, [], []
    for precision in study.precisions:
        saved = study.column(ARITHMETIC, WORKSPACE, precision, models)
        stored = study.column(run.source, "memory_stored_weights", precision, models)
        counted = study.column(ARITHMETIC, "memory_stored_weights", precision, models)
        off += [abs(stored[model] / counted[model] - 1) for model in stored if model in counted]
        if precision != BASELINE and len(saved) == len(models):
            means.append(f"{precision_label(precision)} {_summary(saved)['mean']:.1f} %")
    printed = {SUBJECTS[row.subject]: row.printed for row in study.published.statistics if row.statistic == "mean"}
    reductions = {about.label: mean.text for about, mean in printed.items() if about.quantity == "memory_reduction"}
    published = [f"{label.split()[0]} {mean} %" for label, mean in reductions.items()]
    return {"models": len(models), "means": means, "off": off, "published": published}


def _four_bit(study: Study) -> Values:
    cells, models = study.published.cells, tuple(study.published.column("memory_published", "nf4"))
    texts = {name: [cells["memory_published", model, name].text for model in models] for name in ("nf4", "int8")}
    counted = study.column(ARITHMETIC, "memory_with_workspace", "nf4", models)
    if not counted:
        return {"counted": None}
    largest = max(counted, key=lambda model: counted[model])
    same, printed = sum(map(str.__eq__, *texts.values())), cells["memory_published", largest, "nf4"].text
    times = {name: study.published.column("latency_median", name) for name in ("nf4", "int8")}
    shared = times["nf4"].keys() & times["int8"].keys()
    near = sum(abs(times["nf4"][model] / times["int8"][model] - 1) <= NEAR for model in shared)
    told = {"near": near, "timed": len(shared), "nearness": NEAR}
    bytes_ = {"same": same, "models": len(models), "largest": largest, "printed": printed}
    return {"counted": counted[largest], **bytes_, **told}


def _memory(study: Study) -> Values:
    printed = study.published.column("memory_published", BASELINE)
    counted = study.column(ARITHMETIC, "memory_with_workspace", BASELINE, printed)
    off = {model: abs(printed[model] - counted[model]) for model in counted}
    exact = sorted(model for model, gap in off.items() if gap <= HALF_PRINTED + 1e-9)
    return {"off": list(off.values()), "exact": exact, "workspace": study.params.report.workspace_mib}


def _throughput(study: Study) -> Values:
    gaps, total = [], 0
    for precision in study.precisions:
        latency = study.published.column("latency_median", precision)
        for model, per_second in study.published.column("throughput", precision).items():
            low, high = (1000 / (latency[model] + sign * HALF_PRINTED) - sign * HALF_PRINTED for sign in (1, -1))
            total += 1
            if not low <= per_second <= high:  # both rounded to two decimals
                gaps.append(abs(per_second * latency[model] / 1000 - 1))
    return {"total": total, "gaps": gaps}


def _launch(study: Study) -> Values:
    floors = launch_bound.floors(study)
    counted = floors.cells[~floors.cells.model.isin(floors.idle)]
    cells = {name: counted.reading[counted.precision == name] == "launch-bound" for name in launch_bound.FLOATS}
    bound = [f"{precision_label(name)} {sum(found)} of {len(found)}" for name, found in cells.items()]
    return {"host_us": floors.host_us, "idle": len(floors.idle), "bound": bound}


def _summaries(study: Study) -> Values:
    columns = [(row, list(study.published.subject_values(row.subject).values())) for row in study.published.statistics]
    whole = [(row, values) for row, values in columns if len(values) == len(study.published.models)]
    against = [
        f"{SUBJECTS[row.subject].label} {row.statistic}"
        for row, values in whole
        if not estimators.reproducing(row.statistic, row.printed, values)
    ]
    claims = [claim for claim in study.published.groups if not _group_follows(study, claim)]
    wrong = [f"{claim.group} {claim.statistic} {claim.printed.text}{claim.unit}" for claim in claims]
    return {"total": len(whole), "against": against, "wrong": wrong}


def _group_follows(study: Study, claim: Row) -> bool:
    """Whether the printed rows give a group's figure under some reading of the group."""
    readings = study.published.readings(claim.group).values()
    found = [_summary(study.published.subject_values(claim.subject, models)).get(claim.computed) for models in readings]
    return any(value is not None and claim.printed.rounds_from(value) for value in found)


def _fidelity(study: Study, run: MachineSet) -> Values:
    lowest = []
    for precision in study.compared:
        values = study.column(run.source, "cosine", precision)
        if values:
            worst = min(values, key=lambda model: values[model])
            lowest.append(f"{precision_label(precision)} {values[worst]:.4f} ({worst})")
    return {"lowest": lowest, "weights": run.weights}


def _accuracy(study: Study) -> Values:
    """Of each probe the change in points of every precision, with its verdict, and what neighbours say of it."""
    found = []
    for evidence, probe in trained_evidence.probes(study):
        changes = {name: evidence.change(study, name) for name in probe.precisions if name != BASELINE}
        known = [(name, one.value, one.verdict) for name, one in changes.items() if one.value is not None]
        top1, *neighbours = (
            study.value(evidence.source, evidence.network, name, 0, quantity)
            for quantity, name in (("top1", BASELINE), *(("knn_top1", name) for name in probe.precisions))
        )
        found.append({
            "model": probe.model,
            "task": probe.task,
            "n": len(probe.labels),
            "top1": top1,
            "shown": [f"{precision_label(name)} {points:+.2f} ({word})" for name, points, word in known],
            "neighbours": neighbours,
        })  # fmt: skip
    return {"probes": found}


def _outliers(study: Study, run: MachineSet) -> Values:
    """INT8's rows over the models with seeded weights, and on each model with trained ones."""
    speeds, trained = [], list[str]()
    for name, row in study.params.precisions.items():
        if not isinstance(row, Int8Precision):
            continue
        values, threshold = study.column(run.source, "speedup", name), f"threshold {row.threshold:g}"
        own = {model: values.pop(model) for model in run.trained_models & values.keys()}
        trained += [f"{threshold} {value:.2f}x ({model})" for model, value in sorted(own.items())]
        if values:
            words = counted_words(study, run, name, values, name="speedup_in_bracket")
            planted = ", with outliers" if row.outliers else ""
            counted = f" ({words})" if words else ""
            speeds.append(f"{threshold}{planted} {_summary(values)['median']:.2f}x{counted}")
    return {"speeds": speeds, "trained": trained}


def _trust(study: Study, run: MachineSet) -> Values:
    cells = [cell for record in run.records.values() for cell in record.cells if cell.rounds]
    return {
        "cells": len(cells),
        "busy": sum(cell.status == "busy" for cell in cells),
        "faults": sum(bool(cell.audit and cell.audit.fault) for cell in cells),
        "gates": "" if run.before_rounds else f"{gates.placebo_gate(study, run).text} {gates.halves(study, run).text}",
    }


def _validation(study: Study) -> Values:
    own = [(claim, found) for claim, found in ledger.validation(study) if found.source == study.measured.source]
    return {"verdicts": [f"{claim.row}: {found.word}" for claim, found in own]}


def _summary(values: dict[str, float]) -> dict[str, Any]:
    return dict(estimators.summary(list(values.values())))
