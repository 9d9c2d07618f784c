"""The controller process: opens the store, publishes, listens to the workers, serves the admin API."""

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import uvicorn
import uvloop

from gateway.boot import ControllerBoot, Slots, SlotState
from gateway.controlplane import api
from gateway.controlplane.auth import Access
from gateway.controlplane.backend_tls import BackendTransports
from gateway.controlplane.control import Control
from gateway.controlplane.delivery import wiring
from gateway.controlplane.fleet import TIMEOUT_S, Fleet
from gateway.controlplane.hub import Hub
from gateway.controlplane.operations import Operations
from gateway.controlplane.store import Store, WriterLock
from gateway.controlplane.tlsfile import AdminTls
from gateway.core.route import Route
from gateway.errors import ConfigError, RejectedError
from gateway.telemetry.ledger import Ledger
from gateway.telemetry.logs import logger

_MAX_CONNECTIONS = 512
_STOP_S = 3
_LOOK_S = 1.0
_LIFE_S = 0.25
_FIRST_TABLE_S = 5.0
_log = logger("controller")


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling: this process has one place for that."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals alone."""
        yield


async def _keep_fresh(*renewals: Callable[[bool], object]) -> None:
    """Takes in tokens and certificates that changed, once a second, and at once when the supervisor says so."""
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, told.set)
    while True:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(told.wait(), _LOOK_S)
        for renew in renewals:
            renew(told.is_set())
        told.clear()


def run(boot: ControllerBoot) -> int:
    """Serves until SIGTERM; returns the exit code. Raises SluiceError when it cannot start."""
    return uvloop.run(_run(boot))


async def _show_life(slots: Slots) -> None:
    """Tells the supervisor that this loop turns; it kills a controller that says nothing for too long."""
    while True:
        slots.write(Slots.CONTROLLER, 0, SlotState.EMPTY, time.monotonic_ns())
        await asyncio.sleep(_LIFE_S)


async def _begin(control: Control, plane: wiring.Delivery, routes: tuple[Route, ...] | None) -> None:
    """Publishes the first table. Routes given at start yield to a rollout that is under way on one of them."""
    if routes is None or not await control.run(plane.rollouts.store.active):
        await control.start(routes)
        await plane.rollouts.resume()
        return
    await control.start(None)
    await plane.rollouts.resume()
    try:
        await control.apply(routes, who="serve", why="routes given at start", verify=False)
    except (ConfigError, RejectedError) as error:
        _log.error("the routes given at start are not applied", reason=str(error))


async def _run(boot: ControllerBoot) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    config = boot.config
    life = asyncio.create_task(_show_life(Slots(boot.slots_fd, config.workers)))
    state_dir = Path(config.state_dir)
    access = Access(config.admin)
    lock = WriterLock(state_dir)
    store = Store(config.store, state_dir)
    ledger = Ledger()
    hub = Hub(ledger, time.monotonic)
    transports = BackendTransports(config.pools)
    async with httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False, mounts=transports.mounts) as client:
        control = Control(
            store,
            hub,
            Fleet(client),
            ledger,
            table_path=Path(boot.table_path),
            pools=config.pools,
            clock=time.time,
        )
        plane = wiring.build(control, ledger, client, config, clock=time.time)
        await _begin(control, plane, boot.routes.routes if boot.routes is not None else None)
        await hub.start(socket.socket(fileno=boot.control_fd))
        tasks = plane.start()
        operations = Operations(control, config, boot.check)
        app = api.build(control, ledger, plane, operations, workers=config.workers, access=access)
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
        settings.load()
        certificates = AdminTls(config.admin.tls)
        settings.ssl = certificates.context
        server = _Server(settings)
        serving = asyncio.create_task(server.serve(sockets=[socket.socket(fileno=boot.admin_fd)]))
        # Who is told that Sluice is ready may ask at once.
        await hub.all_serve(config.workers, control.current.number, _FIRST_TABLE_S)
        fresh = asyncio.create_task(_keep_fresh(access.renew, certificates.renew, transports.renew))
        os.write(boot.ready_fd, b"1")
        _log.info("controller serves", generation=control.current.number)
        await stop.wait()
        server.should_exit = True
        await serving
        tasks += (fresh, life)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await hub.stop()
    store.close()
    lock.release()
    return 0
