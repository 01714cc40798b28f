"""What the published summary figures speak of, and the measured quantity that stands beside each.

The supplement does not say what it measured as memory. Its figures equal the weights plus a cuBLAS workspace, that is
what a GPU has allocated after a run, so this is their counterpart on CUDA. A CPU has no such figure, and the workspace
of another generation of GPUs is another; there the stored weights plus the published workspace by arithmetic stand in
its place.
"""

from dataclasses import dataclass

from visionquant.analysis.published import GROUP_BOUNDS
from visionquant.analysis.study import BASELINE, Evidence, RecordSet
from visionquant.core.errors import StudyError
from visionquant.core.quantities import MIB


@dataclass(frozen=True)
class Subject:
    """What a summary figure is about: a published column, with its words."""

    quantity: str
    precision: str
    label: str


SUBJECTS = {
    "fp16_speedup": Subject("speedup", "fp16", "FP16 speedup"),
    "fp16_memory_reduction": Subject("memory_reduction", "fp16", "FP16 memory reduction"),
    "int8_memory_reduction": Subject("memory_reduction", "int8", "INT8 memory reduction"),
}


def subject(name: str) -> Subject:
    """A subject of ``statistics.csv`` or ``groups.csv`` by its name there.

    Raises:
        StudyError: the file names a subject that nothing here measures.
    """
    if name not in SUBJECTS:
        raise StudyError("data/supplement", f"no subject {name}", f"known: {', '.join(SUBJECTS)}")
    return SUBJECTS[name]


def counterpart(evidence: Evidence, records_: RecordSet, quantity: str) -> str:
    """The measured quantity beside a published one: device memory, or arithmetic on stored bytes where that is no like.

    See :func:`why_counted`.
    """
    counted = bool(why_counted(evidence, records_))
    return {
        "memory_published": "memory_with_workspace" if counted else "memory_allocated_after",
        "memory_reduction": "memory_reduction_workspace" if counted else "memory_reduction",
    }.get(quantity, quantity)


def why_counted(evidence: Evidence, records_: RecordSet) -> str:
    """Why device memory of this set does not stand beside published figures; empty where it does."""
    if records_.environment is None or records_.environment.device != "cuda":
        return "a CPU has none"
    memories = [cell.memory for record in records_.records.values() for cell in record.cells if cell.memory]
    others = [one.workspace for one in memories if one.workspace is not None]
    published = evidence.params.report.workspace_mib * MIB
    if any(abs(workspace - published) > MIB for workspace in others):
        return f"that of this card is {max(others) / MIB:g} MiB"
    return ""


def published_values(evidence: Evidence, name: str, models: tuple[str, ...] | None = None) -> dict[str, float]:
    """The printed column behind a subject, of ``models`` or of all."""
    column = evidence.published.column(subject(name).quantity, subject(name).precision)
    return {model: value for model, value in column.items() if models is None or model in models}


def printed_speedups(evidence: Evidence, precision: str) -> dict[str, float]:
    """The printed speedups of a precision, or, where no such column is printed, those of its printed milliseconds."""
    printed = evidence.published.column("speedup", precision)
    if printed:
        return printed
    base = evidence.published.column("latency_median", BASELINE)
    return {model: base[model] / ms for model, ms in evidence.published.column("latency_median", precision).items()}


def measured_values(evidence: Evidence, records_: RecordSet, name: str, models: tuple[str, ...]) -> dict[str, float]:
    """The measured column behind a subject, without the models that have none."""
    about = subject(name)
    return evidence.values(records_, counterpart(evidence, records_, about.quantity), about.precision, models)


def groups(evidence: Evidence, name: str) -> dict[str, tuple[str, ...]]:
    """The readings of a published group: as listed, by its rule, and by its rule with the bounds included."""
    low, high = GROUP_BOUNDS[name]
    return {
        "as listed": evidence.published.group(name),
        "by its rule": evidence.published.group_by_rule(name),
        "by its rule, bounds included": tuple(
            row.name for row in evidence.published.models if low <= row.millions <= high
        ),
    }
