"""What can go wrong in a load test, each with the exit code that a shell or a pipeline sees."""

from typing import ClassVar, Final

EXIT_PASS: Final = 0
EXIT_FAIL: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNDECIDED: Final = 3
EXIT_BROKEN: Final = 4


class LoadTestError(Exception):
    """Ends the command with one message and `exit_code`; never shown as a traceback."""

    exit_code: ClassVar[int] = EXIT_BROKEN


class UsageError(LoadTestError):
    """The caller's scenario, objectives, selector or option is wrong; the message names it."""

    exit_code = EXIT_USAGE


class BrokenRunError(LoadTestError):
    """The load could not be produced or measured, so there is nothing to judge."""


class MissingToolError(LoadTestError):
    """A program or package that the command needs is not installed; the message gives the remedy."""
