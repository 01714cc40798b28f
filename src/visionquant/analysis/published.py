"""The published study as data: every printed figure with the decimals it was printed with.

Source: the CSV files of ``data/supplement``, copied digit by digit from the technical supplement, and, beside them,
prices, releases and peaks from elsewhere, each with its source. Its "INT4" column is NF4 by its own words ("INT4 NF4"),
so it stands under our precision ``nf4``; its "MB" are MiB (2**20 bytes). It says neither which average its latencies
are nor at which batch size its throughput was taken; the latency heading says batch size 1, and the throughput column
is 1000 / latency almost to the digit, so both are set against batch size 1.
"""

import math
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pandas as pd

from visionquant.core.errors import StudyError
from visionquant.core.paths import Project

RESTORE = "restore it from git"
NUMBER = re.compile(r"-?\d+(\.\d+)?")
PRECISIONS = {"fp32": "fp32", "fp16": "fp16", "int8": "int8", "int4": "nf4"}
QUANTITIES = {
    "ms": "latency_median", "speedup": "speedup", "mb": "memory_published", "reduction_percent": "memory_reduction",
    "sps": "throughput", "improvement_percent": "throughput_change", "impact_percent": "throughput_change",
}  # fmt: skip
BY_MODEL = ("latency", "memory", "throughput")
# Of each file with rows of its own kind, what its columns are called here.
FIELDS = {
    "models": "name group millions description",
    "statistics": "subject statistic printed unit",
    "groups": "group rule subject statistic printed unit statement",
    "costs": "instance fp32_instances fp16_instances monthly_usd annual_usd",
    **dict.fromkeys(("edge", "ownership"), "subject printed unit statement"),
    "prices": "instance before now date region terms gpu gpus source",
    "peaks": "gpu fp32_tflops fp16_tflops bandwidth_gb_per_s source",
}
Row = Any  # a named tuple: of FIELDS, with ``printed`` as Printed, other numbers as such
# What names a row, where it is more than the first column; and the columns that hold words.
KEYS = {"statistics": ["quantity", "statistic"], "groups": ["group", "quantity", "statistic"]}
WORDS = {"group", "description", "rule", "unit", "statement", "source", "date", "region", "terms", "gpu"}
# Whole things, counted and not rounded: columns, and a row.
COUNTED = {("costs", "fp32_instances"), ("costs", "fp16_instances"), ("setup", "value"), ("ownership", "years")}
# Millions of parameters, both ends open: "> 300M", "50-100M", "< 50M" in "Architecture Performance Patterns".
GROUP_BOUNDS = {"foundation": (300.0, float("inf")), "production": (50.0, 100.0), "edge": (0.0, 50.0)}


class Printed(NamedTuple):
    """A number as printed; ``text`` keeps its decimals."""

    text: str

    @property
    def value(self) -> float:
        return float(self.text)

    @property
    def half(self) -> float:
        """Half a unit of the last printed decimal: how far the number that was rounded may lie off."""
        return 0.5 * 10.0 ** -len(self.text.partition(".")[2])

    def rounds_from(self, number: float) -> bool:
        """Whether ``number`` rounds to what is printed (a tie may go either way)."""
        return abs(number - self.value) <= self.half + 1e-9


class Subject(NamedTuple):
    """What a summary figure is about: a published column, with its words."""

    quantity: str
    precision: str
    label: str


SUBJECTS = {
    "fp16_speedup": Subject("speedup", "fp16", "FP16 speedup"),
    "fp16_memory_reduction": Subject("memory_reduction", "fp16", "FP16 memory reduction"),
    "int8_memory_reduction": Subject("memory_reduction", "int8", "INT8 memory reduction"),
}


@dataclass(frozen=True)
class Published:
    """All of the supplement's figures.

    ``figures`` is every cell of every file: table (the file without ".csv"), row (its key columns joined with "-"),
    column, text as printed, value (NaN of words), half (half a unit of the last decimal; 0 of a count). ``cells`` maps
    (quantity, model, precision) to what is printed. The others are rows of their file, models and prices by name.
    ``prices`` are US dollars an hour: the list price until mid-2025 ("before"), and the one on their date ("now").
    """

    figures: pd.DataFrame = field(compare=False, repr=False)
    cells: dict[tuple[str, str, str], Printed]
    models: dict[str, Row]
    statistics: tuple[Row, ...]
    groups: tuple[Row, ...]
    costs: tuple[Row, ...]
    edge: tuple[Row, ...]
    ownership: tuple[Row, ...]
    prices: dict[str, Row]
    setup: dict[str, str]
    peaks: Row

    def value(self, quantity: str, model: str, precision: str) -> float | None:
        """The printed value, or None where the supplement prints none."""
        printed = self.cells.get((quantity, model, precision))
        return printed.value if printed else None

    def column(self, quantity: str, precision: str) -> dict[str, float]:
        """A printed column: model to value, in the order of the table."""
        return {m: p.value for (q, m, prec), p in self.cells.items() if (q, prec) == (quantity, precision)}

    def speedups(self, precision: str) -> dict[str, float]:
        """The printed speedups, or, where no such column is printed, those of the printed milliseconds."""
        base, ms = self.column("latency_median", "fp32"), self.column("latency_median", precision)
        return self.column("speedup", precision) or {model: base[model] / ms[model] for model in ms}

    def subject_values(self, name: str, models: tuple[str, ...] | None = None) -> dict[str, float]:
        """The printed column behind a subject, of ``models`` or of all."""
        column = self.column(SUBJECTS[name].quantity, SUBJECTS[name].precision)
        return {model: value for model, value in column.items() if models is None or model in models}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.models)

    def readings(self, group: str) -> dict[str, tuple[str, ...]]:
        """The readings of a group: as listed, by its rule, and by its rule with the bounds included."""
        (low, high), models = GROUP_BOUNDS[group], self.models.values()
        return {
            "as listed": tuple(row.name for row in models if row.group == group),
            "by its rule": tuple(row.name for row in models if low < row.millions < high),
            "by its rule, bounds included": tuple(row.name for row in models if low <= row.millions <= high),
        }

    def group(self, name: str) -> tuple[str, ...]:
        """The models of a group, as listed."""
        return self.readings(name)["as listed"]

    def floor_ms(self, macs: int, weight_bytes: int, precision: str) -> float:
        """The least milliseconds of one image at the GPU's peaks (TFLOP/s, dense, and GB/s of memory).

        Its arithmetic, or reading the weights once, whichever takes longer.
        """
        tflops = self.peaks.fp32_tflops if precision == "fp32" else self.peaks.fp16_tflops
        return float(max(2 * macs / tflops / 1e9, weight_bytes / self.peaks.bandwidth_gb_per_s / 1e6))

    def price(self, instance: str) -> Row:
        """The price of one instance.

        Raises:
            StudyError: ``prices.csv`` has no such row; names those that it has.
        """
        if instance not in self.prices:
            known = ", ".join(self.prices)
            raise StudyError("params.yaml: cost.instance", f"no price for {instance}", f"one of: {known}")
        return self.prices[instance]


def load(project: Project) -> Published:
    """Read ``data/supplement``.

    Raises:
        StudyError: a file is missing or holds a value that is no number; names file and line.
    """
    tables = (*BY_MODEL, *FIELDS, "validation", "releases", "setup")
    wide = {name: read_csv(project, f"data/supplement/{name}.csv", KEYS.get(name, ())) for name in tables}
    figures = pd.concat([_long(table, frame) for table, frame in wide.items()], ignore_index=True)
    rows: dict[str, Any] = {table: _rows(table, wide[table]) for table in FIELDS}
    cells = {}
    for _, model, column, text in figures.loc[figures["table"].isin(BY_MODEL), :"text"].itertuples(index=False):
        precision, _, kind = column.partition("_")
        if precision not in PRECISIONS or kind not in QUANTITIES:
            raise StudyError("data/supplement, tables by model", f"no column is called {column}", RESTORE)
        cells[QUANTITIES[kind], model, PRECISIONS[precision]] = Printed(text)
    for row in (*rows["statistics"], *rows["groups"]):
        if row.subject not in SUBJECTS:
            raise StudyError("data/supplement", f"no subject {row.subject}", f"known: {', '.join(SUBJECTS)}")
    rows |= {table: {row[0]: row for row in rows[table]} for table in ("models", "prices")}
    rows["setup"] = dict(wide["setup"].itertuples(index=False))
    return Published(figures, cells, **rows | {"peaks": rows["peaks"][0]})


def read_csv(project: Project, place: str, keys: Collection[str] = ()) -> pd.DataFrame:
    """A file as text, whichever line ends and byte order mark an editor left in it; "" where a line ends early.

    Raises:
        StudyError: the file is missing or broken, or lacks one of the columns ``keys``.
    """
    try:
        wide = pd.read_csv(
            project.root / place, dtype=str, keep_default_na=False, encoding="utf-8-sig", index_col=False
        )
    except (OSError, ValueError) as error:
        found = "no UTF-8 text" if isinstance(error, UnicodeDecodeError) else f"broken: {error}"
        raise StudyError(place, getattr(error, "strerror", None) or found, RESTORE) from None
    if not set(keys) <= set(wide):
        raise StudyError(place, f"no column {' or '.join(keys)}", RESTORE)
    return wide.fillna("")


def _rows(table: str, wide: pd.DataFrame) -> tuple[Row, ...]:
    try:
        rows = wide.set_axis(FIELDS[table].split(), axis=1)
    except ValueError as error:
        raise StudyError(f"data/supplement/{table}.csv", f"broken: {error}", RESTORE) from None
    for name, texts in rows.items():
        if name == "printed":
            rows[name] = texts.map(Printed)
        elif texts.str.fullmatch(NUMBER).all():
            rows[name] = pd.to_numeric(texts)
    if table == "groups":  # the statistic that the words speak of: "about 50 %" is the mean
        rows["computed"] = rows.statistic.replace("about", "mean")
    return tuple(rows.itertuples(index=False, name=table))


def _long(table: str, wide: pd.DataFrame) -> pd.DataFrame:
    """The cells of a file, row by row; see :class:`Published`."""
    keys = KEYS.get(table, [wide.columns[0]])
    named = wide.drop(columns=keys).set_axis(wide[keys].agg("-".join, axis=1), axis=0)
    found = []
    for line, (row, texts) in enumerate(named.iterrows(), start=2):
        for column, text in texts.items():
            value = float(text) if NUMBER.fullmatch(text) else math.nan
            if math.isnan(value) and table != "setup" and column not in WORDS:
                raise StudyError(f"data/supplement/{table}.csv line {line}", f"{text!r} is no number", RESTORE)
            exact = math.isnan(value) or (table, column) in COUNTED or (table, row) in COUNTED
            found.append((table, row, column, text, value, 0.0 if exact else Printed(text).half))
    return pd.DataFrame(found, columns=["table", "row", "column", "text", "value", "half"])
