"""The controller process: opens the store, publishes, listens to the workers, serves the admin API."""

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import uvicorn
import uvloop

from gateway.boot import ControllerBoot
from gateway.controlplane import api
from gateway.controlplane.auth import read_token
from gateway.controlplane.control import Control
from gateway.controlplane.delivery import wiring
from gateway.controlplane.fleet import TIMEOUT_S, Fleet
from gateway.controlplane.hub import Hub
from gateway.controlplane.store import Store, WriterLock
from gateway.telemetry.ledger import Ledger
from gateway.telemetry.logs import logger

_MAX_CONNECTIONS = 512
_STOP_S = 3
_log = logger("controller")


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling: this process has one place for that."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals alone."""
        yield


def run(boot: ControllerBoot) -> int:
    """Serves until SIGTERM; returns the exit code. Raises SluiceError when it cannot start."""
    return uvloop.run(_run(boot))


async def _run(boot: ControllerBoot) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    config = boot.config
    state_dir = Path(config.state_dir)
    token = read_token(Path(config.admin.token_file)) if config.admin.token_file else ""
    lock = WriterLock(state_dir)
    store = Store(config.store, state_dir)
    ledger = Ledger()
    hub = Hub(ledger, time.monotonic)
    async with httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False) as client:
        control = Control(
            store,
            hub,
            Fleet(client),
            ledger,
            table_path=Path(boot.table_path),
            pools=config.pools,
            clock=time.time,
        )
        await control.start(boot.routes.routes if boot.routes is not None else None)
        plane = wiring.build(control, ledger, client, config, clock=time.time)
        await plane.rollouts.resume()
        await hub.start(socket.socket(fileno=boot.control_fd))
        tasks = plane.start()
        app = api.build(control, ledger, plane, workers=config.workers, token=token)
        settings = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            limit_concurrency=_MAX_CONNECTIONS,
            timeout_graceful_shutdown=_STOP_S,
            server_header=False,
            headers=[("x-sluice-api", "1")],  # so that a client can tell it from any other port
        )
        server = _Server(settings)
        serving = asyncio.create_task(server.serve(sockets=[socket.socket(fileno=boot.admin_fd)]))
        os.write(boot.ready_fd, b"1")
        _log.info("controller serves", generation=control.current.number)
        await stop.wait()
        server.should_exit = True
        await serving
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await hub.stop()
    store.close()
    lock.release()
    return 0
