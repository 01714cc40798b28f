"""What was found, in plain words: sentences made of the records and the published tables, never typed beside them.

Each finding is a question, an answer, and the section that carries it. What can't be answered from the evidence at
hand says so, and what it would take.
"""

from collections import Counter
from dataclasses import dataclass
from typing import get_args

from visionquant.analysis import aa_shift, launch_bound, provenance, statistics, subjects
from visionquant.analysis.published import GroupClaim
from visionquant.analysis.published_validation import judge
from visionquant.analysis.study import BASELINE, Evidence, RecordSet
from visionquant.analysis.tables.blocks import compared, counted_words, precision_label
from visionquant.records.cell import Status
from visionquant.settings.precision import Int8Precision

HALF_PRINTED = 0.005


@dataclass(frozen=True)
class Finding:
    """``section`` is the name of the page that shows the figures behind the answer."""

    question: str
    answer: str
    section: str


def findings(evidence: Evidence) -> tuple[Finding, ...]:
    """The answers that the evidence carries, most wanted first."""
    records_ = evidence.measured
    found = [_speed(evidence, records_, precision) for precision in compared(evidence)]
    found += [_bytes(evidence, records_), _four_bit(evidence), _model(evidence), _throughput(evidence)]
    found += [_launch(evidence), _statistics(evidence), _fidelity(evidence, records_), _bracket(evidence, records_)]
    found += [_trust(evidence, records_), _validation(evidence)]
    return tuple(one for one in found if one is not None)


def unanswered(evidence: Evidence) -> tuple[str, ...]:
    """What this evidence can't tell, and what it takes to tell it."""
    records_, found = evidence.measured, []
    if not records_.records:
        return ("Everything that needs a measurement: run `make repro`.",)
    why = evidence.comparable(records_)
    if why:
        found.append(
            f"Whether the published milliseconds and samples per second hold: {why}. It takes `make repro` on a "
            f"machine with a {evidence.params.report.reference_gpu}; ratios to FP32 on another machine answer another "
            "question."
        )
    if "seeded" in records_.weights:
        found.append(
            "What a precision costs in accuracy, and how fast INT8 is with the outlier activations of a trained "
            "model: the weights "
            "were seeded, for no model hub was at hand. It takes `weights: pretrained` in params.yaml and a connection."
        )
    counts = provenance.counts(evidence, records_)
    failed = sum(counts.get(status, 0) for status in get_args(Status) if status != "ok")
    if failed:
        found.append(
            f"{failed} cells that this run could not hold; the study page lists each with its reason. A larger "
            "`limit_s`, or `study.protocol: paper`, measures those that ran out of time."
        )
    absent = sum(counts.get(status, 0) for status in ("not_measured", "stale"))
    if absent:
        found.append(f"{absent} cells that are not measured yet, or with other settings: `dvc repro` measures them.")
    return tuple(found)


def _speed(evidence: Evidence, records_: RecordSet, precision: str) -> Finding | None:
    label = precision_label(precision)
    estimates = [evidence.estimate(records_, "speedup", model, precision, 1) for model in evidence.models]
    values = [one.value for one in estimates if one.value is not None]
    published = subjects.printed_speedups(evidence, precision)
    said = ""
    if published:
        slower = sum(value < 1 for value in published.values())
        printed = "Published" if evidence.published.column("speedup", precision) else "From the published milliseconds"
        said = (
            f" {printed}: median {statistics.summary(list(published.values()))['median']:.2f} times, below 1 for "
            f"{slower} of {len(published)} models."
        )
    if not values:
        return None if not said else Finding(f"Is {label} faster than FP32?", f"Not measured.{said}", "latency")
    found = statistics.summary(values)
    words = Counter(verdict.word for (_, name), verdict in evidence.verdicts(records_, 1).items() if name == precision)
    judged = ", ".join(f"{word} for {words[word]}" for word in ("FASTER", "SAME", "SLOWER", "UNDECIDED") if words[word])
    machine = records_.environment.title if records_.environment else ""
    answer = (
        f"On {machine}, batch size 1: {found['median']:.2f} times FP32's speed in the median of {len(values)} models "
        f"({found['min']:.2f} to {found['max']:.2f}); {judged}.{said}"
    )
    return Finding(f"Is {label} faster than FP32?", answer, "latency")


def _bytes(evidence: Evidence, records_: RecordSet) -> Finding:
    models = tuple(row.name for row in evidence.published.models)
    parts = []
    for precision in compared(evidence):
        saved = evidence.arithmetic("memory_reduction_workspace", precision, models)
        if len(saved) == len(models):
            mean = statistics.summary(list(saved.values()))["mean"]
            parts.append(f"{precision_label(precision)} {mean:.1f} %")
    counted_ = ", ".join(parts) or "no committed counts"
    answer = f"Mean over {len(models)} models, from parameter counts with workspace: {counted_}."
    off = []
    for precision in evidence.precisions:
        stored = evidence.values(records_, "memory_stored_weights", precision, models)
        counted = evidence.arithmetic("memory_stored_weights", precision, models)
        off += [abs(stored[model] / counted[model] - 1) for model in stored if model in counted]
    if off:
        answer += (
            f" The bytes that were stored here agree with the counts within {100 * max(off):.2f} % in all {len(off)} "
            "pairs."
        )
    printed = {row.subject: row.printed.text for row in evidence.published.statistics if row.statistic == "mean"}
    said = [
        f"{subjects.subject(name).label.split()[0]} {text} %"
        for name, text in printed.items()
        if subjects.subject(name).quantity == "memory_reduction"
    ]
    return Finding("How much memory does each save?", f"{answer} Published means: {', '.join(said)}.", "memory")


def _four_bit(evidence: Evidence) -> Finding | None:
    cells = evidence.published.cells
    models = list(evidence.published.column("memory_published", "nf4"))
    same = [
        model
        for model in models
        if cells["memory_published", model, "nf4"].text == cells["memory_published", model, "int8"].text
    ]
    real = evidence.arithmetic("memory_with_workspace", "nf4", tuple(models))
    largest = max(real, key=lambda model: real[model], default=None)
    if largest is None:
        return None
    return Finding(
        "Was the published INT4 column measured in 4 bits?",
        f"Its memory says no: {len(same)} of {len(models)} figures equal the INT8 column to the digit, and none is "
        f"near what 4-bit weights take. {largest} would need {real[largest]:.1f} MiB in NF4; printed are "
        f"{cells['memory_published', largest, 'nf4'].text}.",
        "memory",
    )


def _model(evidence: Evidence) -> Finding | None:
    off: dict[str, float] = {}
    for model, value in evidence.published.column("memory_published", BASELINE).items():
        counted = evidence.arithmetic("memory_with_workspace", BASELINE, (model,)).get(model)
        if counted is not None:
            off[model] = abs(value - counted)
    if not off:
        return None
    exact = sorted(model for model, gap in off.items() if gap <= HALF_PRINTED + 1e-9)
    return Finding(
        "What did the supplement measure as memory?",
        f"Weights of the class AutoModel plus {evidence.params.report.workspace_mib:g} MiB of cuBLAS workspace: that "
        f"gives {len(exact)} of {len(off)} printed FP32 figures to the last digit ({', '.join(exact) or 'none'}), and "
        f"is off by at most {max(off.values()):.2f} MiB in the others. Activations are not in it.",
        "memory",
    )


def _throughput(evidence: Evidence) -> Finding:
    off = []
    for precision in evidence.precisions:
        latency = evidence.published.column("latency_median", precision)
        for model, per_second in evidence.published.column("throughput", precision).items():
            off.append((_inverse(latency[model], per_second), abs(per_second * latency[model] / 1000 - 1)))
    exact = sum(fits for fits, _ in off)
    furthest = max((gap for fits, gap in off if not fits), default=0.0)
    return Finding(
        "Was the published throughput measured?",
        f"It holds nothing that the latency table does not: {exact} of {len(off)} figures are 1000 divided by the "
        f"printed milliseconds to the rounding of both, the others within {100 * furthest:.2f} %.",
        "throughput",
    )


def _inverse(ms: float, per_second: float) -> bool:
    """Whether 1000 / ms is samples per second, both rounded to two decimals."""
    return 1000 / (ms + HALF_PRINTED) - HALF_PRINTED <= per_second <= 1000 / (ms - HALF_PRINTED) + HALF_PRINTED


def _statistics(evidence: Evidence) -> Finding:
    follows: list[str] = []
    against: list[str] = []
    for row in evidence.published.statistics:
        values = list(subjects.published_values(evidence, row.subject).values())
        name = f"{subjects.subject(row.subject).label} {row.statistic}"
        if len(values) == len(evidence.published.models):
            (follows if statistics.reproducing(row.statistic, row.printed, values) else against).append(name)
    wrong = [
        f"{row.group} {row.statistic} {row.printed.text}{row.unit}"
        for row in evidence.published.groups
        if not _group_follows(evidence, row)
    ]
    answer = (
        f"Of {len(follows) + len(against)} statistics whose sixteen rows are all printed, {len(follows)} follow from "
        "the rows under some definition" + (f"; not: {', '.join(against)}" if against else "") + "."
    )
    if wrong:
        answer += f" Group figures that follow under no reading of the group: {', '.join(wrong)}."
    return Finding("Do the published summaries follow from the published tables?", answer, "statistics")


def _group_follows(evidence: Evidence, claim: GroupClaim) -> bool:
    """Whether the printed rows give a group's figure under some reading of the group."""
    for models in subjects.groups(evidence, claim.group).values():
        again = statistics.summary(list(subjects.published_values(evidence, claim.subject, models).values()))
        number = again.get(claim.computed)
        if number is not None and claim.printed.rounds_from(number):
            return True
    return False


def _fidelity(evidence: Evidence, records_: RecordSet) -> Finding | None:
    parts = []
    for precision in compared(evidence):
        values = evidence.values(records_, "cosine", precision, evidence.models)
        if values:
            worst = min(values, key=lambda model: values[model])
            parts.append(f"{precision_label(precision)} {values[worst]:.4f} ({worst})")
    if not parts:
        return None
    return Finding(
        "Do the outputs stay what they were?",
        f"Lowest cosine to FP32 over the models, {records_.weights} weights: {', '.join(parts)}."
        + (" With seeded weights this proves the conversions, not accuracy." if "seeded" in records_.weights else ""),
        "fidelity",
    )


def _launch(evidence: Evidence) -> Finding | None:
    issues, host = launch_bound.issues(evidence), launch_bound.host_us(evidence)
    if not issues or host is None:
        return None
    parts, idle = [], launch_bound.idle(evidence)
    for precision in launch_bound.FLOATS:
        cells = [one for one in issues if one.precision == precision and one.model not in idle]
        bound = sum(one.reading == "launch-bound" for one in cells)
        parts.append(f"{precision_label(precision)} {bound} of {len(cells)}")
    return Finding(
        "Why is FP16 not faster for the small models in the supplement?",
        f"The GPU waits for the host. The {len(idle)} models that leave it next to nothing to do show {host:.1f} "
        "microseconds for each operation of a pass; by that rate, of the other models' published cells launch-bound: "
        f"{', '.join(parts)}.",
        "launch",
    )


def _bracket(evidence: Evidence, records_: RecordSet) -> Finding | None:
    parts = []
    for name in evidence.bracket:
        values = list(evidence.values(records_, "speedup", name, evidence.models).values())
        row = evidence.params.precisions[name]
        if values and isinstance(row, Int8Precision):
            words = counted_words(evidence, records_, name, evidence.models, precisions=evidence.bracket)
            what = f"threshold {row.threshold:g}" + (", with outliers" if row.outliers else "")
            parts.append(f"{what} {statistics.summary(values)['median']:.2f}x ({words})")
    if len(parts) < 2:
        return None
    return Finding(
        "How much does INT8's outlier path cost?",
        f"Median speedup over FP32 at batch size 1: {'; '.join(parts)}. Trained weights meet some outliers, so they "
        "are "
        "expected between threshold 6 without and with them.",
        "launch",
    )


def _trust(evidence: Evidence, records_: RecordSet) -> Finding | None:
    cells = [cell for record in records_.records.values() for cell in record.cells if cell.replicates]
    if not cells:
        return None
    words = Counter(cell.isolation for cell in cells)
    again, unsteady = sum(bool(cell.earlier) for cell in cells), sum(cell.status == "unsteady" for cell in cells)
    faults = sum(bool(cell.audit and cell.audit.fault) for cell in cells)
    answer = (
        f"Of {len(cells)} timed cells {words['clean']} had the machine to themselves, {words['busy']} had not, "
        f"{words['unknown']} can't tell; {again} were measured again because it moved, {unsteady} stayed unsteady; "
        f"{faults} failed the audit."
    )
    answer += (
        f" The same cell twice: {aa_shift.judge(evidence, records_).text}."
        if records_.aa
        else " There is no A/A run of it."
    )
    return Finding("Can these measurements be trusted?", answer, "conditions")


def _validation(evidence: Evidence) -> Finding:
    verdicts = [one for one in judge(evidence) if one.source == evidence.measured.source]
    return Finding(
        "Does the supplement's own validation pass?",
        "; ".join(f"{one.metric}: {one.verdict}" for one in verdicts) + ".",
        "validation",
    )
