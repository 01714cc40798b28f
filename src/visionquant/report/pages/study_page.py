"""What was studied, on what, and what became of each cell."""

from collections import Counter
from collections.abc import Callable, Iterable
from statistics import median
from typing import Any

from visionquant.analysis import provenance
from visionquant.analysis.study import MachineSet, Study
from visionquant.core.frozen import height_width
from visionquant.records.cell import BASELINE, Cell
from visionquant.records.record import Conversion
from visionquant.report import proofs
from visionquant.report.columns import machine, of_models, of_pairs, pairs, source
from visionquant.report.items import CODES, FOLDED, NUMBER, PUBLISHED, TEXT, Item, joined, missing
from visionquant.report.table import Column, Table, build, texts
from visionquant.settings.params import Protocol

UNCOUNTED = "no committed counts"


def sets(study: Study) -> Table:
    """Each set of records: machine, weights, code, how much of it is there and how its time was spent."""
    caption = "Minutes of preparing and measuring, without download; timed: the share of them inside timed passes."

    def cells(run: MachineSet) -> str:
        counted = provenance.counts(study, run)
        return f"{counted['ok']} of {sum(counted.values())}"

    def minutes(run: MachineSet) -> float | None:
        return run.spent_s / 60 if run.records else None

    shown = [
        Column("Set", lambda run: machine(run.source), TEXT),
        Column("machine", lambda run: run.environment.title if run.environment else "nothing measured", TEXT),
        Column("weights", lambda run: run.weights or "none", TEXT),
        Column("measuring code", lambda run: run.code or "none", TEXT),
        Column("pairs", lambda run: len(run.records)),
        Column("cells ok", cells, TEXT),
        Column("minutes", minutes, decimals=1, why="nothing measured"),
        Column("timed, %", provenance.timed_share, why="nothing measured", factor=100),
    ]
    return build("sets", "Record sets", caption, shown, study.shown)


def conditions(study: Study, run: MachineSet) -> Table:
    """The published set-up beside the set's own."""
    caption = "What the supplement says of its experiments, and those of the measured set."
    here, printed, silent = run.environment, study.published.setup, "not said"
    cells = [cell for record in run.records.values() for cell in record.cells]
    protocols = [record.settings.protocol for record in run.records.values()]
    protocol = protocols[0] if protocols and all(one == protocols[0] for one in protocols) else None

    def asked(shown: str) -> str:
        if isinstance(protocol, Protocol):
            return shown.format(**dict(protocol))
        return "not measured" if not protocols else "several protocols" if protocol is None else "before rounds"

    def passes(cell: Cell, precision: str) -> int:
        return sum(len(slot.wall_ms) for each in cell.rounds for slot in each.of(precision))

    def spread(values: Iterable[int]) -> str:
        known = sorted(value for value in values if value)
        ends = f" ({known[0]} to {known[-1]})" if known and known[0] < known[-1] else ""
        return f"{median(known):g}{ends}" if known else "not measured"

    def seen(name: str) -> str:
        value = {**vars(here), **here.libraries}[name] if here else "not measured"
        return "none" if value is None else str(value)

    def every(values: Iterable[int], separator: str = ", ") -> str:
        return separator.join(map(str, sorted(set(values)))) or "not measured"

    timed = [passes(cell, name) for (_, name), record in run.records.items() for cell in record.cells]
    # What the models really ran with: a class without scaled-dot-product attention runs eager.
    proven = [record.conversion for record in run.records.values() if record.conversion]
    ways = Counter(str(proof.knobs.get("attention", "unknown")) for proof in proven)
    attention = ", ".join(f"{name} ({ways[name]} pairs)" for name in sorted(ways)) or "not measured"
    rows = [
        ("Device", printed["gpu"], here.title.split(",")[0] if here else "not measured"),
        ("torch", printed["torch"], seen("torch")),
        ("CUDA", printed["cuda"], f"driver {seen('cuda_driver')}" if here and here.gpu else "none"),
        ("bitsandbytes", printed["bitsandbytes"], seen("bitsandbytes")),
        ("transformers", silent, seen("transformers")),
        ("System", printed["os"], seen("system")),
        ("Python", printed["python"], seen("python")),
        ("CPU cores", silent, seen("cores")),
        ("CPU threads", silent, every(each.threads for cell in cells for each in cell.rounds)),
        ("Weights", silent, run.weights or "not measured"),
        ("Timed passes a cell", printed["iterations"], spread(timed)),
        (
            "Warm-up passes",
            printed["warmup_iterations"],
            asked("{warmup_passes} in each process, up to {warmup_s:g} s more"),
        ),
        ("Rounds a cell", silent, spread(len(cell.rounds) for cell in cells)),
        ("Rounds asked for", silent, asked("{rounds}; {rounds_of_batches} of each larger batch size")),
        ("Blocks in a round", silent, asked("as many as fill {round_s:g} s, {blocks} at most")),
        ("Timed passes in a slot", silent, asked("{slot_passes}, more while they fill less than {slot_ms:g} ms")),
        ("Waited for other programs", silent, asked("{wait_s:g} s at most before a round")),
        ("Attention", silent, attention),
        ("Experiments", printed["experiments"], str(len(run.records))),
        ("Batch sizes", printed["batch_sizes"], every((cell.batch_size for cell in cells), " ")),
    ]
    return build("conditions", "Conditions", caption, texts("What", "published", run.label), rows, source(run))


def models(study: Study) -> Table:
    """The sixteen models: what is printed of them and what their configs hold."""
    caption = "M: millions of parameters, counted in AutoModel, without a classifier. GMACs: of one image."
    specs = study.params.models

    def group(model: str) -> str:
        printed = study.published.models.get(model)
        return printed.group if printed else specs[model].group if model in specs else "other"

    def millions(model: str) -> Item:
        printed = study.published.models.get(model)
        if printed is None:
            return missing("not_published", "a model that the supplement does not have")
        return Item(f"{printed.millions:g}", printed.millions)

    def counted(heading: str, name: str, decimals: int = 0, unit: float = 1) -> Column:
        of = lambda model: getattr(facts, name) if (facts := study.facts(model)) else None  # noqa: E731
        return Column(heading, of, decimals=decimals, why=UNCOUNTED, factor=1 / unit)

    def side(model: str) -> Item | int:
        if model not in specs:
            return missing("not_available", "no row in params.yaml")
        height, width = height_width(specs[model].input_size)
        return height if height == width else Item(f"{height} x {width}", height)

    shown = of_models(
        [
            Column("group", group, TEXT),
            Column("printed, M", millions, PUBLISHED),
            counted("counted, M", "parameters", 2, 1e6),
            counted("Linear layers", "linear_layers"),
            counted("GMACs", "macs", 2, 1e9),
            Column("input", side),
            Column("repository", lambda name: specs[name].place if name in specs else "", FOLDED),
            Column("revision", lambda name: Item((specs[name].revision or "")[:10] if name in specs else ""), FOLDED),
        ]
    )
    return build("models", "Models", caption, shown, study.models)


def cell_statuses(study: Study, run: MachineSet) -> Table:
    """Every pair that lacks a cell, with what became of each."""
    caption = "A cell is a model, a precision and a batch size. Pairs that have all of theirs are left out."
    sizes = {cell.batch_size for record in run.records.values() for cell in record.cells}

    def status(batch_size: int) -> Column:
        def of(pair: tuple[str, str]) -> Item:
            state = run.state(*pair, batch_size)
            if state.status == "ok":
                return Item("ok", "ok", css="good text")
            return missing(state.status, state.reason, "missing text")

        return Column(f"batch {batch_size}", of, TEXT)

    expected = sorted(sizes or study.params.study.batch_sizes)
    rows = [pair for pair in pairs(study) if any(run.state(*pair, size).status != "ok" for size in expected)]
    return build("cells", "Cells by status", caption, of_pairs(*map(status, expected)), rows, source(run))


def absences(study: Study, run: MachineSet) -> Table:
    """How many cells are missing, by status, with an example of the reason."""
    caption = "Of the cells that the set is meant to hold."
    counted, example = Counter[str](), {"ok": ""}
    for model, precision, size in provenance.cells(study, run):
        state = run.state(model, precision, size)
        counted[state.status] += 1
        example.setdefault(state.status, f"{model} {precision}, batch size {size}: {state.reason}")
    shown = [
        Column("Status", lambda status: CODES[status][1] if status in CODES else status, TEXT),
        Column("cells", counted.get),
        Column("for example", example.get, TEXT),
    ]
    rows = sorted(counted, key=lambda status: (status != "ok", -counted[status]))
    return build("absences", "Cells by status, counted", caption, shown, rows, source(run))


def conversions(study: Study, run: MachineSet) -> Table:
    """The proof of each precision: what became of the parameters."""
    caption = "Read off the converted model before it was timed; one that is not as its row says stops the run. "
    caption += "It pays off where it is faster than FP32, one image a pass, and made up for its export and compilation."
    apart = ("class", "method", "attention")

    def settings(proven: Conversion) -> str:
        return ", ".join(f"{name} {value}" for name, value in proven.knobs.items() if name not in apart)

    def proof(heading: str, of: Callable[[Conversion], object], css: str = TEXT, **numbers: Any) -> Column:
        return Column(heading, lambda row: row[2] and of(row[2]), css, why="not converted", **numbers)

    def pays_off(row: tuple[str, str, Conversion | None]) -> Item:
        model, precision, proven = row
        names = BASELINE, precision
        ms = (study.value(run.source, model, name, min(study.batch_sizes), "latency_median") for name in names)
        return proofs.pay_off(proven.knobs if proven else {}, *ms)

    shown = of_pairs(
        proof("quantised layers", lambda proven: proven.quantized_modules, NUMBER),
        proof("by a fused or integer kernel", proofs.fused),
        proof("parameters in them, %", lambda proven: proven.quantized_share, NUMBER, decimals=1, factor=100),
        proof("Linear left out", lambda proven: joined(proven.skipped_modules), FOLDED),
        proof("parameter types", lambda proven: ", ".join(proven.dtypes)),
        proof("settings", settings, FOLDED),
        Column("pays off after, passes", pays_off),
    )
    rows = [(*pair, record.conversion) for pair, record in run.records.items()]
    return build("conversions", "Precisions, proven", caption, shown, rows, source(run))
