import os
import signal
from collections.abc import Callable

import pytest
import torch

from visionquant.bench import isolate
from visionquant.errors import StudyError


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
