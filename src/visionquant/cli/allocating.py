"""The verb that looks for the smallest mixed policy which keeps what a network with trained weights predicts."""

import re
from collections import Counter
from functools import partial
from typing import Annotated, Literal

import typer

from visionquant.cli.common import Model, Precisions, machine_of, verb
from visionquant.core.errors import StudyError
from visionquant.core.frozen import NAME
from visionquant.core.paths import Project
from visionquant.settings.params import Params, known, settings_at

Floor = Annotated[float, typer.Option(min=0, help="Top-1 over FP32's, at least.")]
Within = Annotated[Literal["bytes", "latency"], typer.Option(help="What a budget is of: all weights, Linear layers.")]
Budget = Annotated[str | None, typer.Option(help="nf4, 0.8*int8, or bytes or ms; the least that will do if left out.")]
Loss = Annotated[Literal["kl", "noise"], typer.Option(help="Of a layer alone: KL of predictions, or features' noise.")]
Images = Annotated[int, typer.Option(min=4, help="For sensitivities; four times as many choose, eight times check.")]


@verb("measure")
def allocate(
    project: Project,
    params: Params,
    model: Model,
    precision: Precisions = None,
    floor: Floor = 0.99,
    within: Within = "bytes",
    budget_of: Budget = None,
    loss: Loss = "kl",
    images: Images = 256,
    name: Annotated[str, typer.Option(help="Of the row that is printed.")] = "mixed-allocated",
) -> None:
    """Choose a precision for each Linear layer by the probe's task, check it on other images, and print its row.

    By default of NF4, INT8, BF16, FP16 and FP32. The same command goes on with the sensitivities that are known. Exit
    code 1: it does not keep the floor.
    """
    machine = machine_of(params)
    names = list(dict.fromkeys(precision or ("nf4", "int8", "bf16", "fp16", "fp32")))
    known("precisions", names, params.precisions)
    if not re.fullmatch(NAME, name) or name in params.precisions:
        raise StudyError(f"--name {name}", "no name, or that of a row which is there", "give letters, digits and -")
    from visionquant.accuracy import allocation, model_source, probe, probe_task
    from visionquant.accuracy.policy_search import PolicySearch
    from visionquant.bench import torch_flags

    tell = partial(print, flush=True)
    torch_flags.begin(machine.device)
    source = model_source.open_trained(project, params, model, "allocate")
    assert source.manifest is not None
    net = source.build().to(machine.device)
    tell(f"{model}: a linear head learns from {params.evaluation.probe.training_images:,} images of {probe.TASK}")
    search = PolicySearch(
        net,
        probe_task.fitted(source, net, machine.device, (images, 4 * images, 8 * images)),
        {one: params.precisions[one] for one in names},
        machine.device,
        params.precisions,
        [source.manifest.sha256(), machine.key(), settings_at(params, (f"models.{model}", *probe.DECIDED_BY))],
        project.local / "sensitivities" / f"{model}.json",
        tell,
    )
    found = search.find(floor, within, budget_of, loss)
    counts = Counter(found.chosen.values())
    unit, digits = ("bytes of stored weights", ",.0f") if within == "bytes" else ("ms in Linear layers", ".3f")
    print(f"{model}, {source.weights} weights: " + ", ".join(f"{counts[one]} Linear layers in {one}" for one in names))
    print(f"{found.cost:{digits}} {unit}, the budget was {found.budget:{digits}}")
    chosen_by = f"{found.kept_in_search:.4f} on {4 * images:,} images that budgets are chosen by"
    print(f"top-1 over FP32's: {chosen_by}, {found.kept_in_check:.4f} on {8 * images:,} others")
    print("A row for `precisions`; once `evaluation.probe.also` names it, `visionquant probe` takes all test images:\n")
    print(allocation.row_text(name, found.row), end="")
    if found.kept_in_check < floor:
        missed = f"top-1 is {found.kept_in_check:.4f} of FP32's on images that nothing was chosen by"
        raise StudyError(f"--floor {floor:g}", missed, "raise --budget-of, or allow another --precision")
