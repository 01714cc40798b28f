"""The samples of a whole study: round after round over all models at batch size 1, then at larger sizes.

A model's rounds are as far apart as a round of all other models takes, so that they see the machine at different times.
What is there is kept: the same command goes on with what is missing, and a changed row is measured again alone, with
FP32 and the placebo beside it. Two precisions never run at once: they would contend for what they differ in.
"""

import random
import shutil
from collections.abc import Sequence
from typing import NamedTuple

import torch

from visionquant.bench import device as devices
from visionquant.bench import loading, prepared, schedule, telemetry, torch_flags
from visionquant.bench.command import Command, Matrix, TimeIsUp
from visionquant.bench.model_samples import ModelSamples
from visionquant.core import files, lock, machine
from visionquant.core.paths import Project
from visionquant.records.record import sha256_of
from visionquant.settings.params import Params
from visionquant.weights import checkpoint, sources


class Outcome(NamedTuple):
    """What a command took and what it left: ``rounds`` of a model at a batch size; cells that ``wait`` and why.

    ``complete``: nothing else is left; False where the time was up, or only some rounds were asked for.
    """

    rounds: int
    wait: dict[tuple[str, str, int], str]
    complete: bool


@lock.alone
def sweep(project: Project, params: Params, matrix: Matrix, command: Command | None = None) -> Outcome:
    """The study without DVC: this machine declared, weights, samples; see :func:`sample`."""
    machine.declare(project, machine.probe(params.study.device))
    for model in matrix.models:
        checkpoint.download(project, params, model, loading.agreement)
    return sample(project, params, matrix, command)


@lock.alone
def sample(project: Project, params: Params, matrix: Matrix, command: Command | None = None) -> Outcome:
    """Take the rounds that the pairs of ``matrix`` lack; finished rounds are kept whatever happens.

    Raises:
        StudyError: settings, weights or machine are not what they should be.
        CodeChanged: the measuring code was edited meanwhile.
    """
    command = command or Command()
    environment = machine.require_declared(project, params.study.device)
    device = devices.of(environment.device)
    manifests = {model: sources.manifest_of(project, params, model) for model in matrix.models}
    models = {
        model: ModelSamples(project, params, manifest, environment, matrix, project.prepared)
        for model, manifest in manifests.items()
    }
    course = _Sampling(project, params, matrix, models, command, device.a_process_an_arm)
    if course.lacks_anything():
        torch_flags.quiet(device.kind)
        torch_flags.default_threads()
        torch.set_num_threads(1)  # a process with threads can't be forked
        prepared.preload(device.kind, {params.precisions[name].engine for name in matrix.precisions})
        if params.protocol.energy_s is not None:
            with device.energy_counter() as counter:
                if not isinstance(counter, str):
                    idle = telemetry.idle(counter, params.protocol.energy_s)
                    for one in models.values():
                        one.idle = idle
    try:
        complete = course.run()
    except TimeIsUp:
        complete = False
    except Exception:
        shutil.rmtree(project.prepared, ignore_errors=True)
        raise
    if complete:  # else, or where it was interrupted, the next command needs the converted weights again
        shutil.rmtree(project.prepared, ignore_errors=True)
    wait = {key: why for one in models.values() for key, why in one.waiting().items()}
    return Outcome(course.taken, wait, complete)


class _Sampling:
    """A command under way."""

    def __init__(
        self,
        project: Project,
        params: Params,
        matrix: Matrix,
        models: dict[str, ModelSamples],
        command: Command,
        sizes_apart: bool,
    ) -> None:
        self._project, self._params, self._matrix, self._models = project, params, matrix, models
        self._command, self.taken = command, 0
        self._first = [matrix.batch_sizes[0]] if sizes_apart else list(matrix.batch_sizes)
        self._order = random.Random(params.protocol.seed)
        study = params.study.model_copy(update={"models": matrix.models, "precisions": matrix.precisions})
        study = study.model_copy(update={"batch_sizes": matrix.batch_sizes, "device": "auto"})
        self._key = sha256_of([study.model_dump(mode="json"), schedule.basis_of(params.protocol, study.minutes)])
        self._whole = set(matrix.pairs) >= set(params.pairs()) and set(matrix.batch_sizes) >= {
            *params.study.batch_sizes
        }
        self._schedule = schedule.read(project.schedule)

    @property
    def _decided(self) -> bool:
        return self._schedule is not None and self._schedule.key == self._key

    def lacks_anything(self) -> bool:
        """Whether a round is missing, as far as it was decided how many there are to be."""
        if not self._decided:
            return True
        parts = [(model, size) for model in self._models for size in self._matrix.batch_sizes]
        return any(self._lacking(model, size) for model, size in parts)

    def run(self) -> bool:
        """All rounds, the smallest batch size first; whether nothing is left."""
        every, most = list(self._matrix.batch_sizes), self._command.rounds
        if not self._decided:
            self._pass(self._first, 1, smallest_first=True)
            self._decide()
        later = [[size] for size in every if size not in self._first]
        for sizes in [self._first, *later] if most is None else [self._first]:
            while self._pass(sizes, most):
                pass
        return not self.lacks_anything()

    def _lacking(self, model: str, size: int, most: int | None = None) -> int:
        """The rounds that are asked for where any is missing, else 0; ``most`` of them at most."""
        target = self._params.protocol.rounds_at(size)
        if self._decided:
            assert self._schedule is not None
            target = self._schedule.target(model, size)
        target = target if most is None else min(target, most)
        return target if self._models[model].lacks(size, target, self._command.retry) else 0

    def _pass(self, sizes: Sequence[int], most: int | None, smallest_first: bool = False) -> bool:
        """A round of every model that lacks one at ``sizes``, in an order of its own; whether any was taken.

        The smallest first: a run that just began soon has figures of many.
        """
        taken, models = False, self._order.sample(list(self._models), len(self._models))
        for model in sorted(models, key=lambda name: self._models[name].fp32_bytes) if smallest_first else models:
            one = self._models[model]
            targets = {size: target for size in sizes if (target := self._lacking(model, size, most))}
            if not targets:
                continue
            self._command.require_time()
            for size, medians in one.visit(targets, self._command).items():
                self.taken += bool(medians)
                taken = True
                self._command.observer.round(model, size, one.taken(size), targets[size], medians, self._left_s())
        return taken

    def _decide(self) -> None:
        """Decide how many rounds there are to be, from what the first cost; what does not fit is written down."""
        study, protocol = self._params.study, self._params.protocol
        costs = {model: cost for model, one in self._models.items() if (cost := one.cost())}
        spent_s = sum(one.spent_s() for one in self._models.values())
        sizes = self._matrix.batch_sizes
        decided = schedule.decide(self._key, self._matrix.models, sizes, costs, protocol, study.minutes, spent_s)
        self._schedule = decided = schedule.extended(self._schedule, decided)
        for model, reasons in decided.reasons.items():
            for size, why in reasons.items():
                self._models[model].leave_out(size, why)
        if self._whole:
            files.save(self._project.schedule, decided, indent=1)

    def _left_s(self) -> float:
        """Seconds foreseen for what this command still takes; before it is decided what fits, no more than may be."""
        left_s, most, minutes = 0.0, self._command.rounds, self._params.study.minutes
        costs = {model: cost for model, one in self._models.items() if (cost := one.cost())}
        if not costs:
            return 0.0
        for model, one in self._models.items():
            cost = costs.get(model) or next(reversed(costs.values()))  # of one that was not measured: as another's
            for size in self._matrix.batch_sizes:
                missing = 0 if most is not None and size not in self._first else self._lacking(model, size, most)
                left_s += max(0, missing - one.taken(size)) * cost.of_round(size, self._params.protocol)
        if self._decided or minutes is None:
            return left_s
        return min(left_s, max(0.0, 60 * minutes - sum(one.spent_s() for one in self._models.values())))
