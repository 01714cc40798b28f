"""Fresh processes for milliseconds: a task runs in a fork of this one and only its result comes back.

The parent has imported everything and holds the weights, but has started no thread pool and has not touched a GPU
(OpenMP and CUDA do not survive a fork). The child dies with its parent, so a killed sweep leaves nothing running.
"""

import ctypes
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any, Literal, TypeVar

from visionquant.errors import StudyError

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
    "cublas_status_alloc_failed",
    "cublas_status_not_initialized",
)


class Failed(Exception):
    """A task that ended for a reason which is a result: out of memory, or not supported here."""

    def __init__(self, cause: Cause, reason: str) -> None:
        super().__init__(reason)
        self.cause: Cause = cause
        self.reason = reason


class Defect(Exception):
    """A task that ended in an unexpected way; the text is its traceback."""


def in_fork(task: Callable[[], Result]) -> Result:
    """Run ``task`` in a forked process and return what it returns (it must pickle).

    Raises:
        Failed: it ran out of memory (or was killed, as the kernel does then), or used what this machine lacks.
        StudyError: it raised one.
        Defect: any other exception or death.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    reader, writer = os.pipe()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        os.close(reader)
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__  # a progress bar's would wait for a thread left behind
        _die_with(parent)
        answer = _answer(task)
        with os.fdopen(writer, "wb") as file:
            file.write(answer)
        os._exit(0)
    os.close(writer)
    try:
        with os.fdopen(reader, "rb") as file:
            data = file.read()
    except BaseException:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    _, status = os.waitpid(child, 0)
    if not data:
        raise _death(os.waitstatus_to_exitcode(status))
    kind, value = pickle.loads(data)
    if kind == "value":
        result: Result = value
        return result
    if kind == "study":
        raise StudyError.of(value)
    raise Defect(value) if kind == "defect" else Failed(kind, value)


def classify(error: BaseException) -> Cause | None:
    """Whether an exception is a result of its own; None for a defect."""
    text = str(error).lower()
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "out_of_memory"
    if isinstance(error, RuntimeError) and any(phrase in text for phrase in EXHAUSTED):
        return "out_of_memory"
    if isinstance(error, NotImplementedError) or (
        isinstance(error, RuntimeError) and any(phrase in text for phrase in UNSUPPORTED)
    ):
        return "unsupported"
    return None


def _answer(task: Callable[[], Any]) -> bytes:
    try:
        return pickle.dumps(("value", task()))
    except KeyboardInterrupt:
        os._exit(130)
    except StudyError as error:
        return pickle.dumps(("study", str(error)))
    except BaseException as error:
        cause = classify(error)
        if cause:
            return pickle.dumps((cause, _first_line(error)))
        return pickle.dumps(("defect", traceback.format_exc()))


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def _death(code: int) -> Exception:
    if code == -signal.SIGKILL:
        return Failed("out_of_memory", "the process was killed (signal 9), as the kernel does when memory runs out")
    if code in (-signal.SIGILL, -signal.SIGSEGV, -signal.SIGABRT, -signal.SIGFPE):
        return Failed("unsupported", f"the process crashed ({signal.Signals(-code).name})")
    if code in (130, -signal.SIGINT):
        return KeyboardInterrupt()  # type: ignore[return-value]
    return Defect(f"the process ended with code {code} and no answer")


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)
