"""Fresh processes for milliseconds: a task runs in a fork of this one and only its result comes back.

The parent has imported everything and holds the weights, but has started no thread pool and has not touched a GPU
(OpenMP and CUDA do not survive a fork; that CUDA is untouched is checked before every one). The child dies with its
parent, so a killed sweep leaves nothing running.
"""

import ctypes
import faulthandler
import os
import pickle
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, Literal, TypeVar, cast

from visionquant.core.errors import MachineMismatch, StudyError

Result = TypeVar("Result")
Cause = Literal["out_of_memory", "unsupported"]

UNSUPPORTED = re.compile(
    "not implemented for|not[ _]supported|is not implemented|unsupported|no kernel|native library functionality"
)
EXHAUSTED = re.compile(
    r"out of memory|can(not|'t) allocate memory|failed to allocate|bad_alloc|cublas_status_(alloc_failed|not_initiali)"
)
# What cuDNN and cuBLAS say where memory is short, and at other times too: they count where a GPU has little left.
EXHAUSTED_IF_FULL = (
    "unable to find an engine",
    "cudnn_status_alloc_failed",
    "cudnn_status_internal_error",
    "cublas_status_internal_error",
)
LITTLE, LITTLE_BYTES = 0.1, 2**30  # of a GPU's memory, whichever is more
CUDA_NOT_INITIALIZED = 3  # cuda.h
STACKS_S, LET_GO_S = 1.0, 10.0  # for a process to write down where it hangs; for the kernel to end one
LONGEST_S = 4 * 3600.0  # for an answer of which nothing is foreseen: a model prepared, a reference computed


class Failed(Exception):
    """A task that ended for a reason which is a result: out of memory, or not supported here."""

    def __init__(self, cause: Cause, reason: str) -> None:
        super().__init__(reason)
        self.cause, self.reason = cause, reason


class Defect(Exception):
    """A task that ended in an unexpected way; ``line`` says how, the text is its traceback where it has one."""

    def __init__(self, line: str, trace: str = "") -> None:
        super().__init__(trace or line)
        self.line = line

    @classmethod
    def of(cls, error: BaseException) -> "Defect":
        """``error`` with its traceback; a defect as it is."""
        if isinstance(error, cls):
            return error
        lines = "".join(traceback.format_exception_only(error)).splitlines()
        return cls(lines[0][:300], "".join(traceback.format_exception(error)))


def in_fork(task: Callable[[], Result], limit_s: float = LONGEST_S) -> Result:
    """Run ``task`` in a forked process and return what it returns (it must pickle); see :meth:`Worker.call`."""
    with Worker(lambda: lambda _: task()) as worker:
        return cast(Result, worker.call(None, limit_s))


class Worker:
    """A forked process that prepares itself once and then answers one request after the other.

    ``serve`` runs in it and returns what answers a request; requests and answers must pickle. It dies with its parent.

    Raises:
        MachineMismatch: this process has opened CUDA, which no fork of it could use.
    """

    def __init__(self, serve: Callable[[], Callable[[Any], Any]]) -> None:
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES") == ""  # as for a study on the CPU
        if not hidden and (opened := driver_answer()) not in (None, CUDA_NOT_INITIALIZED):
            found = f"CUDA was opened in the process that forks (cuDeviceGetCount answers {opened})"
            raise MachineMismatch("measure", found, "report this defect, or set study.device: cpu")
        sys.stdout.flush()
        sys.stderr.flush()
        self._death: Exception | None = None
        self._here, there = Pipe()
        self._stacks = os.memfd_create("stacks")  # where the process stands, if it has to be ended
        parent = os.getpid()
        try:
            with _interrupts_noted() as interrupts:
                self._child = os.fork()
        except OSError as error:
            raise Failed("out_of_memory", f"no process could be started: {error.strerror}") from None
        if self._child == 0:
            code = 1
            try:  # nothing may unwind the frames of the parent here
                self._here.close()
                sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__  # a bar's would wait for a thread left behind
                faulthandler.register(signal.SIGUSR1, self._stacks)
                die_with(parent)
                _answer_all(serve, there)
                code = 0
            except KeyboardInterrupt:
                code = 130
            finally:
                os._exit(code)
        there.close()
        if interrupts:
            signal.raise_signal(signal.SIGINT)

    def call(self, request: Any, limit_s: float = LONGEST_S) -> Any:
        """Send ``request`` and wait for its answer, for ``limit_s`` at most.

        Raises:
            Failed: the process ran out of memory (or was killed, as the kernel does then), or used what is not here.
            StudyError: it raised one.
            Defect: any other exception or death, or no answer in time: the process is ended then, and the defect's text
                is where each of its threads stood.
        """
        if self._death is not None:
            raise self._death
        try:
            self._here.send_bytes(pickle.dumps(request))
            if not self._here.poll(limit_s):
                self._death = self._ended(limit_s)
                raise self._death
            error, value = pickle.loads(self._here.recv_bytes())
        except (EOFError, OSError):
            _, status = os.waitpid(self._child, 0)
            self._child = 0
            self._death = _death(os.waitstatus_to_exitcode(status))
            raise self._death from None
        if error is not None:
            raise error(*value)
        return value

    def _ended(self, limit_s: float) -> Defect:
        """What is told of a process that hangs, once it is ended."""
        os.kill(self._child, signal.SIGUSR1)
        time.sleep(STACKS_S)
        self._kill()
        stacks = os.pread(self._stacks, 2**20, 0).decode(errors="replace")
        line = f"no answer in {limit_s:g} s, so the process was ended"
        return Defect(line, f"it hung, most recent call first\n{stacks}")

    def _kill(self) -> None:
        """Kill the process; one that the kernel does not let go (a GPU's driver hangs) is not waited for."""
        os.kill(self._child, signal.SIGKILL)
        until_s = time.monotonic() + LET_GO_S
        while not os.waitpid(self._child, os.WNOHANG)[0] and time.monotonic() < until_s:
            time.sleep(0.001)
        self._child = 0

    def close(self) -> None:
        """End the process; one that is at work is killed."""
        self._here.close()
        if self._child:
            self._kill()
        os.close(self._stacks)

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def _interrupts_noted() -> Iterator[list[int]]:
    """Interrupts that arrive meanwhile, in a list: raised inside a hook that runs at a fork, Python would drop them."""
    noted: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # no interrupt is ever raised there
        yield noted
        return
    before = signal.signal(signal.SIGINT, lambda number, _: noted.append(number))
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)


def classify(error: BaseException) -> Cause | None:
    """Whether an exception is a result of its own; None for a defect."""
    text = str(error).lower()
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "out_of_memory"
    if not isinstance(error, RuntimeError):  # NotImplementedError is one
        return None
    if EXHAUSTED.search(text) or (any(words in text for words in EXHAUSTED_IF_FULL) and _gpu_is_full()):
        return "out_of_memory"
    return "unsupported" if isinstance(error, NotImplementedError) or UNSUPPORTED.search(text) else None


def driver_answer() -> int | None:
    """What the CUDA driver answers this process when it is asked how many GPUs there are, which opens nothing.

    ``CUDA_NOT_INITIALIZED`` as long as nothing here has called cuInit (``torch.cuda.is_initialized`` does not see all
    that does); None where there is no driver.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    return int(driver.cuDeviceGetCount(ctypes.byref(ctypes.c_int())))


def _gpu_is_full() -> bool:
    """Whether this process has a GPU open that has little memory left."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        with suppress(RuntimeError):  # the device itself is gone: no matter of memory
            free, total = torch.cuda.mem_get_info()
            return bool(free < max(LITTLE * total, LITTLE_BYTES))
    return False


def _answer_all(serve: Callable[[], Callable[[Any], Any]], there: Connection) -> None:
    """Answer requests until there are no more: with None and the answer, or what makes an error and its arguments."""
    answer: Callable[[Any], Any] | None = None
    while True:
        try:
            request = pickle.loads(there.recv_bytes())
        except EOFError:
            return
        try:
            answer = answer or serve()
            message = pickle.dumps((None, answer(request)))
        except KeyboardInterrupt:
            raise
        except StudyError as error:
            message = pickle.dumps((type(error).of, (str(error),)))
        except Failed as error:
            message = pickle.dumps((Failed, (error.cause, error.reason)))
        except BaseException as error:
            cause, defect = classify(error), Defect.of(error)
            failed = (Failed, (cause, first_line(error)))
            message = pickle.dumps(failed if cause else (Defect, (defect.line, str(defect))))
        there.send_bytes(message)


def first_line(error: BaseException) -> str:
    """What an exception says, cut to a line."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]


def _death(code: int) -> Exception:
    if code == -signal.SIGKILL:
        return Failed("out_of_memory", "the process was killed (signal 9), as the kernel does when memory runs out")
    if code in (-signal.SIGILL, -signal.SIGSEGV, -signal.SIGABRT, -signal.SIGFPE):
        return Failed("unsupported", f"the process crashed ({signal.Signals(-code).name})")
    if code in (130, -signal.SIGINT):
        return KeyboardInterrupt()  # type: ignore[return-value]
    exits = " (bitsandbytes ends so at an error of CUDA, which it writes to stderr)" if code == 1 else ""
    return Defect(f"the process ended with code {code} and no answer{exits}")


def die_with(parent: int) -> None:
    """Have the kernel kill this process when ``parent``, which has just started it, is gone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)
