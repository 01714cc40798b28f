"""Values checked against the rows that they should be; what is wrong is one line that names the key."""

import difflib
import re
from collections.abc import Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from visionquant.core.errors import StudyError

Model = TypeVar("Model", bound=BaseModel)


def checked(model: type[Model], raw: object, file: str = "params.yaml") -> Model:
    """What ``raw``, as read from ``file``, says.

    Raises:
        StudyError: the first fault: its key, what was found, and what is allowed or was meant.
    """
    try:
        return model.model_validate(_tuples(raw))
    except ValidationError as error:
        raise _one_line(error, model, file) from None


def _tuples(value: Any) -> Any:
    """YAML's lists as tuples, which frozen rows want."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _one_line(error: ValidationError, model: type[BaseModel], file: str) -> StudyError:
    faults = _meant(error, model)
    # A misspelt key is two faults, one unknown and one missing; the first says what stands in the file.
    first = next((one for one in faults if one["type"] == "extra_forbidden"), faults[0])
    path, kind = _at(model, first["loc"])
    key, left, found = f"{file}: {'.'.join(path)}" if path else file, len(faults) - 1, first.get("input")
    if first["type"] == "extra_forbidden":
        parent, allowed = first["loc"][:-1], _fields(_at(model, first["loc"][:-1])[1])
        missing = [str(one["loc"][-1]) for one in faults if one["type"] == "missing" and one["loc"][:-1] == parent]
        near = _nearest(path[-1], missing) or _nearest(path[-1], allowed) or (missing if len(missing) == 1 else [])
        left -= near[:1] == missing[:1] != []
        return StudyError(key, f"unknown key{_more(left)}", f"{_hint(near)}allowed: {', '.join(allowed)}")
    if first["type"] == "missing":
        return StudyError(key, f"missing{_more(left)}", "add it")
    if first["type"] in ("union_tag_invalid", "union_tag_not_found"):
        tag, known = str(first["ctx"]["discriminator"]).strip("'"), [_tag(one) for one in _members(kind)]
        listed = f"allowed: {', '.join(known)}"
        if "tag" in first["ctx"]:
            return StudyError(f"{key}.{tag}", f"{first['ctx']['tag']} is no {tag}{_more(left)}", listed)
        unknown = set(map(str, found)) - {name for one in _members(kind) for name in _fields(one)}
        if near := _nearest(tag, sorted(unknown)):
            return StudyError(f"{key}.{near[0]}", f"unknown key{_more(left)}", f"{_hint([tag])}{listed}")
        return StudyError(f"{key}.{tag}", f"missing{_more(left)}", f"add it; {listed}")
    message = re.sub(r"^Value error, ", "", first["msg"])
    shown = f", found {found!r}" if isinstance(found, str | int | float | bool) or found is None else ""
    return StudyError(key, f"{message[0].lower()}{message[1:]}{shown}{_more(left)}", f"correct it in {file}")


def _meant(error: ValidationError, model: type[BaseModel]) -> list[Any]:
    """The faults without those of a whole whose parts are at fault, and of members of a union that were not meant."""
    faults = error.errors(include_url=False)

    def deeper(loc: tuple[int | str, ...]) -> bool:
        return any(len(other["loc"]) > len(loc) and other["loc"][: len(loc)] == loc for other in faults)

    def beside(loc: tuple[int | str, ...]) -> bool:
        above = loc[:-1]
        return _at(model, loc)[0] == _at(model, above)[0] and any(
            len(other["loc"]) > len(loc) and other["loc"][: len(above)] == above for other in faults
        )

    return [one for one in faults if one["loc"] and not deeper(one["loc"]) and not beside(one["loc"])] or list(faults)


def _at(kind: Any, loc: Sequence[int | str]) -> tuple[list[str], Any]:
    """The keys in a place that pydantic names, without its words for members of unions, and what stands there."""
    path: list[str] = []
    parts = list(loc)
    while parts:
        part = str(parts.pop(0))
        members = _members(kind)
        if len(members) > 1:
            kind = next((one for one in members if part.split("[")[0] in _labels(one)), None)
            continue
        kind = members[0]
        path.append(part)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            kind = kind.model_fields[part].annotation if part in kind.model_fields else None
        elif get_origin(kind) is dict:
            kind = get_args(kind)[1]
            parts = [] if parts == ["[key]"] else parts
        else:
            kind = next(iter(get_args(kind)), None)
    return path, kind


def _members(kind: Any) -> tuple[Any, ...]:
    """The types of a union, null apart, or the one type."""
    if get_origin(kind) is Annotated:
        return _members(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return tuple(one for one in get_args(kind) if one is not NoneType)
    return (kind,)


def _fields(kind: Any) -> list[str]:
    return list(getattr(_members(kind)[0], "model_fields", ()))


def _tag(kind: Any) -> str:
    """The value by which a row of a union is told from the others."""
    annotations = (field.annotation for field in getattr(kind, "model_fields", {}).values())
    return next((str(get_args(one)[0]) for one in annotations if get_origin(one) is Literal), "")


def _labels(kind: Any) -> tuple[str, str]:
    """What pydantic calls a member of a union."""
    return _tag(kind), getattr(kind, "__name__", "")


def _nearest(word: str, known: Sequence[str]) -> list[str]:
    return difflib.get_close_matches(word, known, n=1)


def _hint(near: Sequence[str]) -> str:
    return f"did you mean {near[0]}? " if near else ""


def _more(left: int) -> str:
    return f" (and {left} more)" if left else ""
