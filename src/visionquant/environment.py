"""The machine and its software, read without importing what is read.

Versions come from package metadata, the GPU from NVML, the CPU from the kernel: a probe takes a fraction of a second
and initialises no device. What identifies the machine (``KEYS``) is what pairs are measured again for; host names,
serial numbers, times and temperatures are no part of it.
"""

import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal

import psutil
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from visionquant.errors import MachineMismatch, StudyError
from visionquant.paths import Project, write_atomically

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
)
HARDWARE = ("device", "gpu", "gpu_memory_mib", "cpu", "cores")
ISA = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "i8mm",
)


class Environment(BaseModel):
    """What the measurements depend on. Memory in MiB; ``cores`` are those this process may use."""

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

    def key(self) -> dict[str, object]:
        """The facts that identify the machine."""
        values = self.model_dump(mode="json")
        return {name: values[name] for name in KEYS}

    def differs_from(self, other: "Environment") -> list[str]:
        """One phrase for each identifying fact that is not the same, empty for the same machine."""
        mine, theirs = self.key(), other.key()
        return [f"{name} {mine[name]} (not {theirs[name]})" for name in KEYS if mine[name] != theirs[name]]

    def same_hardware(self, other: "Environment") -> bool:
        """Whether absolute figures compare: the same GPU, or the same CPU with as many cores."""
        return all(getattr(self, name) == getattr(other, name) for name in HARDWARE)

    @property
    def title(self) -> str:
        """The machine in a few words."""
        if self.gpu:
            return f"{self.gpu}, driver {self.driver}, torch {self.torch}"
        return f"{self.cpu} CPU, {self.cores} cores, torch {self.torch}"


def probe(device: str = "auto") -> Environment:
    """Read the machine; ``device`` is study.device.

    Raises:
        StudyError: CUDA is asked for and there is none.
    """
    gpu = _gpu()
    torch_version = _version("torch")
    usable = gpu is not None and not torch_version.endswith("+cpu")
    if device == "cuda" and not usable:
        found = "no NVIDIA GPU is visible" if gpu is None else f"torch {torch_version} is a CPU build"
        raise StudyError("study.device: cuda", found, "set it to auto or cpu, or install a CUDA build and driver")
    chosen: Literal["cpu", "cuda"] = "cuda" if usable and device != "cpu" else "cpu"
    shown = gpu if chosen == "cuda" else None
    return Environment(
        device=chosen,
        gpu=shown["name"] if shown else None,
        gpu_memory_mib=int(shown["memory_mib"]) if shown else None,
        driver=shown["driver"] if shown else None,
        cuda_driver=shown["cuda"] if shown else None,
        cpu=_cpu_name(),
        cpu_isa=_cpu_isa(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_mib=psutil.virtual_memory().total // 2**20,
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        torch=torch_version,
        transformers=_version("transformers"),
        bitsandbytes=_version("bitsandbytes"),
        numpy=_version("numpy"),
    )


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
    differences = here.differs_from(said)
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
            asked, f"needs Linux, this is {platform.system()}", "run it on Linux or in WSL 2; what is there can be read"
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
        first = visible.split(",")[0].strip() if visible else "0"
        handle = None
        if nvml.nvmlDeviceGetCount():
            number = first.isdigit()
            handle = nvml.nvmlDeviceGetHandleByIndex(int(first)) if number else nvml.nvmlDeviceGetHandleByUUID(first)
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
            }
        except nvml.NVMLError:
            return None


def _cpuinfo(field: str) -> str:
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip().lower() == field:
                return value.strip()
    return ""


def _cpu_name() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpu_isa() -> tuple[str, ...]:
    flags = set((_cpuinfo("flags") or _cpuinfo("features")).split())
    return tuple(name for name in ISA if name in flags)
