"""The proof of a conversion in words: which kernels ran, and when exporting a network pays off."""

from collections.abc import Mapping
from math import ceil

from visionquant.records.record import Conversion
from visionquant.report.items import Item, grouped, missing

IN_FLOATS = ("in FP32", "in floats", "unknown", "not run")  # kernels that multiply no codes


def fused(proven: Conversion) -> str:
    """How many of the quantised layers ran a kernel that multiplies their codes."""
    if not proven.quantized_modules:
        return "none quantised"
    if not proven.kernels:
        return "not recorded"
    ran = sum(count for name, count in proven.kernels.items() if not any(words in name for words in IN_FLOATS))
    return f"{min(ran, proven.quantized_modules)} of {proven.quantized_modules}"


def pay_off(knobs: Mapping[str, object], base_ms: float | None, own_ms: float | None) -> Item:
    """Passes until exporting and compiling are made up for by what each saves beside FP32's ``base_ms``."""
    seconds = [knobs.get(name) for name in ("export_s", "compile_s")]
    if None in seconds:
        return missing("not_available", "nothing was exported and compiled, or its time is not recorded")
    if base_ms is None or own_ms is None or own_ms >= base_ms:
        timed = base_ms is not None and own_ms is not None
        return missing("not_available", "never: it is not faster than FP32" if timed else "not timed beside FP32")
    return grouped(ceil(1e3 * sum(map(float, map(str, seconds))) / (base_ms - own_ms)))
