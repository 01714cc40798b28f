import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from visionquant.bench import worker as isolate
from visionquant.core.errors import StudyError


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """These forks want none, whatever this process has opened."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def test_only_the_result_comes_back() -> None:
    seen: list[int] = []

    def task() -> int:
        seen.append(os.getpid())
        return 7

    assert isolate.in_fork(task) == 7
    assert seen == []


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (MemoryError("x"), "out_of_memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out_of_memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "out_of_memory"),
        (RuntimeError("\"addmm_impl_cpu_\" not implemented for 'Half'"), "unsupported"),
        (NotImplementedError("no such kernel"), "unsupported"),
        (RuntimeError("shape mismatch"), None),
        (ValueError("out of memory"), None),
    ],
)
def test_only_memory_and_missing_kernels_are_results(error: Exception, cause: str | None) -> None:
    assert isolate.classify(error) == cause


def test_a_result_of_its_own_is_raised_with_its_first_line() -> None:
    def task() -> None:
        raise RuntimeError("not implemented for 'Half'\nsecond line")

    with pytest.raises(isolate.Failed) as caught:
        isolate.in_fork(task)
    assert caught.value.cause == "unsupported"
    assert caught.value.reason == "not implemented for 'Half'"


def test_a_mistake_that_the_reader_can_mend_comes_back_as_it_is() -> None:
    def task() -> None:
        raise StudyError("precision int8", "no layer holds int8", "report this")

    with pytest.raises(StudyError) as caught:
        isolate.in_fork(task)
    assert str(caught.value) == "precision int8: no layer holds int8; report this"


def test_any_other_error_is_a_defect_with_its_traceback() -> None:
    def task() -> None:
        raise KeyError("surprise")

    with pytest.raises(isolate.Defect, match="surprise"):
        isolate.in_fork(task)


@pytest.mark.parametrize(("number", "cause"), [(signal.SIGKILL, "out_of_memory"), (signal.SIGABRT, "unsupported")])
def test_a_killed_process_is_told_from_a_crashed_one(number: int, cause: str) -> None:
    with pytest.raises(isolate.Failed) as caught:
        isolate.in_fork(lambda: os.kill(os.getpid(), number))
    assert caught.value.cause == cause


def test_parallel_work_in_a_fork_after_work_on_one_thread_does_not_hang() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        a = torch.randn(256, 256)
        expected = a @ a

        def task() -> list[float]:
            torch.set_num_threads(2)
            found: list[float] = (a @ a).flatten()[:3].tolist()
            return found

        assert isolate.in_fork(task) == pytest.approx(expected.flatten()[:3].tolist(), rel=1e-4)
    finally:
        torch.set_num_threads(before)


def test_a_worker_prepares_itself_once_and_answers_in_turn() -> None:
    def serve() -> Callable[[int], tuple[int, int]]:
        made = os.getpid()
        return lambda request: (request + 1, made)

    with isolate.Worker(serve) as worker:
        answers = [worker.call(number) for number in (1, 2)]
    assert [number for number, _ in answers] == [2, 3]
    assert len({pid for _, pid in answers} - {os.getpid()}) == 1


def test_a_worker_that_died_says_so_every_time_and_leaves_others_alone() -> None:
    with (
        isolate.Worker(lambda: lambda _: os.getpid()) as other,
        isolate.Worker(lambda: lambda _: os.getpid()) as worker,
    ):
        assert other.call(0)
        os.kill(worker.call(0), signal.SIGKILL)
        for _ in range(2):
            with pytest.raises(isolate.Failed) as caught:
                worker.call(0)
            assert caught.value.cause == "out_of_memory"
        assert other.call(0)


def test_a_worker_whose_request_fails_goes_on() -> None:
    def answer(request: int) -> float:
        return 1 / request

    with isolate.Worker(lambda: answer) as worker:
        with pytest.raises(isolate.Defect, match="ZeroDivisionError"):
            worker.call(0)
        assert worker.call(2) == 0.5


def test_a_worker_that_gives_no_answer_in_time_is_ended_and_says_where_it_hung() -> None:
    def hang() -> None:
        signal.pause()

    with isolate.Worker(lambda: lambda request: hang() if request else os.getpid()) as worker:
        child = worker.call(0)
        for _ in range(2):
            with pytest.raises(isolate.Defect, match="in hang") as caught:
                worker.call(1, 0.2)
            assert caught.value.line == "no answer in 0.2 s, so the process was ended"
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)


DRIVER = """
static int opened = 0;
int cuInit(unsigned int flags) { opened = 1; return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return opened ? 0 : 3; }
"""
FORKS = """
import ctypes, os
from visionquant.bench import worker as isolate
print(isolate.driver_answer(), isolate.in_fork(lambda: 7))
ctypes.CDLL("libcuda.so.1").cuInit(0)
try:
    isolate.Worker(lambda: lambda _: 7)
except Exception as error:
    print(type(error).__name__, error)
os.environ["CUDA_VISIBLE_DEVICES"] = ""
print(isolate.in_fork(lambda: 8))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a driver's library as Linux loads it")
@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler here to make a driver of")
def test_nothing_is_forked_from_a_process_that_has_opened_cuda(tmp_path: Path) -> None:
    (tmp_path / "driver.c").write_text(DRIVER)
    command = ["cc", "-shared", "-fPIC", "-o", str(tmp_path / "libcuda.so.1"), str(tmp_path / "driver.c")]
    subprocess.run(command, check=True)
    settings = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path), "CUDA_VISIBLE_DEVICES": "0"}
    done = subprocess.run([sys.executable, "-c", FORKS], env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    clean, poisoned, hidden = done.stdout.splitlines()
    assert clean == "3 7"
    assert poisoned.startswith("MachineMismatch measure: CUDA was opened in the process that forks")
    assert hidden == "8"  # a study on the CPU may


@pytest.mark.parametrize(
    "words",
    [
        "GET was unable to find an engine to execute this computation",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR",
        "CUDA error: CUBLAS_STATUS_INTERNAL_ERROR when calling `cublasCreate`",
    ],
)
def test_what_cudnn_says_without_memory_is_that_where_little_is_left(
    monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    gib, error = 2**30, RuntimeError(words)
    assert isolate.classify(error) is None  # no GPU
    for name, answer in {
        "is_initialized": True,
        "mem_get_info": (9 * gib, 16 * gib),
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda answer=answer: answer)
    assert isolate.classify(error) is None
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (gib, 16 * gib))
    assert isolate.classify(error) == "out_of_memory"
    assert isolate.classify(RuntimeError("CUDA error: an illegal memory access was encountered")) is None

    def gone() -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(torch.cuda, "mem_get_info", gone)
    assert isolate.classify(error) is None


def test_a_process_that_bitsandbytes_ended_says_where_its_words_are() -> None:
    with pytest.raises(isolate.Defect, match=r"ended with code 1 .*bitsandbytes"):
        isolate.in_fork(lambda: os._exit(1))


def test_an_interrupt_in_a_hook_of_the_fork_is_not_lost() -> None:
    """Python prints what such a hook raises, and goes on; logging has one that takes a lock."""
    script = (
        "import os, signal\n"
        "os.register_at_fork(before=lambda: signal.raise_signal(signal.SIGINT))\n"
        "from visionquant.bench.worker import in_fork\n"
        "in_fork(lambda: None)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode in (130, -signal.SIGINT)
    assert "KeyboardInterrupt" in done.stderr
    assert "ignored" not in done.stderr
