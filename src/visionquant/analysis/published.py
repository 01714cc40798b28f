"""The published study as data: every printed figure with the decimals it was printed with.

Source: the CSV files of ``data/supplement``, copied digit by digit from the technical supplement. Its "INT4" column is
NF4 by its own words ("INT4 NF4"), so it stands under our precision ``nf4``; its "MB" are MiB (2**20 bytes). It says
neither which average its latencies are nor at which batch size its throughput was taken; the latency heading says
batch size 1, and the throughput column is 1000 / latency almost to the digit, so both are set against batch size 1.
"""

import csv
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from visionquant.core.errors import StudyError
from visionquant.core.paths import Project

PRECISIONS = {"fp32": "fp32", "fp16": "fp16", "int8": "int8", "int4": "nf4"}
COLUMNS = {
    "latency.csv": {"ms": "latency_median", "speedup": "speedup"},
    "memory.csv": {"mb": "memory_published", "reduction_percent": "memory_reduction"},
    "throughput.csv": {
        "sps": "throughput",
        "improvement_percent": "throughput_change",
        "impact_percent": "throughput_change",
    },
}


@dataclass(frozen=True)
class Printed:
    """A number as printed; ``text`` keeps its decimals."""

    text: str

    @property
    def value(self) -> float:
        return float(self.text)

    @property
    def decimals(self) -> int:
        exponent = Decimal(self.text).as_tuple().exponent
        return max(0, -exponent) if isinstance(exponent, int) else 0

    def rounds_from(self, number: float) -> bool:
        """Whether ``number`` rounds to what is printed (a tie may go either way)."""
        return abs(number - self.value) <= 0.5 * 10.0**-self.decimals + 1e-9


@dataclass(frozen=True)
class PublishedModel:
    """A row of the model list; ``millions`` of parameters as printed."""

    name: str
    group: str
    millions: float
    description: str


@dataclass(frozen=True)
class Statistic:
    """One figure of the statistics block, e.g. (fp16_speedup, mean, 1.33, x)."""

    subject: str
    statistic: str
    printed: Printed
    unit: str


@dataclass(frozen=True)
class GroupClaim:
    """One figure of the architecture patterns, with the rule that is said to make the group."""

    group: str
    rule: str
    subject: str
    statistic: str
    printed: Printed
    unit: str
    statement: str

    @property
    def computed(self) -> str:
        """The statistic that stands for the words: "about 50 %" speaks of the mean."""
        return "mean" if self.statistic == "about" else self.statistic


@dataclass(frozen=True)
class CostRow:
    """Instances needed and US dollars saved, as printed."""

    instance: str
    fp32_instances: int
    fp16_instances: int
    monthly_usd: int
    annual_usd: int


@dataclass(frozen=True)
class EdgeClaim:
    """One figure of the edge claims or of the cost of ownership, with the words it stands in."""

    item: str
    printed: Printed
    unit: str
    statement: str


@dataclass(frozen=True)
class Expected:
    """A metric of the validation protocol with its relative tolerance."""

    metric: str
    printed: Printed
    tolerance: float


@dataclass(frozen=True)
class Peaks:
    """What the published GPU can do at most: TFLOP/s, dense, and GB/s of memory; not from the supplement."""

    gpu: str
    fp32_tflops: float
    fp16_tflops: float
    bandwidth_gb_per_s: float
    source: str

    def floor_ms(self, macs: int, weight_bytes: int, precision: str) -> float:
        """The least milliseconds of one image: its arithmetic, or reading the weights once, whichever takes longer."""
        tflops = self.fp32_tflops if precision == "fp32" else self.fp16_tflops
        return max(2 * macs / tflops / 1e9, weight_bytes / self.bandwidth_gb_per_s / 1e6)


@dataclass(frozen=True)
class Published:
    """All of the supplement's figures. ``cells`` maps (quantity, model, precision) to what is printed."""

    models: tuple[PublishedModel, ...]
    cells: dict[tuple[str, str, str], Printed]
    statistics: tuple[Statistic, ...]
    groups: tuple[GroupClaim, ...]
    costs: tuple[CostRow, ...]
    edge: tuple[EdgeClaim, ...]
    ownership: tuple[EdgeClaim, ...]
    validation: tuple[Expected, ...]
    setup: dict[str, str]
    peaks: Peaks

    def value(self, quantity: str, model: str, precision: str) -> float | None:
        """The printed value, or None where the supplement prints none."""
        printed = self.cells.get((quantity, model, precision))
        return printed.value if printed else None

    def column(self, quantity: str, precision: str) -> dict[str, float]:
        """A printed column: model to value, in the order of the table."""
        return {m: p.value for (q, m, prec), p in self.cells.items() if (q, prec) == (quantity, precision)}

    def model(self, name: str) -> PublishedModel | None:
        return next((row for row in self.models if row.name == name), None)

    def group(self, name: str) -> tuple[str, ...]:
        """The models that the supplement lists under a group."""
        return tuple(row.name for row in self.models if row.group == name)

    def group_by_rule(self, name: str) -> tuple[str, ...]:
        """The models whose printed parameter count falls under the group's own rule."""
        low, high = GROUP_BOUNDS[name]
        return tuple(row.name for row in self.models if low < row.millions < high)


# Millions of parameters, both ends open: "> 300M", "50-100M", "< 50M" in "Architecture Performance Patterns".
GROUP_BOUNDS = {"foundation": (300.0, float("inf")), "production": (50.0, 100.0), "edge": (0.0, 50.0)}


def load(project: Project) -> Published:
    """Read ``data/supplement``.

    Raises:
        StudyError: a file is missing or holds a value that is no number; names file and line.
    """
    cells: dict[tuple[str, str, str], Printed] = {}
    for name, quantities in COLUMNS.items():
        for line, row in enumerate(rows(project, name), start=2):
            for column, text in row.items():
                if column != "model":
                    precision, _, kind = column.partition("_")
                    key = (quantities[kind], row["model"], PRECISIONS[precision])
                    cells[key] = _printed(name, line, text)
    return Published(
        models=tuple(
            PublishedModel(r["model"], r["group"], float(r["parameters_millions"]), r["description"])
            for r in rows(project, "models.csv")
        ),
        cells=cells,
        statistics=tuple(
            Statistic(r["quantity"], r["statistic"], _printed("statistics.csv", line, r["value"]), r["unit"])
            for line, r in enumerate(rows(project, "statistics.csv"), start=2)
        ),
        groups=tuple(
            GroupClaim(
                r["group"],
                r["rule"],
                r["quantity"],
                r["statistic"],
                _printed("groups.csv", line, r["value"]),
                r["unit"],
                r["statement"],
            )
            for line, r in enumerate(rows(project, "groups.csv"), start=2)
        ),
        costs=tuple(CostRow(r["instance"], *(int(r[k]) for k in list(r)[1:])) for r in rows(project, "costs.csv")),
        edge=_claims(project, "edge.csv"),
        ownership=_claims(project, "ownership.csv"),
        validation=tuple(
            Expected(r["metric"], _printed("validation.csv", line, r["expected"]), float(r["tolerance"]))
            for line, r in enumerate(rows(project, "validation.csv"), start=2)
        ),
        setup={r["item"]: r["value"] for r in rows(project, "setup.csv")},
        peaks=_peaks(project),
    )


def _peaks(project: Project) -> Peaks:
    row = rows(project, "peaks.csv")[0]
    fp32, fp16, bandwidth = (
        _printed("peaks.csv", 2, row[name]).value for name in ("fp32_tflops", "fp16_tflops", "bandwidth_gb_per_s")
    )
    return Peaks(row["gpu"], fp32, fp16, bandwidth, row["source"])


def _claims(project: Project, name: str) -> tuple[EdgeClaim, ...]:
    return tuple(
        EdgeClaim(r["item"], _printed(name, line, r["published"]), r["unit"], r["statement"])
        for line, r in enumerate(rows(project, name), start=2)
    )


def rows(project: Project, name: str) -> list[dict[str, str]]:
    """The rows of a CSV file of ``data/supplement``, whichever line ends and byte order mark an editor left in it.

    Raises:
        StudyError: it can't be read.
    """
    try:
        with (project.supplement / name).open(newline="", encoding="utf-8-sig") as file:
            return list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        found = getattr(error, "strerror", None) or "no UTF-8 text"
        raise StudyError(f"data/supplement/{name}", found, "restore it from git") from None


def _printed(name: str, line: int, text: str) -> Printed:
    try:
        Decimal(text)
    except InvalidOperation:
        raise StudyError(
            f"data/supplement/{name} line {line}", f"{text!r} is no number", "restore it from git"
        ) from None
    return Printed(text)
