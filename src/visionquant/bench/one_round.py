"""One round of one model, taken on the node on which an executor runs it: what a task of a cluster does."""

import os
import shutil
import socket
import uuid
from contextlib import suppress

import torch

from visionquant.bench import device as devices
from visionquant.bench import prepared, telemetry, torch_flags
from visionquant.bench.command import Command
from visionquant.bench.model_samples import ModelSamples
from visionquant.bench.round_tasks import RoundTask, TaskRecord, task_fault
from visionquant.core import files, machine
from visionquant.core.errors import MachineMismatch, StudyError
from visionquant.core.paths import Project
from visionquant.records.cell import Cell
from visionquant.settings.params import Params
from visionquant.weights import sources


class _OneRound(ModelSamples):
    """The number of its ``task`` decides in which order its arms take turns, as it does in a command of all rounds."""

    task: RoundTask

    def last(self, name: str, size: int) -> int:
        return self.task.number - 1 + super().last(name, size)

    def failed(self, batch_size: int, error: Exception) -> Cell:
        cell = super().failed(batch_size, error)  # its reason names a file
        return cell.model_copy(update={"reason": cell.reason.replace(self._project.local.name, self.task.name)})


def take(project: Project, params: Params, task: RoundTask, command: Command) -> bool:
    """Take a task's round and leave its folder; False where that was there.

    The set's machine is that of the first task. Of two runs of a task the first to end leaves the folder.

    Raises:
        MachineMismatch: the node is another machine than the set's.
        StudyError: weights or settings are not what they should be, or what is there is broken.
    """
    if not (fault := task_fault(project, task)):
        return False
    if task.folder.exists():
        raise StudyError(task.name, fault, "then submit it again")
    host, job, node = socket.gethostname(), os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURMD_NODENAME")
    staging = task.folder.with_name(f".{task.name}.{host}-{uuid.uuid4().hex[:8]}")
    own = Project(project.root, results=staging)
    try:
        environment = _of_the_set(project, own, params.study.device)
        samples = _sampled(project, own, params, task, environment, command)
        done = TaskRecord(
            id=task.id,
            samples=samples,
            job=job,
            restarts=int(os.environ.get("SLURM_RESTART_COUNT", "0")),
            node=node,
            host=host,
            simulated=node is not None and node.partition(".")[0] != host.partition(".")[0],
        )
        files.save(staging / "task.json", done, indent=1)
        try:
            staging.rename(task.folder)
        except OSError as error:
            if not task.folder.is_dir():
                raise StudyError(f"write {task.folder}", error.strerror or str(error), "free space") from None
            return False
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return True


def _of_the_set(project: Project, own: Project, device: str) -> machine.Environment:
    """This machine, which the set is of from now on if it was of none. MachineMismatch: it is of another."""
    here = machine.probe(device)
    machine.declare(own, here)
    with suppress(FileExistsError):  # another was first: that fails between machines, too
        os.link(own.environment, project.environment)
    if differences := here.differs_from(machine.declared(project)):
        remedy = f"choose nodes of one kind (--constraint), or another folder than {project.shown(project.local)}"
        raise MachineMismatch("task", f"this node has {'; '.join(differences)}", remedy)
    return here


def _sampled(
    project: Project, own: Project, params: Params, task: RoundTask, here: machine.Environment, command: Command
) -> dict[str, str]:
    """Take the samples, once more where others disturbed the machine; their sha256 by precision."""
    model, device = task.matrix.models[0], devices.of(here.device)
    manifest = sources.manifest_of(project, params, model)
    torch_flags.quiet(device.kind)
    torch_flags.default_threads()
    torch.set_num_threads(1)  # a process with threads can't be forked
    prepared.preload(device.kind, {params.precisions[name].engine for name in task.matrix.precisions})
    one = _OneRound(own, params, manifest, here, task.matrix, own.prepared)
    one.task = task
    if params.protocol.energy_s is not None:
        with device.energy_counter() as counter:
            if not isinstance(counter, str):
                one.idle = telemetry.idle(counter, params.protocol.energy_s)
    while targets := {size: 1 for size in task.matrix.batch_sizes if one.lacks(size, 1)}:
        for size, medians_ms in one.visit(targets, command).items():
            command.observer.round(model, size, task.number, params.protocol.rounds_at(size), medians_ms, 0.0)
    shutil.rmtree(own.prepared, ignore_errors=True)
    return {precision: files.sha256(own.samples(model, precision)) for precision in task.matrix.precisions}
