"""What keeps accuracy: mixed precision, INT8's outlier path, and a watch over what is deployed."""

from collections import Counter
from dataclasses import replace

from visionquant.analysis.study import MachineSet, Study
from visionquant.report.columns import block, of_models, of_pair, of_pairs, quantity, source
from visionquant.report.items import MEASURED, NUMBER, TEXT, Item, joined, missing, number
from visionquant.report.recipe_tables import Row, Spec, figures
from visionquant.report.table import Column, Table, build, numbers, words
from visionquant.settings.precision import Int8Precision, MixedPrecision, OnnxRuntimePrecision


def rules(study: Study) -> Table:
    """What the policies of params.yaml say."""
    caption = (
        "The first rule whose pattern (a regular expression) matches the name of a module, or of one around it, "
        "decides; int8 and nf4 take Linear layers alone."
    )
    rows = []
    for name, row in study.params.precisions.items():
        if isinstance(row, MixedPrecision):
            rest = ("the rest", f"float: {row.dtype}, on a CPU {row.cpu_dtype}")
            policy = [*((rule.modules, rule.to) for rule in row.rules), rest]
            rows += [(name, i, *rule) for i, rule in enumerate(policy, 1)]
    shown = [Column("Policy", 0, TEXT), Column("rule", 1), Column("modules", 2, TEXT), Column("to", 3, TEXT)]
    return build("policy-rules", "What the policies say", caption, shown, rows, "params.yaml, precisions.")


def with_policies(study: Study) -> MachineSet:
    """The set that was measured under the most policies; the measured one where none was."""
    names = study.of_kind(MixedPrecision)
    return max((study.measured, *study.sets), key=lambda run: sum(name in names for _, name in run.records))


def policies(study: Study, run: MachineSet, batch_size: int = 1) -> Table:
    """Speed, bytes and agreement of each policy, between those of FP16 and INT8; a row a model and precision."""
    caption = "Modules: as the record proves them, by their type. A policy pays for the conversions where types meet."
    return _beside(study, run, batch_size, "policies", "Mixed policies", caption, study.of_kind(MixedPrecision))


def graphs(study: Study, run: MachineSet, batch_size: int = 1) -> Table:
    """The same of ONNX Runtime's precisions, beside bitsandbytes' INT8."""
    caption, own = "Measured like any precision, in turns with torch's FP32.", study.of_kind(OnnxRuntimePrecision)
    return _beside(study, run, batch_size, "graphs", "ONNX Runtime as a precision", caption, own)


def _beside(
    study: Study, run: MachineSet, batch_size: int, name: str, title: str, caption: str, own: tuple[str, ...]
) -> Table:
    seeded = " Seeded weights: agreement shows that the conversion is right." if "seeded" in run.weights else ""
    caption = f"Speedup over torch FP32 with the verdict, Holm-corrected over this table. {caption}{seeded}"

    def modules(pair: tuple[str, str]) -> Item | str:
        record = run.records.get(pair)
        if record is None:
            return missing("not_measured", "not part of this set")
        counts = Counter(((record.conversion and record.conversion.modules) or {}).values())
        return joined((f"{kind} {counts[kind]}" for kind in sorted(counts)), "of one kind")

    speed = f"speedup_of_{name}"
    shown = of_pairs(
        of_pair(study, run, "speedup over FP32, x", speed, batch_size),
        of_pair(study, run, "latency, ms", "latency_median", batch_size),
        of_pair(study, run, "stored weights, MiB", "memory_stored_weights"),
        of_pair(study, run, "cosine", "cosine"),
        of_pair(study, run, "SQNR, dB", "sqnr"),
        Column("modules", modules, TEXT),
    )
    models = [model for model in study.models if any((model, one) in run.records for one in own)]
    rows = [(model, precision) for model in models for precision in study.families[speed]]
    return build(f"{name}-{batch_size}", f"{title}, batch size {batch_size}", caption, shown, rows, source(run))


def outliers(study: Study, run: MachineSet, batch_size: int = 1) -> Table:
    """Speedup over FP32 of every INT8 row of params.yaml, with verdicts over them, and where outliers were met."""
    caption = (
        "LLM.int8() treats input columns beyond its threshold apart, in 16 bit; threshold 0 switches that off. Seeded "
        "weights meet no such columns, trained ones do: planted outlier channels in front of Linear layers stand in "
        "for them (scaled up there and down in the next weights, so the function stays). A trained model is expected "
        "between the columns. Speedup over FP32 with the verdict, Holm-corrected over this table; then the layers that "
        "met outliers in a pass of one image."
    )
    rows = {name: row for name, row in study.params.precisions.items() if isinstance(row, Int8Precision)}
    planted = [f", {row.outliers} planted" if row.outliers else "" for row in rows.values()]
    headings = [f"threshold {row.threshold:g}{more}" for row, more in zip(rows.values(), planted, strict=True)]

    def met(model: str, name: str) -> Item | str:
        record = run.records.get((model, name))
        if record is None or record.outlier_layers is None:
            return missing("not_available", "the outlier path is off" if record else "not measured")
        return f"{record.outlier_layers} of {record.conversion.quantized_modules if record.conversion else 0}"

    speeds = quantity(study, run.source, "speedup over FP32, x", "speedup_in_bracket", rows, batch_size)
    columns = zip([*speeds, *block("layers that met outliers", rows, met, TEXT)], 2 * headings, strict=True)
    shown = of_models([replace(column, heading=heading) for column, heading in columns])
    title = f"INT8 as a bracket, batch size {batch_size}"
    return build(f"bracket-{batch_size}", title, caption, shown, study.models, source(run))


def _before_the_fall(row: Row) -> str:
    return str(row["alarms_before"]) if row["answers_before"] else "none there"


VALIDATION = Spec(
    "validation",
    "What the monitor says of a fold",
    "FP32 on the same held-out images is the baseline, with its own uncertainty; at least 0.95 of it must be "
    "retained. The decision needs the whole 95 % interval on one side; needed: so many samples decide at this "
    "accuracy.",
    [
        *words(network="Network", precision="Precision"),
        Column("right", lambda row: f"{row['right']} of {row['n']}", MEASURED),
        Column("retained", lambda row: number(row["retention"], 4, low=row["low"], high=row["high"]), MEASURED),
        *words(decision="decision"),
        *figures(why="more than a billion", samples_needed="samples needed"),
    ],
)


MONITOR = Spec(
    "monitor",
    "The monitor on simulated streams",
    "Baseline 0.97, threshold 0.95. At the limit accuracy is just what is allowed, so every alarm is false, and at "
    "most a share alpha of the streams may raise one. Others fall after 1,000 answers.",
    [
        *words(case="Case"),
        *numbers(2, alpha="alpha"),
        *numbers(4, accuracy="accuracy"),
        Column("streams", lambda row: f"{row['streams']} of {row['answers']}", NUMBER, "of answers"),
        Column("alarms before the fall", _before_the_fall, MEASURED),
        *figures(alarms="alarms"),
        *figures(why="no fall in these streams", median_delay="median delay, answers"),
    ],
)
