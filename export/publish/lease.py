"""Leases on object storage: an object that only one can create, renewed while its holder lives."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from export.errors import ExportError, LockedError
from export.publish import holder as holders

LEASE_S = 120.0
_RENEWALS = 4  # within the time of a lease, so that a slow answer of the storage loses none
_POLL_S = 0.2


class Leases:
    """The leases that one publisher takes and holds.

    Args:
        fs: an fsspec file system.
        errors: a context in which the storage's own exceptions become ExportError.
        now: seconds since 1970, as other machines see them too.
        lease_s: after this time without a renewal others may take a lease over.
    """

    def __init__(
        self,
        fs: Any,
        errors: Callable[[], contextlib.AbstractContextManager[None]],
        now: Callable[[], float],
        lease_s: float,
    ) -> None:
        self._fs = fs
        self._errors = errors
        self._now = now
        self._lease_s = lease_s
        self._held: dict[str, str] = {}

    @contextlib.contextmanager
    def hold(self, key: str, timeout_s: float) -> Iterator[None]:
        """Holds the lease `key`; LockedError names who has it where it was not free within `timeout_s`.

        A holder of this machine that was killed is seen at once; others are waited for until their lease expires.
        """
        token, deadline = secrets.token_hex(8), time.monotonic() + timeout_s
        took_over = False
        while not (self._create(key, token) and (not took_over or self._kept(key, token))):
            holder = self._holder(key)
            if holder is not None and (holder["expires_at"] < self._now() or holders.is_gone(holder["owner"])):
                with contextlib.suppress(FileNotFoundError):
                    self._fs.rm_file(key)
                took_over = True
                continue
            if time.monotonic() >= deadline:
                who = holder["process"] if holder else "unknown"
                raise LockedError(f"{key} is held by {who}; waited {timeout_s:g} s")
            time.sleep(_POLL_S)
        over = threading.Event()
        renewing = threading.Thread(target=self._renew, args=(key, token, over), daemon=True)
        self._held[key] = token
        renewing.start()
        try:
            yield
        finally:
            over.set()
            renewing.join()
            del self._held[key]
            if self._owns(key, token):
                with self._errors():
                    self._fs.rm_file(key)

    def confirm(self, key: str) -> None:
        """LockedError when a lease that is held here was taken over: by whoever found it expired."""
        token = self._held.get(key)
        if token is not None and not self._owns(key, token):
            raise LockedError(
                f"{key} was lost: it was not renewed for {self._lease_s:g} s (a process that was stopped, or a network "
                "that was gone); nothing more is written, run it again"
            )

    def _renew(self, key: str, token: str, over: threading.Event) -> None:
        while not over.wait(self._lease_s / _RENEWALS):
            with contextlib.suppress(ExportError, FileNotFoundError):  # tried again, until the lease is over
                if not self._owns(key, token):
                    return
                with self._errors():
                    self._fs.pipe_file(key, self._body(token))

    def _owns(self, key: str, token: str) -> bool:
        holder = self._holder(key)
        return holder is not None and holder["token"] == token

    def _kept(self, key: str, token: str) -> bool:
        """Whether the lease outlives others who saw the same abandoned one, and may remove ours for it."""
        time.sleep(_POLL_S)
        return self._owns(key, token)

    def _create(self, key: str, token: str) -> bool:
        try:
            with self._errors():
                self._fs.pipe_file(key, self._body(token), mode="create")
        except FileExistsError:
            return False
        return True

    def _body(self, token: str) -> bytes:
        process = f"process {os.getpid()} of {os.uname().nodename}"
        expires = self._now() + self._lease_s
        body = {"token": token, "process": process, "owner": holders.myself(), "expires_at": expires}
        return json.dumps(body).encode()

    def _holder(self, key: str) -> dict[str, Any] | None:
        try:
            with self._errors():
                holder: dict[str, Any] = json.loads(self._fs.cat_file(key))
        except (FileNotFoundError, ValueError):
            return None
        return holder
