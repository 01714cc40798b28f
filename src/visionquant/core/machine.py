"""The machine and its software, read without importing what is read.

Versions come from package metadata, the GPU from NVML, the CPU from the kernel: a probe takes a fraction of a second
and initialises no device. What identifies the machine (``KEYS``) is what pairs are measured again for; host names,
serial numbers, times and temperatures are no part of it.

A fact of ``SPEED``, or a library's version, that is None was not recorded, for the file is older than the fact: it
counts as equal to nothing, not even to another that was not recorded. The libraries are those that the engines of
precisions name (:func:`record_version_of`); one that no engine of a pair uses is no part of that pair's key.
"""

import os
import platform
from collections.abc import Collection
from importlib import metadata
from typing import Annotated, Any, Literal

import psutil
from pydantic import Field, model_validator

from visionquant.core import driver, files, processors
from visionquant.core.errors import MachineMismatch, StudyError
from visionquant.core.frozen import Frozen
from visionquant.core.paths import Project

SPEED = ("affinity", "cpu_quota", "variables", "isa_limits")  # of the same hardware
LABELS = {"affinity": "CPU affinity", "cpu_quota": "CPU quota", "variables": "environment variables",
          "isa_limits": "limits of the instruction set", "onnxruntime": "version of ONNX Runtime"}  # fmt: skip
HARDWARE = ("device", "gpu", "gpu_memory_mib", "cpu", "cores")
KEYS = (*HARDWARE, "cpu_isa", "driver", "cuda_driver", "system", "python", "torch", "transformers", *SPEED)
FORMER_FIELDS = ("bitsandbytes", "onnxruntime")  # of libraries, in files before schema 4
_engine_libraries: set[str] = set()


def record_version_of(*packages: str) -> None:
    """Let every probe from now on record the versions of ``packages``: rows of precisions name their engines' so."""
    _engine_libraries.update(packages)


class Environment(Frozen):
    """What the measurements depend on. Memory in MiB; ``cores`` are those this process may use.

    ``affinity`` names these CPUs, ``cpu_quota`` how many CPUs' worth of time a container gets; ``variables`` and
    ``isa_limits`` are environment variables as NAME=value, see :mod:`~visionquant.core.processors`. ``libraries``:
    versions of those that engines use, by package, "absent" for one that is not installed. None: not recorded.
    """

    device: Literal["cpu", "cuda"]
    gpu: str | None
    gpu_memory_mib: int | None
    driver: str | None
    cuda_driver: str | None
    cpu: str
    cpu_isa: tuple[str, ...]
    cores: Annotated[int, Field(ge=1)]
    memory_mib: int
    system: str
    python: str
    torch: str
    transformers: str
    numpy: str
    affinity: str | None = None
    cpu_quota: Annotated[float, Field(gt=0)] | Literal["none"] | None = None
    variables: tuple[str, ...] | None = None
    isa_limits: tuple[str, ...] | None = None
    libraries: dict[str, str | None]

    @model_validator(mode="before")
    @classmethod
    def _libraries_by_name(cls, raw: Any) -> Any:
        if not isinstance(raw, dict) or "libraries" in raw:
            return raw
        rest = {name: value for name, value in raw.items() if name not in FORMER_FIELDS}
        return rest | {"libraries": {name: raw.get(name) for name in FORMER_FIELDS}}

    def key(self, libraries: Collection[str] | None = None) -> dict[str, object]:
        """The facts that identify the machine; of ``libraries`` those, or all."""
        values = self.model_dump(mode="json")
        versions = {name: version for name, version in self.libraries.items() if libraries is None or name in libraries}
        return {name: values[name] for name in KEYS} | {"libraries": versions}

    @property
    def unrecorded(self) -> tuple[str, ...]:
        """Identifying facts that were not recorded."""
        return tuple(name for name in (*SPEED, *self.libraries) if self._fact(name) is None)

    def _fact(self, name: str) -> object:
        return self.libraries[name] if name in self.libraries else getattr(self, name, None)

    def differs_from(self, other: "Environment", names: Collection[str] | None = None) -> list[str]:
        """One phrase for each identifying fact that both recorded and that is not the same; ``names``: of these."""
        unknown = {*self.unrecorded, *other.unrecorded, *(self.libraries.keys() ^ other.libraries.keys())}
        names = [name for name in names or (*KEYS, *self.libraries) if name not in unknown]
        facts = {name: (self._fact(name), other._fact(name)) for name in names}
        return [f"{name} {_as_text(own)} (not {_as_text(its)})" for name, (own, its) in facts.items() if own != its]

    def same_machine(self, other: "Environment", libraries: Collection[str] | None = None) -> bool:
        """Whether what was measured on one holds for the other: every identifying fact was recorded and is the same.

        Of ``libraries`` those count, or all.
        """
        counted = {*self.libraries, *other.libraries} if libraries is None else set(libraries)
        recorded = all(side._fact(name) is not None for side in (self, other) for name in (*SPEED, *counted))
        return recorded and not self.differs_from(other, {*KEYS, *counted})

    def same_hardware(self, other: "Environment") -> bool:
        """Whether both have the same GPU, or the same CPU with as many cores."""
        return all(getattr(self, name) == getattr(other, name) for name in HARDWARE)

    def why_unlike(self, other: "Environment") -> str:
        """Empty where absolute figures compare: the same hardware, as fast by all that was recorded. Else why not."""
        if not self.same_hardware(other):
            return "different machines"
        if differences := self.differs_from(other, ("cpu_isa", *SPEED)):
            return f"different settings of the machine: {'; '.join(differences)}"
        unknown = [name for name in SPEED if name in (*self.unrecorded, *other.unrecorded)]
        return f"what sets the speed was not recorded: {', '.join(unknown)}" if unknown else ""

    @property
    def speed(self) -> str:
        """What sets the speed of this hardware, in one line."""
        if set(SPEED) <= set(self.unrecorded):
            return "not recorded"
        return "; ".join(f"{LABELS[name]} {_as_text(getattr(self, name))}" for name in SPEED)

    @property
    def title(self) -> str:
        """The machine in a few words."""
        if self.gpu:
            return f"{self.gpu}, driver {self.driver}, torch {self.torch}"
        return f"{self.cpu} CPU, {self.cores} cores, torch {self.torch}"


def _as_text(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return "not recorded" if value is None else str(value)


def probe(device: str = "auto") -> Environment:
    """Read the machine; ``device`` is study.device. StudyError: CUDA is asked for and there is none."""
    gpu = driver.gpu() if device != "cpu" else None
    obstacle = driver.obstacle(gpu, _version("torch"))
    if device == "cuda" and obstacle:
        raise StudyError("study.device: cuda", obstacle[0], f"{obstacle[1]}, or set it to auto or cpu")
    taken, allowed, every = None if obstacle else gpu, processors.cpus(), os.cpu_count() or 1
    return Environment(
        device="cuda" if taken else "cpu",
        gpu=getattr(taken, "name", None),
        gpu_memory_mib=getattr(taken, "memory_mib", None),
        driver=getattr(taken, "driver", None),
        cuda_driver=getattr(taken, "cuda", None),
        cpu=processors.name(),
        cpu_isa=processors.isa(),
        cores=len(allowed or ()) or every,
        memory_mib=psutil.virtual_memory().total // 2**20,
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        **{name: _version(name) for name in ("torch", "transformers", "numpy")},
        affinity=processors.affinity(allowed, every),
        cpu_quota=processors.quota() or "none",
        variables=processors.variables(os.environ),
        isa_limits=processors.isa_limits(os.environ),
        libraries={name: _version(name) for name in sorted(_engine_libraries)},
    )


def left_out(device: str = "auto") -> str:
    """The GPU that is there and that :func:`probe` does not take, in a sentence; "" where nothing is left out."""
    gpu = driver.gpu() if device == "auto" else None
    obstacle = driver.obstacle(gpu, _version("torch"))
    return f"{gpu.name} is not used: {obstacle[0]}; {obstacle[1]}" if gpu and obstacle else ""


def declare(project: Project, environment: Environment) -> None:
    """Write which machine this is; an unchanged environment leaves the file as it is."""
    text = environment.model_dump_json(indent=1) + "\n"
    if not project.environment.is_file() or project.environment.read_bytes() != text.encode():
        files.save(project.environment, text)


def declared(project: Project) -> Environment:
    """The environment that ``environment.json`` of this machine declares. StudyError: the file is missing or broken."""
    return files.load(project.environment, Environment, "run `visionquant environment`")


def require_declared(project: Project, device: str) -> Environment:
    """Probe again and insist on the declared machine.

    Raises:
        MachineMismatch: another machine, or other versions, than :func:`declared`.
    """
    here, known = probe(device), declared(project)
    unrecorded = [*known.unrecorded, *sorted(here.libraries.keys() - known.libraries.keys())]
    differences = here.differs_from(known) or [f"{name}, which it does not record" for name in unrecorded]
    if differences:
        remedy = "run `visionquant environment`, then measure again"
        raise MachineMismatch("measure", f"this machine has {'; '.join(differences)}", remedy)
    return here


def require_linux(asked: str) -> None:
    """Insist on the system whose processes, memory and counters the bench reads. StudyError: it is another one."""
    if platform.system() != "Linux":
        remedy = "run it there or in WSL 2; here report, verify, compare and recommend work"
        raise StudyError(asked, f"needs Linux, this is {platform.system()}", remedy)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"
