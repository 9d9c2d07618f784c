"""Runs a real Triton Inference Server as a child process, for development, tests and the demo."""

import http.client
import os
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from gateway.errors import ConfigError, ResourceError, UnreachableError
from gateway.localtriton import backends, child, logs, ports, wheel
from gateway.localtriton.errors import TritonDiedError

ModelControl = Literal["explicit", "none", "poll"]

_POLL_S = 0.02
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - the kernel's name for POSIX shared memory
_KILL_MARGIN_S = 3.0
_START_ATTEMPTS = 3


class LocalTriton:
    """A Triton on this machine: `with LocalTriton(repository) as triton: ...`.

    It is ready when `start` (or `with`) returns, and gone, with its helpers and shared memory, when `stop` (or the end
    of the block) returns. Should this process die without that, the kernel kills Triton (see `child.spawn`).

    Args:
        repository: model repository.
        host: address to listen on.
        http_port: 0 picks a free port; likewise for `grpc_port` and `metrics_port`.
        model_control: Triton's `--model-control-mode`.
        load: models to load at the start in explicit mode; `*` means all.
        log_file: where Triton's output goes; by default `.sluice/triton-<http port>.log` in the working directory.
        ready_timeout_s: how long a start may take.
        exit_timeout_s: how long Triton may go on serving what it has accepted when told to stop.
        extra_args: further options for tritonserver.
    """

    def __init__(
        self,
        repository: Path | str,
        *,
        host: str = "127.0.0.1",
        http_port: int = 0,
        grpc_port: int = 0,
        metrics_port: int = 0,
        model_control: ModelControl = "explicit",
        load: Sequence[str] = ("*",),
        log_file: Path | str | None = None,
        ready_timeout_s: float = 60.0,
        exit_timeout_s: float = 5.0,
        extra_args: Sequence[str] = (),
    ) -> None:
        self.repository = Path(repository)
        self.host = host
        self.log_file = Path(log_file) if log_file is not None else None
        self._wanted = {"http": http_port, "grpc": grpc_port, "metrics": metrics_port}
        self._ports: dict[str, int] = {}
        self._model_control = model_control
        self._load = tuple(load)
        self._ready_timeout_s = ready_timeout_s
        self._exit_timeout_s = exit_timeout_s
        self._extra_args = tuple(extra_args)
        self._process: subprocess.Popen[bytes] | None = None
        self._shared_memory_prefix = ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        return self._running().pid

    @property
    def http_url(self) -> str:
        """Base URL of the HTTP service, without a final slash."""
        return f"http://{self.http_address}"

    @property
    def http_address(self) -> str:
        """`host:port` of the HTTP service, as tritonclient wants it."""
        return self._address("http")

    @property
    def grpc_address(self) -> str:
        """`host:port` of the gRPC service."""
        return self._address("grpc")

    @property
    def grpc_port(self) -> int:
        """Port of the gRPC service."""
        return self._ports["grpc"]

    @property
    def metrics_url(self) -> str:
        """URL of the Prometheus metrics."""
        return f"http://{self._address('metrics')}/metrics"

    @property
    def exit_status(self) -> int | None:
        """Exit status once the server has ended (negative: a signal), None while it runs."""
        return self._running().poll()

    def start(self, stopping: threading.Event | None = None) -> bool:
        """Start the server and wait until it and its models are ready.

        Args:
            stopping: gives up waiting once it is set.

        Returns:
            Whether the server is ready; False only after `stopping` was set.

        Raises:
            ConfigError: the repository does not exist or is no directory.
            ResourceError: the wheel, a library or a port is missing.
            TritonDiedError: it ended before it was ready, for example because a model does not load.
            UnreachableError: it was not ready in time.
        """
        if not self.repository.is_dir():
            raise ConfigError([f"model repository {self.repository} is not a directory"])
        found = wheel.locate()
        libpython = wheel.libpython_directory()
        packages = wheel.stub_packages()
        try:
            directory = backends.assemble(found)
            home = backends.python_home(packages)
        except OSError as error:
            raise ResourceError(f"cannot assemble Triton's backends: {error}") from None
        for attempt in range(1, _START_ATTEMPTS + 1):
            self._ports = ports.settle(self.host, self._wanted)
            self._launch(found.server, directory, _environment(found, home, libpython))
            try:
                return self._await_ready(stopping)
            except TritonDiedError as error:
                self.stop()
                # Between choosing a free port and Triton's use of it, another program may have taken it.
                if attempt < _START_ATTEMPTS and 0 in self._wanted.values() and logs.port_was_taken(str(error)):
                    continue
                raise
            except BaseException:
                self.stop()
                raise
        raise AssertionError("unreachable: the last attempt returns or raises")

    def stop(self) -> bool:
        """End the server and all that belongs to it; return whether it ended within its exit time-out.

        May be called again, and after the server has died.
        """
        if self._process is None:
            return True
        graceful = child.end(self._process, grace_s=self._exit_timeout_s + _KILL_MARGIN_S)
        # Helpers that were killed cannot remove their shared memory themselves.
        for segment in _SHARED_MEMORY.glob(f"{self._shared_memory_prefix}*"):
            segment.unlink(missing_ok=True)
        return graceful

    def kill(self) -> None:
        """Kill the server at once with SIGKILL, as a crash would; returns when it is gone."""
        process = self._running()
        process.kill()
        process.wait()

    def pause(self) -> None:
        """Freeze the server (SIGSTOP): its ports accept connections and nothing answers."""
        self._running().send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen server go on."""
        self._running().send_signal(signal.SIGCONT)

    def log_text(self) -> str:
        """Everything the server has written so far, also after it has ended."""
        if self.log_file is None:
            return ""
        return self.log_file.read_text(errors="replace")

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("this Triton was never started")
        return self._process

    def _reachable_host(self) -> str:
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)

    def _address(self, purpose: str) -> str:
        host = self._reachable_host()
        return f"[{host}]:{self._ports[purpose]}" if ":" in host else f"{host}:{self._ports[purpose]}"

    def _launch(self, program: Path, directory: Path, env: dict[str, str]) -> None:
        if self.log_file is None:
            self.log_file = Path(".sluice") / f"triton-{self._ports['http']}.log"
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        self._shared_memory_prefix = f"sluice-{os.getpid()}-{uuid.uuid4().hex[:8]}-"
        argv: list[str | Path] = [
            program,
            f"--model-repository={self.repository.absolute()}",
            f"--model-control-mode={self._model_control}",
            f"--backend-directory={directory}",
            f"--backend-config=python,shm-region-prefix-name={self._shared_memory_prefix}",
            f"--exit-timeout-secs={int(self._exit_timeout_s)}",
            # Else the whole server counts as not ready while one more version loads.
            "--strict-readiness=false",
            # Completing a configuration costs a throw-away Python process for every model: 8 s instead of 2 s for a
            # repository of 18 (measured). The official container completes what is left out, here nothing may be.
            "--disable-auto-complete-config",
        ]
        for purpose, port in self._ports.items():
            argv += [f"--{purpose}-address={self.host}", f"--{purpose}-port={port}"]
        if self._model_control == "explicit":
            argv += [f"--load-model={name}" for name in self._load]
        with self.log_file.open("wb") as log:
            self._process = child.spawn(
                [*argv, *self._extra_args],
                output=log,
                env=env,
                death_signal=signal.SIGKILL,
            )

    def _await_ready(self, stopping: threading.Event | None) -> bool:
        process = self._running()
        deadline = time.monotonic() + self._ready_timeout_s
        pending = [("http", "/v2/health/ready"), ("metrics", "/metrics")]
        while pending:
            if stopping is not None and stopping.is_set():
                return False
            status = process.poll()
            if status is not None:
                raise TritonDiedError(
                    f"Triton ended during its start ({logs.describe_exit(status)}): "
                    f"{logs.reason(self.log_text())}\nits log: {self.log_file}"
                )
            if time.monotonic() > deadline:
                raise UnreachableError(
                    f"Triton was not ready within {self._ready_timeout_s:g} s: "
                    f"{logs.reason(self.log_text())}\nits log: {self.log_file}"
                )
            purpose, path = pending[0]
            if self._answers(self._ports[purpose], path):
                pending.pop(0)
            else:
                time.sleep(_POLL_S)
        return True

    def _answers(self, port: int, path: str) -> bool:
        connection = http.client.HTTPConnection(self._reachable_host(), port, timeout=1.0)
        try:
            connection.request("GET", path)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def _environment(found: wheel.Wheel, home: Path, libpython: Path | None) -> dict[str, str]:
    """The server's environment: the wheel's libraries for the loader, and a Python home for the stubs."""
    env = dict(os.environ)
    libraries = [str(found.libraries), str(libpython) if libpython else "", env.get("LD_LIBRARY_PATH", "")]
    env["LD_LIBRARY_PATH"] = os.pathsep.join(dict.fromkeys(part for part in libraries if part))
    env["PATH"] = os.pathsep.join([str(home / "bin"), env.get("PATH", os.defpath)])
    return env
