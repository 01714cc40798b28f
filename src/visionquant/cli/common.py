"""What every verb shares: the command itself, its options, and the study that it opens."""

import inspect
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from visionquant.core import lock, machine
from visionquant.core.errors import PairsFailed, StudyError
from visionquant.core.paths import Project
from visionquant.records import record
from visionquant.settings import params as parameters
from visionquant.settings.params import Params


class Verbs(TyperGroup):
    """The verbs; one that is interrupted by Ctrl-C says in a line what is kept and ends with 130."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            text = "interrupted; finished rounds are kept, the same command goes on from there"
            print(f"visionquant: {text}", file=sys.stderr)
            raise SystemExit(130) from None


app = typer.Typer(
    cls=Verbs,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="What a precision costs and saves on a vision model. Run it anywhere inside a checkout of the study.",
)

Model = Annotated[str, typer.Option("--model", help="A row of `models` in params.yaml.")]
Precision = Annotated[str, typer.Option("--precision", help="A row of `precisions` in params.yaml.")]
Models = Annotated[list[str] | None, typer.Option("--model", help="A row of `models`; may be given several times.")]
Precisions = Annotated[list[str] | None, typer.Option("--precision", help="A row of `precisions`; may be repeated.")]
BatchSizes = Annotated[list[int] | None, typer.Option("--batch-size", min=1, help="Images per batch; may be repeated.")]
OneModel = Annotated[str | None, typer.Option("--model", help="A row of `models` in params.yaml.")]
OneNetwork = Annotated[str | None, typer.Option("--network", help="Or a row of `training.networks`, trained here.")]
Folder = Annotated[Path, typer.Option("--to", help="The folder to write; it must not be there yet.")]
Repo = Annotated[str, typer.Argument(help="OWNER/NAME on the store at HF_ENDPOINT.")]
Set = Annotated[str | None, typer.Argument(help='"local", or a machine of data/machines.')]
Network = Annotated[str, typer.Option("--network", help="A row of `training.networks` in params.yaml.")]
AllFolds = Annotated[bool, typer.Option("--all-folds", help="Every fold, not only those of training.run.")]
Again = Annotated[bool, typer.Option("--again", help="Measure anew what is already measured.")]
KeepGoing = Annotated[bool, typer.Option("--keep-going", help="Exit code 0 though it failed: the pages show it.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="For params.yaml's value, e.g. study.device=cpu; repeatable."),
]
Results = Annotated[
    Path | None, typer.Option("--results", metavar="DIR", help="Where all goes that is measured, in place of data/.")
]
Use = Literal["read", "analyse", "write", "measure", "submit"]

ending = ExitStack()  # what a command holds until it ends


def opened(to: Use, overrides: Sequence[str] | None, results: Path | None) -> tuple[Project, Params]:
    """The checkout around the working directory and its settings, as --set and --results have them.

    ``to`` is what the command does: if it writes or measures, no other does until it ends. Measuring needs Linux; so
    does to "submit", which leaves the lock to what it begins.
    """
    project = Project(Project.find().root, results=results.absolute() if results else None)
    params = parameters.load(project, overrides or ())
    if to in ("measure", "submit"):
        machine.require_linux("".join(sys.argv[1:2]))
    if to in ("write", "measure"):
        ending.enter_context(lock.held(project))
    return project, params


def verb(to: Use) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command whose first arguments are the opened project and settings, as --set and --results have them.

    One that is to "analyse" takes the study gathered from them instead.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        def command(**given: Any) -> None:
            project, params = opened(to, given.pop("overrides"), given.pop("results"))
            if to != "analyse":
                return function(project, params, **given)
            from visionquant.analysis.study import gather

            return function(gather(project, params), **given)

        own = list(inspect.signature(function).parameters.values())[1 if to == "analyse" else 2 :]
        shared = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
            for name, kind in (("overrides", Overrides), ("results", Results))
        ]
        command.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
        command.__doc__ = function.__doc__
        app.command(function.__name__.replace("_", "-"))(command)
        return function

    return register


def machine_of(params: Params) -> machine.Environment:
    """This machine, as study.device wants it; a GPU that is there and can't be used is named on stderr."""
    if left_out := machine.left_out(params.study.device):
        print(f"visionquant: {left_out}", file=sys.stderr)
    return machine.probe(params.study.device)


def chosen(option: str, named: list[str] | None, everything: bool) -> list[str] | None:
    """The rows named, None for all of them; one of the two must be asked for."""
    if bool(named) == everything:
        wrong = f"--{option} and --all-{option}s together" if everything else "nothing chosen"
        raise StudyError(f"sweep: {option}s", wrong, f"give --all-{option}s, or --{option} NAME once or more")
    return named and list(dict.fromkeys(named))


def require_none_failed(project: Project, pairs: Sequence[tuple[str, str]]) -> None:
    """Say how many of ``pairs`` failed unexpectedly when they were measured. Raises PairsFailed: some did."""
    if failed := record.failures(project, pairs):
        model, precision = next(iter(failed))
        raise PairsFailed(
            f"{len(failed)} of {len(pairs)} pairs failed",
            f"each row says why, tracebacks are in {project.shown(project.failure('').parent)}",
            f"the next sweep tries them again, or `visionquant sample --retry --model {model} --precision {precision}`",
        )
