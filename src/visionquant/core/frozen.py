"""The bases of every value that is checked as it is read, and the types that their fields share."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

NAME = r"^[A-Za-z0-9_]+(-[A-Za-z0-9_]+)*$"
Name = Annotated[str, Field(pattern=NAME)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Unsigned = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(gt=0, lt=1)]
Revision = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
Size = int | tuple[int, int]


class Frozen(BaseModel):
    """A part of a file: it does not change, and has no room for unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Strict(Frozen):
    """A row of settings, whose values are what they should be and not only convertible to it."""

    model_config = ConfigDict(strict=True)


def height_width(size: Size) -> tuple[int, int]:
    """Of an image in pixels: a square's side stands for both."""
    return (size, size) if isinstance(size, int) else size


def _size(value: Any) -> Size:
    """A size as a row says it, a square by its side: one size has one identity."""
    sides = tuple(value) if isinstance(value, list | tuple) else (value, value)
    if len(sides) != 2 or any(type(side) is not int or not 16 <= side <= 2048 for side in sides):
        raise ValueError("is neither the side of a square nor [height, width], in whole pixels from 16 to 2048")
    return sides[0] if sides[0] == sides[1] else sides


InputSize = Annotated[Size, BeforeValidator(_size)]
