"""What was asked and what was seen: one record file a pair, read, checked and written here.

Raw samples only; every statistic is derived from them again. Absence is a value: a cell that could not be measured is
a row with a status and a reason.

Schema history
    1  first version
    2  in every replicate a throughput window, order, time, drift sentinel, conditions and a checked warm-up; of each
       cell audit, energy, GPU-busy time and earlier attempts; of each pair the operations of a pass
    3  of the machine what sets the speed of the same hardware, and the version of ONNX Runtime
    4  of the machine the versions of the engines' libraries by name; the code's digest is that of the pair's own path
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field

from visionquant.core import files
from visionquant.core.errors import StudyError
from visionquant.core.frozen import Frozen
from visionquant.core.machine import Environment
from visionquant.core.paths import Project
from visionquant.records.cell import Cell, Pending
from visionquant.records.upgrade import upgraded
from visionquant.settings.params import ModelSpec, Params, changed
from visionquant.settings.params import Protocol as TimingProtocol
from visionquant.settings.precision import Precision

SCHEMA: Literal[4] = 4


class Weights(Frozen):
    """Which weights were used; ``manifest_sha256`` is the digest of the download stage's manifest."""

    kind: Literal["pretrained", "seeded"]
    source: str
    manifest_sha256: str


class Settings(Frozen):
    """What was asked of a pair."""

    model: ModelSpec
    precision: Precision
    protocol: TimingProtocol
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
    """A pair: facts common to it, and a cell per batch size. ``elapsed_s`` is what measuring it took in all.

    ``operations`` counts what one forward pass of one image dispatches, views apart; ``outlier_layers`` in how many
    INT8 layers it met outliers, None where none are looked for. ``fidelity_reason`` says why there is no fidelity;
    empty where there is some, or where earlier versions did not record it.
    """

    schema_version: Literal[4]
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
            "study.weights": asked.weights.kind,
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


class PartialRecord(Frozen):
    """An unfinished pair: its record so far, and the cells in flight."""

    record: Record
    pending: tuple[Pending, ...] = ()


def sha256_of(value: Any) -> str:
    """The sha256 of a JSON value in canonical form."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read(path: Path) -> Record:
    """Read a record; one of an earlier schema as far as it was recorded (the file stays as it is).

    Raises:
        StudyError: the file can't be read, is cut, or is of a later schema.
    """
    remedy = f"delete {path.name} and measure the pair again"
    text = files.content(path, remedy)
    raw = files.parsed(path, text, dict[str, Any], remedy)
    if (schema := raw.get("schema_version")) == SCHEMA:
        return files.parsed(path, text, Record, remedy)
    if isinstance(schema, int) and schema > SCHEMA:
        remedy = "use the version of visionquant that wrote it, or a later one"
    try:
        raw = upgraded(raw, SCHEMA)
    except (KeyError, TypeError, AttributeError) as error:
        raise StudyError(files.shown(path), f"no record of schema {schema} ({error!r})", remedy) from None
    if raw.get("schema_version") != SCHEMA:
        raise StudyError(files.shown(path), f"schema {schema}, this code reads 1 to {SCHEMA}", remedy)
    return files.parsed(path, json.dumps(raw), Record, remedy)


def current(path: Path) -> Record | None:
    """The record at ``path``, None where there is none; see :func:`read`."""
    return read(path) if path.is_file() else None


def under_way(path: Path) -> PartialRecord | None:
    """What is finished of a pair; None where nothing is, or it is worth nothing: it is measured again."""
    try:
        return files.load(path, PartialRecord)
    except StudyError:
        return None


def write(path: Path, record: Record) -> None:
    """Write ``record``, whole or not at all; one cell's samples to a line."""
    raw = record.model_dump(mode="json")
    cells = ",\n  ".join(json.dumps(cell, separators=(",", ":")) for cell in raw.pop("cells"))
    files.save(path, f'{json.dumps(raw, indent=1)[:-2]},\n "cells": [\n  {cells}\n ]\n}}\n')


class MadeUnder(Protocol):
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
