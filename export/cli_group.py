"""`sluice export SPEC ...` without naming a command."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

_OWN = {"--help", "--install-completion", "--show-completion"}


class DefaultToRun(TyperGroup):
    """Whatever does not start with a command's name is meant for `run`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put `run` in front where it was left out."""
        if args and args[0] not in self.commands and args[0] not in _OWN:
            args = ["run", *args]
        return super().parse_args(ctx, args)
