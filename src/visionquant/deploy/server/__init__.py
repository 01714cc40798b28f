"""The HTTP server of one model in one precision; it needs the extra ``serve``."""

from importlib import import_module

from visionquant.core.errors import StudyError

LIBRARIES = ("fastapi", "uvicorn", "multipart", "litserve")  # as they are imported


def require_installed() -> None:
    """Call before a module of this package is imported.

    Raises:
        StudyError: a library of the extra is not installed.
    """
    for library in LIBRARIES:
        try:
            import_module(library)
        except ImportError:
            raise StudyError("serve", f"{library} is not installed", 'pip install --editable ".[serve]"') from None
