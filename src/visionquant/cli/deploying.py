"""The verbs of the implementation guide: its recipes run and measured, models stored, sent and fetched."""

from importlib import import_module
from pathlib import Path
from typing import Annotated, Literal

import typer

from visionquant.cli.common import Precision, app, opened
from visionquant.errors import StudyError
from visionquant.params import known

# Each module has ``run(project, params, machine)`` that gives a :class:`visionquant.recipes.Recipe`.
RECIPES: dict[str, str] = {
    "monitor": "visionquant.deploy.watch",
    "validation": "visionquant.deploy.validation",
    "half": "visionquant.deploy.halves",
    "storage": "visionquant.deploy.storage",
    "checkpointing": "visionquant.deploy.recomputed",
    "compile": "visionquant.deploy.compilation",
}


@app.command()
def recipe(
    name: Annotated[str, typer.Argument(help=f"One of: {', '.join(RECIPES)}.")],
    platform: Annotated[
        str, typer.Option("--platform", help="Keep the figures in data/recipes/PLATFORM, for a pull request.")
    ] = "local",
) -> None:
    """Run a recipe of the guide, measure it, and keep the figures for the deployment page."""
    from visionquant import environment as machine
    from visionquant import recipes

    project, params = opened()
    known("recipes", [name], RECIPES)
    found = import_module(RECIPES[name]).run(project, params, machine.probe(params.study.device))
    path = recipes.write(project, found, platform)
    print(f"{path.relative_to(project.root)}: {len(found.rows)} rows in {found.elapsed_s:.0f} s")


@app.command()
def export(
    precision: Precision,
    to: Annotated[Path, typer.Option("--to", help="The folder to write; it must not be there yet.")],
    model: Annotated[str | None, typer.Option("--model", help="A row of `models` in params.yaml.")] = None,
    network: Annotated[str | None, typer.Option("--network", help="A row of `training.networks`, trained.")] = None,
    fold: Annotated[int, typer.Option("--fold", min=0, help="The fold that --network has not learned from.")] = 0,
    device: Annotated[
        Literal["cpu", "cuda"] | None,
        typer.Option("--device", help="Where it shall run: cpu or cuda; here if left out."),
    ] = None,
) -> None:
    """Store a model in a precision as a folder, quantisation state included, without a pickle."""
    from visionquant import environment as machine
    from visionquant.deploy import export as exports

    project, params = opened()
    known("precisions", [precision], params.precisions)
    if (model is None) == (network is None):
        raise StudyError("export", "give one of --model and --network", "e.g. `--model vit-base-224-production`")
    target = machine.probe(params.study.device).device if device is None else device
    if model is not None:
        known("models", [model], params.models)
        made = exports.model(project, params, model, precision, target, to)
    else:
        known("training.networks", [str(network)], params.training.networks)
        made = exports.network(project, params, str(network), fold, precision, target, to)
    size_mib = sum(file.bytes for file in made.files) / 2**20
    print(
        f"{to}: {made.precision.method} in {made.dtype} for {made.device}, {size_mib:.1f} MiB; {made.weights} weights"
    )


@app.command()
def push(
    folder: Annotated[Path, typer.Argument(help="A folder that `visionquant export` wrote.")],
    repo: Annotated[str, typer.Argument(help="OWNER/NAME on the store at HF_ENDPOINT.")],
    public: Annotated[bool, typer.Option("--public", help="If it is made now, let everybody read it.")] = False,
) -> None:
    """Upload an exported folder as one commit; the token comes from HF_TOKEN or `hf auth login`."""
    from visionquant.deploy import exchange

    print(f"{repo}@{exchange.push(folder, repo, public=public)}")


@app.command()
def pull(
    repo: Annotated[str, typer.Argument(help="OWNER/NAME on the store at HF_ENDPOINT.")],
    revision: Annotated[str, typer.Argument(help="The commit: 40 hex digits.")],
    to: Annotated[Path, typer.Option("--to", help="The folder to write; it must not be there yet.")],
) -> None:
    """Fetch an exported folder at a pinned revision and check every byte."""
    from visionquant.deploy import exchange

    found = exchange.pull(repo, revision, to)
    print(f"{to}: {found.precision.method} in {found.dtype} for {found.device}; {found.source}")
