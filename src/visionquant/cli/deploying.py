"""The verbs of the implementation guide: its recipes run and measured, models stored, sent, fetched and served."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from visionquant import recipes
from visionquant.cli.common import Folder, OneModel, OneNetwork, Precision, Repo, app, machine_of, verb
from visionquant.core.errors import StudyError
from visionquant.core.paths import Project
from visionquant.settings.params import Params

if TYPE_CHECKING:
    from visionquant.accuracy.model_source import ModelSource


@verb("measure")
def recipe(
    project: Project,
    params: Params,
    name: Annotated[str, typer.Argument(help=f"One of: {', '.join(recipes.NAMES)}.")],
) -> None:
    """Run a recipe of the guide, measure it, and keep the figures for the deployment page."""
    from visionquant.records import outcomes

    result = recipes.recipe_named(name)(project, params, machine_of(params))
    path = outcomes.write_recipe(project, result, params)
    print(f"{project.shown(path)}: {len(result.rows)} rows in {result.elapsed_s:.0f} s")


@verb("read")
def serve(
    project: Project,
    params: Params,
    precision: Precision,
    model: OneModel = None,
    network: OneNetwork = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one and says which.")] = 8000,
    host: Annotated[
        str, typer.Option(help="The address to listen on; others than this machine's own are exposed.")
    ] = "127.0.0.1",
    batch_size: Annotated[int, typer.Option(min=1, help="Requests in a forward pass at most; 1: no batching.")] = 8,
    batch_wait_ms: Annotated[float, typer.Option(min=1, help="The window in which a batch gathers.")] = 5.0,
    timeout_s: Annotated[float, typer.Option(min=0.1, help="For a whole request; then 504.")] = 10.0,
    queue: Annotated[int, typer.Option(min=1, help="Requests under way at most; then 503.")] = 64,
    max_mib: Annotated[float, typer.Option(min=0.01, help="Size of a request at most; then 413.")] = 10.0,
    max_megapixels: Annotated[float, typer.Option(min=0.01, help="Of an image at most; then 413.")] = 25.0,
) -> None:
    """Serve a model in a precision over HTTP, with dynamic batching, on study.device, until SIGTERM or Ctrl-C."""
    source = _source("serve", project, params, model, network, params.training.run[0])
    for library in ("fastapi", "uvicorn", "multipart", "litserve"):
        if find_spec(library) is None:
            raise StudyError("serve", f"{library} is not installed", 'pip install --editable ".[serve]"')
    from visionquant.deploy.server import serve_http
    from visionquant.deploy.server_routes import Limits

    body_bytes, pixels = int(max_mib * 2**20), int(max_megapixels * 1e6)
    limits = Limits(body_bytes, pixels, queue, timeout_s, batch_size, batch_wait_ms / 1e3)
    if source.preprocessing.note:
        typer.echo(source.preprocessing.note, err=True)
    serve_http(source, precision, machine_of(params).device, limits, host, port)


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


@verb("read")
def export(
    project: Project,
    params: Params,
    precision: Precision,
    to: Folder,
    model: OneModel = None,
    network: OneNetwork = None,
    fold: Annotated[int, typer.Option(min=0, help="The fold that --network has not learned from.")] = 0,
    device: Annotated[
        Literal["cpu", "cuda"] | None, typer.Option(help="Where it shall run: cpu or cuda; here if left out.")
    ] = None,
) -> None:
    """Store a model in a precision as a folder, quantisation state included, without a pickle."""
    from visionquant.deploy import serialization

    source = _source("export", project, params, model, network, fold)
    made = serialization.export_model(source, precision, device or machine_of(params).device, to)
    where = f"{made.precision.method} in {made.dtype} for {made.device}"
    size_mib = sum(file.bytes for file in made.files) / 2**20
    print(f"{to}: {where}, {size_mib:.1f} MiB; {made.weights} weights")


@app.command()
def push(
    folder: Annotated[Path, typer.Argument(help="A folder that `visionquant export` wrote.")],
    repo: Repo,
    public: Annotated[bool, typer.Option("--public", help="If it is made now, let everybody read it.")] = False,
) -> None:
    """Upload an exported folder as one commit; the token comes from HF_TOKEN or `hf auth login`."""
    from visionquant.deploy import model_folder

    print(f"{repo}@{model_folder.push_folder(folder, repo, public=public)}")


@app.command()
def pull(repo: Repo, revision: Annotated[str, typer.Argument(help="The commit: 40 hex digits.")], to: Folder) -> None:
    """Fetch an exported folder at a pinned revision and check every byte."""
    from visionquant.deploy import model_folder

    manifest = model_folder.pull_folder(repo, revision, to)
    print(f"{to}: {manifest.precision.method} in {manifest.dtype} for {manifest.device}; {manifest.source}")
