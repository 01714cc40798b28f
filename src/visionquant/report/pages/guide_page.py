"""The implementation guide as measured: server, ONNX Runtime, half precision, stored models, compile, checkpoints."""

import re
from itertools import product
from typing import Any

from matplotlib.axes import Axes

from visionquant.analysis.study import Study
from visionquant.report import figure
from visionquant.report.columns import Row, Spec, first_run, labelled, measures, value
from visionquant.report.figure import Figure
from visionquant.report.items import MEASURED, TEXT, Item, missing, number, precision_label, text
from visionquant.report.table import Column, numbers, texts

NO_SESSION, NOT_FINITE = "torch has no such option", "the outputs hold NaN or infinity"
FORMATS = {"bfloat16": "BF16", "float16": "FP16"}


def serving_figure(study: Study) -> Figure:
    """Latency against throughput of the server, a line a precision and mode; a load without both has no mark."""
    caption = "At a mark: the number of clients. Hollow marks and dotted lines: batching off."
    alt = "A line a precision and batching mode through marks for rising numbers of clients."
    run, looks, modes = first_run(study, "serving"), figure.looks(study), {"on": "-", "off": ":"}
    loads = [row for row in run.rows if row["case"] == "load"] if run else []
    precisions = tuple(dict.fromkeys(str(row["precision"]) for row in loads))

    def on(axes: Axes) -> None:
        for precision in precisions:
            for mode, line in modes.items():
                rows = [row for row in loads if (row["precision"], row["batching"]) == (precision, mode)]
                points = [(value(row, "images_per_s"), value(row, "p99_ms"), row["clients"]) for row in rows]
                shown = [(x, y, clients) for x, y, clients in points if x is not None and y is not None]
                face = looks[precision].colour if mode == "on" else "none"
                look: Any = {"color": looks[precision].colour, "marker": looks[precision].marker, "linestyle": line}
                x, y = [point[0] for point in shown], [point[1] for point in shown]
                axes.plot(x, y, markerfacecolor=face, markersize=5, linewidth=1.3, **look)
                for across, up, clients in shown:
                    axes.annotate(f"{clients}", (across, up), (5, 3), textcoords="offset points", fontsize=6)
        figure.log_scale(axes, "y")
        axes.set(xlabel="images per second", ylabel="p99 latency, ms")

    pairs = product(precisions, modes)
    keys = [figure.key(looks[name], f"{precision_label(name)}, batching {on_}", on_ == "off") for name, on_ in pairs]
    source = "nothing was served: `visionquant recipe serving`"
    if run:
        source = f"{run.environment.title}; {run.rows[0]['model']}, {run.weights} weights."
    return Figure("serving", "The server under load", caption, alt, source, figure.draw((9.0, 3.6), on, keys=keys))


def onnxruntime_figure(study: Study) -> Figure:
    """The first source: a row a variant, the smallest batch size filled and the others hollow."""
    caption = "A ratio is the median over rounds in which all variants took turns."
    alt = "A row a variant with a mark a batch size; colours and shapes are those of the precisions."
    run, looks = first_run(study, "onnxruntime"), figure.looks(study)
    rows = run.rows if run else ()
    names = tuple(dict.fromkeys(_variant(row) for row in rows))
    sizes = sorted({int(row["batch_size"] or 0) for row in rows})

    def on(axes: Axes) -> None:
        for row in rows:
            speedup, look = value(row, "speedup_over_torch_fp32"), looks[str(row["precision"])]
            if speedup is not None:
                style: Any = {"fillstyle": "full" if row["batch_size"] == sizes[0] else "none", "markersize": 6}
                axes.plot([speedup], [names.index(_variant(row))], look.marker, color=look.colour, **style)
        figure.log_scale(axes)
        if rows:
            figure.line_at(axes, 1.0, alpha=0.5)
            axes.set_xlabel("speedup over torch FP32 with all threads, x")
            figure.rows_of(axes, names)

    keys = [figure.key(figure.LOOKS["fp32"], f"batch {size}", hollow=size != sizes[0]) for size in sizes]
    source = f"{run.environment.title}; {run.weights} weights." if run else "nothing ran."
    svg = figure.draw((9.0, 1.2 + 0.3 * max(4, len(names))), on, keys=keys)
    return Figure("onnxruntime", "What ONNX Runtime's options are worth", caption, alt, source, svg)


def _variant(row: Row) -> str:
    """What ran, in words: precision, engine, threads, and the options that are not the default."""
    threads = f"{row['threads']} thread{'s' if row['threads'] != 1 else ''}"
    changed = [f"{row['branches']} branches"] if value(row, "branches") not in (None, 1.0) else []
    changed += [f"{row['graph_optimization']} fusion"] if row["graph_optimization"] not in (None, "all") else []
    changed += ["no spinning"] if row["spinning"] == "off" else []
    return ", ".join([_number_format(row), str(row["engine"]), threads, *changed])


def _number_format(row: Row) -> str:
    """The label of a row's precision without the engine, which stands beside it."""
    return precision_label(str(row["precision"]).removesuffix("_onnxruntime"))


def _way(way: str) -> str:
    """What ran, with its number format in the spelling of all pages."""
    return re.sub(r"^\w+", lambda name: FORMATS.get(name[0], name[0].upper()), way)


def _options(**of: str) -> list[Column]:
    """Options of a session by key; torch has none."""

    def column(key: str, heading: str) -> Column:
        absent = missing("not_available", NO_SESSION)
        return Column(heading, lambda row: absent if row[key] is None else str(row[key]), TEXT, "Options")

    return [column(*item) for item in of.items()]


def _session_precision(row: Row) -> Item:
    return text(_number_format(row), note="the fastest FP32 of this batch size" if row["is_fastest_fp32"] else "")


def _between_rounds(row: Row) -> Item:
    low, middle, high = (value(row, f"latency{name}_ms") for name in ("_lowest", "", "_highest"))
    return number(middle, 1, "not measured", low=low, high=high, note=f"{row['rounds']} rounds, lowest to highest")


def _why_served(row: Row) -> str:
    return "the forward pass alone" if row["case"] == "direct" else "stands with batching on"


def _what_served(row: Row) -> str:
    return f"{'forward pass,' if row['case'] == 'direct' else 'server, batching'} {row['batching']}"


HALF = Spec(
    "half",
    "FP32 and half precision",
    "Training: a small network on scikit-learn's digits, weights in FP32, one fold held out, fewer epochs than on the "
    "accuracy page; the seconds were not taken in turns. Inference: medians and paired speedups over eager FP32, in "
    "turns. Half weights convert the model; autocast converts within each operation and keeps weights in FP32.",
    [
        *texts(part="Part", weights="Weights", model="Model"),
        labelled("way", "Way", _way),
        *numbers(batch_size="batch"),
        *measures(1, "training", seconds="seconds"),
        *measures(0, "training", right="right", held_out="held out"),
        *measures(1, "inference", median_ms="ms"),
        *measures(2, "inference", speedup="speedup, x"),
        *measures(5, "inference", cosine="cosine to FP32"),
    ],
)
STORAGE = Spec(
    "storage",
    "Stored models",
    "Folders of `visionquant export`. To the first answer: from folder to one image's features, in turns, files in the "
    "page cache and hashes checked before. Identical: to the converted model's features, to the last bit.",
    [
        *texts(model="Model"),
        labelled("precision", "Precision", _way),
        *measures(2, factor=2**-20, file_bytes="MiB on disk"),
        *measures(1, factor=100, share_of_fp32="share of FP32, %"),
        *measures(2, convert_s="to convert, s", ready_s="to first answer, s", ready_speedup="faster than FP32, x"),
        *texts(identical="identical"),
    ],
)
CHECKPOINTING = Spec(
    "checkpointing",
    "Gradient checkpointing",
    "A forward and a backward pass in FP32. Kept: bytes that the forward pass holds for the backward one, without "
    "weights. Time is the median of paired ratios, in turns.",
    [
        *texts(model="Model"),
        *numbers(batch_size="batch"),
        *texts(way="Way"),
        *measures(1, kept_mib="kept, MiB"),
        *measures(1, factor=100, share="share of plain, %"),
        *measures(0, median_ms="ms"),
        *measures(2, time_ratio="time over plain, x"),
        *texts(same_gradients="same gradients"),
    ],
)
COMPILE = Spec(
    "compile",
    "torch.compile",
    "Medians and paired speedups of runs in turns. The fastest FP32 is the quicker of eager and compiled in the same "
    "run: what a half precision has to beat. To compile: the time of the first pass.",
    [
        *texts(model="Model"),
        *numbers(batch_size="batch"),
        labelled("way", "Way", _way),
        *measures(2, median_ms="ms", speedup="over FP32 eager, x", to_fastest_fp32="over the fastest FP32, x"),
        *measures(5, cosine="cosine to FP32"),
        *measures(1, compile_s="to compile, s"),
    ],
)
ONNXRUNTIME = Spec(
    "onnxruntime",
    "ONNX Runtime's options on vit-base-224-production",
    "Variants take turns; a time is the median over rounds with the lowest and the highest, a ratio the median of "
    "each round's. Branches: nodes of the graph that may run at a time. Cosine: to FP32 in torch, over eight crops.",
    [
        *numbers(batch_size="batch"),
        Column("Precision", _session_precision, TEXT),
        *texts(engine="Engine"),
        *numbers(group="Options", why=NO_SESSION, threads="threads", branches="branches"),
        *_options(graph_optimization="fusion", spinning="spinning"),
        Column("latency, ms", _between_rounds, MEASURED),
        *measures(2, "Speedup over", NOT_FINITE, speedup_over_torch_fp32="torch FP32"),
        *measures(2, "Speedup over", NOT_FINITE, speedup_over_fastest_fp32="fastest FP32"),
        *measures(5, why=NOT_FINITE, cosine="cosine to FP32"),
    ],
    filters=("batch", "Precision", "Engine"),
)
SERVING = Spec(
    "serving",
    "The server under load",
    "Clients on the same machine post JPEG files and wait for each answer. Over the forward pass: images a second by "
    "those of one image at a time without HTTP; over batching off: on by off; both medians of ratios within a round.",
    [
        labelled("precision", "Precision", precision_label),
        Column("What", _what_served, TEXT),
        *numbers(why=_why_served, clients="clients"),
        *measures(1, why=_why_served, images_per_s="images/s"),
        *measures(2, why=_why_served, of_direct="over the forward pass", of_batching_off="over batching off"),
        *measures(1, why=_why_served, p50_ms="p50, ms", p99_ms="p99, ms", mean_batch="images a pass"),
        *numbers(why=_why_served, requests="requests"),
        *measures(0, why=_why_served, explicit_errors="errors", hung="hung"),
    ],
    lambda run, _: [row for row in run.rows if row["case"] in ("direct", "load")],
)
SERVING_KILLED = Spec(
    "serving-killed",
    "The worker killed under load",
    "The inference process gets SIGKILL under load. Accepted requests must end in a right answer or an explicit error "
    "(503 or 504); refused: told at once that the server was cold or full. Recovered: until a new worker was warm.",
    [
        labelled("precision", "Precision", precision_label),
        *numbers(why="not counted", clients="clients"),
        *measures(why="not counted", accepted="accepted", right="right", explicit_errors="explicit errors"),
        *measures(why="not counted", wrong="wrong", hung="hung", refused="refused"),
        *measures(1, why="not recovered", recovered_s="recovered after, s"),
    ],
    lambda run, _: [row for row in run.rows if row["case"] == "worker killed"],
    recipe="serving",
)
