"""Many pairs in one process: the study without DVC, with the same stages behind it.

Model by model: weights, FP32 reference, then every precision, taking turns. What is already measured with the settings
in force is kept, so a sweep that was interrupted is continued by the same command.
"""

import itertools
import time
from collections.abc import Sequence

from visionquant.bench import measure, reference
from visionquant.bench.measure import OnPair
from visionquant.bench.rounds import OnCell, OnReplicate, TimeIsUp
from visionquant.core import lock, machine
from visionquant.core.paths import Project
from visionquant.settings.params import Params
from visionquant.weights import hub


@lock.alone
def sweep(
    project: Project,
    params: Params,
    models: Sequence[str],
    precisions: Sequence[str],
    batch_sizes: Sequence[int],
    again: bool = False,
    on_cell: OnCell = lambda model, precision, found: None,
    on_replicate: OnReplicate = lambda model, precision, course: None,
    on_pair: OnPair = lambda record: None,
    begun_s: float | None = None,
    minutes: float | None = None,
) -> bool:
    """Measure what ``models`` x ``precisions`` x ``batch_sizes`` lack.

    Args:
        again: measure all of it, though it is there already.
        on_cell: told of every cell that was measured.
        on_replicate: told of every replicate that did not finish its cell.
        on_pair: told of every pair that is complete, measured just now or before.
        begun_s: when this process began (``time.time()``), so that its imports count as untimed.
        minutes: when to begin no further replicate, from now.

    Returns:
        whether all of it is measured; False where the time was up before.

    Raises:
        StudyError: settings, weights or machine are not what they should be; finished cells are kept.
    """
    imports_s = 0.0 if begun_s is None else time.time() - begun_s
    machine.declare(project, machine.probe(params.study.device))
    positions = itertools.count()
    until_s = None if minutes is None else time.monotonic() + 60 * minutes
    for model in models:
        hub.download(project, params, model)
        reference.make(project, params, model)
        try:
            measure.measure(
                project,
                params,
                model,
                precisions,
                batch_sizes,
                again,
                on_cell,
                on_replicate,
                on_pair,
                before_s=imports_s if model == models[0] else 0.0,
                positions=positions,
                until_s=until_s,
            )
        except TimeIsUp:
            return False
    return True
