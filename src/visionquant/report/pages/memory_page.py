"""What the weights of each precision take: published, by arithmetic, as stored, and what a run holds at most."""

from visionquant.analysis.frame import ARITHMETIC, PUBLISHED
from visionquant.analysis.study import MachineSet, Study
from visionquant.analysis.subjects import counterpart, why_counted
from visionquant.report import figure
from visionquant.report.columns import PRINTED_PRECISIONS, named, of_models, quantity, source
from visionquant.report.figure import Dot, Figure
from visionquant.report.items import precision_label
from visionquant.report.table import Table, build


def memory(study: Study, run: MachineSet) -> Table:
    """The published memory table, its arithmetic, and the set's counterpart."""
    own, reduction = (counterpart(study, run, name) for name in ("memory_published", "memory_reduction"))
    workspace = f"{study.params.report.workspace_mib:g} MiB"
    heading = "allocated after the run"
    if own != "memory_allocated_after":
        heading = f"stored weights + workspace (the workspace, {workspace}, is added, for {why_counted(study, run)})"
    caption = (
        f"MiB. By arithmetic: bytes of the weights in each precision plus {workspace} of cuBLAS workspace, from "
        f"parameter counts alone. Measured: {heading}. Six of the sixteen rows are not printed."
    )
    shown = of_models(
        quantity(study, PUBLISHED, "published", "memory_published", PRINTED_PRECISIONS),
        quantity(study, ARITHMETIC, "by arithmetic", "memory_with_workspace"),
        quantity(study, run.source, "measured", own),
        quantity(study, PUBLISHED, "published reduction, %", "memory_reduction", ("fp16", "int8")),
        quantity(study, run.source, "measured reduction, %", reduction, study.compared),
    )
    name, label = named("memory", "Memory", study, run)
    return build(name, "Memory, batch size 1", caption, shown, study.models, source(run, study), label)


def in_use(study: Study, run: MachineSet, batch_size: int) -> Table:
    """What a run holds at most: device memory on a GPU, the process on a CPU."""
    kinds = {"memory_allocated_after": "allocated after", "memory_peak_allocated": "peak allocated"}
    caption = "MiB. Bytes that torch's allocator held on the device."
    if not run.on_cuda:
        kinds = {"memory_host_peak": "peak of the process"}
        caption = (
            "MiB. Resident memory of a replicate process at its highest, libraries and weights included. On a CPU "
            "there is no separate device memory."
        )
    shown = of_models(*(quantity(study, run.source, kinds[name], name, None, batch_size) for name in kinds))
    name, label = f"memory-in-use-{batch_size}", f"batch size {batch_size}"
    return build(name, f"Memory in use, {label}", caption, shown, study.models, source(run), label.capitalize())


def model_size(study: Study, run: MachineSet) -> Table:
    """Stored bytes and file size of each pair."""
    caption = "MiB. Stored weights: parameters, buffers and quantisation state. File: the same as one safetensors file."
    shown = of_models(
        quantity(study, run.source, "stored weights", "memory_stored_weights"),
        quantity(study, run.source, "file", "model_size"),
        quantity(study, run.source, "stored, reduction %", "memory_reduction_stored", study.compared),
    )
    return build("model-size", "Model size", caption, shown, study.models, source(run))


def memory_figure(study: Study, run: MachineSet) -> Figure:
    """Memory by precision: published, by arithmetic, measured."""
    caption = (
        "Hollow: published (ten of sixteen models); upright stroke: weights plus workspace by arithmetic; filled: "
        "measured (on a CPU: stored weights plus that workspace). The published INT4 figures stand under NF4: they "
        "sit on the INT8 marks."
    )
    alt = "A row a model with three marks a precision: published, by arithmetic, measured."
    own, looks, names = counterpart(study, run, "memory_published"), figure.looks(study), study.precisions
    dots, keys = [], []
    for precision in names:
        printed = study.column(PUBLISHED, "memory_published", precision)
        counted = study.column(ARITHMETIC, "memory_with_workspace", precision)
        values = study.column(run.source, own, precision)
        dots += [Dot(model, precision, printed[model], hollow=True, size=5.5) for model in printed]
        dots += [Dot(model, precision, counted[model], size=11, marker="|") for model in counted]
        dots += [Dot(model, precision, values[model], size=4) for model in values]
        label = precision_label(precision)
        keys += [figure.key(looks[precision], f"{label} measured")] if values else []
        keys += [figure.key(looks[precision], f"{label} published", hollow=True)] if printed else []
    scale = figure.log_scale
    svg = figure.dot_plot(dots, study.models, names, looks, "MiB (log scale)", 6.2, keys, 4, scale=scale)
    return Figure("memory", "Memory by precision", caption, alt, source(run, study), svg)
