"""What a process gets of the CPU: affinity, a container's quota, and the variables that libraries obey."""

import os
from pathlib import Path

import pytest
import torch

from visionquant.bench import torch_flags, worker
from visionquant.core import processors

V2 = "32 31 0:28 {top} /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
V1 = "32 31 0:28 {top} /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"


def groups(root: Path, mounts: str, member: str, files: dict[str, str]) -> Path:
    """A file system with these control groups, whose file names begin at /sys/fs/cgroup."""
    contents = {"proc/self/mountinfo": mounts, "proc/self/cgroup": member}
    contents |= {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    for name, text in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def v1(folder: str, quota: int, period: int) -> dict[str, str]:
    return {f"{folder}/cpu.cfs_quota_us": f"{quota}\n", f"{folder}/cpu.cfs_period_us": f"{period}\n"}


@pytest.mark.parametrize(
    ("mounts", "member", "files", "quota"),
    [
        ("", "", {}, None),
        (V2.format(top="/"), "0::/box\n", {"box/cpu.max": "max 100000\n"}, None),
        (V2.format(top="/"), "0::/box\n", {"box/cpu.max": "150000 100000\n"}, 1.5),
        (V2.format(top="/"), "0::/a/b\n", {"a/b/cpu.max": "400000 100000\n", "a/cpu.max": "200000 100000\n"}, 2.0),
        (V2.format(top="/"), "0::/\n", {"cpu.max": "50000 100000\n"}, 0.5),
        (V2.format(top="/host/box"), "0::/host/box\n", {"cpu.max": "300000 100000\n"}, 3.0),
        (V1.format(top="/"), "4:cpu,cpuacct:/box\n", v1("cpu/box", -1, 100000), None),
        (V1.format(top="/"), "4:cpu,cpuacct:/box\n", v1("cpu/box", 250000, 100000), 2.5),
        (V1.format(top="/docker/x"), "4:cpu,cpuacct:/docker/x\n", v1("cpu", 100000, 50000), 2.0),
    ],
    ids=["no groups", "no limit", "v2", "v2 parent", "v2 root", "v2 container", "v1 no limit", "v1", "v1 container"],
)
def test_the_tightest_quota_of_the_groups_counts(
    tmp_path: Path, mounts: str, member: str, files: dict[str, str], quota: float | None
) -> None:
    assert processors.quota(groups(tmp_path, mounts, member, files)) == quota


def test_an_affinity_is_written_as_the_kernel_writes_it() -> None:
    assert processors.affinity((0, 1, 2, 3), 4) == "all"
    assert processors.affinity(None, 4) == "all"
    assert processors.affinity((0, 1, 2, 5, 7, 8), 16) == "0-2,5,7-8"


@pytest.mark.parametrize(("quota", "threads"), [(None, 4), (2.5, 3), (0.5, 1), (16.0, 4)])
def test_a_quota_is_respected_in_the_number_of_threads(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, threads: int
) -> None:
    """torch counts CPUs alone. Each case in a process of its own, for the number is the process'."""
    monkeypatch.setattr(processors, "quota", lambda: quota)
    monkeypatch.setattr(processors, "cpus", lambda: (0, 1, 2, 3))

    def asked() -> tuple[int, int]:
        torch.set_num_threads(8)  # as OMP_NUM_THREADS would
        taken = torch_flags.default_threads.__wrapped__()
        torch_flags.quiet("cpu")
        return taken, torch.get_num_threads()

    assert worker.in_fork(asked) == (threads, threads)


def test_what_sets_the_speed_is_told_from_what_does_not() -> None:
    environ = {
        "PATH": "/bin",
        "OMP_NUM_THREADS": "1",
        "KMP_BLOCKTIME": "0",
        "LD_PRELOAD": "libjemalloc.so",
        "KMP_DUPLICATE_LIB_OK": "True",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKLROOT": "/opt/mkl",
    }
    assert processors.variables(environ) == ("KMP_BLOCKTIME=0", "LD_PRELOAD=libjemalloc.so", "OMP_NUM_THREADS=1")
    assert processors.isa_limits(environ) == ("ATEN_CPU_CAPABILITY=avx2", "MKL_ENABLE_INSTRUCTIONS=AVX2")


def test_importing_the_libraries_changes_none_of_it() -> None:
    """scikit-learn and joblib set variables of their own."""
    from visionquant.bench import inputs

    assert inputs.crops()
    changed = {"KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK"} & set(os.environ)
    assert not changed & {one.partition("=")[0] for one in processors.variables(os.environ)}
