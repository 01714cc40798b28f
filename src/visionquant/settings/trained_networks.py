"""What is trained, and how: the networks of the accuracy pages as rows of params.yaml."""

from typing import Annotated, Literal

from pydantic import Field

from visionquant.core.frozen import Count, Name, Positive, Strict


class NetworkSpec(Strict):
    """A small network of one family of the study; sizes in pixels and features.

    MobileViT's own sizes are those of its smallest published configuration; of the row it takes the image size alone.
    """

    family: Literal["vit", "beit", "mobilevit"]
    image_size: Annotated[int, Field(ge=16, le=256)]
    patch_size: Count
    hidden_size: Annotated[int, Field(ge=32, multiple_of=32)]
    layers: Count
    epochs: Count
    learning_rate: Positive


class Training(Strict):
    """How the ``chosen`` networks are trained; of ``folds`` in cross-validation the pipeline trains ``run``.

    They are evaluated in the precisions of the study, and in those of ``also``.
    """

    chosen: Annotated[tuple[Name, ...], Field(min_length=1)]
    folds: Annotated[int, Field(ge=2, le=10)]
    run: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
    also: tuple[Name, ...] = ()
    batch_size: Count
    weight_decay: Annotated[float, Field(ge=0)]
    seed: int
    networks: Annotated[dict[Name, NetworkSpec], Field(min_length=1)]
