"""The smallest mixed policy that keeps what a network predicts, searched on some images and checked on others."""

import copy
import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn

from visionquant.accuracy import allocation, layer_latency, layer_sensitivity
from visionquant.accuracy.allocation import Table
from visionquant.bench import fidelity
from visionquant.bench.backends import convert
from visionquant.bench.fidelity import Head
from visionquant.core.errors import StudyError
from visionquant.settings.precision import FP32, FloatPrecision, Int8Precision, Nf4Precision, PrecisionRow

Within = Literal["bytes", "latency"]
STEPS = 16  # budgets between the least and the most, of which the least that keeps the floor is taken


@dataclass(frozen=True)
class FoundPolicy:
    """A policy: its ``row``, the precision of each layer, and the share of images predicted as FP32 does.

    ``cost`` and ``budget`` are summed over the layers, in bytes or in ms of one image.
    """

    row: PrecisionRow
    chosen: Mapping[str, str]
    cost: float
    budget: float
    kept_in_search: float
    kept_in_check: float


@dataclass(frozen=True)
class PolicySearch:
    """A network (FP32, evaluating) with its head, and the rows by name of which each layer takes one.

    Raises:
        StudyError: a row can't be a policy's, two are of one kind there, or none quantises.
    """

    net: nn.Module
    head: Head
    rows: Mapping[str, PrecisionRow]
    device: str

    def __post_init__(self) -> None:
        kinds = list(self.kinds.values())
        if doubled := [name for name, kind in self.kinds.items() if kinds.count(kind) > 1]:
            raise StudyError(f"precisions {', '.join(doubled)}", "a policy takes them for one", "name one of them")
        self._base()

    @property
    def kinds(self) -> dict[str, str]:
        """What rules call each row."""
        return {name: allocation.kind_of(row, self.device) for name, row in self.rows.items()}

    def _base(self) -> FloatPrecision:
        """What keeps its type: that of all else under the first row that quantises."""
        for row in self.rows.values():
            if isinstance(row, Int8Precision | Nf4Precision):
                return FloatPrecision(method="float", dtype=row.dtype, cpu_dtype=row.cpu_dtype)
        raise StudyError(f"precisions {', '.join(self.rows)}", "none of them quantises", "add e.g. int8")

    def row_of(self, chosen: Mapping[str, str]) -> PrecisionRow:
        """The row of params.yaml in which each layer has the precision of this name, and all else keeps its type."""
        base, kinds = self._base(), self.kinds
        rest = allocation.kind_of(base, self.device)
        wanted = {layer: kinds.get(chosen.get(layer, ""), "") for layer in layer_sensitivity.quantisable(self.net)}
        wanted = {layer: "" if kind == rest else kind for layer, kind in wanted.items()}
        return allocation.policy(wanted, self.rows.values(), base.dtype, base.cpu_dtype)

    def losses_and_bytes(self, images: torch.Tensor) -> tuple[Table, Table]:
        """By layer and name: KL divergence in nats of the layer alone in that precision, and the layer's bytes."""
        losses: dict[str, dict[str, float]] = defaultdict(dict)
        sizes: dict[str, dict[str, float]] = defaultdict(dict)
        plain = [name for name, kind in self.kinds.items() if kind == "fp32"]
        for name in (name for name in self.rows if name not in plain):
            row = self.rows[name]
            for one in layer_sensitivity.measure(self.net, row, images, self.head, self.device, leave_out=False).layers:
                losses[one.layer] |= {name: one.alone.kl_nats or 0.0, **dict.fromkeys(plain, 0.0)}
                known = one.bytes_by_precision
                sizes[one.layer] |= {name: known[one.kind], **dict.fromkeys(plain, known["fp32"])}
        common = [layer for layer, each in losses.items() if len(each) == len(self.rows)]  # that no row skips
        return {layer: losses[layer] for layer in common}, {layer: sizes[layer] for layer in common}

    def classes(self, row: PrecisionRow, images: torch.Tensor) -> np.ndarray:
        """What the network predicts in ``row``, a class (int) for each of n images (n, channels, height, width)."""
        net = convert.convert(copy.deepcopy(self.net).cpu(), row, self.device)
        batches = torch.split(images.to(self.device, convert.dtype_of(row, self.device)), layer_sensitivity.BATCH)
        return np.concatenate([fidelity.outputs(net, batch, self.head).logits.argmax(1) for batch in batches])

    def find(
        self, images: torch.Tensor, check: torch.Tensor, floor: float, within: Within, budget_of: str | None
    ) -> FoundPolicy:
        """The policy of least loss within a budget, of ``STEPS`` budgets the least that keeps ``floor`` if None.

        Args:
            images: that are searched on, prepared, float32, (n, channels, height, width); ``check``: the others.
            floor: the share of images, 0 to 1, on which it predicts what FP32 predicts.
            budget_of: as :func:`budget` reads it.

        Raises:
            StudyError: nothing fits the budget, or outputs are not finite.
        """
        losses, costs = self.losses_and_bytes(images)
        if within == "latency":
            rows = {name: self.row_of(dict.fromkeys(losses, name)) for name in self.rows}
            costs = layer_latency.measure(self.net, rows, tuple(losses), images[:1], self.device)
        expected = {id(part): self.classes(FP32, part) for part in (images, check)}

        def kept(chosen: Mapping[str, str], part: torch.Tensor) -> float:
            return float((self.classes(self.row_of(chosen), part) == expected[id(part)]).mean())

        if budget_of is None:
            least, most = (sum(of(each.values()) for each in costs.values()) for of in (min, max))
            steps = np.linspace(least, most, STEPS + 1).tolist()

            def keeps(step: int) -> bool:
                return kept(allocation.allocate(costs, losses, steps[step]), images) >= floor

            limit = steps[bisect_left(range(STEPS), True, key=keeps)]
        else:
            limit = budget(budget_of, costs)
        chosen = allocation.allocate(costs, losses, limit)
        cost = allocation.summed(costs, chosen)
        return FoundPolicy(self.row_of(chosen), chosen, cost, limit, kept(chosen, images), kept(chosen, check))


def budget(asked: str, costs: Table) -> float:
    """What all layers cost in a precision ("int8"), a multiple of that ("0.8*int8"), or a number in the costs' unit."""
    names = list(next(iter(costs.values()), ()))
    number = r"\d+\.?\d*(?:e\d+)?"
    if match := re.fullmatch(rf"(?:({number})\*)?({'|'.join(map(re.escape, names))})", asked):
        return float(match[1] or 1) * sum(each[match[2]] for each in costs.values())
    if re.fullmatch(number, asked):
        return float(asked)
    raise StudyError(f"budget {asked}", f"neither a number nor of one of {', '.join(names)}", "write e.g. 0.8*int8")
