"""The two errors a user sees as one line: wrong usage (exit code 2) and a failed run (exit code 1)."""


class ScotomaError(Exception):
    """An error whose message is one line that says what is wrong and what to do."""

    exit_code = 1


class UsageError(ScotomaError):
    """The request itself is wrong: a missing column, an unknown name, a folder that may not be overwritten."""

    exit_code = 2


class RunError(ScotomaError):
    """The request was sound and failed: an unreadable file under ``--strict``, a full disk, a loss that is not finite."""
