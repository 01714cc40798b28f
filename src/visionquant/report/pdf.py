"""A page as a PDF, printed by a headless browser found on PATH."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from visionquant.core import files
from visionquant.core.errors import StudyError

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
FLAGS = ("--headless", "--disable-gpu", "--no-first-run", "--no-pdf-header-footer")
SIGNATURE, LIMIT_S = b"%PDF-", 300


def save_pdf(page: Path, output: Path) -> Path:
    """Print ``page`` to ``output``, in place of a PDF that is there; return it.

    Raises:
        StudyError: there is no page or no browser, ``output`` is another kind of file, or the browser made no PDF.
    """
    if not page.is_file():
        raise StudyError(f"pdf: {page.name}", "not rendered yet", "run `visionquant notebooks && visionquant report`")
    if output.exists() and not (output.is_file() and output.read_bytes().startswith(SIGNATURE)):
        raise StudyError(f"pdf: {output}", "exists and is no PDF", "name another file with --output")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        remedy = "install one, e.g. `apt install chromium`, or print reports/supplement.html from any browser"
        raise StudyError("pdf", f"no browser on PATH of {', '.join(BROWSERS)}", remedy)
    # Beside the output: a browser that is packaged as a snap sees no other program's /tmp.
    output.parent.mkdir(parents=True, exist_ok=True)
    left_out = {"ignore_cleanup_errors": True, "prefix": f".{output.name}.", "suffix": ".partial"}
    with tempfile.TemporaryDirectory(dir=output.parent.resolve(), **left_out) as folder:  # type: ignore[call-overload]
        made = Path(folder) / "page.pdf"
        sandbox = ("--no-sandbox",) if getattr(os, "geteuid", lambda: 1)() == 0 else ()  # refused to root otherwise
        own = (f"--user-data-dir={Path(folder) / 'profile'}", f"--print-to-pdf={made}")
        command = [program, *FLAGS, *sandbox, *own, page.resolve().as_uri()]
        try:
            done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=LIMIT_S)
            said = next(reversed(done.stderr.strip().splitlines()), f"exit code {done.returncode}")
        except (OSError, subprocess.TimeoutExpired) as error:
            said = str(error)
        found = made.read_bytes() if made.is_file() else b""
        if not found.startswith(SIGNATURE):
            raise StudyError(f"pdf: {Path(program).name}", f"made no PDF: {said}", "print the page from it by hand")
        files.save(output, found)
    return output
