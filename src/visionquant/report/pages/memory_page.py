"""What the weights of each precision take: published, by arithmetic, as stored, and what a run holds at most."""

from visionquant.analysis.frame import ARITHMETIC, PUBLISHED
from visionquant.analysis.study import MachineSet, Study
from visionquant.report import figure
from visionquant.report.columns import PRINTED_PRECISIONS, beside, columns_of, named, of_models, picks, source
from visionquant.report.figure import Dot, Figure
from visionquant.report.table import Table, build


def memory(study: Study, run: MachineSet) -> Table:
    """The published memory table, its arithmetic, and the set's counterpart."""
    own, reduction = (study.counterpart(run, name) for name in ("memory_published", "memory_reduction"))
    workspace = f"{study.params.report.workspace_mib:g} MiB"
    heading = "allocated after the run"
    if own != "memory_allocated_after":
        heading = f"stored weights + workspace (the workspace, {workspace}, is added, for {study.why_counted(run)})"
    caption = (
        f"MiB. By arithmetic: bytes of the weights in each precision plus {workspace} of cuBLAS workspace, from "
        f"parameter counts alone. Measured: {heading}. Six of the sixteen rows are not printed."
    )
    shown = of_models(
        beside(
            "MiB",
            published=columns_of(study, PUBLISHED, "", "memory_published", PRINTED_PRECISIONS),
            by_arithmetic=columns_of(study, ARITHMETIC, "", "memory_with_workspace"),
            measured=columns_of(study, run.source, "", own),
        ),
        beside(
            "reduction, %",
            published=columns_of(study, PUBLISHED, "", "memory_reduction", ("fp16", "int8")),
            measured=columns_of(study, run.source, "", reduction, study.compared),
        ),
    )
    name, label = named("memory", "Memory", study, run)
    below, title = source(run, study), "Memory, batch size 1"
    return build(name, title, caption, shown, study.models, below, label, (), picks(run.source))


def in_use(study: Study, run: MachineSet, batch_size: int) -> Table:
    """What a run holds at most: device memory on a GPU, the process on a CPU."""
    kinds = {"memory_allocated_after": "allocated after", "memory_peak_allocated": "peak allocated"}
    caption = "MiB. Bytes that torch's allocator held on the device."
    if not run.on_cuda:
        kinds = {"memory_host_peak": "peak of the process"}
        caption = "MiB. Resident memory of a replicate process at its highest, libraries and weights included."
    shown = of_models(*(columns_of(study, run.source, kinds[name], name, None, batch_size) for name in kinds))
    name, title = f"memory-in-use-{batch_size}", f"Memory in use, batch size {batch_size}"
    label, by = f"Batch size {batch_size}", picks(run.source, batch_size)
    return build(name, title, caption, shown, study.models, source(run), label, (), by)


def model_size(study: Study, run: MachineSet) -> Table:
    """Stored bytes and file size of each pair."""
    caption = "MiB. Stored weights: parameters, buffers and quantisation state. File: the same as one safetensors file."
    shown = of_models(
        columns_of(study, run.source, "stored weights", "memory_stored_weights"),
        columns_of(study, run.source, "file", "model_size"),
        columns_of(study, run.source, "stored, reduction %", "memory_reduction_stored", study.compared),
    )
    return build("model-size", "Model size", caption, shown, study.models, source(run))


def memory_figure(study: Study, run: MachineSet) -> Figure:
    """Memory by precision: published, by arithmetic, measured."""
    caption = (
        "Hollow: published, not ours (ten models); upright stroke: weights plus workspace by arithmetic; filled: "
        "measured, on a CPU stored weights plus that workspace. The published INT4 figures, under NF4, sit on the INT8 "
        "marks."
    )
    alt = "A row a model with three marks a precision: published, by arithmetic, measured."
    own, looks, names, dots = study.counterpart(run, "memory_published"), figure.looks(study), study.precisions, []
    for precision in names:
        printed = study.column(PUBLISHED, "memory_published", precision)
        counted = study.column(ARITHMETIC, "memory_with_workspace", precision)
        values = study.column(run.source, own, precision)
        dots += [Dot(model, precision, printed[model], hollow=True, size=5.5) for model in printed]
        dots += [Dot(model, precision, counted[model], size=11, marker="|") for model in counted]
        dots += [Dot(model, precision, values[model], size=4) for model in values]
    keys, scale = figure.keys_beside(study, run, names, "memory_published"), figure.log_scale
    svg = figure.dot_plot(dots, study.models, names, looks, "MiB (log scale)", 6.2, keys, 4, scale=scale)
    return Figure("memory", "Memory by precision", caption, alt, source(run, study), svg)
