"""`sluice export`: a SPEC, or one of the commands that look after a repository. Imports neither torch nor onnx."""

from __future__ import annotations

import typer

from export import cli_compose, cli_repository, cli_run, cli_tune
from export.cli_group import DefaultToRun

app = typer.Typer(
    cls=DefaultToRun,
    no_args_is_help=True,
    help="Turn a model into a checked, immutable version of a Triton model repository: "
    "`sluice export SPEC --repo DIR --name N`.",
)
app.command("run", help="Export SPEC (the word `run` may be left out).")(cli_run.run)
app.command("samples", help="Export the sample models: digits versions 1 to 3, and minilm.")(cli_run.samples)
app.command("text", help="Put a tokenizer in front of a published encoder.")(cli_compose.text)
app.command("sequence", help="Put a memory in front of a published step model.")(cli_compose.sequence)
app.command("tune", help="Find queue and instance settings by measuring a live Triton.")(cli_tune.tune)
app.command("list", help="Models, versions, and which are served.")(cli_repository.list_models)
app.command("check", help="Hold every version against its manifest.")(cli_repository.check)
app.command("inspect", help="Show a version's manifest.")(cli_repository.inspect)
app.command("promote", help="Serve a version.")(cli_repository.promote)
app.command("rollback", help="Take the last promotion back.")(cli_repository.rollback)
app.command("gc", help="Delete versions that nobody serves or could roll back to.")(cli_repository.gc)
