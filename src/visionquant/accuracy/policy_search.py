"""The smallest mixed policy that keeps a network's accuracy: searched on some images, checked on others.

Each Linear layer is quantised alone on the first part of the task; what that costs is summed over layers, and an
integer programme takes the least sum within a budget. Where no budget is named, the least is taken of ``STEPS`` that
keeps the floor on the second part. The third part has seen none of it.
"""

import copy
import json
import re
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import nn

from visionquant.accuracy import allocation, layer_latency, layer_sensitivity
from visionquant.accuracy.allocation import Table
from visionquant.accuracy.layer_sensitivity import Noise
from visionquant.accuracy.probe_task import LabelledPart, ProbeTask
from visionquant.bench.backends import convert
from visionquant.bench.pair_fingerprint import measuring_sha256
from visionquant.core import files
from visionquant.core.errors import StudyError
from visionquant.records.record import sha256_of
from visionquant.settings.params import known
from visionquant.settings.precision import FP32, FloatPrecision, Int8Precision, Nf4Precision, PrecisionRow

Within = Literal["bytes", "latency"]
Loss = Literal["kl", "noise"]
Kept = dict[str, dict[str, Noise]]  # by what decided it, then by layer
STEPS = 32  # budgets between the least and the most, each larger by the same factor
NUMBER = r"\d+\.?\d*(?:e\d+)?"


@dataclass(frozen=True)
class FoundPolicy:
    """A policy: its ``row``, the precision of each layer, and its top-1 over FP32's on two parts of the task.

    ``cost`` and ``budget`` are bytes of all stored weights, or ms of one image summed over the layers.
    """

    row: PrecisionRow
    chosen: Mapping[str, str]
    cost: float
    budget: float
    kept_in_search: float
    kept_in_check: float


@dataclass(frozen=True)
class PolicySearch:
    """A network (FP32, evaluating, on ``device``) with its task, and the rows by name of which each layer takes one.

    ``uniform`` are the rows whose bytes a budget may name, ``identity`` is all else that decides a sensitivity;
    ``kept`` is the file that holds those of interrupted searches. ``tell`` gets lines of progress.

    Raises:
        StudyError: a row can't be a policy's, two are of one kind there, or none quantises.
    """

    net: nn.Module
    task: ProbeTask
    rows: Mapping[str, PrecisionRow]
    device: str
    uniform: Mapping[str, PrecisionRow]
    identity: Any
    kept: Path
    tell: Callable[[str], None]

    def __post_init__(self) -> None:
        kinds = list(self.kinds.values())
        if doubled := [name for name, kind in self.kinds.items() if kinds.count(kind) > 1]:
            raise StudyError(f"precisions {', '.join(doubled)}", "a policy takes them for one", "name one of them")
        self._base()

    @property
    def kinds(self) -> dict[str, str]:
        """What rules call each row."""
        return {name: allocation.kind_of(row, self.device) for name, row in self.rows.items()}

    @property
    def layers(self) -> tuple[str, ...]:
        """The Linear layers that every row takes."""
        skipped = {part for row in self.rows.values() for part in getattr(row, "skip", ())}
        return tuple(one for one in layer_sensitivity.quantisable(self.net) if not skipped & set(one.split(".")))

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

    def losses(self, of: Loss) -> Table:
        """By layer and name, of the layer alone: KL divergence in nats, or the features' noise over their signal."""
        losses: dict[str, dict[str, float]] = defaultdict(dict)
        for name, kind in self.kinds.items():
            found = dict.fromkeys(self.layers, Noise(None, None, 0.0)) if kind == "fp32" else self._noises(name)
            for layer in self.layers:
                ratio = found[layer].sqnr_db
                noise = 0.0 if ratio is None else 10 ** (-ratio / 10)
                losses[layer][name] = noise if of == "noise" else max(0.0, found[layer].kl_nats or 0.0)
        return losses

    def _noises(self, name: str) -> dict[str, Noise]:
        """Of every layer alone in this precision: those of an earlier search, else measured, and kept."""
        row, images = self.rows[name], self.task.parts[0].images
        key = sha256_of([self.identity, len(images), row.model_dump(mode="json"), measuring_sha256(row)])
        kept = files.load(self.kept, Kept, "delete it") if self.kept.is_file() else {}
        if key not in kept:
            begun_s = time.monotonic()

            def tell(share: float) -> None:
                left_s = (time.monotonic() - begun_s) * (1 / share - 1)
                self.tell(f"sensitivity of layers in {name}: {share:.0%}, about {left_s / 60:.1f} min left")

            found = layer_sensitivity.measure(self.net, row, images, self.task.head, self.device, False, tell)
            kept[key] = {one.layer: one.alone for one in found.layers}
            files.save(self.kept, json.dumps(kept, indent=1) + "\n")
        return kept[key]

    def _converted(self, row: PrecisionRow) -> nn.Module:
        return convert.convert(copy.deepcopy(self.net).cpu(), row, self.device)

    def stored_bytes(self, row: PrecisionRow) -> int:
        """Bytes of the whole network's weights in ``row``."""
        return convert.backend_of(row.engine).bytes_of(self._converted(row))[0]

    def bytes_by_layer(self) -> tuple[Table, int]:
        """Bytes by layer and name, and those of all else; what layers share is spread evenly over them."""
        costs: dict[str, dict[str, float]] = defaultdict(dict)
        others: dict[str, int] = {}
        for name in self.rows:
            row = self.row_of(dict.fromkeys(self.layers, name))
            net, engine = self._converted(row), convert.backend_of(row.engine)
            sizes = {layer: engine.bytes_of(net.get_submodule(layer))[0] for layer in self.layers}
            others[name] = engine.bytes_of(net)[0] - sum(sizes.values())
            for layer, size in sizes.items():
                costs[layer][name] = size
        rest = max(others.values())
        for each in costs.values():
            for name, other in others.items():
                each[name] -= -(-(rest - other) // len(costs))
        return costs, rest

    def accuracy(self, row: PrecisionRow, part: LabelledPart) -> float:
        """Top-1 in ``row``, 0 to 1."""
        return self.task.accuracy(self._converted(row), part, convert.dtype_of(row, self.device), self.device)

    def find(self, floor: float, within: Within, budget_of: str | None, loss: Loss = "kl") -> FoundPolicy:
        """The policy of least summed loss within a budget, of ``STEPS`` budgets the least that keeps ``floor`` if None.

        Args:
            floor: top-1 over FP32's, at least.
            budget_of: as :func:`budget` reads it.

        Raises:
            StudyError: nothing fits the budget, or outputs are not finite.
        """
        _, choose, check = self.task.parts
        costs: Table
        if within == "latency":
            rows = {name: self.row_of(dict.fromkeys(self.layers, name)) for name in self.rows}
            image = self.task.parts[0].images[:1]
            costs, rest = layer_latency.measure(self.net, rows, self.layers, image, self.device), 0
        else:
            costs, rest = self.bytes_by_layer()

        def all_in(name: str) -> float:
            known("precisions", [name], self.uniform if within == "bytes" else self.rows)
            if within == "bytes":
                return self.stored_bytes(self.uniform[name])
            return sum(each[name] for each in costs.values())

        least, most = (sum(of(each.values()) for each in costs.values()) + rest for of in (min, max))
        limit = budget(budget_of, all_in) if budget_of else most
        if limit < least:
            found = f"the cheapest precisions of {len(costs)} layers come to {least:,.10g}"
            raise StudyError(f"a budget of {limit:,.10g}", found, "raise it, or allow a cheaper precision")
        losses = self.losses(loss)
        exact = {id(part): self.accuracy(FP32, part) for part in (choose, check)}

        def kept(chosen: Mapping[str, str], part: LabelledPart) -> float:
            return self.accuracy(self.row_of(chosen), part) / exact[id(part)]

        if budget_of is None:
            steps = np.geomspace(least, most, STEPS + 1).tolist()

            def keeps(step: int) -> bool:
                share = kept(allocation.allocate(costs, losses, steps[step] - rest), choose)
                self.tell(f"a budget of {steps[step]:,.10g}: {share:.4f} of FP32's top-1")
                return share >= floor

            limit = steps[bisect_left(range(STEPS), True, key=keeps)]
        chosen = allocation.allocate(costs, losses, limit - rest)
        row = self.row_of(chosen)
        cost = self.stored_bytes(row) if within == "bytes" else allocation.summed(costs, chosen)
        return FoundPolicy(row, chosen, cost, limit, kept(chosen, choose), kept(chosen, check))


def budget(asked: str, of: Callable[[str], float]) -> float:
    """What ``of`` says of a precision ("int8"), a multiple of that ("0.8*int8"), or a number."""
    if re.fullmatch(NUMBER, asked):
        return float(asked)
    share, times, name = asked.rpartition("*")
    if times and not re.fullmatch(NUMBER, share):
        raise StudyError(f"budget {asked}", "neither a number nor a multiple of a precision", "write e.g. 0.8*int8")
    return float(share or 1) * of(name)
