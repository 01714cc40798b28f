"""The verbs of the implementation guide: its recipes run and measured."""

from importlib import import_module
from typing import Annotated

import typer

from visionquant.cli.common import Precision, app, opened
from visionquant.errors import StudyError
from visionquant.params import known

# Each module has ``run(project, params, machine)`` that gives a :class:`visionquant.recipes.Recipe`.
RECIPES: dict[str, str] = {
    "calibration": "visionquant.accuracy.contest",
    "monitor": "visionquant.deploy.watch",
    "validation": "visionquant.deploy.validation",
    "onnxruntime": "visionquant.deploy.onnx_options",
    "serving": "visionquant.deploy.serving",
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
def serve(
    precision: Precision,
    model: Annotated[str | None, typer.Option("--model", help="A row of `models` in params.yaml.")] = None,
    network: Annotated[
        str | None, typer.Option("--network", help="Or a row of `training.networks`, trained here.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one and says which.")] = 8000,
    host: Annotated[str, typer.Option(help="The address to listen on; others than this machine's own are exposed.")] = (
        "127.0.0.1"
    ),
    batch_size: Annotated[int, typer.Option(min=1, help="Requests in a forward pass at most; 1: no batching.")] = 8,
    batch_wait_ms: Annotated[float, typer.Option(min=1, help="The window in which a batch gathers.")] = 5.0,
    timeout_s: Annotated[float, typer.Option(min=0.1, help="For a whole request; then 504.")] = 10.0,
    queue: Annotated[int, typer.Option(min=1, help="Requests under way at most; then 503.")] = 64,
    max_mib: Annotated[float, typer.Option(min=0.01, help="Size of a request at most; then 413.")] = 10.0,
    max_megapixels: Annotated[float, typer.Option(min=0.01, help="Of an image at most; then 413.")] = 25.0,
) -> None:
    """Serve a model in a precision over HTTP, with dynamic batching, until SIGTERM or Ctrl-C."""
    if (model is None) == (network is None):
        raise StudyError("serve", "one of --model and --network is needed", "name a model or a trained network")
    from visionquant import environment as machine
    from visionquant.deploy import served, server
    from visionquant.deploy.uploads import Limits

    project, params = opened()
    device = machine.probe(params.study.device).device
    if model is not None:
        subject = served.model(project, params, model, precision, device)
    else:
        subject = served.network(project, params, network or "", precision, device)
    limits = Limits(
        body_bytes=int(max_mib * 2**20),
        pixels=int(max_megapixels * 1e6),
        queue=queue,
        timeout_s=timeout_s,
        batch_size=batch_size,
        batch_wait_s=batch_wait_ms / 1e3,
    )
    server.serve(subject, limits, host, port)
