"""How far each precision's outputs are from FP32's. Not accuracy, and every caption says so."""

from visionquant.analysis import noise_by_block, table
from visionquant.analysis.study import Evidence, RecordSet
from visionquant.analysis.table import Column, Table
from visionquant.analysis.tables import blocks


def agreement(evidence: Evidence, records_: RecordSet) -> Table:
    """Features: cosine and signal to noise."""
    return blocks.by_model(
        "agreement",
        "Features against FP32",
        "Last hidden state on crops of real photographs: cosine similarity, and signal to quantisation noise in "
        f"decibels. {_weights(records_)}",
        evidence.models,
        [
            blocks.measured(evidence, records_, "cosine", "cosine", blocks.compared(evidence), 1),
            blocks.measured(evidence, records_, "SQNR, dB", "sqnr", blocks.compared(evidence), 1),
        ],
        blocks.source(records_),
    )


def decisions(evidence: Evidence, records_: RecordSet) -> Table:
    """Logits: how often the same class wins, and how far the distributions are apart."""
    heads = sorted({record.fidelity.logits_from for record in records_.records.values() if record.fidelity})
    through = " or ".join(heads) or "a head"
    counts = sorted({record.fidelity.images for record in records_.records.values() if record.fidelity})
    images = f"{counts[0]} to {counts[-1]} images a model, the fewer the larger it is" if counts else "no images yet"
    return blocks.by_model(
        "decisions",
        "Accuracy simulation: decisions against FP32",
        f"Logits through {through}, over {images}: share with the same top class, and Kullback-Leibler divergence in "
        "nats. " + _weights(records_),
        evidence.models,
        [
            blocks.measured(evidence, records_, "top-1 agreement, %", "top1_agreement", blocks.compared(evidence), 1),
            blocks.measured(evidence, records_, "KL, nats", "kl_divergence", blocks.compared(evidence), 1),
        ],
        blocks.source(records_),
    )


def traced(evidence: Evidence) -> RecordSet:
    """The set that tells of noise by block for the most pairs; the measured one where none does."""

    def count(one: RecordSet) -> int:
        return sum(bool(noise_by_block.after_blocks(one, *pair)) for pair in one.records)

    return max((evidence.measured, *evidence.sets), key=count)


def depth(evidence: Evidence, records_: RecordSet) -> Table:
    """Where noise enters: after the first block, after the last, and the block that costs most."""
    rows = []
    for model in evidence.models:
        for name in noise_by_block.traced(records_):
            ratios = noise_by_block.after_blocks(records_, model, name)
            if not ratios:
                continue
            worst, lost = noise_by_block.steepest(ratios)
            rows.append(
                (
                    table.text(model),
                    table.text(blocks.precision_label(name)),
                    table.number(len(ratios), 0),
                    table.number(ratios[0], 1, "number measured", why="equal to FP32"),
                    table.number(ratios[-1], 1, "number measured", why="equal to FP32"),
                    table.number(lost, 1, "number measured", why="no block lowers it"),
                    table.number(worst, 0, "number measured", why="no block lowers it"),
                )
            )
    return Table(
        "noise-depth",
        "Where the error enters",
        "Signal to quantisation noise of the first photograph after the first block and after the last, and the block "
        f"after which it falls most. {_weights(records_)}",
        (
            Column("Model", css="text"),
            Column("Precision", css="text"),
            Column("blocks"),
            Column("after the first", "SQNR, dB", "number measured"),
            Column("after the last", "SQNR, dB", "number measured"),
            Column("largest fall, dB", css="number measured"),
            Column("at block", css="number measured"),
        ),
        tuple(rows),
        blocks.source(records_),
        filters=("Model", "Precision"),
    )


def _weights(records_: RecordSet) -> str:
    if "seeded" in records_.weights:
        return "Seeded weights: this shows that the conversion is right, and nothing about accuracy."
    return "Pretrained weights; agreement with FP32, not accuracy against labels."
