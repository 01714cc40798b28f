"""Instance prices, each with region, terms and source: ``data/supplement/prices.csv``."""

from dataclasses import dataclass

from visionquant.analysis import published
from visionquant.core.errors import StudyError
from visionquant.core.paths import Project


@dataclass(frozen=True)
class Price:
    """US dollars an hour of one instance: the list price until mid-2025, and the one on ``date``."""

    instance: str
    before: float
    now: float
    date: str
    region: str
    terms: str
    gpu: str
    gpus: int
    source: str


def load(project: Project) -> dict[str, Price]:
    """Prices by instance.

    Raises:
        StudyError: the file is missing, or a figure in it is none.
    """
    try:
        return {
            row["instance"]: Price(
                row["instance"],
                float(row["usd_per_hour_2024"]),
                float(row["usd_per_hour_2026"]),
                row["date"],
                row["region"],
                row["terms"],
                row["gpu"],
                int(row["gpus"]),
                row["source"],
            )
            for row in published.rows(project, "prices.csv")
        }
    except (KeyError, ValueError) as error:
        raise StudyError("data/supplement/prices.csv", f"broken: {error}", "restore it from git") from None


def of(prices: dict[str, Price], instance: str) -> Price:
    """The price of one instance.

    Raises:
        StudyError: the file has no such row; names those that it has.
    """
    if instance not in prices:
        raise StudyError("params.yaml: cost.instance", f"no price for {instance}", f"one of: {', '.join(prices)}")
    return prices[instance]
