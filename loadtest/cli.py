"""`sluice loadtest ...`, also `python -m loadtest ...`."""

import typer

from loadtest import cli_knee, cli_overhead, cli_proof, cli_resilience, cli_run

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Load a gateway or a Triton and judge what happens by objectives.",
)
app.command()(cli_run.run)
app.command()(cli_run.compare)
app.command()(cli_knee.knee)
app.command()(cli_knee.ceiling)
app.command()(cli_run.scenarios)
app.command()(cli_run.worker)
app.command()(cli_proof.proof)
app.command()(cli_overhead.overhead)
app.command()(cli_resilience.resilience)
