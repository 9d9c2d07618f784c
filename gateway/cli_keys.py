"""`sluice keys` and `sluice tokens`: who may use the data plane, and who the admin API. They work on files alone.

A running gateway takes a changed file in within a second, so these commands need neither its address nor its leave.
"""

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import typer

from gateway.cli_output import Output, OutputOption, show
from gateway.config import Config
from gateway.configfile import load_config
from gateway.credentials import (
    KEY_PREFIX,
    TOKEN_PREFIX,
    AdminToken,
    ApiKey,
    checked,
    editing_keys,
    editing_tokens,
    hash_of,
    load_keys,
    load_tokens,
    new_secret,
)
from gateway.errors import ConfigError, RejectedError

C = TypeVar("C", ApiKey, AdminToken)

keys = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="The API keys of the data plane.")
tokens = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="The tokens of the admin API.")

FileOption = Annotated[Path | None, typer.Option("--file", help="The file; what sluice.yaml names when left out.")]
ConfigOption = Annotated[Path, typer.Option("--config", help="Where the file's name is looked up.")]
ExpiresOption = Annotated[
    str, typer.Option(help="When it ends: 90d, 12h, or a time like 2030-01-01T00:00:00Z. Never when left out.")
]
NoteOption = Annotated[str, typer.Option(help="What it is for.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything, change nothing.")]
DEFAULT_CONFIG = Path("sluice.yaml")


class Role(StrEnum):
    """What a token allows: to look, to change what is served, or everything."""

    READ = "read"
    OPERATE = "operate"
    ADMIN = "admin"


@keys.command("add")
def add_key(
    name: Annotated[str, typer.Argument(metavar="ID", help="Who it is for; appears in logs.")],
    *,
    route: Annotated[list[str], typer.Option(help="A route it may use; * for all. May be repeated.")],
    rate: Annotated[float, typer.Option(min=0, max=1_000_000, help="Requests per second; 0 for no limit.")] = 0.0,
    burst: Annotated[int, typer.Option(min=0, max=1_000_000, help="Requests at once; the rate when 0.")] = 0,
    expires: ExpiresOption = "",
    note: NoteOption = "",
    file: FileOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    dry_run: DryRun = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Make a key and show it, this once: the file keeps only its hash."""
    secret = new_secret(KEY_PREFIX, name)
    key = ApiKey(
        id=name, hash=hash_of(secret), routes=tuple(route), expires=_time(expires), rate=rate, burst=burst, note=note
    )
    _add(editing_keys, _file(file, config, _keys_file), checked(key), secret, "key", dry_run, output)


@keys.command("list")
def list_keys(
    file: FileOption = None, config: ConfigOption = DEFAULT_CONFIG, output: OutputOption = Output.TABLE
) -> None:
    """Show whose keys there are; the keys themselves are not known any more."""
    known = load_keys(_file(file, config, _keys_file), "keys")
    show([_row(key) for key in known.values()], output, ("id", "routes", "rate", "burst", "expires", "note"))


@keys.command("revoke")
def revoke_key(
    name: Annotated[str, typer.Argument(metavar="ID", help="Whose key.")],
    file: FileOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    dry_run: DryRun = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Take a key back: a running gateway refuses it within a second."""
    _revoke(editing_keys, _file(file, config, _keys_file), name, "key", dry_run, output)


@tokens.command("add")
def add_token(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who it is for; appears in the audit trail.")],
    *,
    role: Annotated[Role, typer.Option(help="read: look; operate: also change routes; admin: everything.")],
    expires: ExpiresOption = "",
    note: NoteOption = "",
    file: FileOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    dry_run: DryRun = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Make a token and show it, this once: the file keeps only its hash."""
    secret = new_secret(TOKEN_PREFIX, name)
    token = AdminToken(id=name, hash=hash_of(secret), role=role.value, expires=_time(expires), note=note)
    _add(editing_tokens, _file(file, config, _tokens_file), checked(token), secret, "token", dry_run, output)


@tokens.command("list")
def list_tokens(
    file: FileOption = None, config: ConfigOption = DEFAULT_CONFIG, output: OutputOption = Output.TABLE
) -> None:
    """Show whose tokens there are; the tokens themselves are not known any more."""
    known = load_tokens(_file(file, config, _tokens_file), "tokens")
    show([_row(token) for token in known.values()], output, ("id", "role", "expires", "note"))


@tokens.command("revoke")
def revoke_token(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose token.")],
    file: FileOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    dry_run: DryRun = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Take a token back."""
    _revoke(editing_tokens, _file(file, config, _tokens_file), name, "token", dry_run, output)


Editing = Callable[[Path], AbstractContextManager[dict[str, C]]]


def _add(editing: Editing[C], path: Path, credential: C, secret: str, what: str, dry_run: bool, output: Output) -> None:
    with editing(path) as known:
        if credential.id in known:
            raise RejectedError(f"there is a {what} {credential.id!r} already; revoke it first, or choose another id")
        if not dry_run:
            known[credential.id] = credential
    if output is not Output.TABLE:
        show({"id": credential.id, what: None if dry_run else secret, "file": str(path), "dry_run": dry_run}, output)
    elif dry_run:
        typer.echo(f"dry run: {what} {credential.id!r} would be added to {path}")
    else:
        typer.echo(f"{what} {credential.id!r} is in {path}; keep this, it cannot be shown again:", err=True)
        typer.echo(secret)


def _revoke(editing: Editing[C], path: Path, name: str, what: str, dry_run: bool, output: Output) -> None:
    with editing(path) as known:
        if name not in known:
            raise RejectedError(f"there is no {what} {name!r} in {path}")
        if not dry_run:
            del known[name]
    if output is not Output.TABLE:
        show({"id": name, "revoked": not dry_run, "dry_run": dry_run}, output)
    else:
        typer.echo(f"{what} {name!r} {'would be' if dry_run else 'is'} revoked")


def _row(credential: ApiKey | AdminToken) -> dict[str, Any]:
    row: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(credential))
    del row["hash"]
    row["expired"] = credential.expires is not None and credential.expires <= datetime.now(UTC)
    return row


def _file(given: Path | None, config: Path, named: Callable[[Config], str]) -> Path:
    if given is not None:
        return given
    path = named(load_config(config))
    if not path:
        raise ConfigError([f"{config} names no such file; set one there, or say --file"])
    return Path(path)


def _keys_file(config: Config) -> str:
    return config.auth.keys_file


def _tokens_file(config: Config) -> str:
    return config.admin.tokens_file


def _time(text: str) -> datetime | None:
    if not text:
        return None
    if found := re.fullmatch(r"([0-9]{1,5})([dhm])", text):
        unit = {"d": "days", "h": "hours", "m": "minutes"}[found[2]]
        return (datetime.now(UTC) + timedelta(**{unit: int(found[1])})).replace(microsecond=0)
    try:
        when = msgspec.convert(text, datetime)
    except msgspec.ValidationError as error:
        raise ConfigError([f"--expires {text!r}: must be like 90d, 12h or 2030-01-01T00:00:00Z"]) from error
    if when.tzinfo is None:
        raise ConfigError([f"--expires {text!r}: needs a time zone, as in {text}Z"])
    return when
