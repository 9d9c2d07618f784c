"""Orders to the running gateway as a whole: take in settings, start anew, leave a backend alone."""

import asyncio
import os
import signal
from dataclasses import dataclass, field, replace

import msgspec

from gateway.config import Config
from gateway.controlplane.control import Control
from gateway.core.pool import Pool
from gateway.errors import ConfigError, RejectedError
from gateway.reload import Reload, compare

_CHECK_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Drained:
    """What a maintenance order did, or would do.

    Attributes:
        generation: the one that is served now.
        changed: False when it was already so.
        pools: names of the pools that have the backend.
        drained: urls that get nothing new now.
        late: slots of workers that have not taken it over in time.
    """

    generation: int
    changed: bool
    dry_run: bool
    pools: list[str]
    drained: list[str]
    late: list[int] = field(default_factory=list)


class Operations:
    """Carries them out, each with an entry in the audit trail.

    Args:
        config: settings this process started with.
        check: command that checks the settings in their file and hands them over; empty when there is no file.
    """

    def __init__(self, control: Control, config: Config, check: tuple[str, ...]) -> None:
        self._control = control
        self._config = config
        self._check = check

    async def reload(self, *, who: str, why: str, dry_run: bool) -> Reload:
        """Has the supervisor take in the settings; returns what that takes.

        Raises ConfigError when they are wrong, RejectedError when they cannot be changed in a running gateway.
        """
        found = compare(self._config, await self._read())
        if found.fixed:
            keys = ", ".join(found.fixed)
            raise RejectedError(f"{keys}: only a restart can change this; use `sluice restart`")
        if not dry_run:
            await self._control.note(who, why, "reload", ", ".join(found.changed) or "files only")
            os.kill(os.getppid(), signal.SIGHUP)
        return found

    async def restart(self, *, workers_only: bool, who: str, why: str, dry_run: bool) -> None:
        """Replaces the workers, or everything, by fresh processes; no connection is refused meanwhile.

        Raises ConfigError when what is installed and configured now would not start.
        """
        await self._read()
        if not dry_run:
            await self._control.note(who, why, "restart", "workers" if workers_only else "all")
            os.kill(os.getppid(), signal.SIGUSR1 if workers_only else signal.SIGUSR2)

    async def drain(self, url: str, *, undo: bool, force: bool, who: str, why: str, dry_run: bool) -> Drained:
        """Takes a backend out of service for maintenance, or back in.

        Raises RejectedError for a backend that no pool has, and for the last one of a pool unless forced.
        """
        url = url.rstrip("/")
        pools = self._control.current.pools
        having = [pool.name for pool in pools if _has(pool, url)]
        if not having:
            known = ", ".join(backend.url for pool in pools for backend in pool.backends)
            raise RejectedError(f"no pool has a backend {url} (known: {known})")
        if not undo and not force:
            for pool in pools:
                if pool.name in having and _last(pool, url):
                    raise RejectedError(f"{url} is the last backend in service of pool {pool.name!r}; --force does it")
        edited = tuple(_with(pool, url, undo) if pool.name in having else pool for pool in pools)
        changed = edited != pools
        late: list[int] = []
        if changed and not dry_run:
            reason = f"{url}: {why}" if why else url
            late = await self._control.change_pools(edited, who, reason, "undrain" if undo else "drain")
        drained = sorted({name for pool in (pools if dry_run else edited) for name in pool.drained})
        number = self._control.current.number
        return Drained(generation=number, changed=changed, dry_run=dry_run, pools=having, drained=drained, late=late)

    async def _read(self) -> Config:
        """The settings as a start would read them now; checked by a process of its own, as they may be anything."""
        if not self._check:
            raise RejectedError("this gateway does not know the command that it was started with")
        fd = os.memfd_create("sluice-settings", 0)
        try:
            process = await asyncio.create_subprocess_exec(
                *self._check,
                "--settings-fd",
                str(fd),
                pass_fds=(fd,),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
            )
            try:
                async with asyncio.timeout(_CHECK_S):
                    _, errors = await process.communicate()
            except TimeoutError:
                process.kill()
                await process.wait()
                raise RejectedError(f"the settings could not be checked within {_CHECK_S:g} s") from None
            if process.returncode:
                lines = errors.decode(errors="replace").strip().removeprefix("sluice: ").splitlines()
                raise ConfigError(lines[-50:] or [f"the check ended with code {process.returncode}"])
            os.lseek(fd, 0, os.SEEK_SET)
            with os.fdopen(os.dup(fd), "rb") as file:
                return msgspec.msgpack.decode(file.read(), type=Config)
        finally:
            os.close(fd)


def _has(pool: Pool, url: str) -> bool:
    """Whether a pool has a backend; behind a name there may be any address."""
    return url in pool.drained or any(backend.dns or backend.url.rstrip("/") == url for backend in pool.backends)


def _last(pool: Pool, url: str) -> bool:
    if any(backend.dns for backend in pool.backends):
        return False
    return not any(b.url.rstrip("/") != url and b.url not in pool.drained for b in pool.backends)


def _with(pool: Pool, url: str, undo: bool) -> Pool:
    written = next((backend.url for backend in pool.backends if backend.url.rstrip("/") == url), url)
    others = tuple(name for name in pool.drained if name != written)
    return replace(pool, drained=others if undo else (*others, written))
