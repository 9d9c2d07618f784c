"""`sluice export text` and `sluice export sequence`: models made of published ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from export.cli_output import Format, errors, out, print_json, with_progress
from export.errors import UsageError

Repo = Annotated[str, typer.Option("--repo", help="Model repository: a directory or an fsspec URL.")]
Output = Annotated[Format, typer.Option("-o", "--output", help="How to print the result.")]
Version = Annotated[int | None, typer.Option(help="Version of the published model (default: the newest).")]
ServeCheck = Annotated[str, typer.Option(help="local, auto or off.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Every check, no publication.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Do not resume an earlier run.")]


def text(
    name: Annotated[str, typer.Argument(help="Name of the text-in model.")],
    *,
    repo: Repo,
    encoder: Annotated[str, typer.Option(help="The published encoder (input_ids, attention_mask).")],
    tokenizer: Annotated[Path | None, typer.Option(help="tokenizer.json or its directory (default: MiniLM's).")] = None,
    version: Version = None,
    serve_check: ServeCheck = "auto",
    dry_run: DryRun = False,
    fresh: Fresh = False,
    output: Output = Format.table,
) -> None:
    """Put a tokenizer in front of a published encoder."""
    with errors():
        _run({"kind": "text", "name": name, "repo": repo, "part": encoder, "version": version, "tokenizer": tokenizer,
              "serve_check": serve_check, "dry_run": dry_run, "fresh": fresh}, output)  # fmt: skip


def sequence(
    name: Annotated[str, typer.Argument(help="Name of the model with memory.")],
    *,
    repo: Repo,
    step: Annotated[str, typer.Option(help="The published model of one step.")],
    state: Annotated[list[str], typer.Option(help="INPUT=OUTPUT: what the next step's input is; repeatable.")],
    version: Version = None,
    serve_check: ServeCheck = "auto",
    dry_run: DryRun = False,
    fresh: Fresh = False,
    output: Output = Format.table,
) -> None:
    """Put a memory in front of a published step model."""
    with errors():
        states = dict(item.split("=", 1) for item in state if "=" in item)
        if len(states) != len(state):
            raise UsageError(f"--state {' '.join(state)}: write INPUT=OUTPUT, each input once")
        _run({"kind": "sequence", "name": name, "repo": repo, "part": step, "version": version, "states": states,
              "serve_check": serve_check, "dry_run": dry_run, "fresh": fresh}, output)  # fmt: skip


def _run(options: dict[str, Any], output: Format) -> None:
    from export.compose.run import ComposeRequest, run  # noqa: PLC0415  (keeps --help quick)

    request = ComposeRequest.model_validate(options)
    if output is Format.json:
        print_json(run(request).versions)
        return
    out.print(f"[bold]{request.kind} {request.part}[/] -> {request.name}")
    result = with_progress(lambda progress: run(request, progress))
    for name, version in result.versions.items():
        out.print(f"{name}: version [bold]{version}[/]")
    if not result.versions:
        out.print("nothing published (dry run)")
