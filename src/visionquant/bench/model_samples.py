"""One model under way: prepared once, and then round after round in as few processes as may hold its arms.

On a GPU one process has all arms of a round. What fails there is measured apart, with FP32 and the placebo alone, and
only what fails so is told in its cell.
"""

import time
from collections.abc import Mapping, Set
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from visionquant.bench import host, model_round, pair_fingerprint, prepared, telemetry, turns
from visionquant.bench.arm import Arm, Examined
from visionquant.bench.command import Command, Matrix, blank
from visionquant.bench.kept_samples import KeptSamples
from visionquant.bench.model_round import Processes, RoundPlan, Seen
from visionquant.bench.prepared import BenchModel, PairFacts, Reference
from visionquant.core.errors import CodeChanged
from visionquant.core.machine import Environment
from visionquant.core.paths import Project
from visionquant.records.cell import BASELINE, KERNELS, PLACEBO, GpuConditions
from visionquant.settings.params import Params
from visionquant.settings.precision import FP32
from visionquant.weights.sources import Manifest

Pair = tuple[str, int]  # a precision at a batch size
MEMORY_SHARE = 0.6  # of free memory that the arms of a round may take together


class ModelSamples(KeptSamples):
    """One model's pairs under way. ``folder`` takes converted weights; ``idle`` is what the idle machine draws."""

    def __init__(
        self,
        project: Project,
        params: Params,
        manifest: Manifest,
        environment: Environment,
        matrix: Matrix,
        folder: Path,
        idle: telemetry.Idle | None = None,
    ) -> None:
        asked = {
            name: blank(project, params, (manifest.model, name), manifest, environment)
            for name in dict.fromkeys([BASELINE, *matrix.precisions])
            if name in params.precisions
        }
        super().__init__(project, manifest.model, matrix, asked)
        self.idle = idle
        self._source = BenchModel(
            project, self.model, asked[BASELINE].settings, manifest, folder / self.model.replace("/", "-")
        )
        self._rows = {name: one.settings.precision for name, one in asked.items()}
        self._identity = {name: one.identity() for name, one in asked.items()}
        self._reference: Reference | None = None
        self._facts: dict[str, PairFacts] = {}
        self._waited_s = 0.0
        self._alone: dict[Pair, Examined] = {}
        self._apart: set[str] = set()  # failed in a process with others
        self._room = MEMORY_SHARE * (environment.gpu_memory_mib or 0) * 2**20

    @property
    def fp32_bytes(self) -> int:
        """Bytes of its FP32 weights, 0 where nothing tells."""
        return prepared.fp32_bytes(self._project, self._source.manifest)

    def visit(self, targets: Mapping[int, int], command: Command) -> dict[int, dict[str, float]]:
        """A round at each batch size of ``targets``, of the precisions that lack it; median ms by size and precision.

        Raises:
            StudyError: weights or machine are not what they should be.
            CodeChanged: the measuring code was edited meanwhile.
        """
        begun_s, self._waited_s = time.monotonic(), 0.0
        lacking = {(name, size) for size in targets for name in self.lacks(size, targets[size], command.retry)}
        self._prepare(lacking, command)
        seen: dict[int, dict[str, float]] = {size: {} for size in targets}
        prepared_s = time.monotonic() - begun_s
        if BASELINE in self._facts:
            if not self._source.device.a_process_an_arm:
                self._examine(lacking - self._tried)
            lacking -= self._tried
            lost = set[Pair]()
            for group in self._groups(self._names(lacking)):
                lost |= self._round(group, lacking, targets, command, seen)
            for name in self._names(lost):
                self._round([name], lost, targets, command, seen)
            if lost and not lost & self._tried:  # all fit alone: they do not fit together
                self._apart |= {name for name, _ in lost}
        self.visit_s = (time.monotonic() - begun_s - prepared_s - self._waited_s) / max(
            1, sum(map(bool, seen.values()))
        )
        return seen

    def _names(self, pairs: Set[Pair]) -> list[str]:
        return [name for name in self.records if any(name == one for one, _ in pairs)]

    def _prepare(self, lacking: Set[Pair], command: Command) -> None:
        """Load the model, and convert it into what is lacking and FP32, as far as that was not done."""
        wanted = self._names(lacking)
        if not self._facts and not self._matrix.again:
            self._recall()
        names = [name for name in dict.fromkeys([BASELINE, *wanted]) if name not in self._facts]
        if not wanted or not names:
            return

        def fail(error: Exception, *without: str) -> None:
            for name, size in sorted(lacking):
                if name in without:
                    self.fail(name, self.failed(size, error))

        command.observer.preparing(self.model)
        begun_s = time.monotonic()
        try:
            self._reference = self._reference or prepared.load(self._source)
        except Exception as error:
            fail(error, *wanted)
            return
        loaded_s = (time.monotonic() - begun_s) / len(names)
        for name in names:
            begun_s = time.monotonic()
            try:
                facts = prepared.convert_pair(self._source, name, self._rows[name], self._reference)
            except Exception as error:
                fail(error, *(wanted if name == BASELINE else [name]))
                if name == BASELINE:
                    return
                continue
            self._facts[name] = facts
            if name in self.records:
                elapsed_s = round(self.records[name].elapsed_s + loaded_s + time.monotonic() - begun_s, 3)
                of_record = {**facts.of_record, "elapsed_s": elapsed_s}
                self.records[name] = self.records[name].model_copy(update=of_record)
        known = {name: (self._identity[name], facts) for name, facts in self._facts.items()}
        prepared.remember(self._source, prepared.Kept(self._reference, known))

    def _recall(self) -> None:
        """Take up what an earlier command prepared under the same settings, by the same code, on the same machine."""
        kept = prepared.recall(self._source)
        if kept is None or kept.facts.get(BASELINE, ("",))[0] != self._identity[BASELINE]:
            return
        self._reference = kept.reference
        self._facts = {name: facts for name, (key, facts) in kept.facts.items() if key == self._identity.get(name)}
        for name in self._facts.keys() & self.records.keys():
            self.records[name] = self.records[name].model_copy(update=self._facts[name].of_record)

    def _groups(self, names: list[str]) -> list[list[str]]:
        """All together where they fit into memory with FP32 twice, else each alone with these; FP32 is in the first."""
        room = self._room or MEMORY_SHARE * host.available_bytes()
        others = [name for name in names if name != BASELINE]
        needed = sum(int(self._facts[name].of_record["size"].stored_weights) for name in (BASELINE, BASELINE, *others))
        if len(others) < 2 or (needed <= room and not self._apart & set(others)):
            return [names]
        return [[BASELINE, name] if BASELINE in names and name == others[0] else [name] for name in others]

    def _examine(self, pairs: Set[Pair]) -> None:
        """Examine what was not, in a process of its own for each precision, smallest batch size first."""
        ends = (min(self._matrix.batch_sizes), max(self._matrix.batch_sizes))
        for name in self._names(pairs):
            new = {size for one, size in pairs if one == name and self.is_new(name, size)}
            asked = sorted(size for size in new if (name, size) not in self._alone)
            if not asked:
                continue
            processes = Processes(self._source, self.idle, [Arm(name, name, self._rows[name])])
            try:
                for size in asked:
                    try:
                        limit_s = model_round.patience_s(self._source.protocol, size)
                        profiled = size in ends
                        self._alone[name, size] = processes.call("examine", name, size, profiled, limit_s=limit_s)
                    except Exception as error:
                        self.fail(name, self.failed(size, error))
            finally:
                processes.close()

    def _round(
        self,
        names: list[str],
        lacking: Set[Pair],
        targets: Mapping[int, int],
        command: Command,
        seen: dict[int, dict[str, float]],
    ) -> set[Pair]:
        """A round of these precisions: processes made anew for each batch size, or once on a device that asks so.

        Gives what failed in a process with others, and is yet to be tried without them.
        """
        lost, each, device = set[Pair](), self._source, self._source.device
        lacks = {size: [name for name in names if (name, size) in lacking] for size in targets}
        sizes = [size for size in targets if lacks[size]]
        if sizes and not pair_fingerprint.unchanged_on_disk(FP32):
            found = "src/visionquant was edited while it measured"
            raise CodeChanged(self.model, found, "run the same command again")
        parts = [[size] for size in sizes] if device.a_process_an_arm else [sizes]
        for part in filter(None, parts):
            command.require_time()
            waited_s = host.wait_for_quiet(
                each.protocol.wait_s, lambda left_s: command.observer.waiting(self.model, left_s)
            )
            self._waited_s += waited_s
            number = 1 + max(self.last(name, size) for size in part for name in lacks[size])
            arms = self._arms([name for name in names if any(name in lacks[size] for size in part)], number)
            with ExitStack() as stack:
                processes = Processes(each, self.idle, arms)
                stack.callback(processes.close)
                if sampler := device.sampler():
                    stack.callback(sampler.stop)
                for size in part:
                    checked = frozenset(name for name in lacks[size] if self.is_new(name, size))
                    plan = RoundPlan(number, size, self._arms(lacks[size], number), checked, waited_s)
                    begun_s = time.monotonic()
                    course = model_round.run(each, plan, processes, self.failed)
                    gpu = sampler.between(begun_s, time.monotonic()) if sampler else None
                    for name in lacks[size]:
                        if name in course.failed and len(names) > 1 and not device.a_process_an_arm:
                            lost.add((name, size))
                            continue
                        self._keep(name, size, course, targets[size], gpu)
                        if name in course.rounds:
                            times = [ms for slot in course.rounds[name].of(name) for ms in slot.wall_ms]
                            seen[size][name] = median(times)
        return lost

    def _arms(self, names: list[str], number: int) -> tuple[Arm, ...]:
        """The arms of round ``number``, in the order in which their processes start: another one in each round."""
        fp32 = self._facts[BASELINE].expected
        arms = [Arm(BASELINE, BASELINE, FP32, fp32), Arm(PLACEBO, BASELINE, FP32, fp32)]
        arms += [Arm(name, name, self._rows[name], self._facts[name].expected) for name in names if name != BASELINE]
        return (*turns.order(arms, number), *(Arm(kernel) for kernel in KERNELS))

    def _keep(self, name: str, size: int, found: Seen, planned: int, gpu: GpuConditions | None) -> None:
        """What a round showed of a pair, written down."""
        if name in found.rounds:
            self.add(name, size, found.rounds[name].model_copy(update={"gpu": gpu}), planned)
        if name in found.failed:
            self.fail(name, found.failed[name])
        elif name in found.checked:
            assert self._reference is not None
            checked = found.checked[name]
            examined = checked.examined or self._alone[name, size]
            self.examined(name, size, checked, examined, self._reference.fault)
        self.write(name)
