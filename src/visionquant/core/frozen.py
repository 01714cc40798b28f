"""The base of every checked row of settings."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+(-[A-Za-z0-9_]+)*$")]
Size = int | tuple[int, int]


def height_width(size: Size) -> tuple[int, int]:
    """Of an image in pixels: a square's side stands for both."""
    return (size, size) if isinstance(size, int) else size


def size_of(height: int, width: int) -> Size:
    """As a row says it, a square by its side: one size has one identity."""
    return height if height == width else (height, width)


def _size(value: Any) -> Size:
    sides = tuple(value) if isinstance(value, list | tuple) else (value, value)
    if len(sides) != 2 or any(type(side) is not int or not 16 <= side <= 2048 for side in sides):
        raise ValueError("is neither the side of a square nor [height, width], in whole pixels from 16 to 2048")
    return size_of(*sides)


InputSize = Annotated[Size, BeforeValidator(_size)]


class Row(BaseModel):
    """A frozen row of settings without room for unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
