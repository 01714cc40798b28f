"""What pages, costs and decisions assume: every figure that is no measurement, as a key of params.yaml."""

from typing import Annotated

from pydantic import Field

from visionquant.core.errors import checked
from visionquant.core.frozen import Count, Positive, Strict


class ReportChoice(Strict):
    """What the pages are called and what the published figures can be compared with."""

    title: str
    reference_gpu: str
    workspace_mib: Annotated[float, Field(ge=0)]


class CostAssumptions(Strict):
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


class DecisionLimits(Strict):
    """The limits of the decision page; null is none. ``fidelity_floor`` is a cosine similarity to FP32."""

    batch_size: Count
    latency_limit_ms: Positive | None = None
    memory_limit_mib: Positive | None = None
    fidelity_floor: Annotated[float, Field(ge=-1, le=1)] | None = None

    def limited(self, **limits: float | None) -> "DecisionLimits":
        """These limits with those that are given, and not None, in place of them.

        Raises:
            StudyError: a limit is out of its range, or there is no such limit.
        """
        given = {name: value for name, value in limits.items() if value is not None}
        return checked(DecisionLimits, self.model_dump() | given, "the limits")
