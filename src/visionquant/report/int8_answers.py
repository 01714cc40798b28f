"""Answers to what people ask of slow INT8, each made of the records."""

from collections.abc import Iterable
from typing import Any

from visionquant.analysis import estimators
from visionquant.analysis.study import BASELINE, MachineSet, Study
from visionquant.report import int8_facts
from visionquant.report.columns import first_run, value
from visionquant.report.table import Table, build, say, texts

MAIN = ("Where does bitsandbytes' INT8 spend its time?", "What is fast instead?")  # what other pages quote
FEWEST = 3  # models, that a median is formed over


def answers(study: Study) -> dict[str, str]:
    """Answers to what people ask of slow INT8, by question; those that no evidence carries are left out."""
    asked = (
        (MAIN[0], "int8_why", _why(study)),
        (MAIN[1], "int8_fast", _fast(study)),
        ("Same model, other processor?", "int8_processors", _processors(study)),
        ("Which layers should stay in floats?", "int8_layers", _layers(study)),
        ("FP16 or BF16?", "int8_half", _halves(study)),
        ("Does a larger batch help?", "int8_batches", _batches(study)),
    )
    found = {question: say(sentence, values) for question, sentence, values in asked}
    return {question: sentence for question, sentence in found.items() if sentence}


def questions(study: Study) -> Table:
    """The same as a table."""
    rows = list(answers(study).items())
    caption = "Each answer is made of the records behind this page, and changes with them."
    return build("int8-questions", "Questions", caption, texts("Question", "Answer"), rows, "The tables of this page.")


def _why(study: Study) -> dict[str, Any]:
    """Of the profiled models' INT8 at batch size 1 the shares of its parts, in percent."""
    run, found = int8_facts.profiled(study), []
    for row in run.recipes[int8_facts.RECIPE].rows if run else ():
        if (row["kind"], row["precision"], row["batch_size"]) == ("pass", "int8", 1):
            title = f"{row['model']}, batch 1"
            parts = int8_facts.parts_of(run.recipes[int8_facts.RECIPE].rows, title, "int8") if run else []
            shares = {str(part["part"]): 100 * (value(part, "share") or 0.0) for part in parts}
            found.append(
                {"model": row["model"], "weights": row["weights"], "shares": shares, "speedup": row["speedup"]}
            )
    return {"machine": run.environment.title if run and run.environment else "", "found": found}


def _fast(study: Study) -> dict[str, Any]:
    """The fastest precision of each profiled model at batch size 1, FP32 among them."""
    run, found = study.measured, []
    for model in study.params.report.profiled:
        names = [name for name in study.params.precisions if (model, name) in run.records]
        speeds = {name: ratio for name in names if (ratio := int8_facts.speed(study, run, model, name, 1).value)}
        if not set(speeds) - {BASELINE}:
            continue
        best = max(speeds, key=lambda name: speeds[name])
        found.append({
            "model": model,
            "best": "" if best == BASELINE else int8_facts.label(best),
            "one": int8_facts.speed(study, run, model, best, 1),
            "cosine": study.value(run.source, model, best, 0, "cosine"),
            "int8": speeds.get("int8"),
            "over": max(1.0, int8_facts.fastest_fp32(study, run, model, 1)),
            "weights": run.records[model, best].settings.weights.kind,
        })  # fmt: skip
    return {"machine": run.environment.title if run.environment else "", "found": found}


def _processors(study: Study) -> dict[str, Any]:
    """Of each machine the median speedups at batch size 1 over the models that all of them have in INT8."""
    sets = [run for run in study.shown if run.environment and study.column(run.source, "speedup", "int8")]
    models = (
        sorted(set.intersection(*(set(study.column(run.source, "speedup", "int8")) for run in sets))) if sets else []
    )
    found = []
    for run in sets if models else ():
        medians = {int8_facts.label(name): _median(study, run, name, 1, models) for name in ("int8", "nf4", "bf16")}
        assert run.environment is not None
        known = [f"{name} {ratio:.2f}" for name, ratio in medians.items() if ratio]
        isa, old = run.environment.cpu_isa[-1:], ", before rounds" if run.before_rounds else ""
        found.append({"title": run.environment.title, "isa": isa, "known": known, "old": old})
    return {"found": found, "models": models}


def _median(
    study: Study, run: MachineSet, precision: str, batch_size: int, models: Iterable[str] | None = None
) -> float | None:
    """Over these models, None where one of them has no speedup."""
    values = study.column(run.source, "speedup", precision, models, batch_size)
    whole = bool(values) and (models is None or len(values) == len([*models]))
    return estimators.summary(list(values.values()))["median"] if whole else None


def _layers(study: Study) -> dict[str, Any]:
    run = first_run(study, "sensitivity")
    rows = (
        [row for row in run.rows if row["outlier_channels"] is not None and row["weights"] != "seeded"] if run else []
    )
    found = []
    for precision in dict.fromkeys(str(row["precision"]) for row in rows):
        own = [row for row in rows if row["precision"] == precision and value(row, "sqnr_db") is not None]
        worst = sorted(own, key=lambda row: value(row, "sqnr_db") or 0.0)[:3]
        found.append(
            {
                "precision": int8_facts.label(precision),
                "layers": [f"{row['layer']} ({row['sqnr_db']:.1f} dB)" for row in worst],
            }
        )
    return {"model": rows[0]["model"] if rows else "", "found": found}


def _halves(study: Study) -> dict[str, Any]:
    """FP16 and BF16 over the models that were measured in both."""
    run, names = study.measured, ("fp16", "bf16")
    models = sorted(set.intersection(*(set(study.column(run.source, "speedup", name)) for name in names)))
    found = {}
    for name in names if models else ():
        cosines = study.column(run.source, "cosine", name, models)
        lost = len(models) - len(cosines)
        least = min(cosines.values(), default=None)
        speed = _median(study, run, name, 1, models)
        found[int8_facts.label(name)] = {"speed": speed, "cosine": least, "lost": lost}
    return {
        "found": found,
        "models": len(models),
        "weights": run.weights,
        "machine": run.environment.title if run.environment else "",
    }


def _batches(study: Study) -> dict[str, Any]:
    """INT8 over FP32 by batch size, from the smallest up, of the models that were measured at each."""
    run, models, sizes = study.measured, set(study.models), list[int]()
    for size in study.batch_sizes:
        shared = models & set(study.column(run.source, "speedup", "int8", batch_size=size))
        if len(shared) < FEWEST:
            break
        models, sizes = shared, [*sizes, size]
    medians = {size: _median(study, run, "int8", size, sorted(models)) for size in sizes} if len(sizes) > 1 else {}
    return {"models": len(models), "medians": medians}
