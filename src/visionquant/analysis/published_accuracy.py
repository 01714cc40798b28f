"""Accuracies of quantised vision transformers that others published: ``data/published/accuracy.csv``, a row a value.

None was measured here. Each stands beside the same checkpoint before quantisation, and only their difference is shown.
"""

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field

from visionquant.analysis import published
from visionquant.core.errors import StudyError, checked
from visionquant.core.frozen import Count, Frozen
from visionquant.core.paths import Project

FILE = "data/published/accuracy.csv"
Words = Annotated[str, Field(min_length=1)]
Bits = Annotated[float, Field(gt=0, le=32)]
Percent = Annotated[Decimal, Field(ge=0, le=100)]
Trap = Literal["FP16 LayerNorm", "INT8 LayerNorm", "INT8 residuals", "Preprocessing", "Quantiser", "SmoothQuant"]


class PublishedAccuracy(Frozen):
    """One value with the decimals it was printed with; ``measure`` is the data set and what is counted on it.

    Of ``images``, ``activation_bits``, ``layers`` (those that are quantised) and ``version`` (commit, venue or date)
    a row has what its source says. ``trap`` names what made an accuracy collapse, there and in the rows beside it.
    """

    group: Literal["research", "deployment"]
    model: Words
    measure: Words
    images: Count | None = None
    weight_bits: Bits
    activation_bits: Bits | None = None
    stack: Words
    layers: str = "not stated"
    baseline_format: Literal["FP32", "FP16"]
    baseline: Percent
    quantised: Percent
    source: Words
    version: str = ""
    trap: Trap | None = None
    checked: Literal["read in the source"]

    @property
    def drop(self) -> Decimal:
        """Points lost to the baseline, with the fewer decimals of both; below zero where points were gained."""
        decimals = min(-int(value.as_tuple().exponent) for value in (self.baseline, self.quantised))
        return round(self.baseline - self.quantised, decimals)

    @property
    def bits(self) -> str:
        """Bits of weights and, where they are stated, of activations: "W8A8", "W4"."""
        return f"W{self.weight_bits:g}" + (f"A{self.activation_bits:g}" if self.activation_bits else "")

    @property
    def origin(self) -> str:
        """Source with its version."""
        return ", ".join(filter(None, (self.source, self.version)))


def load(project: Project) -> tuple[PublishedAccuracy, ...]:
    """Every published value, by bits of weights from many to few, of the same bits deployment stacks first.

    Raises:
        StudyError: the file is missing, or a row is broken, is not marked as read in its source, or stands there twice.
    """
    seen: dict[tuple[str, ...], PublishedAccuracy] = {}
    for line, cells in enumerate(published.read_csv(project, FILE).to_dict("records"), start=2):
        place = f"{FILE} line {line}"
        row = checked(PublishedAccuracy, {str(name): text for name, text in cells.items() if text}, place)
        key = (row.model, row.measure, row.bits, row.stack, row.source)
        if key in seen:
            raise StudyError(place, f"{', '.join(key)}: stands there twice", "take one of them out")
        seen[key] = row
    return tuple(sorted(seen.values(), key=lambda row: (-row.weight_bits, row.group)))
