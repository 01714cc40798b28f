"""Tables with a row a model, put together from blocks of columns: what was printed beside what was measured."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import get_args

from visionquant.analysis import estimates, provenance, table, verdicts
from visionquant.analysis.study import BASELINE, Evidence, RecordSet
from visionquant.analysis.table import Column, Item, Table

OfModel = Callable[[str], Item]


@dataclass(frozen=True)
class Block:
    """Columns under one group heading; each pairs a heading with what it shows of a model."""

    group: str
    columns: tuple[tuple[str, OfModel], ...]
    css: str = "number"


def precision_label(name: str) -> str:
    """FP32 for fp32; a longer row name of the user's own stays as it is."""
    return name.upper() if len(name) <= 4 else name


def compared(evidence: Evidence) -> tuple[str, ...]:
    """The precisions that are set against FP32."""
    return tuple(name for name in evidence.precisions if name != BASELINE)


def printed(evidence: Evidence, group: str, quantity: str, precisions: Iterable[str]) -> Block:
    """The supplement's column of each precision."""

    def of(precision: str) -> OfModel:
        return lambda model: table.printed(evidence.published.cells.get((quantity, model, precision)))

    return Block(group, tuple((precision_label(name), of(name)) for name in precisions), "number published")


def measured(
    evidence: Evidence, records_: RecordSet, group: str, quantity: str, precisions: Iterable[str], batch_size: int
) -> Block:
    """A set's column of each precision."""

    def of(precision: str) -> OfModel:
        return lambda model: table.estimate(evidence.estimate(records_, quantity, model, precision, batch_size))

    return Block(group, tuple((precision_label(name), of(name)) for name in precisions), "number measured")


def speedups(evidence: Evidence, records_: RecordSet, group: str, precisions: Iterable[str], batch_size: int) -> Block:
    """A set's speedups over FP32, each with its verdict."""
    words = evidence.verdicts(records_, batch_size)

    def of(precision: str) -> OfModel:
        return lambda model: table.judged(
            evidence.estimate(records_, "speedup", model, precision, batch_size), words.get((model, precision))
        )

    return Block(group, tuple((precision_label(name), of(name)) for name in precisions), "number measured")


def changes(evidence: Evidence, records_: RecordSet, group: str, precisions: Iterable[str], batch_size: int) -> Block:
    """A set's change of throughput against FP32, each with its verdict."""
    words = evidence.verdicts(records_, batch_size, estimates.windows)

    def of(precision: str) -> OfModel:
        return lambda model: table.judged(
            evidence.estimate(records_, "throughput_change", model, precision, batch_size),
            words.get((model, precision)),
        )

    return Block(group, tuple((precision_label(name), of(name)) for name in precisions), "number measured")


def counted_words(
    evidence: Evidence,
    records_: RecordSet,
    precision: str,
    models: Iterable[str],
    batch_size: int = 1,
    precisions: Sequence[str] | None = None,
) -> str:
    """The verdicts on one precision's speed over some models, counted: "FASTER 13, SLOWER 2".

    They are corrected over ``precisions``, those of the tables by default.
    """
    wanted = set(models)
    judged = evidence.verdicts(records_, batch_size, precisions=precisions).items()
    words = Counter(one.word for (model, name), one in judged if name == precision and model in wanted)
    return ", ".join(f"{word} {words[word]}" for word in get_args(verdicts.Word) if words[word])


def arithmetic(evidence: Evidence, group: str, quantity: str, precisions: Iterable[str], decimals: int) -> Block:
    """What parameter counts alone give, no model loaded."""
    names = tuple(precisions)
    columns = {name: evidence.arithmetic(quantity, name, evidence.models) for name in names}

    def of(precision: str) -> OfModel:
        why = "no committed counts for this model and precision"
        return lambda model: table.number(columns[precision].get(model), decimals, why=why)

    return Block(group, tuple((precision_label(name), of(name)) for name in names))


def by_model(
    name: str,
    title: str,
    caption: str,
    models: Sequence[str],
    blocks: Sequence[Block],
    source: str,
    label: str = "",
) -> Table:
    """A table with a row a model."""
    columns = [Column("Model", css="text")]
    columns += [Column(heading, block.group, block.css) for block in blocks for heading, _ in block.columns]
    rows = tuple(
        (table.text(model), *(of_model(model) for block in blocks for _, of_model in block.columns)) for model in models
    )
    return Table(name, title, caption, tuple(columns), rows, source, label)


def named(name: str, label: str, evidence: Evidence, records_: RecordSet) -> tuple[str, str]:
    """Id and short title of a table; those of a set other than the measured one say which."""
    if records_ is evidence.measured:
        return name, label
    return f"{name}-{records_.source.replace(':', '-')}", f"{label}, {records_.label}"


def source(records_: RecordSet, evidence: Evidence | None = None) -> str:
    """Provenance of a table: the set, and where published columns stand beside it, the published machine."""
    measured_ = provenance.describe(records_)
    setup = evidence.published.setup if evidence else {}
    published = f"Published: {setup['gpu']}, torch {setup['torch']}. " if setup else ""
    return f"{published}{measured_[:1].upper()}{measured_[1:]}."
