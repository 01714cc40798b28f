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
from visionquant.core.frozen import Count, InputSize, Name, Positive, Revision, Share, Strict, Unsigned, height_width
from visionquant.core.paths import Project
from visionquant.settings.precision import FP32, Precision
from visionquant.settings.sections import CostAssumptions, DecisionLimits, EvaluationChoice, ReportChoice, Training


class ModelSpec(Strict):
    """Where a model comes from and what it is fed.

    Either ``repo_id`` with ``revision`` (40 hex digits, so that it can't move), or ``path``, a local folder in the
    hub's layout. ``input_size`` is the side of a square input in pixels, or its height and width.
    """

    repo_id: str | None = None
    revision: Revision | None = None
    path: str | None = None
    input_size: InputSize
    group: str = "other"

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.repo_id is None) == (self.path is None):
            raise ValueError("needs exactly one of repo_id (with revision) and path")
        if (self.repo_id is None) != (self.revision is None):
            raise ValueError("repo_id and revision (40 hex digits) go together")
        return self

    def shape(self, channels: int) -> tuple[int, int, int]:
        """(channels, height, width) of a prepared image."""
        return channels, *height_width(self.input_size)

    @property
    def source(self) -> tuple[str | None, str | None, str | None]:
        """Repository, revision and path: what decides which weights are meant."""
        return self.repo_id, self.revision, self.path


class Protocol(Strict):
    """How one cell is measured. Times in seconds; counts of forward passes.

    ``budget_s`` is what the timed passes of a cell aim to fill, ``limit_s`` what it may take at most, warm-up included:
    a cell whose fewest passes are foreseen to take longer is over budget. With a ``goal``, processes beyond
    ``replicates`` are added until the half-width of the median's interval is at most that share of it (and three more),
    the budget is spent, or there are ``most_replicates``. Warm-up goes on for up to ``warmup_s`` more until two halves
    of it agree.
    """

    replicates: Annotated[int, Field(ge=1, le=100)]
    most_replicates: Annotated[int, Field(ge=2, le=100)] | None
    goal: Share | None
    warmup_iterations: Annotated[int, Field(ge=0)]
    warmup_s: Unsigned
    iterations: Count
    minimum_iterations: Count
    budget_s: Positive | None
    limit_s: Positive | None
    throughput_share: Share
    fidelity_images: Annotated[int, Field(ge=2, le=32)]
    fidelity_gmacs: Positive
    attention: Literal["sdpa", "eager"]
    threads: Count | None
    cudnn_benchmark: bool
    busy: Literal["allow", "refuse"]
    energy_s: Annotated[float, Field(ge=5)] | None
    seed: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _counts_fit(self) -> Self:
        if (self.goal is None) != (self.most_replicates is None):
            raise ValueError("goal and most_replicates go together: both, or null and null")
        if self.most_replicates is not None and not 2 <= self.replicates <= self.most_replicates:
            raise ValueError(f"with a goal replicates goes from 2 to most_replicates, found {self.replicates}")
        if self.minimum_iterations * self.most > self.iterations:
            fewest = f"minimum_iterations {self.minimum_iterations} x replicates {self.most}"
            raise ValueError(f"{fewest} is more than iterations {self.iterations}")
        return self

    @property
    def most(self) -> int:
        """The most replicates that a cell gets."""
        return self.most_replicates or self.replicates

    def iterations_of(self, replicate: int) -> int:
        """Timed iterations of replicate 0, 1, ...: all that there may be add up to ``iterations``."""
        share, rest = divmod(self.iterations, self.most)
        return share + (replicate < rest)


class StudyChoice(Strict):
    """Which rows are studied, on which device, with which weights."""

    models: Annotated[tuple[str, ...], Field(min_length=1)]
    precisions: Annotated[tuple[str, ...], Field(min_length=1)]
    batch_sizes: Annotated[tuple[Count, ...], Field(min_length=1)]
    protocol: str
    device: Literal["auto", "cpu", "cuda"]
    weights: Literal["auto", "pretrained", "seeded"]


class StatisticsChoice(Strict):
    """Confidence of verdicts (0 to 1), the share within which speeds are the same, and percentiles shown (per cent)."""

    confidence: Annotated[float, Field(gt=0.5, lt=1)]
    equivalence_margin: Annotated[float, Field(gt=0, lt=0.5)]
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
    known("training.run", map(str, training.run), map(str, range(training.folds)))
    known("cost.model", [cost.model], params.models)
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
