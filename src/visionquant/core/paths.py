"""Every path of the project, once."""

from dataclasses import dataclass
from pathlib import Path

from visionquant.core.errors import StudyError

PACKAGE = Path(__file__).parent.parent
LOCAL = "local"


class _At:
    """A path below the root of a project, or below another of its folders."""

    def __init__(self, path: str, base: str = "root") -> None:
        self.path, self.base = path, base

    def __get__(self, project: "Project", owner: type | None = None) -> Path:
        base: Path = getattr(project, self.base)
        return base / self.path


@dataclass(frozen=True)
class Project:
    """A checkout of the study; all files are found from its root.

    ``machines`` has a folder a machine, of which ``local`` is this one: git ignores it, and the pipeline writes nowhere
    else but to the reports. ``results`` takes the place of ``local``.
    """

    root: Path
    results: Path | None = None

    params = _At("params.yaml")
    architectures = _At("data/architectures")
    supplement = _At("data/supplement")
    published = _At("data/published")
    machines = _At("data/machines")
    notebooks = _At("notebooks")
    reports = _At("reports")
    tables = _At("reports/tables")
    figures = _At("reports/figures")
    executed = _At("reports/notebooks")
    lock = _At(".lock", "local")  # whoever holds it measures or writes records here
    sources = _At("sources.json", "local")  # what lies behind each model now, by digest
    environment = _At("environment.json", "local")  # which machine measures here
    schedule = _At("schedule.json", "local")  # the rounds of the study, as they were foreseen
    prepared = _At("prepared", "local")  # converted weights, kept between rounds

    @classmethod
    def find(cls, start: Path | None = None) -> "Project":
        """The nearest folder at or above ``start`` (default: the working directory) with a ``params.yaml``.

        Raises:
            StudyError: there is none.
        """
        start = (start or Path.cwd()).resolve()
        for folder in (start, *start.parents):
            if (folder / "params.yaml").is_file():
                return cls(folder)
        raise StudyError("project", f"no params.yaml in {start} or above it", "change into a checkout of the study")

    @property
    def local(self) -> Path:
        """What is measured, and what measuring needs, on this machine."""
        return self.results or self.machines / LOCAL

    def shown(self, path: Path) -> str:
        """A path as messages name it: from the root, where it lies below that."""
        return (path.relative_to(self.root) if path.is_relative_to(self.root) else path).as_posix()

    def manifest(self, model: str) -> Path:
        """Where the download stage says which weights ``model`` has."""
        return self.local / "models" / f"{model}.json"

    def weights(self, network: str, fold: int) -> Path:
        """The weights of a network that was trained on all folds but one."""
        return self.local / "trained" / network / f"fold{fold}.safetensors"

    def record(self, model: str, precision: str) -> Path:
        """The record of a pair."""
        return self.local / "latency" / f"{model}-{precision}.json"

    def samples(self, model: str, precision: str) -> Path:
        """All that was sampled of a pair; it grows while the pair is measured."""
        return self.local / "samples" / f"{model}-{precision}.json.gz"

    def failure(self, name: str) -> Path:
        """The traceback of what failed unexpectedly: a pair (MODEL-PRECISION), or a model (MODEL)."""
        return self.local / "failures" / f"{name}.log"
