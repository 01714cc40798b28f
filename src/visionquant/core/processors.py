"""What this process gets of the CPU, and what its libraries are told of it: CPUs, a container's quota, variables.

OpenMP, MKL, oneDNN, torch and the allocators take threads, their placement, waiting and instruction sets from
environment variables, and a scheduler takes time away; both set the speed as the processor does.
"""

import math
import os
import platform
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path, PurePosixPath

# Whole families: one setting too many means measuring again, one too few a wrong verdict.
FAMILIES = ("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "ONEDNN_", "DNNL_", "MALLOC_")
# Another allocator or OpenMP, torch's huge pages, oneDNN's kernels in torch, CUDA's memory and launches.
SINGLE = ("LD_PRELOAD", "GLIBC_TUNABLES", "THP_MEM_ALLOC_ENABLE", "LRU_CACHE_CAPACITY", "PYTORCH_ALLOC_CONF",
          "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_NO_CUDA_MEMORY_CACHING", "CUDA_LAUNCH_BLOCKING",
          "NVIDIA_TF32_OVERRIDE")  # fmt: skip
IDLE = ("KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK")  # scikit-learn and joblib set them at import; they set no speed
ISA = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16", "asimd",
       "i8mm")  # fmt: skip
ISA_LIMITS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ONEDNN_CPU_ISA_HINTS",
              "DNNL_CPU_ISA_HINTS", "MKL_ENABLE_INSTRUCTIONS", "MKL_CBWR", "OPENBLAS_CORETYPE")  # fmt: skip
DEAF = "ONNX Runtime and bitsandbytes read the processor itself and ignore such limits"


def name() -> str:
    """What the processor calls itself."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def isa() -> tuple[str, ...]:
    """Which of the instruction sets that matter here the processor has."""
    flags = (_cpuinfo("flags") or _cpuinfo("features")).split()
    return tuple(name for name in ISA if name in flags)


def cpus() -> tuple[int, ...] | None:
    """The CPUs that this process may use, by number; None where the system keeps no such list (macOS, Windows)."""
    return tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else None


def affinity(allowed: tuple[int, ...] | None, every: int) -> str:
    """``allowed`` of ``every`` CPU as the kernel writes it ("0-3,8"), or "all"."""
    if allowed is None or len(allowed) == every:
        return "all"
    runs = groupby(enumerate(allowed), lambda numbered: numbered[1] - numbered[0])
    spans = [[cpu for _, cpu in run] for _, run in runs]
    return ",".join(f"{span[0]}-{span[-1]}" if len(span) > 1 else str(span[0]) for span in spans)


def usable() -> int:
    """How many threads find a CPU of their own: those of the affinity, at most the quota rounded up."""
    limit = quota()
    most = len(cpus() or ()) or os.cpu_count() or 1
    return most if limit is None else max(1, min(most, math.ceil(limit)))


def quota(root: Path = Path("/")) -> float | None:
    """CPUs' worth of time that this process' control groups allow it, their parents' limits too; None for no limit.

    Args:
        root: where the file system begins, for tests.
    """
    return min((limit for folder in _groups(root) if (limit := _limit(folder)) is not None), default=None)


def variables(environ: Mapping[str, str]) -> tuple[str, ...]:
    """What is set of the variables that set the speed, as NAME=value."""
    named = (name for name in environ if name in SINGLE or name.startswith(FAMILIES))
    return tuple(f"{name}={environ[name]}" for name in sorted(named) if name not in (*IDLE, *ISA_LIMITS))


def isa_limits(environ: Mapping[str, str]) -> tuple[str, ...]:
    """What is set of the variables that keep libraries from instructions the processor has, as NAME=value."""
    return tuple(f"{name}={environ[name]}" for name in sorted(ISA_LIMITS) if name in environ)


def _groups(root: Path) -> Iterator[Path]:
    """The folders of this process' groups with a CPU controller, version 1 and 2, each with those above it."""
    member: dict[str, str] = {}
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        member |= dict.fromkeys(controllers.split(","), path)
    for line in _lines(root / "proc/self/mountinfo"):
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        controller = {"cgroup2": "", "cgroup": "cpu"}.get(kind)
        if controller is None or controller not in member or (controller and controller not in options.split(",")):
            continue
        _, _, _, top, place, *_ = left.split(" ")
        inside = PurePosixPath(member[controller])
        # A container sees its own group as the mount's root, by a path that is the host's.
        below = inside.relative_to(top) if inside.is_relative_to(top) else PurePosixPath()
        yield from (root / place.lstrip("/") / part for part in (below, *below.parents))


def _limit(folder: Path) -> float | None:
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        words = [word for name in names for line in _lines(folder / name) for word in line.split()]
        if len(words) == 2 and words[0] not in ("max", "-1"):
            return int(words[0]) / int(words[1])
    return None


def _cpuinfo(field: str) -> str:
    fields = (line.partition(":") for line in _lines(Path("/proc/cpuinfo")))
    return next((value.strip() for name, _, value in fields if name.strip().lower() == field), "")


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:  # no such file system or controller here: nothing limits
        return []
