"""Running Locust as a child process: started on a plan, watched by a deadline, never left behind."""

import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

import loadtest
from loadtest.driver import messages
from loadtest.errors import BrokenRunError
from loadtest.plan import Plan

LOCUSTFILE: Final = Path(__file__).with_name("driver") / "locustfile.py"
_START_S: Final = 150.0
_END_S: Final = 60.0
_STOP_S: Final = 10.0
_LOG_TAIL: Final = 12


class Workers(msgspec.Struct, frozen=True):
    """Who generates the load: `processes` on this machine, or `remote` workers that connect to `bind`."""

    processes: int = 1
    remote: int = 0
    bind: str = "127.0.0.1:0"

    @property
    def count(self) -> int:
        """Workers in all."""
        return self.remote or self.processes


def run(plan: Plan, workers: Workers, on_progress: Callable[[messages.Progress], None]) -> messages.Outcome:
    """Drive the plan to its end.

    Raises:
        BrokenRunError: Locust did not start, died, or did not end in time; the message has the end of its log.
    """
    with tempfile.TemporaryDirectory(prefix="sluice-load-") as name:
        folder = Path(name)
        plan_file, outcome_file, log_file = folder / "plan", folder / "outcome", folder / "log"
        plan_file.write_bytes(msgspec.msgpack.encode(plan))
        reader, writer = os.pipe()
        env = environment() | {
            messages.PLAN_VARIABLE: str(plan_file),
            messages.OUTCOME_VARIABLE: str(outcome_file),
            messages.PROGRESS_VARIABLE: str(writer),
        }
        with log_file.open("wb") as log:
            child = subprocess.Popen(
                [*command(), "--headless", "--only-summary", "--host", plan.arms[0].url, *_roles(workers)],
                env=env, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[writer],
                start_new_session=True,
            )  # fmt: skip
        os.close(writer)
        try:
            _follow(child, reader, time.monotonic() + plan.curve.duration_s + plan.timeout_s + _START_S, on_progress)
            child.wait(_END_S)
        except subprocess.TimeoutExpired:
            raise BrokenRunError(f"Locust did not end in time{_tail(log_file)}") from None
        finally:
            os.close(reader)
            _end(child)
        if not outcome_file.exists():
            raise BrokenRunError(f"Locust ended with status {child.returncode} and no result{_tail(log_file)}")
        return msgspec.msgpack.decode(outcome_file.read_bytes(), type=messages.Outcome)


def command() -> list[str]:
    """How Locust is started on our locustfile."""
    return [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--loglevel", "WARNING"]


def environment() -> dict[str, str]:
    """Environment of a Locust process: ours, without LOCUST_* settings that would change the run."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("LOCUST_")}
    root = str(Path(loadtest.__file__).parent.parent)
    inherited["PYTHONPATH"] = os.pathsep.join(filter(None, [root, inherited.get("PYTHONPATH", "")]))
    # The master tells its workers to start once all have reported their users; a busy machine needs time for that.
    inherited["LOCUST_WAIT_FOR_WORKERS_REPORT_AFTER_RAMP_UP"] = "60"
    return inherited


def _roles(workers: Workers) -> list[str]:
    host, _, port = workers.bind.rpartition(":")
    bound = port if port != "0" else str(_free_port())
    if workers.remote:
        return [
            "--master", "--master-bind-host", host, "--master-bind-port", bound,
            "--expect-workers", str(workers.remote), "--expect-workers-max-wait", str(int(_START_S) - 30),
        ]  # fmt: skip
    if workers.processes == 1:
        return []
    return [
        "--processes", str(workers.processes), "--master-bind-host", "127.0.0.1",
        "--master-bind-port", bound, "--master-port", bound,
    ]  # fmt: skip


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


def _follow(
    child: "subprocess.Popen[bytes]", reader: int, deadline: float, on_progress: Callable[[messages.Progress], None]
) -> None:
    """Pass progress lines on until Locust closes the pipe."""
    buffer = b""
    with selectors.DefaultSelector() as selector:
        selector.register(reader, selectors.EVENT_READ)
        while True:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise subprocess.TimeoutExpired(child.args, 0)
            chunk = os.read(reader, 65_536)
            if not chunk:
                return
            *lines, buffer = (buffer + chunk).split(b"\n")
            for line in lines:
                on_progress(msgspec.json.decode(line, type=messages.Progress))


def _end(child: "subprocess.Popen[bytes]") -> None:
    """End Locust and its workers; they are one process group."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(child.pid, sign)
        except ProcessLookupError:
            break
        try:
            child.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            continue
        if child.poll() is not None and sign is signal.SIGTERM and not _group_alive(child.pid):
            break
    child.wait()


def _group_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _tail(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return ":\n  " + "\n  ".join(lines[-_LOG_TAIL:]) if lines else ""
