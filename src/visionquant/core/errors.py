"""One error family: what was asked, what was found, what to do."""


class StudyError(Exception):
    """A mistake that the reader can mend. Its text is one line, printed as it is; ``exit_code`` is the command's then.

    Args:
        asked: the file, key or action concerned.
        found: what stood in the way.
        remedy: what to do about it.
    """

    exit_code = 1

    def __init__(self, asked: str, found: str, remedy: str) -> None:
        super().__init__(" ".join(f"{asked}: {found}; {remedy}".split()))

    @classmethod
    def of(cls, text: str) -> "StudyError":
        """The error whose text this is, e.g. one that comes from another process."""
        error = cls.__new__(cls)
        Exception.__init__(error, text)
        return error


class MachineMismatch(StudyError):
    """The machine at hand is not the one that the study, or a set of records, declares."""


class CodeChanged(StudyError):
    """The measuring code was edited while it ran, so the result belongs to no one version of it."""


class PairsFailed(StudyError):
    """All was tried and the rest is measured, but some pairs failed; their rows say why."""

    exit_code = 3
