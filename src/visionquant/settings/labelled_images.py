"""The section ``evaluation``: labelled images for models with pretrained weights."""

from visionquant.core.frozen import Count, Revision, Strict


class DataSet(Strict):
    """A hub data set in the layout of an image folder, pinned (40 hex digits); ``folder`` is where the classes lie."""

    repo_id: str
    revision: Revision
    folder: str = ""


class EvaluationChoice(Strict):
    """``images`` is a folder with a folder for each class, a hub data set, or null.

    At most ``most_images`` are used, evenly over the classes; ``neighbours`` vote in the classification by features.
    """

    images: str | DataSet | None
    most_images: Count
    neighbours: Count
