"""What is wrong with params.yaml, or another checked file, in one line that names the key."""

import difflib
import re
from collections.abc import Callable

from pydantic import ValidationError

from visionquant.errors import StudyError

METHODS = "float, bitsandbytes_int8, bitsandbytes_nf4, mixed"


def one_line(
    error: ValidationError, fields_at: Callable[[list[str]], list[str]], file: str = "params.yaml"
) -> StudyError:
    """The first fault: its key, what was found, and what is allowed; ``fields_at`` names the keys of a row by path."""
    first = error.errors(include_url=False)[0]
    path = [str(part) for part in first["loc"]]
    path = [part for part in path if part not in METHODS.split(", ") and part != "[key]"]
    key = f"{file}: {'.'.join(path)}" if path else file
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        allowed = fields_at([str(part) for part in first["loc"][:-1]])
        near = difflib.get_close_matches(path[-1], allowed, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        return StudyError(key, f"unknown key{more}", f"{hint}allowed: {', '.join(allowed)}")
    if first["type"] == "missing":
        return StudyError(key, f"missing{more}", "add it")
    message = re.sub(r"^Value error, ", "", first["msg"])
    found = first.get("input")
    shown = f"{message[0].lower()}{message[1:]}" + (
        f", found {found!r}" if isinstance(found, str | int | float | bool) or found is None else ""
    )
    if first["type"] in ("union_tag_invalid", "union_tag_not_found"):
        tag = first.get("ctx", {}).get("tag", "missing")
        return StudyError(f"{key}.method", f"{tag} is no method{more}", f"allowed: {METHODS}")
    return StudyError(key, shown + more, f"correct it in {file}")
