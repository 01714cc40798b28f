"""Accuracies that others published beside ours, by what precision costs in points; the collapses as warnings."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from statistics import median

from visionquant.analysis import trained_evidence
from visionquant.analysis.published_accuracy import FILE, PublishedAccuracy, load
from visionquant.analysis.study import BASELINE, Study
from visionquant.report import figure, items
from visionquant.report.figure import Dot, Figure, Looks
from visionquant.report.items import NUMBER, PUBLISHED, TEXT, Item, missing, number, precision_label
from visionquant.report.table import Column, Table, build, texts

HERE, TRAINED = "measured here, networks trained here", "measured here, trained weights"
NOT_OURS = "Not ours. Layers: those that are quantised."


def drops(study: Study) -> Table:
    """Points of top-1 that precision costs elsewhere and here: how many values, their middle and their range."""
    caption = (
        "Against the same checkpoint before it was quantised; below zero: gained. W8A8: 8 bits of weights and 8 of "
        "activations; W8: the latter are not stated. All methods count alike, with training again or not; left out are "
        "segmentation and the value with wrong preprocessing."
    )
    middle, why = (lambda lost: median(lost) if len(lost) > 2 else None), "of fewer than three values"
    spread: dict[str, Callable[[list[float]], float | None]] = {"median": middle, "least": min, "most": max}
    shown = [
        *_places("From", "Bits"),
        Column("values", lambda row: len(row[1])),
        Column("over 1 point", lambda row: sum(drop > 1 for drop in row[1])),
        *(Column(name, lambda row, of=of: of(row[1]), NUMBER, "drop, points", 2, why) for name, of in spread.items()),
    ]
    rows = sorted(_drops(study).items(), key=lambda row: row[0][0])
    return build("published-drops", "Drop in top-1, published and ours", caption, shown, rows, _behind(study))


def drops_figure(study: Study) -> Figure:
    """Every drop in points, published and ours, by bits."""
    caption = "A mark a value, hollow where published; below zero: gained. The scale is linear from -1 to 1."
    alt = "A row a number format, a mark a value: how many lie within a point of zero, and how far off the others."
    found, label = _drops(study), "points of top-1 lost"
    whose, rows = (tuple(dict.fromkeys(key[i] for key in found)) for i in (0, 1))
    dots = [
        Dot(bits, who, drop, hollow=who not in (HERE, TRAINED)) for (who, bits), lost in found.items() for drop in lost
    ]
    looks, height = Looks(whose), 1.2 + 0.34 * len(rows)
    keys = [figure.key(looks[who], who, who not in (HERE, TRAINED)) for who in whose]
    svg = figure.dot_plot(dots, rows, whose, looks, label, height, keys, step=0.22, scale=figure.symlog_scale)
    return Figure("published-drops", "Drop in top-1 by bits", caption, alt, _behind(study), svg)


def values(study: Study) -> tuple[Table, ...]:
    """Every published value: deployment stacks a row each, research code a row a method with a column a model."""
    by_group, methods = defaultdict(list), defaultdict[tuple[str, ...], dict[str, PublishedAccuracy]](dict)
    for value in load(study.project):
        by_group[value.group].append(value)
    for value in by_group["research"]:
        methods[value.stack, value.bits, value.layers, value.origin][value.model] = value
    names, group = sorted({value.model for value in by_group["research"]}), "drop in ImageNet-1k top-1, points"
    models = [Column(name, lambda row, name=name: _drop(row[1].get(name)), PUBLISHED, group) for name in names]
    shown = [*(words := _places("Method", "Bits", "Layers", "Source"))[:2], *models, *words[2:]]
    return (
        _listed("published-deployment", "Published: deployment stacks", by_group["deployment"]),
        build("published-research", "Published: research code", NOT_OURS, shown, methods.items(), f"{FILE}."),
    )


def traps(study: Study) -> Table:
    """The collapses, each beside the value of the same network without it, where its source has one."""
    found = sorted((value for value in load(study.project) if value.trap), key=lambda value: str(value.trap))
    return _listed("published-traps", "Where accuracy collapsed, and where not", found, *texts(trap="Warning"))


def _listed(name: str, title: str, found: Iterable[PublishedAccuracy], *first: Column) -> Table:
    """Published values, a row each."""
    shown = [
        *first,
        *texts(model="Model", stack="Stack", bits="Bits"),
        Column("before, %", lambda value: items.text(f"{value.baseline} {value.baseline_format}"), PUBLISHED),
        Column("quantised, %", lambda value: Item(str(value.quantised), float(value.quantised)), PUBLISHED),
        Column("drop, points", _drop, PUBLISHED),
        *texts(measure="Measure"),
        Column("images", lambda value: number(value.images, 0, "not stated")),
        *texts(layers="Layers", origin="Source"),
    ]
    return build(name, title, NOT_OURS, shown, found, f"{FILE}.")


def _places(*headings: str) -> list[Column]:
    """Columns of words, of the places of a row's key."""
    return [Column(heading, lambda row, i=i: row[0][i], TEXT) for i, heading in enumerate(headings)]


def _drop(value: PublishedAccuracy | None) -> Item:
    if value is None:
        return missing("not_published", "the source gives none")
    note = f"{value.baseline_format} {value.baseline} %, quantised {value.quantised} %"
    return Item(str(value.drop), float(value.drop), note=note)


def _drops(study: Study) -> dict[tuple[str, str], list[float]]:
    """Points of top-1 lost, by whose they are and by bits; ours last."""
    found = defaultdict[tuple[str, str], list[float]](list)
    for value in load(study.project):
        if value.measure.endswith("top-1") and value.trap != "Preprocessing":
            found[f"published, {value.group}", value.bits].append(float(value.drop))
    run = study.most_evaluated
    base = study.column(run.source, "top1", BASELINE, run.accuracy, 0)
    for name in study.compared:
        if top1 := study.column(run.source, "top1", name, base, 0):
            found[HERE, precision_label(name)] = [base[network] - share for network, share in top1.items()]
        changes = (evidence.change(study, name).value for evidence, _ in trained_evidence.probes(study))
        found[TRAINED, precision_label(name)] += [-points for points in changes if points is not None]
    return {key: lost for key, lost in found.items() if lost}


def _behind(study: Study) -> str:
    """What the drops rest on."""
    machine = next((one.environment.title for one in study.most_evaluated.accuracy.values()), "nothing was evaluated")
    probes = {evidence.network for evidence, _ in trained_evidence.probes(study)}
    trained = f" Trained weights: {', '.join(sorted(probes))}." if probes else ""
    return f"Published: {FILE}. Networks trained here: {machine}; small ones on handwritten digits.{trained}"
