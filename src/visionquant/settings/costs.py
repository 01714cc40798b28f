"""What pages, costs and decisions assume: every figure that is no measurement, as a key of params.yaml."""

from typing import Annotated

from pydantic import Field

from visionquant.core.complaint import checked
from visionquant.core.frozen import Row

Positive = Annotated[float, Field(gt=0)]


class ReportChoice(Row):
    """What the pages are called and what the published figures can be compared with."""

    title: str
    reference_gpu: str
    workspace_mib: Annotated[float, Field(ge=0)]


class CostAssumptions(Row):
    """A load to carry and what carrying it costs.

    ``instance`` is a row of ``data/supplement/prices.csv``; ``utilisation`` the share of an instance's throughput that
    is planned with; ``development_usd`` is spent once on a precision other than FP32; ``spread`` is by which share the
    sensitivity figure moves each of them.
    """

    load_images_per_s: Positive
    latency_limit_ms: Positive
    memory_limit_mib: Positive | None = None
    utilisation: Annotated[float, Field(gt=0, le=1)]
    instance: str
    hours_per_month: Positive
    years: Positive
    development_usd: Annotated[float, Field(ge=0)]
    model: str
    precision: str
    spread: Annotated[float, Field(gt=0, lt=1)]


class DecisionLimits(Row):
    """The limits of the decision page; null is none. ``fidelity_floor`` is a cosine similarity to FP32."""

    batch_size: Annotated[int, Field(ge=1)]
    latency_limit_ms: Positive | None = None
    memory_limit_mib: Positive | None = None
    fidelity_floor: Annotated[float, Field(ge=-1, le=1)] | None = None

    def limited(
        self,
        batch_size: int | None,
        latency_limit_ms: float | None,
        memory_limit_mib: float | None,
        fidelity_floor: float | None,
    ) -> "DecisionLimits":
        """These limits with those that are given in place of them.

        Raises:
            StudyError: a limit is out of its range.
        """
        given = {
            "batch_size": batch_size,
            "latency_limit_ms": latency_limit_ms,
            "memory_limit_mib": memory_limit_mib,
            "fidelity_floor": fidelity_floor,
        }
        changes = {name: value for name, value in given.items() if value is not None}
        return checked(DecisionLimits, self.model_dump() | changes, "the limits")
