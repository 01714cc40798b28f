"""The verb that looks for the smallest mixed policy which keeps what a network predicts."""

import re
from collections import Counter
from typing import Annotated, Literal

import typer

from visionquant.cli.common import Model, Precisions, machine_of, verb
from visionquant.core.errors import StudyError
from visionquant.core.frozen import NAME
from visionquant.core.paths import Project
from visionquant.settings.params import Params, known

Floor = Annotated[float, typer.Option(min=0, max=1, help="Share of images predicted as in FP32, at least.")]
Within = Annotated[Literal["bytes", "latency"], typer.Option(help="What of the Linear layers is budgeted.")]
Budget = Annotated[str | None, typer.Option(help="nf4, 0.8*int8, or bytes or ms; the least that will do if left out.")]
Images = Annotated[int, typer.Option(min=4, help="Crops of photographs: half to search on, half to check.")]


@verb("measure")
def allocate(
    project: Project,
    params: Params,
    model: Model,
    precision: Precisions = None,
    floor: Floor = 0.99,
    within: Within = "bytes",
    budget_of: Budget = None,
    images: Images = 64,
    name: Annotated[str, typer.Option(help="Of the row that is printed.")] = "mixed-allocated",
) -> None:
    """Choose a precision for each Linear layer, check it on images that were not searched on, print its row.

    By default of nf4, int8 and this machine's half precision. Exit code 1: it does not keep the floor.
    """
    machine = machine_of(params)
    names = list(dict.fromkeys(precision or ("nf4", "int8", "bf16" if machine.device == "cpu" else "fp16")))
    known("precisions", names, params.precisions)
    if not re.fullmatch(NAME, name) or name in params.precisions:
        raise StudyError(f"--name {name}", "no name, or that of a row which is there", "give letters, digits and -")
    from visionquant.accuracy import allocation, crops, model_source
    from visionquant.accuracy.policy_search import PolicySearch
    from visionquant.bench import torch_flags

    torch_flags.begin(machine.device)
    source = model_source.open_model(project, params, model)
    head, logits_from = source.head()
    assert head is not None  # of a row of `models`
    search = PolicySearch(source.build(), head, {one: params.precisions[one] for one in names}, machine.device)
    found = search.find(*crops.halves(images, source.preprocessing), floor, within, budget_of)
    counts = Counter(found.chosen.values())
    unit, digits = ("bytes", ",.0f") if within == "bytes" else ("ms", ".3f")
    print(f"{model}, {source.weights} weights: " + ", ".join(f"{counts[one]} Linear layers in {one}" for one in names))
    print(f"{found.cost:{digits}} {unit} of these layers, the budget was {found.budget:{digits}}")
    print(f"predicted as in FP32, by {logits_from}: {found.kept_in_search:.4f} of {images // 2} images")
    print(f"that were searched on, {found.kept_in_check:.4f} of {images // 2} that were not\n")
    print(allocation.row_text(name, found.row), end="")
    if found.kept_in_check < floor:
        missed = f"{found.kept_in_check:.4f} of the images that were not searched on are predicted as in FP32"
        raise StudyError(f"--floor {floor:g}", missed, "raise --budget-of, or allow another --precision")
