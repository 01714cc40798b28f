"""The section ``evaluation``: labelled images for models with pretrained weights."""

from typing import Annotated

from pydantic import Field

from visionquant.core.frozen import Row

Count = Annotated[int, Field(ge=1)]


class DataSet(Row):
    """A hub data set in the layout of an image folder, pinned (40 hex digits); ``folder`` is where the classes lie."""

    repo_id: str
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
    folder: str = ""


class EvaluationChoice(Row):
    """``images`` is a folder with a folder for each class, a hub data set, or null.

    At most ``most_images`` are used, evenly over the classes; ``neighbours`` vote in the classification by features.
    """

    images: str | DataSet | None
    most_images: Count
    neighbours: Count
