"""Signal to noise block by block, as records keep it: where the error of a precision enters."""

from itertools import pairwise

from visionquant.analysis.study import BASELINE, RecordSet

Ratios = tuple[float | None, ...]


def traced(records_: RecordSet) -> tuple[str, ...]:
    """The precisions of a set, FP32 apart, whose records tell of noise by block."""
    names = (name for (model, name) in records_.records if name != BASELINE and after_blocks(records_, model, name))
    return tuple(dict.fromkeys(names))


def after_blocks(records_: RecordSet, model: str, precision: str) -> Ratios:
    """Signal to noise in dB after each block; empty where it was not taken."""
    record = records_.records.get((model, precision))
    return record.fidelity.blocks_sqnr_db if record and record.fidelity else ()


def steepest(ratios: Ratios) -> tuple[int | None, float | None]:
    """The block (counted from 1) after which the ratio falls most against the block before, and by how many dB."""
    falls = [
        (before - after, number)
        for number, (before, after) in enumerate(pairwise(ratios), start=2)
        if before is not None and after is not None and before > after
    ]
    if not falls:
        return None, None
    lost, number = max(falls)
    return number, lost
