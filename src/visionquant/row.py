"""The base of every checked row of settings."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+(-[A-Za-z0-9_]+)*$")]


class Row(BaseModel):
    """A frozen row of settings without room for unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
