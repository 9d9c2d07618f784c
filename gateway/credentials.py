"""API keys and admin tokens: made here, kept as hashes in a file, recognised again.

A secret is 256 random bits behind a readable id. Nobody can guess it, so one SHA-256 is as good as a slow password
hash, and an unknown secret costs the gateway a microsecond instead of a tenth of a second of work.
"""

import fcntl
import hmac
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec

from gateway.errors import ConfigError, RejectedError, ResourceError

KEY_PREFIX = "slk_"
TOKEN_PREFIX = "sla_"  # noqa: S105 - says what a secret is, is none
_MAX_FILE = 64 << 20
Role = Literal["read", "operate", "admin"]
Id = Annotated[str, msgspec.Meta(pattern=r"\A[a-z0-9](?:[a-z0-9.-]{0,62}[a-z0-9])?\Z")]
Hash = Annotated[str, msgspec.Meta(pattern=r"\Asha256:[0-9a-f]{64}\Z")]


class ApiKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who may use which routes of the data plane.

    Attributes:
        routes: names of routes; `*` stands for all and for what belongs to no route.
        expires: not accepted from then on.
        rate: requests per second over all workers of a node; 0 means no limit.
        burst: requests that may come at once; the rate, rounded up, when 0.
    """

    id: Id
    hash: Hash
    routes: tuple[str, ...]
    expires: datetime | None = None
    rate: Annotated[float, msgspec.Meta(ge=0, le=1_000_000)] = 0.0
    burst: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0
    note: str = ""


class AdminToken(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who may do what with the admin API."""

    id: Id
    hash: Hash
    role: Role
    expires: datetime | None = None
    note: str = ""


class _Keys(msgspec.Struct, forbid_unknown_fields=True):
    keys: list[ApiKey] = []


class _Tokens(msgspec.Struct, forbid_unknown_fields=True):
    tokens: list[AdminToken] = []


C = TypeVar("C", ApiKey, AdminToken)


def new_secret(prefix: str, name: str) -> str:
    """A fresh secret for that id."""
    return f"{prefix}{name}_{secrets.token_hex(32)}"


def hash_of(secret: str) -> str:
    """What a file keeps of a secret."""
    return "sha256:" + sha256(secret.encode("utf-8", "replace")).hexdigest()


_NOBODY = hash_of("")


def recognise(secret: str, prefix: str, known: dict[str, C]) -> C | None:
    """Whose secret this is, in a time that says nothing about it; expiry is the caller's business."""
    name = secret.removeprefix(prefix).rpartition("_")[0] if secret.startswith(prefix) else ""
    found = known.get(name)
    same = hmac.compare_digest(hash_of(secret), found.hash if found is not None else _NOBODY)
    return found if same else None


def load_keys(path: Path, where: str) -> dict[str, ApiKey]:
    """Keys by id; raises ConfigError, whose text begins with `where`."""
    return _by_id(_read(path, _Keys, where).keys, path, where)


def load_tokens(path: Path, where: str) -> dict[str, AdminToken]:
    """Tokens by id; raises ConfigError, whose text begins with `where`."""
    return _by_id(_read(path, _Tokens, where).tokens, path, where)


@contextmanager
def editing_keys(path: Path) -> Iterator[dict[str, ApiKey]]:
    """The keys in a file, to be changed in place: written when the block ends well. Raises ConfigError."""
    with _locked(path):
        known = load_keys(path, "keys") if path.exists() else {}
        before = dict(known)
        yield known
        if known != before:
            _write(path, _Keys(list(known.values())))


@contextmanager
def editing_tokens(path: Path) -> Iterator[dict[str, AdminToken]]:
    """The tokens in a file, to be changed in place: written when the block ends well. Raises ConfigError."""
    with _locked(path):
        known = load_tokens(path, "tokens") if path.exists() else {}
        before = dict(known)
        yield known
        if known != before:
            _write(path, _Tokens(list(known.values())))


def checked(credential: C) -> C:
    """The same credential, if a file may hold it; raises RejectedError."""
    try:
        return msgspec.convert(msgspec.to_builtins(credential), type(credential))
    except msgspec.ValidationError as error:
        if error.args[0].endswith("`$.id`"):
            what = "must be lower-case letters and digits, with dots and dashes between them, 64 at most"
            raise RejectedError(f"id {credential.id!r}: {what}") from error
        raise RejectedError(str(error)) from error


F = TypeVar("F", _Keys, _Tokens)


def _read(path: Path, kind: type[F], where: str) -> F:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE + 1)
    except OSError as error:
        raise ConfigError([f"{where}: cannot read {path}: {error.strerror}"]) from error
    if len(data) > _MAX_FILE:
        raise ConfigError([f"{where}: {path} is larger than {_MAX_FILE >> 20} MiB"])
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigError([f"{where}: {path}: {error}"]) from error


def _by_id(rows: list[C], path: Path, where: str) -> dict[str, C]:
    known: dict[str, C] = {}
    for row in rows:
        if row.id in known:
            raise ConfigError([f"{where}: {path}: id {row.id!r} appears twice"])
        if row.expires is not None and row.expires.tzinfo is None:
            raise ConfigError(
                [f"{where}: {path}: id {row.id!r}: expires needs a time zone, as in 2030-01-01T00:00:00Z"]
            )
        known[row.id] = row
    return known


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Two commands that change one file at a time would lose a key."""
    try:
        fd = os.open(path.absolute().parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise ResourceError(f"cannot open the directory of {path}: {error.strerror}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _write(path: Path, value: _Keys | _Tokens) -> None:
    """Replaces the file in one step; a new one is readable to its owner alone."""
    fresh = path.with_name(path.name + ".new")
    try:
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")
            file.flush()
            os.fchmod(fd, mode)
            os.fsync(fd)
        fresh.replace(path)
    except OSError as error:
        raise ResourceError(f"cannot write {path}: {error.strerror}") from error
