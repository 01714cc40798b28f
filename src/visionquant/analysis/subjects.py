"""The measured quantity beside a published one.

The supplement does not say what it measured as memory. Its figures equal the weights plus a cuBLAS workspace, that is
what a GPU has allocated after a run, so this is their counterpart on CUDA. A CPU has no such figure, and the workspace
of another generation of GPUs is another; there the stored weights plus the published workspace by arithmetic stand in
its place.
"""

from visionquant.analysis.published import SUBJECTS
from visionquant.analysis.study import MachineSet, Study
from visionquant.core.quantities import MIB


def counterpart(study: Study, machine_set: MachineSet, quantity: str) -> str:
    """Device memory, or arithmetic on stored bytes where that is no like (see :func:`why_counted`)."""
    counted = bool(why_counted(study, machine_set))
    return {
        "memory_published": "memory_with_workspace" if counted else "memory_allocated_after",
        "memory_reduction": "memory_reduction_workspace" if counted else "memory_reduction",
    }.get(quantity, quantity)


def why_counted(study: Study, machine_set: MachineSet) -> str:
    """Why device memory of this set does not stand beside published figures; empty where it does."""
    if not machine_set.on_cuda:
        return "a CPU has none"
    memories = [cell.memory for record in machine_set.records.values() for cell in record.cells if cell.memory]
    workspaces = [memory.workspace for memory in memories if memory.workspace is not None]
    printed = study.params.report.workspace_mib * MIB
    if any(abs(workspace - printed) > MIB for workspace in workspaces):
        return f"that of this card is {max(workspaces) / MIB:g} MiB"
    return ""


def measured_values(study: Study, machine_set: MachineSet, name: str, models: tuple[str, ...]) -> dict[str, float]:
    """The measured column behind a subject of the summary figures, without the models that have none."""
    quantity = counterpart(study, machine_set, SUBJECTS[name].quantity)
    return study.column(machine_set.source, quantity, SUBJECTS[name].precision, models)
