"""Fresh processes for milliseconds: a task runs in a fork of this one and only its result comes back.

The parent has imported everything and holds the weights, but has started no thread pool and has not touched a GPU
(OpenMP and CUDA do not survive a fork; that CUDA is untouched is checked before every one). The child dies with its
parent, so a killed sweep leaves nothing running.
"""

import ctypes
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, Literal, TypeVar

from visionquant.core.errors import MachineMismatch, StudyError

Result = TypeVar("Result")
Cause = Literal["out_of_memory", "unsupported"]

UNSUPPORTED = (
    "not implemented for",
    "not supported",
    "not_supported",
    "is not implemented",
    "unsupported",
    "no kernel",
    "native library functionality",
)
EXHAUSTED = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "failed to allocate",
    "bad_alloc",
    "cublas_status_alloc_failed",
    "cublas_status_not_initialized",
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


class Failed(Exception):
    """A task that ended for a reason which is a result: out of memory, or not supported here."""

    def __init__(self, cause: Cause, reason: str) -> None:
        super().__init__(reason)
        self.cause: Cause = cause
        self.reason = reason


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


def in_fork(task: Callable[[], Result]) -> Result:
    """Run ``task`` in a forked process and return what it returns (it must pickle).

    Raises:
        Failed: it ran out of memory (or was killed, as the kernel does then), or used what this machine lacks.
        StudyError: it raised one.
        Defect: any other exception or death.
    """
    with Worker(lambda: lambda _: task()) as worker:
        result: Result = worker.call(None)
        return result


class Worker:
    """A forked process that prepares itself once and then answers one request after the other.

    ``serve`` runs in it and returns what answers a request; requests and answers must pickle. It dies with its parent.

    Raises:
        MachineMismatch: this process has opened CUDA, which no fork of it could use.
    """

    def __init__(self, serve: Callable[[], Callable[[Any], Any]]) -> None:
        _require_unopened()
        sys.stdout.flush()
        sys.stderr.flush()
        self._death: Exception | None = None
        self._here, there = Pipe()
        parent = os.getpid()
        try:
            self._child = os.fork()
        except OSError as error:
            raise Failed("out_of_memory", f"no process could be started: {error.strerror}") from None
        if self._child == 0:
            code = 1
            try:  # nothing may unwind the frames of the parent here
                self._here.close()
                sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__  # a bar's would wait for a thread left behind
                _die_with(parent)
                _answer_all(serve, there)
                code = 0
            except KeyboardInterrupt:
                code = 130
            finally:
                os._exit(code)
        there.close()

    def call(self, request: Any) -> Any:
        """Send ``request`` and wait for its answer; errors as of :func:`in_fork`, of ``serve`` too."""
        if self._death is not None:
            raise self._death
        try:
            self._here.send_bytes(pickle.dumps(request))
            kind, value = pickle.loads(self._here.recv_bytes())
        except (EOFError, OSError):
            _, status = os.waitpid(self._child, 0)
            self._child = 0
            self._death = _death(os.waitstatus_to_exitcode(status))
            raise self._death from None
        if kind == "value":
            return value
        if kind == "study":
            mistake, text = value
            raise mistake.of(text)
        raise Defect(*value) if kind == "defect" else Failed(kind, value)

    def close(self) -> None:
        """End the process; one that is at work is killed."""
        self._here.close()
        if self._child:
            os.kill(self._child, signal.SIGKILL)
            os.waitpid(self._child, 0)
            self._child = 0

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def classify(error: BaseException) -> Cause | None:
    """Whether an exception is a result of its own; None for a defect."""
    text = str(error).lower()
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "out_of_memory"
    if isinstance(error, RuntimeError):
        if any(phrase in text for phrase in EXHAUSTED):
            return "out_of_memory"
        if any(phrase in text for phrase in EXHAUSTED_IF_FULL) and _gpu_is_full():
            return "out_of_memory"
    if isinstance(error, NotImplementedError) or (
        isinstance(error, RuntimeError) and any(phrase in text for phrase in UNSUPPORTED)
    ):
        return "unsupported"
    return None


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


def _require_unopened() -> None:
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":  # hidden, as for a study on the CPU
        return
    answer = driver_answer()
    if answer not in (None, CUDA_NOT_INITIALIZED):
        raise MachineMismatch(
            "measure",
            f"CUDA was opened in the process that forks (cuDeviceGetCount answers {answer})",
            "report this defect, or set study.device: cpu",
        )


def _gpu_is_full() -> bool:
    """Whether this process has a GPU open that has little memory left."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return False
    try:
        free, total = torch.cuda.mem_get_info()
    except RuntimeError:  # the device itself is gone: no matter of memory
        return False
    return bool(free < max(LITTLE * total, LITTLE_BYTES))


def _answer_all(serve: Callable[[], Callable[[Any], Any]], there: Connection) -> None:
    answer: Callable[[Any], Any] | None = None
    while True:
        try:
            request = pickle.loads(there.recv_bytes())
        except EOFError:
            return
        try:
            if answer is None:
                answer = serve()
            message = pickle.dumps(("value", answer(request)))
        except KeyboardInterrupt:
            raise
        except StudyError as error:
            message = pickle.dumps(("study", (type(error), str(error))))
        except Failed as error:
            message = pickle.dumps((error.cause, error.reason))
        except BaseException as error:
            cause, defect = classify(error), Defect.of(error)
            message = pickle.dumps((cause, first_line(error)) if cause else ("defect", (defect.line, str(defect))))
        there.send_bytes(message)


def first_line(error: BaseException) -> str:
    """What an exception says, cut to a line."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def _death(code: int) -> Exception:
    if code == -signal.SIGKILL:
        return Failed("out_of_memory", "the process was killed (signal 9), as the kernel does when memory runs out")
    if code in (-signal.SIGILL, -signal.SIGSEGV, -signal.SIGABRT, -signal.SIGFPE):
        return Failed("unsupported", f"the process crashed ({signal.Signals(-code).name})")
    if code in (130, -signal.SIGINT):
        return KeyboardInterrupt()  # type: ignore[return-value]
    exits = " (bitsandbytes ends so at an error of CUDA, which it writes to stderr)" if code == 1 else ""
    return Defect(f"the process ended with code {code} and no answer{exits}")


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)
