"""What was studied, on what, and what became of each cell."""

from collections import Counter
from dataclasses import replace

from visionquant.analysis import provenance, table
from visionquant.analysis.study import Evidence, RecordSet
from visionquant.analysis.table import CODES, Column, Item, Table
from visionquant.analysis.tables import blocks
from visionquant.core.frozen import Size, height_width


def sets(evidence: Evidence) -> Table:
    """Each set of records: machine, weights, code, how much of it is there and how its time was spent."""
    rows = []
    for one in evidence.shown:
        counted, share = provenance.counts(evidence, one), provenance.timed_share(one)
        elapsed = sum(record.elapsed_s for record in one.records.values())
        rows.append(
            (
                table.text("this machine" if one.source == "local" else one.source.partition(":")[2]),
                table.text(one.environment.title if one.environment else "nothing measured"),
                table.text(one.weights or "none"),
                table.text(one.code or "none"),
                table.number(len(one.records), 0),
                table.text(f"{counted['ok']} of {sum(counted.values())}"),
                table.number(elapsed / 60 if one.records else None, 1, why="nothing measured"),
                table.number(None if share is None else 100 * share, 0, why="nothing measured"),
            )
        )
    return Table(
        "sets",
        "Record sets",
        "A set is one machine's study. The last columns: minutes that measuring the pairs took (without download and "
        "FP32 reference), and the share of them inside timed windows; the rest went into imports, weights, warm-up and "
        "fidelity.",
        (
            Column("Set", css="text"),
            Column("machine", css="text"),
            Column("weights", css="text"),
            Column("measuring code", css="text"),
            Column("pairs"),
            Column("cells ok", css="text"),
            Column("minutes"),
            Column("timed, %"),
        ),
        tuple(rows),
    )


def conditions(evidence: Evidence, records_: RecordSet) -> Table:
    """The published set-up beside the set's own."""
    machine, setup = records_.environment, evidence.published.setup
    protocols = {record.settings.protocol for record in records_.records.values()}
    protocol = next(iter(protocols)) if len(protocols) == 1 else None
    mixed = "several protocols" if protocols else "not measured"

    def asked(name: str) -> str:
        value = getattr(protocol, name) if protocol else mixed
        return "no limit" if value is None else str(value)

    def seen(name: str) -> str:
        value = {**vars(machine), **machine.libraries}[name] if machine else "not measured"
        return "none" if value is None else str(value)

    rows = [
        ("Device", setup["gpu"], machine.title.split(",")[0] if machine else "not measured"),
        ("torch", setup["torch"], seen("torch")),
        ("CUDA", setup["cuda"], f"driver {seen('cuda_driver')}" if machine and machine.gpu else "none"),
        (
            "bitsandbytes",
            setup["bitsandbytes"],
            seen("bitsandbytes"),
        ),
        ("transformers", "not said", seen("transformers")),
        ("System", setup["os"], seen("system")),
        ("Python", setup["python"], seen("python")),
        ("CPU cores", "not said", seen("cores")),
        ("CPU threads", "not said", _threads(records_)),
        ("Weights", "not said", records_.weights or "not measured"),
        ("Timed passes a cell", setup["iterations"], f"at most {asked('iterations')}" if protocol else mixed),
        (
            "Warm-up passes",
            setup["warmup_iterations"],
            f"{asked('warmup_iterations')} in each process" if protocol else mixed,
        ),
        ("Processes a cell", "not said", asked("replicates")),
        ("Timed seconds to fill a cell", "not said", asked("budget_s")),
        ("Seconds a cell may take", "not said", asked("limit_s")),
        ("Attention", "not said", _attention(records_)),
        ("Experiments", setup["experiments"], str(len(records_.records))),
        ("Batch sizes", setup["batch_sizes"], " ".join(map(str, _batch_sizes(records_))) or "not measured"),
    ]
    return Table(
        "conditions",
        "Conditions",
        "What the supplement says of its experiments, and those of the measured set.",
        (Column("What", css="text"), Column("published", css="text"), Column(records_.label, css="text")),
        tuple((table.text(a), table.text(b), table.text(c)) for a, b, c in rows),
        blocks.source(records_),
    )


def _side(size: Size) -> Item:
    height, width = height_width(size)
    return table.number(height, 0) if height == width else Item(f"{height} x {width}", height, css="number")


def models(evidence: Evidence) -> Table:
    """The sixteen models: what is printed of them and what their configs hold."""
    rows = []
    for name in evidence.models:
        printed, facts = evidence.published.model(name), evidence.facts(name)
        spec = evidence.params.models.get(name)
        rows.append(
            (
                table.text(name),
                table.text(printed.group if printed else spec.group if spec else "other"),
                Item(f"{printed.millions:g}", printed.millions, css="number published")
                if printed
                else table.missing("not_published", "a model that the supplement does not have"),
                table.number(facts.parameters / 1e6 if facts else None, 2, why="no committed counts"),
                table.number(facts.linear_layers if facts else None, 0, why="no committed counts"),
                table.number(facts.macs / 1e9 if facts else None, 2, why="no committed counts"),
                _side(spec.input_size) if spec else table.missing("not_available", "no row in params.yaml"),
                table.text(spec.repo_id or spec.path or "" if spec else ""),
                Item(spec.revision[:10], css="number") if spec and spec.revision else table.text(""),
            )
        )
    return Table(
        "models",
        "Models",
        "Millions of parameters as printed and as counted in the class that was measured (AutoModel, without a "
        "classifier); Linear layers; multiply-accumulates of one image in billions; side of the input in pixels.",
        (
            Column("Model", css="text"),
            Column("group", css="text"),
            Column("printed, M", css="number published"),
            Column("counted, M"),
            Column("Linear layers"),
            Column("GMACs"),
            Column("input"),
            Column("repository", css="text"),
            Column("revision"),
        ),
        tuple(rows),
    )


def cells(evidence: Evidence, records_: RecordSet) -> Table:
    """Every pair with what became of its cells."""
    sizes = _batch_sizes(records_) or evidence.params.study.batch_sizes
    rows = []
    for model in evidence.models:
        for precision in evidence.precisions:
            found = [records_.state(model, precision, size) for size in sizes]
            rows.append(
                (
                    table.text(model),
                    table.text(blocks.precision_label(precision)),
                    *(
                        Item("ok", "ok", css="good text")
                        if one.status == "ok"
                        else replace(table.missing(one.status, one.reason), css="missing text")
                        for one in found
                    ),
                )
            )
    return Table(
        "cells",
        "Cells by status",
        "A cell is a model, a precision and a batch size. What could not be measured is there with its reason.",
        (
            Column("Model", css="text"),
            Column("Precision", css="text"),
            *(Column(f"batch {size}", css="text") for size in sizes),
        ),
        tuple(rows),
        blocks.source(records_),
    )


def absences(evidence: Evidence, records_: RecordSet) -> Table:
    """How many cells are missing, by status, with an example of the reason."""
    found = Counter[str]()
    example: dict[str, str] = {}
    for key in provenance.cells(evidence, records_):
        state = records_.state(*key)
        found[state.status] += 1
        if state.status != "ok":
            model, precision, size = key
            example.setdefault(state.status, f"{model} {precision}, batch size {size}: {state.reason}")
    return Table(
        "absences",
        "Cells by status, counted",
        "Of the cells that the set is meant to hold.",
        (Column("Status", css="text"), Column("cells"), Column("for example", css="text")),
        tuple(
            (
                table.text(CODES[status][1] if status in CODES else status),
                table.number(count, 0),
                table.text(example.get(status, "")),
            )
            for status, count in sorted(found.items(), key=lambda pair: (pair[0] != "ok", -pair[1]))
        ),
        blocks.source(records_),
    )


def conversions(evidence: Evidence, records_: RecordSet) -> Table:
    """The proof of each precision: what became of the parameters."""
    rows = []
    for (model, precision), record in records_.records.items():
        found = record.conversion
        apart = ("class", "method", "attention")
        knobs = {} if found is None else {k: v for k, v in found.knobs.items() if k not in apart}
        rows.append(
            (
                table.text(model),
                table.text(blocks.precision_label(precision)),
                table.number(found.quantized_modules if found else None, 0, why="not converted"),
                table.number(100 * found.quantized_share if found else None, 1, why="not converted"),
                table.text(table.joined(found.skipped_modules) if found else ""),
                table.text(", ".join(found.dtypes) if found else ""),
                table.text(", ".join(f"{name} {value}" for name, value in knobs.items())),
            )
        )
    return Table(
        "conversions",
        "Precisions, proven",
        "Read off the converted model before it was timed. A precision that quantises nothing, or parameters of "
        "another type than the row says, stop the run.",
        (
            Column("Model", css="text"),
            Column("Precision", css="text"),
            Column("quantised layers"),
            Column("parameters in them, %"),
            Column("Linear left out", css="text"),
            Column("parameter types", css="text"),
            Column("settings", css="text"),
        ),
        tuple(rows),
        blocks.source(records_),
    )


def _batch_sizes(records_: RecordSet) -> tuple[int, ...]:
    return tuple(sorted({cell.batch_size for record in records_.records.values() for cell in record.cells}))


def _attention(records_: RecordSet) -> str:
    """What the models really ran with: a class without scaled-dot-product attention runs eager."""
    found = Counter(
        str(record.conversion.knobs.get("attention", "unknown"))
        for record in records_.records.values()
        if record.conversion
    )
    return ", ".join(f"{name} ({count} pairs)" for name, count in sorted(found.items())) or "not measured"


def _threads(records_: RecordSet) -> str:
    found = {one.threads for record in records_.records.values() for cell in record.cells for one in cell.replicates}
    return ", ".join(map(str, sorted(found))) or "not measured"
