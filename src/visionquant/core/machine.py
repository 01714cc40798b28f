"""The machine and its software, read without importing what is read.

Versions come from package metadata, the GPU from NVML, the CPU from the kernel: a probe takes a fraction of a second
and initialises no device. What identifies the machine (``KEYS``) is what pairs are measured again for; host names,
serial numbers, times and temperatures are no part of it.

A fact that is None among those ``SINCE_3`` was not recorded, for the file is older than the fact: it counts as equal to
nothing, not even to another that was not recorded.
"""

import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import Annotated, Any, Literal

import psutil
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from visionquant.core import driver, processors
from visionquant.core.errors import MachineMismatch, StudyError
from visionquant.core.paths import Project, write_atomically

SPEED = ("affinity", "cpu_quota", "variables", "isa_limits")  # of the same hardware
SINCE_3 = (*SPEED, "onnxruntime")
LABELS = {
    "affinity": "CPU affinity",
    "cpu_quota": "CPU quota",
    "variables": "environment variables",
    "isa_limits": "limits of the instruction set",
    "onnxruntime": "version of ONNX Runtime",
}
KEYS = (
    "device",
    "gpu",
    "gpu_memory_mib",
    "driver",
    "cuda_driver",
    "cpu",
    "cpu_isa",
    "cores",
    "system",
    "python",
    "torch",
    "transformers",
    "bitsandbytes",
    *SINCE_3,
)
HARDWARE = ("device", "gpu", "gpu_memory_mib", "cpu", "cores")


class Environment(BaseModel):
    """What the measurements depend on. Memory in MiB; ``cores`` are those this process may use.

    ``affinity`` names these CPUs, ``cpu_quota`` how many CPUs' worth of time a container gets; ``variables`` and
    ``isa_limits`` are environment variables as NAME=value, see :mod:`~visionquant.core.processors`. None: not recorded.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

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
    bitsandbytes: str
    numpy: str
    affinity: str | None = None
    cpu_quota: Annotated[float, Field(gt=0)] | Literal["none"] | None = None
    variables: tuple[str, ...] | None = None
    isa_limits: tuple[str, ...] | None = None
    onnxruntime: str | None = None

    def key(self) -> dict[str, object]:
        """The facts that identify the machine."""
        values = self.model_dump(mode="json")
        return {name: values[name] for name in KEYS}

    @property
    def unrecorded(self) -> tuple[str, ...]:
        """Identifying facts that were not recorded."""
        return tuple(name for name in SINCE_3 if getattr(self, name) is None)

    def differs_from(self, other: "Environment", names: tuple[str, ...] = KEYS) -> list[str]:
        """One phrase for each identifying fact that both recorded and that is not the same."""
        unknown = {*self.unrecorded, *other.unrecorded}
        pairs = [(name, getattr(self, name), getattr(other, name)) for name in names if name not in unknown]
        return [f"{name} {_said(mine)} (not {_said(theirs)})" for name, mine, theirs in pairs if mine != theirs]

    def same_machine(self, other: "Environment") -> bool:
        """Whether what was measured on one holds for the other: every identifying fact was recorded and is the same."""
        return not (self.differs_from(other) or self.unrecorded or other.unrecorded)

    def same_hardware(self, other: "Environment") -> bool:
        """Whether both have the same GPU, or the same CPU with as many cores."""
        return all(getattr(self, name) == getattr(other, name) for name in HARDWARE)

    def why_unlike(self, other: "Environment") -> str:
        """Empty where absolute figures compare: the same hardware, as fast by all that was recorded. Else why not."""
        if not self.same_hardware(other):
            return "different machines"
        differences = self.differs_from(other, ("cpu_isa", *SPEED))
        if differences:
            return f"different settings of the machine: {'; '.join(differences)}"
        unknown = [name for name in SPEED if name in (*self.unrecorded, *other.unrecorded)]
        return f"what sets the speed was not recorded: {', '.join(unknown)}" if unknown else ""

    @property
    def speed(self) -> str:
        """What sets the speed of this hardware, in one line."""
        if set(SPEED) <= set(self.unrecorded):
            return "not recorded"
        return "; ".join(f"{LABELS[name]} {_said(getattr(self, name))}" for name in SPEED)

    @property
    def title(self) -> str:
        """The machine in a few words."""
        if self.gpu:
            return f"{self.gpu}, driver {self.driver}, torch {self.torch}"
        return f"{self.cpu} CPU, {self.cores} cores, torch {self.torch}"


def _said(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return "not recorded" if value is None else str(value)


def probe(device: str = "auto") -> Environment:
    """Read the machine; ``device`` is study.device.

    Raises:
        StudyError: CUDA is asked for and there is none.
    """
    gpu = _gpu() if device != "cpu" else None
    obstacle = _obstacle(gpu)
    if device == "cuda" and obstacle:
        raise StudyError("study.device: cuda", obstacle[0], f"{obstacle[1]}, or set it to auto or cpu")
    chosen: Literal["cpu", "cuda"] = "cpu" if device == "cpu" or obstacle else "cuda"
    shown = gpu if chosen == "cuda" else None
    allowed = processors.cpus()
    return Environment(
        device=chosen,
        gpu=shown["name"] if shown else None,
        gpu_memory_mib=int(shown["memory_mib"]) if shown else None,
        driver=shown["driver"] if shown else None,
        cuda_driver=shown["cuda"] if shown else None,
        cpu=processors.name(),
        cpu_isa=processors.isa(),
        cores=len(allowed or ()) or os.cpu_count() or 1,
        memory_mib=psutil.virtual_memory().total // 2**20,
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        torch=_version("torch"),
        transformers=_version("transformers"),
        bitsandbytes=_version("bitsandbytes"),
        numpy=_version("numpy"),
        affinity=processors.affinity(allowed, os.cpu_count() or 1),
        cpu_quota=processors.quota() or "none",
        variables=processors.variables(os.environ),
        isa_limits=processors.isa_limits(os.environ),
        onnxruntime=_version("onnxruntime"),
    )


def left_out(device: str = "auto") -> str:
    """The GPU that is there and that :func:`probe` does not take, in a sentence; "" where nothing is left out."""
    gpu = _gpu() if device == "auto" else None
    obstacle = _obstacle(gpu)
    return f"{gpu['name']} is not used: {obstacle[0]}; {obstacle[1]}" if gpu and obstacle else ""


def _obstacle(gpu: dict[str, str] | None) -> tuple[str, str] | None:
    """Why torch can't use what NVML shows, and what to do; None if it can, as far as that can be told from outside."""
    built_for = driver.torch_cuda()
    if gpu is None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        hidden = "" if visible is None else f" (CUDA_VISIBLE_DEVICES is {visible!r})"
        return f"no NVIDIA GPU is visible{hidden}", driver.remedy(None)
    if built_for is None:
        return f"torch {_version('torch')} is a build without CUDA", driver.remedy(None)
    if gpu["divided"]:
        return "it is divided (MIG) and CUDA_VISIBLE_DEVICES names no instance", "name one of `nvidia-smi -L` there"
    found = driver.too_old(gpu["driver"], gpu["cuda"], built_for)
    return (found, driver.remedy(built_for)) if found else None


def declare(project: Project, environment: Environment) -> None:
    """Write ``data/environment.json``; an unchanged environment leaves the file as it is."""
    text = json.dumps(environment.model_dump(mode="json"), indent=1) + "\n"
    path = project.environment
    if not path.is_file() or path.read_bytes() != text.encode():
        write_atomically(path, text)


def declared(project: Project) -> Environment:
    """The environment that ``data/environment.json`` declares.

    Raises:
        StudyError: the file is missing or broken.
    """
    path = project.environment
    if not path.is_file():
        raise StudyError("data/environment.json", "not there", "run `visionquant environment`")
    try:
        return Environment.model_validate_json(path.read_bytes())
    except ValidationError:
        raise StudyError("data/environment.json", "not readable", "run `visionquant environment`") from None


def require_declared(project: Project, device: str) -> Environment:
    """Probe again and insist on the declared machine.

    Raises:
        MachineMismatch: another machine, or other versions, than ``data/environment.json`` says.
    """
    here, said = probe(device), declared(project)
    differences = here.differs_from(said) or [f"{name}, which it does not record" for name in said.unrecorded]
    if differences:
        raise MachineMismatch(
            "measure", f"this machine has {'; '.join(differences)}", "run `visionquant environment`, then measure again"
        )
    return here


def require_linux(asked: str) -> None:
    """Insist on the system whose processes, memory and counters the bench reads.

    Raises:
        StudyError: it is another one.
    """
    if platform.system() != "Linux":
        raise StudyError(
            asked,
            f"needs Linux, this is {platform.system()}",
            "run it there or in WSL 2; here report, verify, compare and recommend work",
        )


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


@contextmanager
def open_gpu() -> Iterator[tuple[Any, Any] | None]:
    """NVML and the handle of the GPU that the study uses, None where there is none."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.split(",")[0].strip() in ("", "-1"):
        yield None
        return
    try:
        import pynvml as nvml

        nvml.nvmlInit()
    except Exception:  # no driver, or no NVML: the machine has no usable GPU, which is a fact and no error
        yield None
        return
    try:
        handle = driver.handle(nvml, visible)
    except nvml.NVMLError:
        handle = None
    try:
        yield None if handle is None else (nvml, handle)
    finally:
        nvml.nvmlShutdown()


def _gpu() -> dict[str, str] | None:
    with open_gpu() as opened:
        if opened is None:
            return None
        nvml, handle = opened
        try:
            cuda = nvml.nvmlSystemGetCudaDriverVersion()
            return {
                "name": str(nvml.nvmlDeviceGetName(handle)),
                "memory_mib": str(int(nvml.nvmlDeviceGetMemoryInfo(handle).total) // 2**20),
                "driver": str(nvml.nvmlSystemGetDriverVersion()),
                "cuda": f"{cuda // 1000}.{cuda % 1000 // 10}",
                "divided": "yes" if driver.divided(nvml, handle) else "",
            }
        except nvml.NVMLError:
            return None
