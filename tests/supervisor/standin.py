"""A worker that only speaks the supervisor's and the controller's language, and a supervisor that starts it.

`standin.py serve JSON` runs a supervisor from settings in JSON; `worker` and `controller` are what it starts. The
environment variable STANDIN makes workers misbehave: `die` ends them before they serve, `hang` stops their signs of
life after the first request, `stubborn` makes them ignore SIGTERM.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from pathlib import Path

import msgspec

from gateway.boot import Boot, Slots, SlotState
from gateway.config import Config
from gateway.core.route import Routes, RouteTable
from gateway.messages import Applied, Frames, Hello, decode_to_worker, frame
from gateway.supervisor.child import die_with_parent
from gateway.supervisor.holdings import Ready
from gateway.supervisor.supervisor import Supervisor
from gateway.telemetry import logs
from gateway.telemetry.records import Outcome, VariantCounts, WorkerReport

_MODE = os.environ.get("STANDIN", "")


class StandIn:
    """Answers every request with the generation it serves, counting each for each route."""

    def __init__(self, boot: Boot) -> None:
        self.boot = boot
        self.table = RouteTable()
        path = Path(boot.table_path)
        if path.exists():
            self.table = msgspec.msgpack.decode(path.read_bytes(), type=RouteTable)
        self.served = 0
        self.stop = asyncio.Event()

    async def run(self) -> int:
        """Serves until SIGTERM."""
        loop = asyncio.get_running_loop()
        if _MODE == "stubborn":
            loop.add_signal_handler(signal.SIGTERM, lambda: None)
        else:
            loop.add_signal_handler(signal.SIGTERM, self.stop.set)
        server = await asyncio.start_server(self._client, sock=socket.socket(fileno=self.boot.listen_fd))
        tasks = [asyncio.create_task(self._alive()), asyncio.create_task(self._control())]
        await self.stop.wait()
        server.close()
        for task in tasks:
            task.cancel()
        return 0

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.served += 1
        body = f"{self.boot.worker} {os.getpid()} {self.table.generation}".encode()
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
        await writer.drain()
        writer.close()

    async def _alive(self) -> None:
        slots = Slots(self.boot.slots_fd, self.boot.config.workers)
        slots.write(self.boot.line, 0, SlotState.SERVING, time.monotonic_ns())
        while _MODE != "hang" or not self.served:
            await asyncio.sleep(0.05)
            slots.write(self.boot.line, 0, SlotState.SERVING, time.monotonic_ns())

    async def _control(self) -> None:
        while True:
            with contextlib.suppress(OSError):
                await self._session()
            await asyncio.sleep(0.05)

    async def _session(self) -> None:
        reader, writer = await asyncio.open_unix_connection(self.boot.control_path)
        who = {"worker": self.boot.worker, "incarnation": self.boot.incarnation}
        writer.write(frame(Hello(**who, pid=os.getpid(), generation=self.table.generation)))
        reports = asyncio.create_task(self._report(writer))
        frames = Frames()
        try:
            while data := await reader.read(65536):
                for body in frames.feed(data):
                    table = decode_to_worker(body).table
                    if table.generation >= self.table.generation:
                        self.table = table
                        writer.write(frame(Applied(**who, generation=table.generation)))
        finally:
            reports.cancel()
            writer.close()

    async def _report(self, writer: asyncio.StreamWriter) -> None:
        began = time.monotonic()
        while True:
            variants = []
            for route in self.table.routes:
                row = VariantCounts(route=route.name, variant=route.variants[0].name, epoch=route.epoch)
                row.outcomes[Outcome.OK] = self.served
                variants.append(row)
            report = WorkerReport(
                worker=self.boot.worker,
                incarnation=self.boot.incarnation,
                pid=os.getpid(),
                generation=self.table.generation,
                uptime_s=time.monotonic() - began,
                draining=False,
                variants=variants,
                new_keys=[],
                shadows=[],
                backends=[],
                faults=[],
                connections=0,
                accepted=self.served,
                in_flight=0,
                buffered_bytes=0,
                retries=0,
                rss_bytes=0,
            )
            writer.write(frame(report))
            await asyncio.sleep(self.boot.config.report_interval_s)


def _serve(text: str) -> int:
    settings = msgspec.json.decode(text)
    config = msgspec.convert(settings["config"], Config)
    routes = msgspec.convert(settings["routes"], Routes) if settings.get("routes") else None
    logs.configure(config.log, process="supervisor")

    def ready(found: Ready) -> None:
        sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
        sys.stdout.flush()

    program = (sys.executable, __file__)
    degraded = settings.get("degraded", False)
    return Supervisor(config, routes=routes, degraded=degraded, on_ready=ready, program=program).run()


def main() -> int:
    """Runs one role."""
    if sys.argv[1] == "serve":
        return _serve(sys.argv[2])
    if sys.argv[1] == "controller":
        from gateway.app import main as real

        return real("controller", int(sys.argv[2]), int(sys.argv[3]))
    die_with_parent(int(sys.argv[3]))
    if _MODE == "die":
        return 9
    return asyncio.run(StandIn(Boot.from_fd(int(sys.argv[2]))).run())


if __name__ == "__main__":
    sys.exit(main())
