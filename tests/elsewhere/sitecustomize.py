"""Another system, as far as this project's modules see: Python imports this file by itself when it starts.

``ELSEWHERE`` is Windows or Darwin (macOS). What modules of ``visionquant`` import of the standard library says so and
lacks what it lacks there, and there is no /proc. Libraries, whose own affair such systems are, see the real one.
"""

import builtins
import importlib
import os
import pathlib
import types
from typing import Any

SYSTEM = os.environ["ELSEWHERE"]
NO_FORK = {
    "fork",
    "forkpty",
    "register_at_fork",
    "wait",
    "waitpid",
    "killpg",
    "setsid",
    "getpgid",
    "getloadavg",
    "sysconf",
}
NO_USERS = {"sysconf", "getuid", "geteuid", "getgid", "uname", "nice", "mkfifo", "chown", "O_NONBLOCK", "statvfs"}
LACKS: dict[str, set[str]] = {
    "Windows": NO_FORK | NO_USERS | {"SIGKILL", "SIGCHLD", "SIGHUP", "SIGQUIT", "alarm", "AF_UNIX"},
    "Darwin": set(),
}
LACKS[SYSTEM] |= {"sched_getaffinity", "sched_setaffinity", "CLOCK_BOOTTIME", "pidfd_open", "memfd_create"}
GONE = {"Windows": {"fcntl", "resource", "pwd", "grp", "termios", "pty", "tty", "posix"}, "Darwin": {"spwd"}}[SYSTEM]
SAYS: dict[str, Any] = {
    "sys.platform": {"Windows": "win32", "Darwin": "darwin"}[SYSTEM],
    "os.name": {"Windows": "nt", "Darwin": "posix"}[SYSTEM],
    "os.sep": {"Windows": "\\", "Darwin": "/"}[SYSTEM],
    "os.linesep": {"Windows": "\r\n", "Darwin": "\n"}[SYSTEM],
    "platform.system": lambda: SYSTEM,
    "platform.machine": lambda: {"Windows": "AMD64", "Darwin": "arm64"}[SYSTEM],
    "platform.processor": lambda: {"Windows": "AMD64 Family 23, AuthenticAMD", "Darwin": "arm"}[SYSTEM],
}
SHOWN = ("os", "sys", "platform", "signal", "time", "socket")


class Elsewhere(types.ModuleType):
    """A module as it is on the other system."""

    def __getattr__(self, name: str) -> Any:
        if name in LACKS[SYSTEM]:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r} on {SYSTEM}")
        return SAYS.get(f"{self.__name__}.{name}", getattr(importlib.import_module(self.__name__), name))


MODULES = {name: Elsewhere(name) for name in SHOWN}
real_import = builtins.__import__


def scripted(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
    ours = level == 0 and str((globals or {}).get("__name__", "")).split(".")[0] == "visionquant"
    if ours and name.split(".")[0] in GONE:
        raise ModuleNotFoundError(f"No module named {name!r} on {SYSTEM}", name=name)
    if ours and name in MODULES:
        found = MODULES[name]
        for one in fromlist or ():
            if not hasattr(found, one):
                raise ImportError(f"cannot import name {one!r} from {name!r} on {SYSTEM}")
        return found
    return real_import(name, globals, locals, fromlist, level)


def absent(method: Any) -> Any:
    def look(path: pathlib.Path, *arguments: Any, **named: Any) -> Any:
        if path.parts[:2] in (("/", "proc"), ("/", "sys")):
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return method(path, *arguments, **named)

    return look


builtins.__import__ = scripted
pathlib.Path.stat, pathlib.Path.open = absent(pathlib.Path.stat), absent(pathlib.Path.open)
