"""What can go wrong in a load test, each with the exit code that a shell or a pipeline sees.

The codes are those of every `sluice` command, and 9 for a run that could not be judged.
"""

from typing import ClassVar, Final

EXIT_PASS: Final = 0
EXIT_BROKEN: Final = 1
EXIT_USAGE: Final = 2
EXIT_FILE: Final = 3
EXIT_MISSING: Final = 4
EXIT_UNREACHABLE: Final = 6
EXIT_MISSED: Final = 8
EXIT_UNDECIDED: Final = 9


class LoadTestError(Exception):
    """Ends the command with one message and `exit_code`; never shown as a traceback."""

    exit_code: ClassVar[int] = EXIT_BROKEN


class BrokenRunError(LoadTestError):
    """The load could not be produced or measured, so there is nothing to judge."""


class UsageError(LoadTestError):
    """An option or a selector is wrong; the message names it."""

    exit_code = EXIT_USAGE


class FileError(LoadTestError):
    """A scenario, objectives or result file is missing or invalid; the message names file, line and key."""

    exit_code = EXIT_FILE


class MissingToolError(LoadTestError):
    """A program or package that the command needs is not installed; the message gives the remedy."""

    exit_code = EXIT_MISSING


class UnreachableError(LoadTestError):
    """The server under test does not answer, or does not serve the model."""

    exit_code = EXIT_UNREACHABLE
