"""What every verb shares: the command itself, its options, and the study that it opens."""

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Annotated, Literal

import psutil
import typer

from visionquant.core import lock, machine
from visionquant.core.errors import PairsFailed, StudyError
from visionquant.core.machine import Environment, require_linux
from visionquant.core.paths import Project
from visionquant.records import record
from visionquant.settings import params as parameters
from visionquant.settings.params import Params

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="What a precision costs and saves on a vision model. Run it anywhere inside a checkout of the study.",
)

Model = Annotated[str, typer.Option("--model", help="A row of `models` in params.yaml.")]
Precision = Annotated[str, typer.Option("--precision", help="A row of `precisions` in params.yaml.")]
Models = Annotated[list[str] | None, typer.Option("--model", help="A row of `models`; may be given several times.")]
Precisions = Annotated[
    list[str] | None, typer.Option("--precision", help="A row of `precisions`; may be given several times.")
]
BatchSizes = Annotated[
    list[int] | None, typer.Option("--batch-size", min=1, help="Images per batch; may be given several times.")
]
Again = Annotated[bool, typer.Option("--again", help="Measure anew what is already measured.")]

KeepGoing = Annotated[
    bool, typer.Option("--keep-going", help="Exit code 0 though it failed: later stages of a pipeline show the row.")
]


ending = ExitStack()  # what a command holds until it ends


def opened(to: Literal["read", "write", "measure"] = "read") -> tuple[Project, Params]:
    """The checkout around the working directory and its settings.

    Args:
        to: what the command does; until it ends, no other writes records there or measures. Measuring needs Linux.
    """
    project = Project.find()
    params = parameters.load(project)
    if to == "measure":
        require_linux("".join(sys.argv[1:2]))
    if to != "read":
        ending.enter_context(lock.held(project))
    return project, params


def machine_of(params: Params) -> Environment:
    """This machine, as study.device wants it; a GPU that is there and can't be used is named on stderr."""
    left_out = machine.left_out(params.study.device)
    if left_out:
        print(f"visionquant: {left_out}", file=sys.stderr)
    return machine.probe(params.study.device)


def chosen(option: str, named: list[str] | None, everything: bool, rows: tuple[str, ...]) -> list[str]:
    """The rows named, or all of them; one of the two must be asked for."""
    if bool(named) == everything:
        found = f"--{option} and --all-{option}s together" if everything else "nothing chosen"
        raise StudyError(f"sweep: {option}s", found, f"give --all-{option}s, or --{option} NAME once or more")
    return list(dict.fromkeys(named)) if named else list(rows)


def require_none_failed(project: Project, pairs: Sequence[tuple[str, str]]) -> None:
    """Say how many of ``pairs`` failed unexpectedly when they were measured.

    Raises:
        PairsFailed: some did.
    """
    failed = record.failures(project, pairs)
    if failed:
        model, precision = next(iter(failed))
        raise PairsFailed(
            f"{len(failed)} of {len(pairs)} pairs failed",
            "each row says why, tracebacks are in data/failures",
            f"the next sweep tries them again, or `visionquant measure --model {model} --precision {precision}`",
        )


def process_begun_s() -> float:
    """When this process began, in seconds since the epoch."""
    return min(psutil.Process().create_time(), time.time())
