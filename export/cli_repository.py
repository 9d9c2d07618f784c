"""The commands that look after a repository: list, check, inspect, promote, rollback, gc."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer
from rich.markup import escape
from rich.table import Column, Table

from export.cli_output import Format, RunningTriton, errors, out, print_json
from export.errors import EXIT_CHECK, UsageError
from export.publish import manifest as manifests
from export.publish import upkeep
from export.publish.open import open_repository
from export.publish.repository import MANIFEST

Repo = Annotated[str, typer.Option("--repo", help="Model repository: a directory or an fsspec URL.")]
Output = Annotated[Format, typer.Option("-o", "--output", help="How to print the result.")]
Name = Annotated[str, typer.Argument(help="The model.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would change, change nothing.")]


def list_models(repo: Repo, output: Output = Format.table) -> None:
    """Models, versions, and which are served."""
    with errors():
        rows = upkeep.overview(open_repository(repo))
        if output is Format.json:
            print_json(msgspec.to_builtins(rows))
            return
        table = _table("model", "versions", "served", "before")
        for row in rows:
            table.add_row(row.name, _numbers(row.versions), _numbers(row.served), " < ".join(map(_numbers, row.before)))
        out.print(table)


def check(
    repo: Repo,
    name: Annotated[str | None, typer.Argument(help="Only this model.")] = None,
    output: Output = Format.table,
) -> None:
    """Exit code 31 when anything differs from what was published."""
    with errors():
        findings = upkeep.check(open_repository(repo), name)
        if output is Format.json:
            print_json(msgspec.to_builtins(findings))
        else:
            for finding in findings:
                mark = "[green]ok[/]" if not finding.problems else "[red]wrong[/]"
                out.print(f"{finding.name} {finding.version or ''} {mark}")
                for problem in finding.problems:
                    out.print(f"  {problem}", markup=False)
        if any(finding.problems for finding in findings):
            raise typer.Exit(EXIT_CHECK)


def inspect(
    name: Name,
    repo: Repo,
    version: Annotated[int | None, typer.Option(help="Default: the newest.")] = None,
    output: Output = Format.table,
) -> None:
    """Show a version's manifest."""
    with errors():
        repository = open_repository(repo)
        number = version or max(repository.versions(name), default=0)
        try:
            data = repository.read(name, number, MANIFEST)
        except FileNotFoundError:
            raise UsageError(f"{name} version {number or '(none)'}: no manifest in {repo}") from None
        manifest = manifests.decode(data, f"{name}/{number}/{MANIFEST}")
        if output is Format.json:
            print_json(msgspec.to_builtins(manifest, str_keys=True))
        else:
            _show(manifest)


def promote(
    name: Name,
    version: Annotated[int, typer.Argument(help="The version to serve.")],
    *,
    repo: Repo,
    alone: Annotated[
        bool, typer.Option("--alone", help="Instead of the versions served now, not beside them.")
    ] = False,
    triton: RunningTriton = None,
    dry_run: DryRun = False,
    output: Output = Format.table,
) -> None:
    """Serve a version."""
    with errors():
        _changed(
            upkeep.promote(open_repository(repo), name, version, alone=alone, triton=triton, dry_run=dry_run), output
        )


def rollback(
    name: Name,
    repo: Repo,
    triton: RunningTriton = None,
    dry_run: DryRun = False,
    output: Output = Format.table,
) -> None:
    """Serve what was served before the last promotion."""
    with errors():
        _changed(upkeep.rollback(open_repository(repo), name, triton=triton, dry_run=dry_run), output)


def gc(
    repo: Repo,
    name: Annotated[str | None, typer.Argument(help="Only this model.")] = None,
    keep: Annotated[int, typer.Option(min=0, help="Newest versions that stay although nobody serves them.")] = 2,
    dry_run: DryRun = False,
    output: Output = Format.table,
) -> None:
    """Delete versions that nobody serves or could roll back to, and what crashed runs left."""
    with errors():
        removed = upkeep.collect(open_repository(repo), name, keep=keep, dry_run=dry_run)
        if output is Format.json:
            print_json(msgspec.to_builtins(removed))
            return
        for item in removed:
            out.print(f"{'would remove' if dry_run else 'removed'} {item}")
        if not removed:
            out.print("nothing to remove")


def _changed(change: upkeep.Change, output: Format) -> None:
    if output is Format.json:
        print_json(msgspec.to_builtins(change))
    else:
        what = (
            f"{_numbers(change.before)} -> {_numbers(change.after)}" if change.before != change.after else "unchanged"
        )
        out.print(f"{change.name}: served {what}{' (dry run)' if change.dry_run else ''}{_verified(change)}")


def _verified(change: upkeep.Change) -> str:
    return f", verified on {change.verified}" if change.verified else ""


def _numbers(versions: Any) -> str:
    return ", ".join(str(version) for version in versions) or "none"


def _table(*headers: str) -> Table:
    """Where it is too narrow, words go on in the next line: rich's default cuts names and digits off."""
    columns = [Column(header, overflow="fold") for header in headers]
    return Table(*columns, box=None, pad_edge=False, header_style="bold")


def _show(manifest: manifests.Manifest) -> None:
    title = f"[bold]{manifest.name} version {manifest.version}[/]"
    out.print(f"{title}  {escape(manifest.spec)}  {manifest.created_at}")
    table = _table("", "")
    table.show_header = False
    rows: list[tuple[str, Any]] = [
        ("precision", manifest.precision),
        ("opset", manifest.opset),
        ("target", manifest.target),
        ("max batch", manifest.max_batch),
        ("metrics", manifest.metrics),
        ("seeds", manifest.seeds),
        ("weights", manifest.weights_sha256),
        ("graph", manifest.graph_sha256),
        ("git", manifest.git),
        ("tools", manifest.tools),
        ("cases", ", ".join(manifest.cases)),
        ("labels", manifest.labels),
    ]
    for key, value in rows:
        table.add_row(key, escape(str(value)))
    out.print(table)
    tensors = _table("tensor", "type", "shape", "mean", "std", "low", "high")
    for info in [*manifest.inputs, *manifest.outputs]:
        seen = manifest.reference.get(info.name)
        figures = [f"{value:.4g}" for value in (seen.mean, seen.std, seen.low, seen.high)] if seen else ["", "", "", ""]
        tensors.add_row(escape(info.name), info.dtype, escape(str(info.shape)), *figures)
    out.print("", tensors, "", sep="\n")
    worst = _table("check", "output", "max abs", "share of allowed", "cosine", "mismatched", "worst case")
    for kind, outputs in manifest.observed.items():
        for name, seen_error in outputs.items():
            figures = [f"{seen_error.max_abs:.3g}", f"{seen_error.excess:.3g}", f"{seen_error.cosine:.7f}"]
            worst.add_row(kind, escape(name), *figures, f"{seen_error.mismatched:.3%}", seen_error.case)
    out.print(worst)
