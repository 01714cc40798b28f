"""The verbs of the implementation guide: its recipes run and measured, models stored, sent and fetched."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from visionquant import recipes
from visionquant.cli.common import Precision, app, machine_of, opened
from visionquant.core.errors import StudyError
from visionquant.core.paths import Project
from visionquant.settings.params import Params

if TYPE_CHECKING:
    from visionquant.accuracy.model_source import ModelSource


@app.command()
def recipe(
    name: Annotated[str, typer.Argument(help=f"One of: {', '.join(recipes.NAMES)}.")],
) -> None:
    """Run a recipe of the guide, measure it, and keep the figures for the deployment page."""
    project, params = opened("measure")
    from visionquant.records import recipe as records

    found = recipes.recipe_named(name)(project, params, machine_of(params))
    path = records.write(project, found, params)
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
    """Serve a model in a precision over HTTP, with dynamic batching, on study.device, until SIGTERM or Ctrl-C."""
    project, params = opened()
    source = _source("serve", project, params, model, network, params.training.run[0])
    from visionquant.deploy.server import require_installed

    require_installed()
    from visionquant.deploy.server import app as server
    from visionquant.deploy.server.routes import Limits

    limits = Limits(
        body_bytes=int(max_mib * 2**20),
        pixels=int(max_megapixels * 1e6),
        queue=queue,
        timeout_s=timeout_s,
        batch_size=batch_size,
        batch_wait_s=batch_wait_ms / 1e3,
    )
    if source.preprocessing.note:
        typer.echo(source.preprocessing.note, err=True)
    server.serve_http(source, precision, machine_of(params).device, limits, host, port)


def _source(
    verb: str, project: Project, params: Params, model: str | None, network: str | None, fold: int
) -> "ModelSource":
    """The model that is named by one of two options."""
    from visionquant.accuracy import model_source

    if model is not None and network is None:
        return model_source.open_model(project, params, model)
    if network is not None and model is None:
        return model_source.open_network(project, params, network, fold)
    raise StudyError(verb, "one of --model and --network is needed", "e.g. `--model vit-base-224-production`")


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
    from visionquant.deploy import serialization

    project, params = opened()
    source = _source("export", project, params, model, network, fold)
    target = machine_of(params).device if device is None else device
    made = serialization.export_model(source, precision, target, to)
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
    from visionquant.deploy import model_folder

    print(f"{repo}@{model_folder.push_folder(folder, repo, public=public)}")


@app.command()
def pull(
    repo: Annotated[str, typer.Argument(help="OWNER/NAME on the store at HF_ENDPOINT.")],
    revision: Annotated[str, typer.Argument(help="The commit: 40 hex digits.")],
    to: Annotated[Path, typer.Option("--to", help="The folder to write; it must not be there yet.")],
) -> None:
    """Fetch an exported folder at a pinned revision and check every byte."""
    from visionquant.deploy import model_folder

    found = model_folder.pull_folder(repo, revision, to)
    print(f"{to}: {found.precision.method} in {found.dtype} for {found.device}; {found.source}")
