"""One error family: what was asked, what was found, what to do; pydantic's errors as one of it."""

import difflib
import re
from collections.abc import Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

Model = TypeVar("Model", bound=BaseModel)
Location = tuple[int | str, ...]


class StudyError(Exception):
    """A mistake that the reader can mend. Its text is one line, printed as it is; ``exit_code`` is the command's then.

    Args:
        asked: the file, key or action concerned.
        found: what stood in the way.
        remedy: what to do about it.
    """

    exit_code = 1

    def __init__(self, asked: str, found: str, remedy: str) -> None:
        super().__init__(" ".join(f"{asked}: {found}; {remedy}".split()))

    @classmethod
    def of(cls, text: str) -> "StudyError":
        """The error whose text this is, e.g. one that comes from another process."""
        error = cls.__new__(cls)
        Exception.__init__(error, text)
        return error


class MachineMismatch(StudyError):
    """The machine at hand is not the one that the study, or a set of records, declares."""


class CodeChanged(StudyError):
    """The measuring code was edited while it ran, so the result belongs to no one version of it."""


class PairsFailed(StudyError):
    """All was tried and the rest is measured, but some pairs failed; their rows say why."""

    exit_code = 3


def checked(model: type[Model], raw: object, file: str = "params.yaml") -> Model:
    """What ``raw``, as read from ``file``, says.

    Raises:
        StudyError: the first fault: its key, what was found, and what is allowed or was meant.
    """
    try:
        return model.model_validate(_tuples(raw))
    except ValidationError as error:
        raise from_pydantic(error, model, raw, file) from None


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """The nearest of the words that are known, as the beginning of a remedy; "" where none is near."""
    return "".join(f"did you mean {near}? " for near in difflib.get_close_matches(word, known, n=1))


def from_pydantic(error: ValidationError, model: type[BaseModel], raw: object, file: str) -> StudyError:
    """The first fault that ``model`` found in ``raw``, which was read from ``file``, and how many more there are."""
    faults = [(_place(raw, fault["loc"], fault["type"] == "missing"), fault) for fault in error.errors()]
    # Not those of a whole whose parts are at fault, nor of members of a union of which another was meant.
    parts = [(at, fault) for at, fault in faults if at and not any(to[: len(at)] == at != to for to, _ in faults)]
    faults = parts or faults
    # A misspelt key is two faults, one unknown and one missing; the first says what stands in the file.
    place, fault = next((pair for pair in faults if pair[1]["type"] == "extra_forbidden"), faults[0])
    key, more, value = f"{file}: {'.'.join(place)}" if place else file, len(faults) - 1, fault.get("input")
    match fault["type"]:
        case "extra_forbidden":
            missing = [at[-1] for at, other in faults if other["type"] == "missing" and at[:-1] == place[:-1]]
            allowed = list(_members_at(model, fault["loc"][:-1])[0].model_fields)
            only = f"did you mean {missing[0]}? " if len(missing) == 1 else ""
            hint = did_you_mean(place[-1], missing) or did_you_mean(place[-1], allowed) or only
            more -= any(hint == f"did you mean {name}? " for name in missing)
            found, remedy = "unknown key", f"{hint}allowed: {', '.join(allowed)}"
        case "missing":
            found, remedy = "missing", "add it"
        case "union_tag_invalid" | "union_tag_not_found":
            tag, members = str(fault["ctx"]["discriminator"]).strip("'"), _members_at(model, fault["loc"])
            unknown = set(map(str, value or ())) - {name for member in members for name in member.model_fields}
            near = difflib.get_close_matches(tag, sorted(unknown), n=1)
            listed = f"allowed: {', '.join(map(_tag, members))}"
            if "tag" in fault["ctx"]:
                key, found, remedy = f"{key}.{tag}", f"{fault['ctx']['tag']} is no {tag}", listed
            elif near:
                key, found, remedy = f"{key}.{near[0]}", "unknown key", f"did you mean {tag}? {listed}"
            else:
                key, found, remedy = f"{key}.{tag}", "missing", f"add it; {listed}"
        case _:
            message = re.sub(r"^Value error, ", "", fault["msg"])
            shown = f", found {value!r}" if isinstance(value, str | int | float | bool) or value is None else ""
            found, remedy = f"{message[0].lower()}{message[1:]}{shown}", f"correct it in {file}"
    return StudyError(key, found + (f" (and {more} more)" if more else ""), remedy)


def _tuples(value: Any) -> Any:
    """YAML's lists as tuples, which frozen rows want."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _place(raw: Any, loc: Location, missing: bool) -> tuple[str, ...]:
    """The keys of a place as they stand in ``raw``; pydantic names members of unions beside them."""
    place = []
    for part in loc:
        if part in (raw if isinstance(raw, dict) else range(len(raw)) if isinstance(raw, list) else ()):
            raw = raw[part]
            place.append(str(part))
    return (*place, str(loc[-1])) if missing else tuple(place)


def _members_at(kind: Any, loc: Location) -> list[Any]:
    """The types that may stand in a place, where pydantic names a member of a union by its tag or its class."""
    members = _members(kind)
    for part in map(str, loc):
        if len(members) > 1:
            members = [member for member in members if part in (_tag(member), getattr(member, "__name__", ""))]
        elif hasattr(members[0], "model_fields"):
            members = _members(members[0].model_fields[part].annotation)
        else:  # of a mapping its values, of a tuple its items
            members = _members(get_args(members[0])[get_origin(members[0]) is dict])
    return members


def _members(kind: Any) -> list[Any]:
    """The types of a union, null apart, or the one type."""
    if get_origin(kind) is Annotated:
        return _members(get_args(kind)[0])
    union = get_origin(kind) in (Union, UnionType)
    return [member for member in get_args(kind) if member is not NoneType] if union else [kind]


def _tag(kind: Any) -> str:
    """The value by which a row of a union is told from the others."""
    annotations = (field.annotation for field in getattr(kind, "model_fields", {}).values())
    return next((str(get_args(note)[0]) for note in annotations if get_origin(note) is Literal), "")
