"""What the page on slow INT8 and its answers share: the profile that is shown, its parts and peaks, engines' ratios."""

from collections.abc import Iterable

from visionquant.analysis.estimators import Estimate
from visionquant.analysis.study import MachineSet, Study
from visionquant.records.outcomes import Recipe
from visionquant.report.columns import Row, value
from visionquant.report.items import precision_label
from visionquant.settings.precision import GRAPHS, Int8Precision, OpenVinoPrecision, PrecisionRow

RECIPE = "profile"
NUMBERS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
LABELS = {"int8-threshold-0": "INT8 without outliers"}


def label(precision: str) -> str:
    """A precision as these tables call it."""
    return LABELS.get(precision, precision_label(precision))


def profiled(study: Study) -> MachineSet | None:
    """The set whose profile is shown: the measured one, else the first that has one."""
    return next((one for one in study.sets if RECIPE in one.recipes), None)


def parts_of(rows: Iterable[Row], title: str, precision: str) -> list[Row]:
    """The parts of a pass of the panel of that title."""
    own = [row for row in rows if row["kind"] == "part" and row["precision"] == precision]
    return [row for row in own if f"{row['model']}, batch {row['batch_size']}" == title]


def peaks_of(run: Recipe | None) -> dict[str, float]:
    """10^9 multiply-accumulates a second of this machine's own matrix product, by number format."""
    rows = [row for row in run.rows if row["kind"] == "peak" and row["part"] == "matrix product"] if run else []
    return {str(row["precision"]): rate for row in rows if (rate := value(row, "rate"))}


def number_format(row: PrecisionRow, device: str) -> str:
    """Which arithmetic the products of a row ask for, as the peaks call it."""
    if isinstance(row, Int8Precision) or getattr(row, "weights", "") == "int8":
        return "int8"
    return NUMBERS[row.rest if isinstance(row, OpenVinoPrecision) else row.dtype_on(device)]


def speed(study: Study, run: MachineSet, model: str, precision: str, batch_size: int) -> Estimate:
    """A speedup over torch's FP32 with the verdict of the table that the precision belongs to."""
    name = "speedup"
    if precision not in study.compared:
        families = (family for family, names in study.families.items() if precision in names)
        name = next(families, name)
    return study.row(run.source, model, precision, batch_size, name)


def fastest_fp32(study: Study, run: MachineSet, model: str, batch_size: int) -> float:
    """How many times as fast as torch's FP32 the fastest engine of FP32 was; 1 where no other was measured."""
    graphs = [name for name in study.of_kind(*GRAPHS) if name.startswith("fp32_")]
    return max((speed(study, run, model, name, batch_size).value or 0.0 for name in graphs), default=0.0) or 1.0
