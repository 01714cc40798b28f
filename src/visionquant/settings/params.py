"""params.yaml as frozen values.

Every key is typed and none is optional by accident: an unknown or missing key, an unknown name or a wrong type is one
line that names the key and what is allowed. Nothing here imports torch.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import to_jsonable_python

from visionquant.core import yaml12
from visionquant.core.errors import StudyError, checked, did_you_mean
from visionquant.core.frozen import Count, InputSize, Name, Positive, Revision, Strict, Unsigned, height_width
from visionquant.core.paths import Project
from visionquant.settings.precision import FP32, Precision
from visionquant.settings.sections import CostAssumptions, DecisionLimits, EvaluationChoice, ReportChoice, Training


class Package(Strict):
    """A wheel, pinned by its sha256 (64 hex digits), and the ONNX ``file`` in it that has the weights."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$")]
    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.!+_-]*$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    file: Annotated[str, Field(pattern=r"\.onnx$")]

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"

    @property
    def fields(self) -> tuple[str, ...]:
        """All that decides which file is meant."""
        return self.name, self.version, self.sha256, self.file


class ModelSpec(Strict):
    """Where a model comes from and what it is fed.

    One of: ``repo_id`` with ``revision`` (40 hex digits, so that it can't move); ``path``, a local folder in the hub's
    layout; ``package``. ``input_size`` is the side of a square input in pixels, or its height and width.
    """

    repo_id: str | None = None
    revision: Revision | None = None
    path: str | None = None
    package: Package | None = None
    input_size: InputSize
    group: str = "other"

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if [self.repo_id, self.path, self.package].count(None) != 2:
            raise ValueError("needs exactly one of repo_id (with revision), path and package")
        if (self.repo_id is None) != (self.revision is None):
            raise ValueError("repo_id and revision (40 hex digits) go together")
        return self

    def shape(self, channels: int) -> tuple[int, int, int]:
        """(channels, height, width) of a prepared image."""
        return channels, *height_width(self.input_size)

    @property
    def source(self) -> tuple[str | None, ...]:
        """What decides which weights are meant: repository, revision and path, or the fields of the package."""
        return (self.repo_id, self.revision, self.path) if self.package is None else self.package.fields

    @property
    def place(self) -> str:
        """Where it is from, in words: repository, folder, or package with its version."""
        return self.repo_id or self.path or str(self.package)


class Protocol(Strict):
    """How a model is measured: rounds of fresh processes, in each of which the arms take turns in blocks.

    ``rounds`` at batch size 1, ``rounds_of_batches`` at each larger one, as far as they fit into ``study.minutes``. A
    round has as many blocks as fill ``round_s`` seconds: one at least, ``blocks`` at most. Each process warms up for
    ``warmup_passes``, then until ``warmup_s`` are over or two halves of it agree. A slot is a discarded pass and then
    ``slot_passes`` timed ones, more while they fill less than ``slot_ms`` milliseconds. Before a round others are
    waited for, for ``wait_s`` at most, until they leave the cores alone.
    """

    rounds: Annotated[int, Field(ge=1, le=100)]
    rounds_of_batches: Annotated[int, Field(ge=1, le=100)]
    blocks: Annotated[int, Field(ge=1, le=100)]
    round_s: Positive
    warmup_passes: Count
    warmup_s: Unsigned
    slot_passes: Count
    slot_ms: Unsigned
    wait_s: Unsigned
    fidelity_images: Annotated[int, Field(ge=2, le=32)]
    fidelity_gmacs: Positive
    attention: Literal["sdpa", "eager"]
    threads: Count | None
    cudnn_benchmark: bool
    energy_s: Annotated[float, Field(ge=5)] | None
    seed: Annotated[int, Field(ge=0)]

    def rounds_at(self, batch_size: int) -> int:
        """Rounds that are asked for at a batch size."""
        return self.rounds if batch_size == 1 else self.rounds_of_batches


class StudyChoice(Strict):
    """Which rows are studied, on which device, with which weights, and for how many ``minutes`` (null: no limit)."""

    models: Annotated[tuple[str, ...], Field(min_length=1)]
    precisions: Annotated[tuple[str, ...], Field(min_length=1)]
    batch_sizes: Annotated[tuple[Count, ...], Field(min_length=1)]
    protocol: str
    minutes: Positive | None
    device: Literal["auto", "cpu", "cuda"]
    weights: Literal["auto", "pretrained", "seeded"]


class StatisticsChoice(Strict):
    """Confidence of verdicts (0 to 1), within what things are the same, and percentiles shown (per cent).

    ``equivalence_margin`` is a share of a speed, ``accuracy_margin`` points of accuracy.
    """

    confidence: Annotated[float, Field(gt=0.5, lt=1)]
    equivalence_margin: Annotated[float, Field(gt=0, lt=0.5)]
    accuracy_margin: Annotated[float, Field(gt=0, lt=100)]
    percentiles: Annotated[tuple[Annotated[int, Field(gt=0, lt=100)], ...], Field(min_length=1)]


class Params(Strict):
    """All of params.yaml."""

    study: StudyChoice
    protocols: dict[Name, Protocol]
    models: dict[Name, ModelSpec]
    precisions: dict[Name, Precision]
    statistics: StatisticsChoice
    training: Training
    evaluation: EvaluationChoice
    cost: CostAssumptions
    decision: DecisionLimits
    report: ReportChoice

    @property
    def protocol(self) -> Protocol:
        return self.protocols[self.study.protocol]

    def pairs(self) -> tuple[tuple[str, str], ...]:
        """(model, precision) of the study, model by model."""
        return tuple((model, precision) for model in self.study.models for precision in self.study.precisions)

    def other_pairs(self) -> tuple[tuple[str, str], ...]:
        """The study's models with the precisions that it does not list."""
        others = [name for name in self.precisions if name not in self.study.precisions]
        return tuple((model, precision) for model in self.study.models for precision in others)


def load(project: Project, overrides: Iterable[str] = ()) -> Params:
    """Read and check ``params.yaml``, with values in place of its own: KEY=VALUE, a dotted key and YAML.

    Raises:
        StudyError: one line naming the key at fault and what is allowed.
    """
    raw = yaml12.read(project.params, "params.yaml")
    if not isinstance(raw, dict):
        raise StudyError("params.yaml", "no top-level keys", f"it needs {', '.join(Params.model_fields)}")
    for override in overrides:
        _put(raw, override)
    return parse(raw)


def _put(raw: dict[str, Any], override: str) -> None:
    key, given, text = override.partition("=")
    *parents, last = key.split(".")
    if not given or not all((*parents, last)):
        raise StudyError(f"--set {override}", "no key and value", "write e.g. --set study.device=cuda")
    row = raw
    for number, name in enumerate(parents, 1):
        row = row.setdefault(name, {})
        if not isinstance(row, dict):
            whole = ".".join(parents[:number])
            remedy = f"give all of it: --set {whole}=..."
            raise StudyError(f"--set {override}", f"{whole} has no keys of its own", remedy)
    row[last] = yaml12.parse(text, f"--set {key}", "put it into quotes")


def parse(raw: dict[str, Any]) -> Params:
    """Check settings that were read from YAML; see :func:`load`."""
    params = checked(Params, raw)
    study, training, cost = params.study, params.training, params.cost
    if params.precisions.get("fp32", FP32) != FP32:
        wrong = "it is the baseline of every comparison and not plain float32"
        raise StudyError("params.yaml: precisions.fp32", wrong, "restore it")
    known("study.models", study.models, params.models)
    known("study.precisions", study.precisions, params.precisions)
    known("study.protocol", [study.protocol], params.protocols)
    known("training.chosen", training.chosen, training.networks)
    known("training.also", training.also, params.precisions)
    known("evaluation.probe.models", params.evaluation.probe.models, params.models)
    known("evaluation.probe.also", params.evaluation.probe.also, params.precisions)
    known("training.run", map(str, training.run), map(str, range(training.folds)))
    known("cost.model", [cost.model], params.models)
    known("report.profiled", params.report.profiled, params.models)
    known("cost.precision", [cost.precision], params.precisions)
    for key in ("models", "precisions", "batch_sizes"):
        if doubled := _doubled(getattr(study, key)):
            raise StudyError(f"params.yaml: study.{key}", f"{', '.join(doubled)} stands there twice", "name each once")
    if clash := _doubled("-".join(pair) for pair in params.pairs()):
        raise StudyError("params.yaml: study", f"two pairs share the name {clash[0]}", "rename a model or a precision")
    return params


def _doubled(names: Iterable[object]) -> list[str]:
    return sorted(name for name, count in Counter(map(str, names)).items() if count > 1)


def known(key: str, names: Iterable[str], rows: Iterable[str]) -> None:
    """Check that every name has a row.

    Raises:
        StudyError: names the first that has none, the nearest that does, and all that do.
    """
    allowed = list(rows)
    for name in names:
        if name not in allowed:
            remedy = f"{did_you_mean(name, allowed)}rows: {', '.join(allowed)}"
            raise StudyError(f"params.yaml: {key}", f"no row named {name}", remedy)


def settings_at(params: Params, keys: Iterable[str]) -> dict[str, Any]:
    """The settings of these dotted keys as JSON has them; ``protocol`` is the one in force, None stands for no row."""
    return {key: to_jsonable_python(_at(params, key)) for key in keys}


def changed(under: Mapping[str, object], params: Params) -> tuple[str, ...]:
    """Dotted keys of params.yaml whose values are others now than those ``under`` which evidence was made.

    What is "auto" now is whatever it was.
    """
    now = settings_at(params, under)
    return tuple(key for key, value in under.items() if now[key] not in (to_jsonable_python(value), "auto"))


def _at(params: Params, key: str) -> object:
    value: Any = params
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else getattr(value, part, None)
    return value
