"""A worker process: accepts, serves the last published table, reports what it counts, drains on SIGTERM."""

import asyncio
import gc
import logging
import math
import os
import resource
import signal
import socket
import time
from importlib.metadata import version
from pathlib import Path
from random import random
from typing import TYPE_CHECKING

import msgspec
import uvloop

from gateway.boot import Boot, Slots, SlotState
from gateway.core.route import RouteTable
from gateway.dataplane.acceptor import Acceptor
from gateway.dataplane.link import ControlLink
from gateway.dataplane.service import DataPlane
from gateway.http.server import ServerConnection
from gateway.http.serving import Phase
from gateway.messages import Hello
from gateway.telemetry.access import AccessLog
from gateway.telemetry.records import Samples, WorkerReport

if TYPE_CHECKING:
    from gateway.telemetry.traces import Spans

_LOG = logging.getLogger(__name__)
_TICK_S = 0.25
_JUDGED_S = 0.2  # between reports while a rollout judges a route
_COST = 20.0  # but reports take no more than a twentieth of the worker's time
_LEAVING_IDLE_S = 1.0
_PAGE = os.sysconf("SC_PAGE_SIZE")


def _rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE


def _record(plane: DataPlane, boot: Boot) -> "Spans":
    """Lets a data plane record what it does; the only place that loads OpenTelemetry's SDK."""
    from gateway.dataplane.traced import Recorder  # noqa: PLC0415 - its library is large, and an extra
    from gateway.telemetry.traces import Spans  # noqa: PLC0415

    assert boot.config.tracing is not None
    spans = Spans(boot.config.tracing, boot.worker, version("sluice"))
    plane.new_exchange = Recorder(spans).exchange
    return spans


class Worker:
    """Wires one data plane to its socket, its controller and its supervisor."""

    def __init__(self, boot: Boot) -> None:
        self._boot = boot
        self._loop = asyncio.get_running_loop()
        self._started = time.monotonic()
        self._slots = Slots(boot.slots_fd, boot.config.workers)
        self._plane = DataPlane(boot.config, self._loop, self._slots.sequences(), self._slots.rates())
        if share := boot.config.log.access:
            self._plane.access = AccessLog(share, boot.worker, random)
        self._spans = _record(self._plane, boot) if boot.config.tracing is not None else None
        self._stop = asyncio.Event()
        self._reported, self._report_took = -math.inf, 0.0
        self._link = ControlLink(boot.control_path, self._hello, self._plane.publish)

    def _hello(self) -> Hello:
        return Hello(
            worker=self._boot.worker,
            incarnation=self._boot.incarnation,
            pid=os.getpid(),
            generation=self._plane.table.generation,
        )

    def _mark(self, state: SlotState) -> None:
        self._slots.write(self._boot.line, len(self._plane.connections), state, time.monotonic_ns())

    def _last_table(self) -> None:
        """Serves what was published last, so that a worker that starts anew needs no controller."""
        path = Path(self._boot.table_path)
        try:
            self._plane.publish(msgspec.msgpack.decode(path.read_bytes(), type=RouteTable))
        except FileNotFoundError:
            return
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            _LOG.error("cannot read the last route table %s (%s); waiting for the controller", path, error)

    def _report(self) -> WorkerReport:
        plane, counters = self._plane, self._plane.counters
        return WorkerReport(
            worker=self._boot.worker,
            incarnation=self._boot.incarnation,
            pid=os.getpid(),
            generation=plane.table.generation,
            uptime_s=time.monotonic() - self._started,
            draining=plane.draining,
            variants=list(counters.variants.values()),
            new_keys=plane.take_new_keys(),
            shadows=list(counters.shadows.values()),
            backends=[backend.status() for pool in plane.pools.by_name.values() for backend in pool.backends],
            faults=[(route, code, count) for (route, code), count in counters.faults.items()],
            connections=len(plane.connections),
            accepted=plane.accepted,
            in_flight=plane.in_flight,
            buffered_bytes=plane.buffered + plane.copied + plane.partial.size,
            retries=plane.retries,
            rss_bytes=_rss_bytes(),
            exemplars=list(self._spans.exemplars.values()) if self._spans is not None else [],
        )

    def _send_report(self) -> None:
        began = time.perf_counter()
        report = self._report()
        if not self._link.send(report):
            self._plane.put_back_new_keys(report.new_keys)
        self._reported, self._report_took = began, time.perf_counter() - began

    @property
    def _report_due(self) -> float:
        """When the next report is to be sent; sooner from the moment on at which a rollout judges a route."""
        wait = self._boot.config.report_interval_s
        if self._plane.table.judged:
            wait = min(wait, max(_JUDGED_S, _COST * self._report_took))
        return self._reported + wait

    def _send_samples(self) -> None:
        """Samples that cannot be sent are gone: they are a sample, drawn without regard to what they show."""
        if self._plane.sampler:
            samples, dropped = self._plane.sampler.take()
            boot = self._boot
            self._link.send(Samples(worker=boot.worker, incarnation=boot.incarnation, samples=samples, dropped=dropped))

    async def run(self) -> None:
        """Serves until told to stop, then drains."""
        self._handle_signals()
        self._mark(SlotState.STARTING)
        self._last_table()
        listener = socket.socket(fileno=self._boot.listen_fd)
        plane = self._plane
        acceptor = Acceptor(
            listener,
            self._slots,
            lambda: len(plane.connections),
            plane.limits.max_connections,
            lambda: ServerConnection(plane),
            plane.listener_tls,
        )
        link = self._loop.create_task(self._link.run())
        acceptor.start()
        self._mark(SlotState.SERVING)
        gc.collect()
        gc.freeze()  # what lives now lives for ever; collections look only at what requests leave behind
        next_sweep = 0.0
        while not self._stop.is_set():
            self._mark(SlotState.SERVING)
            now = time.perf_counter()
            plane.weigh(_rss_bytes())
            if now >= next_sweep:
                plane.sweep(now)
                next_sweep = now + 1.0
            if now >= self._report_due:
                self._send_report()
            self._send_samples()
            try:
                pause_s = min(_TICK_S, max(self._report_due - time.perf_counter(), 0.01))
                await asyncio.wait_for(self._stop.wait(), pause_s)
            except TimeoutError:
                continue
        await self._drain(acceptor)
        link.cancel()
        plane.close()
        if plane.access is not None:
            plane.access.close()

    def _handle_signals(self) -> None:
        """What the supervisor says: end, say that the end is near, take files in anew, make room for a successor."""
        on = self._loop.add_signal_handler
        for number in (signal.SIGTERM, signal.SIGINT):
            on(number, self._end, True)
        on(signal.SIGUSR1, self._plane.drain, True)
        on(signal.SIGHUP, self._plane.renew, True)
        on(signal.SIGUSR2, self._end, False)

    def _end(self, leaving: bool) -> None:
        limits = self._boot.config.limits
        self._plane.idle_grace_s = min(limits.drain_idle_s, limits.drain_s / 2)
        if leaving:  # nobody's place is taken by another: idle clients must not hold up the end
            self._plane.idle_grace_s = min(self._plane.idle_grace_s, _LEAVING_IDLE_S)
        self._plane.drain(leaving)
        self._stop.set()

    async def _drain(self, acceptor: Acceptor) -> None:
        """Requests in flight finish within the grace."""
        plane = self._plane
        acceptor.stop(plane.leaving)
        until = time.perf_counter() + plane.limits.drain_s
        self._reported = -math.inf
        while (plane.connections or acceptor.opening) and (now := time.perf_counter()) < until:
            self._mark(SlotState.DRAINING)
            plane.sweep(now)
            if now >= self._report_due:
                self._send_report()
            await asyncio.sleep(0.02)
        self._send_report()
        self._send_samples()
        for connection in list(plane.connections):
            if connection.phase is not Phase.IDLE:  # those end with the process, and in order
                connection.abort()
        if self._spans is not None:
            await asyncio.to_thread(self._spans.close)


async def _main(boot: Boot) -> None:
    await Worker(boot).run()


def run(boot: Boot) -> int:
    """Runs a worker until it is drained; returns its exit code."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    uvloop.run(_main(boot))
    return 0
