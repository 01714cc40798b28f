"""A precision for each layer: the least summed loss within a budget, and the row of ``precisions`` that says so.

Losses are added as if layers did not meet each other; whether that holds is for images to say that were not searched.
"""

import re
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import yaml
from scipy.optimize import Bounds, LinearConstraint, milp

from visionquant.core.errors import StudyError
from visionquant.settings.precision import Dtype, FloatPrecision, MixedPrecision, PrecisionRow, Rule

Table = Mapping[str, Mapping[str, float]]  # a figure by layer and precision
FLOATS: dict[Dtype, str] = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
SCALE = 1e4  # of the largest loss in the solver's units, whose absolute tolerances are 1e-6


def allocate(costs: Table, losses: Table, budget: float) -> dict[str, str]:
    """The precision of each layer, so that the summed loss is least and the summed cost within ``budget``.

    Args:
        costs: of each layer in each precision that it may take, in the budget's unit (bytes, ms).
        losses: of the same, e.g. KL divergence in nats.

    Raises:
        StudyError: no choice fits the budget, or a loss is no number.
    """
    least = sum(min(each.values()) for each in costs.values())
    if not costs or not least <= budget:
        found = f"the cheapest precisions of {len(costs)} layers cost {least:,.10g}"
        raise StudyError(f"a budget of {budget:,.10g}", found, "raise it, or allow a cheaper precision")
    places = [(layer, precision) for layer, each in costs.items() for precision in each]
    cost, loss = (np.array([table[layer][name] for layer, name in places], float) for table in (costs, losses))
    for (layer, name), value in zip(places, loss, strict=True):
        if not np.isfinite(value):
            raise StudyError(f"the loss of {layer} in {name}", f"it is {value}", f"leave {name} out")
    if budget == least:
        return {layer: min(each, key=lambda name: (each[name], losses[layer][name])) for layer, each in costs.items()}
    one_each = np.array([[float(own == layer) for own, _ in places] for layer in costs])
    found = milp(
        SCALE * loss / (loss.max() or 1.0),
        integrality=np.ones(len(places)),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(cost, -np.inf, budget), LinearConstraint(one_each, 1, 1)],
        options={"mip_rel_gap": 0.0},
    )
    chosen = {layer: name for (layer, name), share in zip(places, found.x, strict=True) if share > 0.5}
    over = summed(costs, chosen) - budget  # by what the solver takes for a whole number
    return chosen if over <= 0 else allocate(costs, losses, max(least, budget - over))


def summed(table: Table, chosen: Mapping[str, str]) -> float:
    """The sum over layers of the figure of the precision that each takes."""
    return sum(table[layer][name] for layer, name in chosen.items())


def kind_of(row: PrecisionRow, device: str) -> str:
    """What a rule of a policy calls a row: "fp32", "fp16", "bf16", "int8" or "nf4". Raises StudyError: it can't."""
    if isinstance(row, FloatPrecision):
        return FLOATS[row.dtype_on(device)]
    if row.family in ("int8", "nf4") and not row.planted_outliers:
        return row.family
    found = "no rule of a policy gives a layer that"
    raise StudyError(f"a precision of family {row.family}", found, "name rows of bitsandbytes or of one float type")


def policy(kinds: Mapping[str, str], rows: Iterable[PrecisionRow], dtype: Dtype, cpu_dtype: Dtype) -> PrecisionRow:
    """The row in which each layer is of its kind, with the knobs of ``rows``; all else has ``dtype``.

    ``kinds`` names every layer that a rule could take, "" those that keep ``dtype``; a float row where all do.
    """
    knobs: dict[str, Any] = {"dtype": dtype, "cpu_dtype": cpu_dtype}
    if not any(kinds.values()):
        return FloatPrecision(method="float", **knobs)
    for row in rows:
        knobs |= row.model_dump(include={"threshold", "blocksize", "double_quantization"})
    return MixedPrecision(method="mixed", rules=rules(kinds), **knobs)


def rules(kinds: Mapping[str, str]) -> tuple[Rule, ...]:
    """A few rules that give each layer its kind, "" by none; layers that differ in their last number alone share one.

    The kind that most of these have comes last and takes whichever number earlier rules have left.
    """
    alike: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)  # by names around the number, kinds by number
    for layer, kind in kinds.items():
        before, number, after = _split(layer)
        alike[before, after][number] = kind
    merged: dict[tuple[bool, str, str, str, bool], list[str]] = defaultdict(list)
    for (before, after), by_number in alike.items():
        common = Counter(by_number.values()).most_common(1)[0][0] if all(by_number.values()) else ""
        for kind in dict.fromkeys(filter(None, by_number.values())):
            own = sorted(
                (number for number, other in by_number.items() if other == kind), key=lambda one: int(one or 0)
            )
            numbers = r"\d+" if kind == common and len(by_number) > 1 else _any_of(own)
            merged[kind == common, kind, before, numbers, bool(after)].append(re.escape(after))
    found = []
    for (_, kind, before, numbers, _), afters in sorted(merged.items(), key=lambda item: item[0][0]):
        pattern = r"\.".join(filter(None, (re.escape(before), numbers, _any_of(afters))))
        found.append(Rule.model_validate({"modules": f"^{pattern}$", "to": kind}))
    return tuple(found)


def _split(layer: str) -> tuple[str, str, str]:
    """What stands before the last number in a dotted name, the number, and what follows it."""
    parts = layer.split(".")
    at = max((place for place, part in enumerate(parts) if part.isdigit()), default=len(parts))
    return ".".join(parts[:at]), "".join(parts[at : at + 1]), ".".join(parts[at + 1 :])


def _any_of(patterns: list[str]) -> str:
    return patterns[0] if len(patterns) == 1 else f"(?:{'|'.join(patterns)})"


def row_text(name: str, row: PrecisionRow) -> str:
    """A row as it stands under ``precisions`` in params.yaml, without knobs that are the defaults."""
    values = row.model_dump(mode="json", exclude_defaults=True)
    return textwrap.indent(yaml.safe_dump({name: values}, sort_keys=False, width=10**6), "  ")
