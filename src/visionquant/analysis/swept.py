"""The recipe `calibration` as figures by network, statistic and number of calibration images."""

from collections.abc import Sequence

from visionquant.analysis.kept import Row

Rows = Sequence[Row]
NAME = "calibration"
STATISTICS = ("min-max", "percentile", "mse")
LABELS = {
    "fp32": "FP32",
    "bitsandbytes": "INT8, bitsandbytes",
    "dynamic": "INT8, dynamic",
    "min-max": "INT8, static, min-max",
    "percentile": "INT8, static, percentile",
    "mse": "INT8, static, MSE",
}


def drawn(rows: Rows, network: str, statistic: str, images: int, key: str) -> list[float]:
    """``key`` of every draw: "top1" in percent, or a column of the recipe; empty where there is none."""
    mine = [row for row in rows if row["network"] == network and row["statistic"] == statistic and not row["added"]]
    mine = [row for row in mine if row["images"] == images]
    if key == "top1":
        return [100 * float(row["right"] or 0) / float(row["n"] or 1) for row in mine]
    return [float(row[key] or 0) for row in mine if row[key] is not None]


def networks(rows: Rows) -> tuple[str, ...]:
    """The networks, in the order of the recipe."""
    return tuple(dict.fromkeys(str(row["network"]) for row in rows))


def sizes(rows: Rows, network: str) -> tuple[int, ...]:
    """The swept numbers of calibration images, ascending; without the sets that an accident was added to."""
    found = {int(row["images"] or 0) for row in rows if row["network"] == network and not row["added"]}
    return tuple(sorted(found - {0}))
