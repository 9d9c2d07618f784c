"""A real worker process under test, with the test in the place of its supervisor and its controller."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec

from gateway.boot import Boot, Slots
from gateway.config import Config, Limits
from gateway.core.pool import Backend as BackendConfig
from gateway.core.pool import Ejection, Pool, Probe
from gateway.core.route import Route, RouteTable, Variant
from gateway.messages import Applied, Frames, Publish, decode_from_worker, frame
from gateway.telemetry.records import Outcome, Sample, Samples, VariantCounts, WorkerReport
from tests.wire.client import Wire

_START_S = 30.0


def until(condition: Callable[[], Any], what: str, within_s: float = 15.0) -> Any:
    """Polls until a condition is true and returns its value."""
    end = time.monotonic() + within_s
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {within_s:g} s: {what}"
        time.sleep(0.01)
    return value


def pool(*urls: str, name: str = "default", **more: Any) -> Pool:
    """A pool without probes and ejections, so that a test sees only what it asks for."""
    quiet: dict[str, Any] = {"probe": Probe(interval_s=0), "ejection": Ejection(consecutive=0)}
    return Pool(name=name, backends=tuple(BackendConfig(url=url) for url in urls), **{**quiet, **more})


def route(name: str = "m", **more: Any) -> Route:
    """A route with one variant on the default pool."""
    return Route(**{"name": name, "variants": (Variant(name="a", model="model", weight=100.0),), **more})


class Gateway:
    """One worker process and what it reports.

    Attributes:
        port: of the data plane.
        generation: last published.
        reports: every report so far, newest last.
        samples: every sample so far.
    """

    def __init__(self, limits: Limits | None = None, directory: str = "", report_interval_s: float = 0.05) -> None:
        limits = limits or Limits()
        config = Config(limits=limits, report_interval_s=report_interval_s, pools=(pool("http://127.0.0.1:9"),))
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.port: int = self._listener.getsockname()[1]
        self._slots_fd = Slots.create()
        self._control = socket.socket(socket.AF_UNIX)
        self._control.bind(f"{directory}/control.sock")
        self._control.listen()
        self._line: socket.socket | None = None
        self._changed = threading.Condition()
        self._table = b""
        self.generation = self._applied = 0
        self.reports: list[WorkerReport] = []
        self.samples: list[Sample] = []
        self.log = Path(directory, "worker.log")
        self.table_file = Path(directory, "table")
        self._boot = Boot(
            worker=0,
            line=0,
            incarnation="test",
            listen_fd=self._listener.fileno(),
            slots_fd=self._slots_fd,
            control_path=f"{directory}/control.sock",
            table_path=f"{directory}/table",
            config=config,
        )
        threading.Thread(target=self._controller, daemon=True).start()
        self.process = self._spawn()

    def _spawn(self) -> subprocess.Popen[bytes]:
        fd = self._boot.to_fd()
        try:
            with self.log.open("ab") as log:
                return subprocess.Popen(
                    [sys.executable, "-P", "-m", "gateway.app", "worker", str(fd), str(os.getpid())],
                    pass_fds=(fd, self._boot.listen_fd, self._slots_fd),
                    stdin=subprocess.DEVNULL,
                    stderr=log,
                )
        finally:
            os.close(fd)

    def respawn(self) -> None:
        """Starts a worker in the place of the one that ended."""
        self.process.wait(30)
        self._applied = 0
        self.process = self._spawn()
        until(lambda: self._applied == self.generation, "the new worker serves the table")

    @property
    def alive(self) -> bool:
        """Whether the process has not ended."""
        return self.process.poll() is None

    # the controller's side

    def _controller(self) -> None:
        while True:
            try:
                line, _ = self._control.accept()
            except OSError:
                return
            self._line = line
            frames = Frames()
            with contextlib.suppress(OSError), line:
                if self._table:
                    line.sendall(self._table)
                while data := line.recv(1 << 20):
                    for body in frames.feed(data):
                        message = decode_from_worker(body)
                        with self._changed:
                            if isinstance(message, Applied):
                                self._applied = message.generation
                            elif isinstance(message, WorkerReport):
                                self.reports.append(message)
                            elif isinstance(message, Samples):
                                self.samples += message.samples
                            self._changed.notify_all()

    def publish(self, routes: tuple[Route, ...], pools: tuple[Pool, ...], wait: bool = True) -> None:
        """Publishes the next generation and waits until the worker serves it."""
        self.generation += 1
        table = RouteTable(generation=self.generation, routes=routes, pools=pools)
        self._table = frame(Publish(table=table))
        fresh = self.table_file.with_suffix(".new")
        fresh.write_bytes(msgspec.msgpack.encode(table))
        fresh.rename(self.table_file)
        if self._line is not None:
            with contextlib.suppress(OSError):
                self._line.sendall(self._table)
        if wait:
            wanted = self.generation
            until(lambda: self._applied >= wanted or not self.alive, f"generation {wanted} is served", _START_S)
            assert self._applied >= wanted, self.errors()

    def report(self) -> WorkerReport:
        """A report made after this call."""
        with self._changed:
            have = len(self.reports)
            # The next one may already be under way; the one after it was surely made later.
            assert self._changed.wait_for(lambda: len(self.reports) >= have + 2, 10), self.errors()
            return self.reports[-1]

    def counts(self, variant: str = "a", report: WorkerReport | None = None) -> VariantCounts:
        """All counters of a variant, pinned requests and old epochs included, summed."""
        found = VariantCounts(route="", variant=variant, epoch=0)
        for row in (report or self.report()).variants:
            if row.variant == variant:
                found.assigned += row.assigned
                found.request_bytes += row.request_bytes
                found.response_bytes += row.response_bytes
                found.outcomes = [a + b for a, b in zip(found.outcomes, row.outcomes, strict=True)]
                found.latency = [a + b for a, b in zip(found.latency, row.latency, strict=True)]
                for status, count in row.statuses.items():
                    found.statuses[status] = found.statuses.get(status, 0) + count
        return found

    def settle(self, within_s: float = 15.0) -> WorkerReport:
        """Waits until nothing is under way, then checks that every counter adds up."""

        def quiet() -> WorkerReport | None:
            report = self.report()
            busy = report.in_flight or report.buffered_bytes or any(b.in_flight for b in report.backends)
            return None if busy else report

        report: WorkerReport = until(quiet, "nothing in flight, nothing buffered, no lease", within_s)
        for row in report.variants:
            assert row.assigned == sum(row.outcomes), f"{row.variant}: {row.assigned} assigned, {row.outcomes}"
        for shadow in report.shadows:
            assert shadow.sent == shadow.ok + shadow.errors + shadow.timeouts, shadow
        return report

    def outcome(self, outcome: Outcome, variant: str = "a") -> int:
        """How many requests of a variant ended that way."""
        return self.counts(variant).outcomes[outcome]

    # the client's side

    @property
    def url(self) -> str:
        """Of the data plane."""
        return f"http://127.0.0.1:{self.port}"

    def connect(self, **options: Any) -> Wire:
        """A raw connection."""
        return Wire(self.port, **options)

    def get(self, path: str) -> httpx.Response:
        """A plain GET."""
        return httpx.get(self.url + path, timeout=10, trust_env=False)

    # the machine's side

    def errors(self) -> str:
        """What the worker logged."""
        return self.log.read_text()

    def rss(self) -> int:
        """Resident bytes of the worker."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def descriptors(self) -> int:
        """Open descriptors of the worker."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def terminate(self) -> None:
        """SIGTERM, as the supervisor sends it."""
        self.process.send_signal(signal.SIGTERM)

    def close(self) -> None:
        """Ends the worker for good."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        self._control.shutdown(socket.SHUT_RDWR)
        for end in (self._control, self._listener, self._line):
            if end is not None:
                end.close()
        os.close(self._slots_fd)


@contextlib.contextmanager
def running(
    routes: tuple[Route, ...],
    pools: tuple[Pool, ...],
    limits: Limits | None = None,
    log_clean: bool = True,
    report_interval_s: float = 0.05,
) -> Iterator[Gateway]:
    """A worker that serves a table; at the end it must have logged no traceback."""
    with tempfile.TemporaryDirectory(prefix="sluice-") as directory:
        gateway = Gateway(limits, directory, report_interval_s)
        try:
            gateway.publish(routes, pools)
            yield gateway
            if log_clean:
                assert "Traceback" not in gateway.errors(), gateway.errors()
        finally:
            gateway.close()


def infer(
    body: bytes = b"{}", *, name: str = "m", test_id: str = "", extra: bytes = b"", version: bytes = b"1.1"
) -> bytes:
    """One complete inference request."""
    marked = b"x-test-id: %b\r\n" % test_id.encode() if test_id else b""
    head = b"POST /v2/models/%b/infer HTTP/%b\r\nHost: gateway\r\nContent-Length: %d\r\n%b%b\r\n"
    return head % (name.encode(), version, len(body), marked, extra) + body


def decoded(body: bytes) -> dict[str, Any]:
    """A JSON answer."""
    value: dict[str, Any] = msgspec.json.decode(body)
    return value
