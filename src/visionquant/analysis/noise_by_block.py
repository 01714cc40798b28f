"""Signal to noise block by block, as records keep it: where the error of a precision enters."""

from itertools import pairwise

from visionquant.analysis.study import BASELINE, MachineSet

Ratios = tuple[float | None, ...]


def by_pair(machine_set: MachineSet) -> dict[tuple[str, str], Ratios]:
    """Signal to noise in dB after each block of every pair, FP32 apart, whose record tells of it."""
    found = {pair: one.fidelity.blocks_sqnr_db for pair, one in machine_set.records.items() if one.fidelity}
    return {pair: ratios for pair, ratios in found.items() if ratios and pair[1] != BASELINE}


def steepest(ratios: Ratios) -> tuple[int | None, float | None]:
    """The block (counted from 1) after which the ratio falls most against the block before, and by how many dB."""
    falls = [
        (before - after, number)
        for number, (before, after) in enumerate(pairwise(ratios), start=2)
        if before is not None and after is not None and before > after
    ]
    lost, number = max(falls, default=(None, None))
    return number, lost
