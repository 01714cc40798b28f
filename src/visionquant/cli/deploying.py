"""The verbs of the implementation guide: its recipes run and measured."""

from importlib import import_module
from typing import Annotated

import typer

from visionquant.cli.common import app, opened
from visionquant.params import known

# Each module has ``run(project, params, machine)`` that gives a :class:`visionquant.recipes.Recipe`.
RECIPES: dict[str, str] = {
    "calibration": "visionquant.accuracy.contest",
    "monitor": "visionquant.deploy.watch",
    "validation": "visionquant.deploy.validation",
    "onnxruntime": "visionquant.deploy.onnx_options",
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
