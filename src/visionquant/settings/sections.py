"""The sections of params.yaml that no measured pair hangs on: what is trained and evaluated, what pages assume."""

from typing import Annotated, Literal

from pydantic import Field

from visionquant.core.errors import checked
from visionquant.core.frozen import Count, Name, Positive, Revision, Share, Strict, Unsigned


class NetworkSpec(Strict):
    """A small network of one family of the study; sizes in pixels and features.

    MobileViT's own sizes are those of its smallest published configuration; of the row it takes the image size alone.
    The pipeline trains rows of the quick task, digits; those of Fashion-MNIST are for ``make accuracy``.
    """

    family: Literal["vit", "beit", "mobilevit"]
    image_size: Annotated[int, Field(ge=16, le=256)]
    patch_size: Count
    hidden_size: Annotated[int, Field(ge=32, multiple_of=32)]
    layers: Count
    epochs: Count
    learning_rate: Positive
    task: Literal["digits", "fashion-mnist"] = "digits"


class Training(Strict):
    """How the ``chosen`` networks are trained; of ``folds`` in cross-validation the pipeline trains ``run``.

    They are evaluated in the precisions of the study, and in those of ``also``.
    """

    chosen: Annotated[tuple[Name, ...], Field(min_length=1)]
    folds: Annotated[int, Field(ge=2, le=10)]
    run: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
    also: tuple[Name, ...] = ()
    batch_size: Count
    weight_decay: Unsigned
    seed: int
    networks: Annotated[dict[Name, NetworkSpec], Field(min_length=1)]

    def fold_count(self, spec: NetworkSpec) -> int:
        """How many folds a network's task has: one where the data set has test images of its own."""
        return self.folds if spec.task == "digits" else 1


class DataSet(Strict):
    """A hub data set in the layout of an image folder, pinned (40 hex digits); ``folder`` is where the classes lie."""

    repo_id: str
    revision: Revision
    folder: str = ""


class ProbeChoice(Strict):
    """Fashion-MNIST through heads that are fitted on FP32's features, once: of ``models`` with trained weights.

    Pictures are scaled to ``pixels`` a side; null: what the row of the model says. Heads learn from
    ``training_images``; the first ``test_images`` are classified, in the study's precisions and in those of ``also``.
    In those of ``own_head`` the training images are passed as well, and a linear head is fitted on that.
    """

    models: tuple[Name, ...] = ()
    also: tuple[Name, ...] = ()
    own_head: tuple[Name, ...] = ()
    pixels: Annotated[int, Field(ge=28, le=1024)] | None
    training_images: Annotated[int, Field(ge=100, le=60_000)]
    test_images: Annotated[int, Field(ge=10, le=10_000)]
    neighbours: Count
    seed: int


class EvaluationChoice(Strict):
    """Labelled images for models with pretrained weights: a folder with a folder for each class, a data set, or null.

    At most ``most_images`` are used, evenly over the classes; ``neighbours`` vote in the classification by features.
    ``probe`` is about images that need no folder.
    """

    images: str | DataSet | None
    most_images: Count
    neighbours: Count
    probe: ProbeChoice


class ReportChoice(Strict):
    """What the pages are called, and what the published figures can be compared with.

    ``profiled`` are rows of ``models`` whose passes ``visionquant recipe profile`` takes apart.
    """

    title: str
    reference_gpu: str
    workspace_mib: Unsigned
    profiled: Annotated[tuple[Name, ...], Field(min_length=1)]


class CostAssumptions(Strict):
    """A load to carry and what carrying it costs.

    ``instance`` is a row of ``data/supplement/prices.csv``; ``utilisation`` the share of an instance's throughput that
    is planned with; ``development_usd`` is spent once on a precision other than FP32; ``spread`` is by which share the
    sensitivity figure moves each of them.
    """

    load_images_per_s: Positive
    latency_limit_ms: Positive
    memory_limit_mib: Positive | None = None
    utilisation: Annotated[float, Field(gt=0, le=1)]
    instance: str
    hours_per_month: Positive
    years: Positive
    development_usd: Unsigned
    model: str
    precision: str
    spread: Share


class DecisionLimits(Strict):
    """The limits of the decision page; null is none.

    ``accuracy_loss_limit`` is in points of top-1 on trained weights, at the lower end of the interval;
    ``fidelity_floor`` a cosine similarity to FP32, asked of trained weights alone.
    """

    batch_size: Count
    latency_limit_ms: Positive | None = None
    memory_limit_mib: Positive | None = None
    accuracy_loss_limit: Unsigned | None = None
    fidelity_floor: Annotated[float, Field(ge=-1, le=1)] | None = None

    @property
    def asks_for_accuracy(self) -> bool:
        """Whether a limit is about what precision does to the answers."""
        return self.accuracy_loss_limit is not None or self.fidelity_floor is not None

    def limited(self, **limits: float | None) -> "DecisionLimits":
        """These limits with those that are given, and not None, in place of them.

        Raises:
            StudyError: a limit is out of its range, or there is no such limit.
        """
        given = {name: value for name, value in limits.items() if value is not None}
        return checked(DecisionLimits, self.model_dump() | given, "the limits")
