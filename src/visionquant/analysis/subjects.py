"""What the published summary figures speak of, and the measured quantity that stands beside each.

The supplement does not say what it measured as memory. Its figures equal the weights plus a cuBLAS workspace, that is
what a GPU has allocated after a run, so this is their counterpart on CUDA; a CPU has no such figure, and there the
stored weights plus the workspace by arithmetic stand in its place.
"""

from dataclasses import dataclass

from visionquant.analysis.evidence import BASELINE, Evidence, RecordSet
from visionquant.analysis.published import GROUP_BOUNDS
from visionquant.errors import StudyError


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


def counterpart(records_: RecordSet, quantity: str) -> str:
    """The measured quantity beside a published one: device memory on CUDA, arithmetic on stored bytes elsewhere."""
    cuda = records_.environment is not None and records_.environment.device == "cuda"
    return {
        "memory_published": "memory_allocated_after" if cuda else "memory_with_workspace",
        "memory_reduction": "memory_reduction" if cuda else "memory_reduction_workspace",
    }.get(quantity, quantity)


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
    return evidence.values(records_, counterpart(records_, about.quantity), about.precision, models)


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
