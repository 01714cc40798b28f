"""The command line. Thin verbs: each checks its arguments, calls one function and says what came of it.

The stages of dvc.yaml call the same verbs. Libraries that take long to import are imported when a verb needs them, so
that ``--help`` and the environment probe answer at once.
"""

import io
import sys

from visionquant.cli import (  # noqa: F401 each registers verbs
    allocating,
    deploying,
    measuring,
    reporting,
    sweeping,
    tuning,
)
from visionquant.cli.common import app, ending
from visionquant.core.errors import StudyError


def main() -> None:
    """Run the command; a mistake that the reader can mend is one line and exit code 1.

    2 is for an unknown word, 3 for pairs that failed while the rest was measured.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a character shows another in its place
    try:
        with ending:
            sys.exit(app(standalone_mode=False))
    except StudyError as error:
        print(f"visionquant: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except Exception as error:
        usage = getattr(error, "format_message", None)  # of the library that parses words, whichever typer brings
        if usage is None:
            raise
        if not sys.argv[1:]:
            print(usage())
        else:
            print(f"visionquant: {' '.join(usage().split())}; see `visionquant --help`", file=sys.stderr)
        sys.exit(2)
