"""Many pairs in one process: the study without DVC, with the same stages behind it.

Model by model: weights, FP32 reference, then every precision. What is already measured with the settings in force is
kept, so a sweep that was interrupted is continued by the same command.
"""

import time
from collections.abc import Callable, Sequence

from visionquant import environment, hub
from visionquant.bench import pair, reference
from visionquant.params import Params
from visionquant.paths import Project
from visionquant.records import Record

OnPair = Callable[[Record], None]


def sweep(
    project: Project,
    params: Params,
    models: Sequence[str],
    precisions: Sequence[str],
    batch_sizes: Sequence[int],
    again: bool = False,
    on_cell: pair.OnCell = lambda model, precision, found: None,
    on_pair: OnPair = lambda record: None,
    begun_s: float | None = None,
) -> None:
    """Measure what ``models`` x ``precisions`` x ``batch_sizes`` lack.

    Args:
        again: measure all of it, though it is there already.
        on_cell: told of every cell that was measured.
        on_pair: told of every pair that is complete, measured just now or before.
        begun_s: when this process began (``time.time()``), so that its imports count as untimed.

    Raises:
        StudyError: settings, weights or machine are not what they should be; finished cells are kept.
    """
    imports_s = 0.0 if begun_s is None else time.time() - begun_s
    environment.declare(project, environment.probe(params.study.device))
    for model in models:
        hub.download(project, params, model)
        reference.make(project, params, model)
        for precision in precisions:
            begun_s = time.time() - imports_s
            record = pair.measure(project, params, model, precision, batch_sizes, again, on_cell, begun_s)
            imports_s = 0.0
            on_pair(record)
