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
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationError

from visionquant.core.errors import StudyError
from visionquant.core.machine import Environment
from visionquant.core.paths import Project, write_atomically
from visionquant.records import upgrade
from visionquant.records.cell import Cell, Pending, Row
from visionquant.settings.params import ModelSpec, Params, Protocol
from visionquant.settings.precision import Precision

SCHEMA: Literal[4] = 4
EARLIER = "measured by an earlier version of this code"


class Weights(Row):
    """Which weights were used; ``manifest_sha256`` is the digest of the download stage's manifest."""

    kind: Literal["pretrained", "seeded"]
    source: str
    manifest_sha256: str


class Settings(Row):
    """What was asked of a pair."""

    model: ModelSpec
    precision: Precision
    protocol: Protocol
    device: Literal["cpu", "cuda"]
    weights: Weights

    def digest(self) -> str:
        return sha256_of(self.model_dump(mode="json"))


class Code(Row):
    """The code that measured: the digest of ``bench``, and where the checkout stood."""

    measuring_sha256: str
    git_commit: str | None
    git_dirty: bool | None


class Conversion(Row):
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


class Size(Row):
    """Counts and bytes of the model as it was measured."""

    parameters: int
    linear_layers: int
    macs: int | None
    stored_weights: int
    file_bytes: int


class Fidelity(Row):
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


class Record(Row):
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
        return sha256_of([SCHEMA, self.settings.digest(), machine, self.code.measuring_sha256])

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


class Progress(Row):
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
    return _read(path, Record)


def current(path: Path) -> Record | None:
    """The record at ``path``, None where there is none.

    Raises:
        StudyError: it is broken.
    """
    return read(path) if path.is_file() else None


def under_way(path: Path) -> Progress | None:
    """The progress at ``path``; None where there is none, or what is there is worth nothing: it is measured again."""
    try:
        return read_progress(path) if path.is_file() else None
    except StudyError:
        return None


def read_progress(path: Path) -> Progress:
    """Read the progress of a pair; see :func:`read`."""
    return _read(path, Progress)


Kind = TypeVar("Kind", Record, Progress)


def _read(path: Path, kind: type[Kind]) -> Kind:
    remedy = f"delete {path.name} and measure the pair again"
    try:
        text = path.read_text(encoding="utf-8")
        raw = json.loads(text)
    except OSError as error:
        raise StudyError(f"record {path}", error.strerror or "unreadable", remedy) from None
    except ValueError:
        raise StudyError(f"record {path}", "not JSON (cut short?)", remedy) from None
    if isinstance(raw, dict) and isinstance(inner := raw.get("record") if kind is Progress else raw, dict):
        schema = inner.get("schema_version")
        if isinstance(schema, int) and schema > SCHEMA:
            remedy = "use the version of visionquant that wrote it, or a later one"
        if schema != SCHEMA:
            try:
                inner = upgrade.upgraded(inner, SCHEMA)
            except (KeyError, TypeError, AttributeError) as error:
                raise StudyError(f"record {path}", f"no record of schema {schema} ({error!r})", remedy) from None
            text = json.dumps(raw | {"record": inner} if kind is Progress else inner)
        if inner.get("schema_version") != SCHEMA:
            raise StudyError(f"record {path}", f"schema {schema}, this code reads 1 to {SCHEMA}", remedy)
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise StudyError(f"record {path}", f"{where}: {first['msg'].lower()}", remedy) from None


def write_progress(path: Path, progress: Progress) -> None:
    """Write ``progress``, whole or not at all."""
    write_atomically(path, progress.model_dump_json() + "\n")


def write(path: Path, record: Record) -> None:
    """Write ``record``, whole or not at all; one cell's samples to a line."""
    raw = record.model_dump(mode="json")
    cells = ",\n  ".join(json.dumps(cell, separators=(",", ":")) for cell in raw.pop("cells"))
    head = json.dumps(raw, indent=1)
    write_atomically(path, f'{head[:-2]},\n "cells": [\n  {cells}\n ]\n}}\n')


def stale(record: Record, params: Params) -> str | None:
    """Why a record does not belong to the settings in force, or None if it does."""
    asked = {
        "model": (record.settings.model, params.models.get(record.model)),
        "precision": (record.settings.precision, params.precisions.get(record.precision)),
        "protocol": (record.settings.protocol, params.protocol),
    }
    changed = [name for name, (then, now) in asked.items() if then != now]
    if params.study.device not in ("auto", record.settings.device):
        changed.append("device")
    if params.study.weights not in ("auto", record.settings.weights.kind):
        changed.append("weights")
    return f"measured with another {', '.join(changed)} row" if changed else None


def local(project: Project, params: Params) -> tuple[dict[tuple[str, str], Record], dict[tuple[str, str], str]]:
    """This machine's records of the pairs in force, and why each other pair of the study has none.

    Precisions that the study does not list, and that were measured all the same, are there too. Beside records of this
    version those of an earlier one have no place.

    Raises:
        StudyError: a record is broken, or two records come from different machines or versions.
    """
    found: dict[tuple[str, str], Record] = {}
    missing: dict[tuple[str, str], str] = {}
    asked = params.pairs()
    for pair in (*asked, *params.other_pairs()):
        record = current(project.record(*pair))
        reason = "not measured" if record is None else stale(record, params)
        if record is not None and reason is None:
            found[pair] = record
        elif pair in asked:
            missing[pair] = reason or ""
    # One set has one schema: what one record does not say of the machine can't be held against the others.
    least = min((record.environment.unrecorded for record in found.values()), key=len, default=())
    earlier = [pair for pair, record in found.items() if record.environment.unrecorded != least]
    missing |= {pair: EARLIER for pair in earlier if pair in asked}
    found = {pair: record for pair, record in found.items() if pair not in earlier}
    require_one_machine("data/measured", list(found.values()))
    return found, missing


def failures(project: Project, pairs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Of ``pairs`` those whose record holds a failed cell, and why it failed."""
    found = {pair: current(project.record(*pair)) for pair in pairs}
    return {pair: record.failure for pair, record in found.items() if record is not None and record.failure}


def require_one_machine(place: str, records: list[Record]) -> None:
    """Insist that all records come from one machine with one set of versions.

    Raises:
        StudyError: names the first record that does not match and what differs.
    """
    for record in records[1:]:
        differences = record.environment.differs_from(records[0].environment)
        if differences:
            raise StudyError(
                place,
                f"{record.model}-{record.precision} comes from another machine: {'; '.join(differences)}",
                "keep one machine's records here; measure the others again or move them to data/recorded/<platform>",
            )
