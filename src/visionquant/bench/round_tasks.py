"""Tasks of a study on a cluster: a model and a round each, of all its arms; what each leaves, and one record from all.

A task leaves a folder, whole or not at all: samples of one round, and a file that names the task and their sha256. Its
name holds the digest of all that was asked, so that other settings, weights or code ask for another one. Torch-free.
"""

import shutil
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from visionquant.bench import pair_fingerprint
from visionquant.bench.command import Matrix
from visionquant.core import files, machine
from visionquant.core.errors import StudyError
from visionquant.core.frozen import Frozen
from visionquant.core.paths import Project
from visionquant.records.cell import Cell
from visionquant.records.record import SCHEMA, Record, read_samples, sha256_of, write, write_samples
from visionquant.settings.params import Params, Protocol
from visionquant.weights.sources import Manifest


class RoundTask(NamedTuple):
    """Round ``number`` (from 1) of a model at those ``batch_sizes`` that have so many; ``id`` is the digest of it all.

    It leaves ``folder``, which has the place of ``data/machines/local``.
    """

    id: str
    matrix: Matrix
    number: int
    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    def samples(self, precision: str) -> Path:
        """What it leaves of a precision."""
        return Project(self.folder, results=self.folder).samples(self.matrix.models[0], precision)


class TaskRecord(Frozen):
    """Which task left a folder, with the sha256 of its samples by precision, and where SLURM ran it.

    ``restarts``: how often SLURM queued the job anew. ``simulated``: the node goes by another name than its host, as
    where one host plays several: that shows that tasks are placed right, and times of it mean nothing.
    """

    id: str
    samples: dict[str, str]
    job: str | None
    restarts: int
    node: str | None
    host: str
    simulated: bool


def record_of(task: RoundTask) -> TaskRecord:
    """What a task says of itself. StudyError: its file is missing or broken."""
    return files.load(task.folder / "task.json", TaskRecord, f"remove {files.shown(task.folder)}")


def tasks_of(project: Project, params: Params, matrix: Matrix) -> dict[str, RoundTask]:
    """Every round of the protocol by the task's name, round after round over all models.

    Raises:
        StudyError: which weights a model has is not known yet.
    """
    protocol, tasks = params.protocol, dict[str, RoundTask]()
    code = {name: pair_fingerprint.measuring_sha256(params.precisions[name]) for name in matrix.precisions}
    rows = {name: params.precisions[name].model_dump(mode="json") for name in matrix.precisions}
    study = [SCHEMA, code, rows, protocol.model_dump(mode="json"), params.study.device]
    parts = [
        (part, Manifest.load(project.manifest(part.models[0]), params.models[part.models[0]].source).sha256())
        for part in matrix.by_model()
    ]
    for number in range(1, max(map(protocol.rounds_at, matrix.batch_sizes)) + 1):
        sizes = tuple(size for size in matrix.batch_sizes if number <= protocol.rounds_at(size))
        for part, weights in parts:
            model = part.models[0]
            found = sha256_of([*study, model, params.models[model].model_dump(mode="json"), weights, number, sizes])
            folder = project.local / "tasks" / f"{model}-{number}-{found[:8]}"
            tasks[folder.name] = RoundTask(found, Matrix((model,), matrix.precisions, sizes), number, folder)
    return tasks


def task_fault(project: Project, task: RoundTask) -> str:
    """Why a task's record does not count; empty where it is there, whole, its own, and of the set's machine."""
    if not task.folder.is_dir():
        return "no record"
    try:
        done, declared = record_of(task), machine.declared(project)
        if done.id != task.id:
            return f"the record of another task: remove {files.shown(task.folder)}"
        for precision in task.matrix.precisions:
            path = task.samples(precision)
            if not path.is_file() or files.sha256(path) != done.samples.get(precision):
                return f"{path.name} is missing or altered: remove {files.shown(task.folder)}"
            record = read_samples(path)
            if differences := record.environment.differs_from(declared):
                return f"{path.name} is of another machine than the set: {'; '.join(differences)}"
            if missing := [size for size in task.matrix.batch_sizes if record.cell(size) is None]:
                return f"{path.name}: batch sizes {' '.join(map(str, missing))} are missing"
    except StudyError as error:
        return str(error)
    return ""


def collect(project: Project, params: Params, tasks: Sequence[RoundTask], whole: bool) -> list[Record]:
    """Write samples and record of each pair from what ``tasks``, all without fault, left of it; the records.

    ``whole``: nothing is under way any more, so what killed tasks left is removed.
    """
    parts: dict[tuple[str, str], list[Record]] = {}
    for task in sorted(tasks, key=lambda one: one.number):
        for precision in task.matrix.precisions:
            parts.setdefault((task.matrix.models[0], precision), []).append(read_samples(task.samples(precision)))
    found = []
    for pair, rounds in parts.items():
        write_samples(project.samples(*pair), merged(rounds, params.protocol))
        found.append(write(project.record(*pair)))
    for left in (project.local / "tasks").glob(".*") if whole else ():
        shutil.rmtree(left, ignore_errors=True)
    return found


def merged(parts: Sequence[Record], protocol: Protocol) -> Record:
    """One pair's samples from those of its rounds, in their order; what is told once is the first's.

    A cell that was not ok in one round says so.
    """
    sizes = sorted({cell.batch_size for part in parts for cell in part.cells})
    cells = tuple(_merged([cell for part in parts if (cell := part.cell(size))], protocol) for size in sizes)
    return parts[0].model_copy(update={"cells": cells, "elapsed_s": sum(part.elapsed_s for part in parts)})


def _merged(cells: Sequence[Cell], protocol: Protocol) -> Cell:
    first = next((cell for cell in cells if cell.memory is not None), cells[0])
    worst = next((cell for cell in cells if cell.status != "ok"), first)
    every = enumerate(chain.from_iterable(cell.rounds for cell in cells), start=1)
    update = {
        "status": worst.status,
        "reason": worst.reason,
        "planned": protocol.rounds_at(first.batch_size),
        "rounds": tuple(one.model_copy(update={"number": number}) for number, one in every),
    }
    return first.model_copy(update=update)
