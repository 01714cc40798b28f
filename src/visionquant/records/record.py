"""What was asked and what was seen: of each pair a record and, compressed beside it, its samples.

The samples hold everything, round by round, and grow while the pair is measured; the record is what can be said of them
without statistics, and names them by their sha256. Reading a record reads both. Every statistic is derived from the
samples again. Absence is a value: a cell that could not be measured is a row with a status and a reason.

Schema history
    1  first version
    2  in every replicate a throughput window, order, time, drift sentinel, conditions and a checked warm-up; of each
       cell audit, energy, GPU-busy time and earlier attempts; of each pair the operations of a pass
    3  of the machine what sets the speed of the same hardware, and the version of ONNX Runtime
    4  of the machine the versions of the engines' libraries by name; the code's digest is that of the pair's own path
    5  rounds of slots in which the arms of a model take turns, in place of processes of one pair; samples apart
"""

import gzip
import hashlib
import json
import typing
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from visionquant.core import files
from visionquant.core.errors import StudyError
from visionquant.core.frozen import Frozen
from visionquant.core.machine import Environment
from visionquant.core.paths import Project
from visionquant.records.cell import Cell
from visionquant.records.upgrade import upgraded
from visionquant.settings.params import ModelSpec, Params, Protocol, changed
from visionquant.settings.precision import Precision

SCHEMA: Literal[5] = 5
SAMPLES, REMEDY = "samples", "measure the pair again"


WeightsKind = Literal["pretrained", "packaged", "seeded", "missing"]
TRAINED: tuple[str, ...] = ("pretrained", "packaged")  # that tell of accuracy


class Weights(Frozen):
    """Which weights were used; ``manifest_sha256`` is the digest of the download stage's manifest.

    Those of the hub or a folder are pretrained, those of a wheel packaged, made-up ones seeded; or there are none.
    """

    kind: WeightsKind
    source: str
    manifest_sha256: str


class Settings(Frozen):
    """What was asked of a pair; ``protocol`` of a record before rounds as it was written then."""

    model: ModelSpec
    precision: Precision
    protocol: Protocol | dict[str, Any]
    device: Literal["cpu", "cuda"]
    weights: Weights


class Code(Frozen):
    """The code that measured: the digest of ``bench``, and where the checkout stood."""

    measuring_sha256: str
    git_commit: str | None
    git_dirty: bool | None


class Conversion(Frozen):
    """Proof of the precision: what became of the parameters, and with which knobs.

    Of a mixed policy also ``modules``: the type of each module that has parameters of its own. ``kernels``: in how many
    quantised layers each kernel ran in the fidelity pass; ``messages``: how often libraries warned of or logged each
    text while the pair was prepared. None: not recorded, by an earlier version or because that pass failed.
    """

    quantized_modules: int
    quantized_share: Annotated[float, Field(ge=0, le=1)]
    skipped_modules: tuple[str, ...]
    dtypes: dict[str, int]
    knobs: dict[str, str | int | float | bool]
    modules: dict[str, str] | None = None
    kernels: dict[str, int] | None = None
    messages: dict[str, int] | None = None


class Size(Frozen):
    """Counts and bytes of the model as it was measured."""

    parameters: int
    linear_layers: int
    macs: int | None
    stored_weights: int
    file_bytes: int


class Fidelity(Frozen):
    """Agreement with FP32 on the fidelity images; ``logits_from`` says through which head two of them were taken.

    ``blocks_sqnr_db``: signal to noise after each block for the first image, None where it equals FP32's.
    """

    images: int
    cosine: float | None
    sqnr_db: float | None
    nan_count: int
    top1_agreement: float | None
    kl_nats: float | None
    logits_from: str
    blocks_sqnr_db: tuple[float | None, ...] = ()


class Record(Frozen):
    """A pair: facts common to it, and a cell per batch size. ``elapsed_s`` is what preparing it took.

    ``operations`` counts what one forward pass of one image dispatches, views apart; ``outlier_layers`` in how many
    INT8 layers it met outliers, None where none are looked for. ``fidelity_reason`` says why there is no fidelity;
    empty where there is some, or where earlier versions did not record it.
    """

    schema_version: Literal[5]
    model: str
    precision: str
    settings: Settings
    environment: Environment
    code: Code
    conversion: Conversion | None
    size: Size | None
    fidelity: Fidelity | None
    fidelity_reason: str = ""
    operations: int | None
    outlier_layers: int | None
    cells: tuple[Cell, ...]
    elapsed_s: float
    samples_sha256: str = ""

    def identity(self) -> str:
        """The digest that two measurements must share to stand in one record."""
        machine = self.environment.key(self.settings.precision.libraries)
        settings = sha256_of(self.settings.model_dump(mode="json"))
        return sha256_of([SCHEMA, settings, machine, self.code.measuring_sha256])

    @property
    def under(self) -> dict[str, object]:
        """The settings that decided it, by their keys in params.yaml."""
        asked = self.settings
        return {
            f"models.{self.model}": asked.model,
            f"precisions.{self.precision}": asked.precision,
            "protocol": asked.protocol,
            "study.device": asked.device,
            "study.weights": {"packaged": "pretrained", "missing": "auto"}.get(kind := asked.weights.kind, kind),
        }

    @property
    def pair(self) -> tuple[str, str]:
        return self.model, self.precision

    def goes_on_as(self, other: "Record") -> bool:
        """Whether cells of both may stand in one record: one identity, on a machine of which both say all."""
        libraries = self.settings.precision.libraries
        return self.environment.same_machine(other.environment, libraries) and self.identity() == other.identity()

    def cell(self, batch_size: int) -> Cell | None:
        """The cell of ``batch_size``, or None if it was not measured."""
        return next((cell for cell in self.cells if cell.batch_size == batch_size), None)

    @property
    def failure(self) -> str:
        """Why a cell failed unexpectedly, empty where none did."""
        return next((cell.reason for cell in self.cells if cell.status == "failed"), "")


def sha256_of(value: Any) -> str:
    """The sha256 of a JSON value in canonical form."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read(path: Path) -> Record:
    """Read a record with its samples; one of an earlier schema as far as it was recorded (the file stays as it is).

    Raises:
        StudyError: the file or its samples can't be read, are cut, do not belong together, or are of a later schema.
    """
    record = _parsed(path, files.content(path, REMEDY))
    if not record.samples_sha256:
        return record
    samples = samples_of(path)
    if not samples.is_file() or files.sha256(samples) != record.samples_sha256:
        found = "other samples than those that the record is of" if samples.is_file() else "missing"
        raise StudyError(files.shown(samples), found, f"restore the file, or {REMEDY}")
    rounds = {cell.batch_size: cell.rounds for cell in read_samples(samples).cells}
    cells = [cell.model_copy(update={"rounds": rounds.get(cell.batch_size, ())}) for cell in record.cells]
    return record.model_copy(update={"cells": tuple(cells)})


def samples_of(path: Path) -> Path:
    """Where the samples of the record at ``path`` lie."""
    return path.parent.parent / SAMPLES / f"{path.stem}.json.gz"


def read_samples(path: Path) -> Record:
    """All that was sampled of a pair; a StudyError: the file can't be read, or is cut."""
    try:
        text = gzip.decompress(files.content(path, REMEDY)).decode()
    except (OSError, EOFError, ValueError, zlib.error):
        raise StudyError(files.shown(path), "broken", REMEDY) from None
    return _parsed(path, text)


def _parsed(path: Path, text: bytes | str) -> Record:
    raw = files.parsed(path, text, dict[str, Any], REMEDY)
    if (schema := raw.get("schema_version")) == SCHEMA:
        return files.parsed(path, text, Record, REMEDY)
    remedy = REMEDY
    if isinstance(schema, int) and schema > SCHEMA:
        remedy = "use the version of visionquant that wrote it, or a later one"
    try:
        raw = upgraded(raw, SCHEMA)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise StudyError(files.shown(path), f"no record of schema {schema} ({error!r})", remedy) from None
    if raw.get("schema_version") != SCHEMA:
        raise StudyError(files.shown(path), f"schema {schema}, this code reads 1 to {SCHEMA}", remedy)
    return files.parsed(path, json.dumps(raw), Record, remedy)


def current(path: Path) -> Record | None:
    """The record at ``path``, None where there is none; see :func:`read`."""
    return read(path) if path.is_file() else None


def write_samples(path: Path, record: Record) -> None:
    """Write all that was sampled of a pair, whole or not at all; the same samples give the same bytes."""
    files.save(path, gzip.compress(record.model_dump_json(exclude_defaults=True).encode(), mtime=0))


def write(path: Path) -> Record:
    """Check the samples of a pair and write its record to ``path``: what is settled about each cell, and their sha256.

    Raises:
        StudyError: there are no samples, or they are broken.
    """
    samples = samples_of(path)
    sampled = read_samples(samples)
    cells = tuple(settled(cell, sampled.precision) for cell in sampled.cells)
    record = sampled.model_copy(update={"cells": cells, "samples_sha256": files.sha256(samples)})
    raw = record.model_dump(mode="json", exclude={"cells": {"__all__": {"rounds"}}})
    text = json.dumps(raw, indent=1) + "\n"
    if not path.is_file() or path.read_bytes() != text.encode():
        files.save(path, text)
    return record


def settled(cell: Cell, precision: str) -> Cell:
    """A sampled cell with its status: busy where others disturbed all rounds, or all but one of several."""
    if cell.status != "ok" or not cell.paired or cell.quiet_rounds(precision) >= min(2, len(cell.rounds)):
        return cell
    why = f"others were busy in {len(cell.rounds) - cell.quiet_rounds(precision)} of {len(cell.rounds)} rounds"
    return cell.model_copy(update={"status": "busy", "reason": why})


class MadeUnder(typing.Protocol):
    """What was made under settings, by their dotted keys in params.yaml."""

    @property
    def under(self) -> Mapping[str, object]: ...


def stale(evidence: MadeUnder, params: Params) -> str | None:
    """Why evidence of this machine does not belong to the settings in force, or None if it does."""
    keys = changed(evidence.under, params)
    return f"recorded under other settings: {', '.join(keys)}" if keys else None


def failures(project: Project, pairs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Of ``pairs`` those whose record holds a failed cell, and why it failed."""
    records = {pair: current(project.record(*pair)) for pair in pairs}
    return {pair: record.failure for pair, record in records.items() if record is not None and record.failure}
