"""The verb that looks for the fastest setting of a model on this machine."""

from typing import Annotated

import typer

from visionquant.cli.common import BatchSizes, Model, Precisions, machine_of, verb
from visionquant.core import processors
from visionquant.core.errors import StudyError
from visionquant.core.paths import Project
from visionquant.records.cell import BASELINE
from visionquant.settings.params import Params, known

SHOWN = 5
Threads = Annotated[list[int] | None, typer.Option(min=1, help="CPU threads; may be repeated; 1 and all if left out.")]
Limit = Annotated[float | None, typer.Option(min=0.001, help="A batch may take so long; without, throughput decides.")]


@verb("measure")
def tune(
    project: Project,
    params: Params,
    model: Model,
    precision: Precisions = None,
    batch_size: BatchSizes = None,
    threads: Threads = None,
    latency_limit_ms: Limit = None,
    turns: Annotated[int, typer.Option(min=2, max=100, help="Of every setting; more narrow the interval.")] = 3,
) -> None:
    """Find the threads, precision with its engine, and batch size that give most images a second on this machine.

    Measured in rounds as a study is, anew each time; by default the study's precisions and BF16 at batch sizes 1 and 8,
    and on a GPU all threads. Exit code 1: no setting keeps the limit. What precision costs in accuracy is not looked
    at: see the accuracy page.
    """
    names = list(dict.fromkeys(precision or (*params.study.precisions, "bf16")))
    known("models", [model], params.models)
    known("precisions", names, params.precisions)
    usable = processors.usable()
    counts = sorted({*(threads or ((1, usable) if machine_of(params).device == "cpu" else (usable,)))})
    if counts[-1] > usable:
        raise StudyError(f"--threads {counts[-1]}", f"this process may use {usable} CPUs", f"give at most {usable}")
    from visionquant.bench import fastest_setting
    from visionquant.cli.progress import Lines

    sizes = sorted({*(batch_size or (1, 8))})
    with Lines() as lines:
        found = fastest_setting.Search(project, params, model, names, sizes, counts, turns, lines).run()
    ranked = sorted((one for one in found if one.turns_ms), key=lambda one: -one.images_per_s)
    plain = next(one for one in found if one.setting == (counts[-1], BASELINE, sizes[0]))
    for one in ranked[:SHOWN]:
        print(f"{_words(one.setting)}: {one.batch_ms:.2f} ms a batch, {one.images_per_s:.1f} images/s")
    for one in found:
        if not one.turns_ms:
            print(f"{_words(one.setting)}: {one.why}")
    if not ranked:
        raise StudyError("tune", "no setting could be measured", "each line above says why")
    chosen = fastest_setting.best(found, latency_limit_ms)
    if chosen is None:
        least = f"the quickest batch takes {min(one.batch_ms for one in ranked):.2f} ms"
        wanted = "raise it, or allow another --precision or a smaller --batch-size"
        raise StudyError(f"--latency-limit-ms {latency_limit_ms:g}", least, wanted)
    if ratio := fastest_setting.over(chosen, plain):
        between = f" ({ratio.low:.2f} to {ratio.high:.2f})" if ratio.low is not None else ""
        print(
            f"best: {_words(chosen.setting)}, {ratio.value:.2f}{between} times the images/s of {_words(plain.setting)}"
        )
    else:
        print(f"best: {_words(chosen.setting)}, in no turn beside {_words(plain.setting)}")
    own = chosen.setting
    serving = f"visionquant serve --model {model} --precision {own.precision} --batch-size {own.batch_size}"
    print(f"OMP_NUM_THREADS={own.threads} {serving}")


def _words(setting: tuple[int, str, int]) -> str:
    count, precision, size = setting
    return f"{precision}, {count} thread{'s' if count > 1 else ''}, batch size {size}"
