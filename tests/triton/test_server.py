"""Starting, stopping and losing a local Triton."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from tritonclient.grpc import InferenceServerClient

from gateway.errors import ConfigError, ExitCode, ResourceError, UnreachableError
from gateway.localtriton import backends, child, logs, ports, wheel
from gateway.localtriton.errors import TritonDiedError
from gateway.localtriton.server import LocalTriton
from tests.conftest import StartTriton
from tests.triton import zoo

COMMAND = [sys.executable, "-c", "from gateway.cli import main; main()", "triton"]
FREE_PORTS = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one small model."""
    zoo.add_sub(tmp_path / "repository")
    return tmp_path / "repository"


def eventually(condition: Callable[[], bool], within_s: float = 10.0) -> bool:
    """Poll until the condition holds or the time is over."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def status(triton: LocalTriton, path: str = "/v2/health/ready", timeout_s: float = 5.0) -> int:
    """Status of one GET on the HTTP service."""
    host, port = triton.http_address.split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=timeout_s)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def index(triton: LocalTriton) -> dict[str, str]:
    """State of each model as the repository index gives it; none before it was asked to load."""
    rows = httpx.post(f"{triton.http_url}/v2/repository/index", timeout=10, trust_env=False).json()
    return {row["name"]: row.get("state", "") for row in rows}


def processes_of_group(pgid: int) -> list[int]:
    """Processes that live (zombies do not) in a process group."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[2]) == pgid and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def shared_memory_of(pid: int) -> list[Path]:
    """Shared memory segments of the servers that a process has started."""
    return list(Path("/dev/shm").glob(f"sluice-{pid}-*"))


def test_stop_leaves_nothing_behind(repository: Path, start_triton: StartTriton) -> None:
    """After stop there is no process, no shared memory and no listener, and the log is still readable."""
    before = set(shared_memory_of(os.getpid()))
    triton = start_triton(repository)
    pid, address = triton.pid, triton.http_address.split(":")
    assert status(triton) == 200
    assert len(processes_of_group(pid)) == 2  # the server and the process of its one model
    assert set(shared_memory_of(os.getpid())) - before
    assert triton.stop()
    assert processes_of_group(pid) == []
    assert set(shared_memory_of(os.getpid())) <= before
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address[0], int(address[1])), timeout=1)
    assert "successfully loaded" in triton.log_text()
    assert triton.stop()  # once more does no harm


def test_a_killed_server_is_cleaned_up(repository: Path, start_triton: StartTriton) -> None:
    """A crash is seen as an exit status; stop then removes the helpers that were left."""
    before = set(shared_memory_of(os.getpid()))
    triton = start_triton(repository)
    pid = triton.pid
    triton.kill()
    assert triton.exit_status == -signal.SIGKILL
    triton.stop()
    assert processes_of_group(pid) == []
    assert set(shared_memory_of(os.getpid())) <= before


def test_a_paused_server_is_silent_and_comes_back(repository: Path, start_triton: StartTriton) -> None:
    """While frozen it accepts connections and answers nothing; resumed, it answers; frozen, it can be stopped."""
    triton = start_triton(repository)
    triton.pause()
    with pytest.raises(TimeoutError):
        status(triton, timeout_s=0.3)
    triton.resume()
    assert status(triton) == 200
    triton.pause()
    triton.stop()
    assert processes_of_group(triton.pid) == []


def test_models_load_and_unload_on_demand(repository: Path, start_triton: StartTriton) -> None:
    """Explicit mode starts with the named models only and obeys the repository API."""
    triton = start_triton(repository, load=[])
    assert status(triton, "/v2/models/add_sub/ready") == 400
    host, port = triton.http_address.split(":")
    for action, expected in [("load", 200), ("unload", 400)]:
        connection = http.client.HTTPConnection(host, int(port), timeout=20)
        connection.request("POST", f"/v2/repository/models/add_sub/{action}")
        assert connection.getresponse().status == 200
        connection.close()
        assert eventually(lambda wanted=expected: status(triton, "/v2/models/add_sub/ready") == wanted)


def test_a_server_is_ready_while_one_more_model_loads(repository: Path, start_triton: StartTriton) -> None:
    """What it has served so far it serves on; its strict readiness would take it out of every pool meanwhile."""
    gate, model = repository.parent / "gate", repository / "late"
    (model / "1").mkdir(parents=True)
    (model / "config.pbtxt").write_text(
        'backend: "python"\nmax_batch_size: 0\ninput [ { name: "IN" data_type: TYPE_FP32 dims: [ 1 ] } ]\n'
        'output [ { name: "OUT" data_type: TYPE_FP32 dims: [ 1 ] } ]\ninstance_group [ { kind: KIND_CPU } ]\n'
    )
    (model / "1" / "model.py").write_text(
        "import os, time\n\nclass TritonPythonModel:\n    def initialize(self, args):\n"
        f"        while not os.path.exists({str(gate)!r}):\n            time.sleep(0.02)\n"
    )
    triton = start_triton(repository, load=["add_sub"])
    with ThreadPoolExecutor(1) as pool:
        # Over HTTP the load would keep the thread from answering that may get the next connections.
        client = InferenceServerClient(triton.grpc_address)
        load = pool.submit(client.load_model, "late", client_timeout=60)
        try:
            assert eventually(lambda: index(triton).get("late") == "LOADING", within_s=30)
            assert status(triton) == 200
            assert status(triton, "/v2/models/add_sub/ready") == 200
            assert status(triton, "/v2/models/late/ready") == 400
        finally:
            gate.touch()
        load.result()
        client.close()
    assert status(triton, "/v2/models/late/ready") == 200


def test_two_servers_run_side_by_side(repository: Path, start_triton: StartTriton) -> None:
    """Free ports are picked for each, and stopping one leaves the other alone."""
    first, second = start_triton(repository), start_triton(repository)
    assert first.http_url != second.http_url
    first.stop()
    assert status(second) == 200


def test_metrics_are_served(triton: LocalTriton) -> None:
    """The metrics URL gives Triton's own metrics."""
    host, port = triton.metrics_url.removeprefix("http://").removesuffix("/metrics").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=5)
    connection.request("GET", "/metrics")
    assert b"nv_inference_request_success" in connection.getresponse().read()
    connection.close()


def test_a_missing_repository_is_named(tmp_path: Path) -> None:
    """The message has the path."""
    with pytest.raises(ConfigError, match="nowhere is not a directory"):
        LocalTriton(tmp_path / "nowhere").start()


def test_a_model_that_does_not_load_ends_the_start(repository: Path, start_triton: StartTriton) -> None:
    """The error has Triton's own reason, once, and where the log is."""
    (repository / "add_sub" / "1" / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(TritonDiedError) as caught:
        start_triton(repository)
    text = str(caught.value)
    assert "failed to load 'add_sub' version 1" in text
    assert text.count("INVALID_PROTOBUF") == 1
    assert "its log: " in text


def test_a_start_that_takes_too_long_is_given_up(repository: Path, start_triton: StartTriton) -> None:
    """Past the ready time-out the server is stopped and the error says so."""
    with pytest.raises(UnreachableError, match=r"not ready within 0\.01 s"):
        start_triton(repository, ready_timeout_s=0.01)


def test_a_taken_port_is_named() -> None:
    """The message has the port, the address and the option to change."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ResourceError, match=f"port {port} on 127.0.0.1 is in use.*--grpc-port"):
            ports.settle("127.0.0.1", {"http": 0, "grpc": port})


def test_an_address_of_another_machine_is_refused() -> None:
    """192.0.2.0/24 is reserved for documentation (RFC 5737) and never ours."""
    with pytest.raises(ResourceError, match=r"cannot listen on 192\.0\.2\.1"):
        ports.settle("192.0.2.1", {"http": 0})


def test_picked_ports_differ_from_one_another() -> None:
    """Free ports are held while choosing."""
    chosen = ports.settle("127.0.0.1", {"http": 0, "grpc": 0, "metrics": 0})
    assert len(set(chosen.values())) == 3


def test_a_missing_wheel_is_named_with_its_remedy() -> None:
    """The message has the command that installs it."""
    with pytest.raises(ResourceError, match="pip install --no-deps nvidia-pytriton"):
        wheel.locate("sluice-no-such-distribution")


def test_a_missing_libpython_is_named_with_its_remedy() -> None:
    """The message has the library and the Debian package."""
    with pytest.raises(ResourceError, match=r"libnowhere\.so\.1.*apt-get install libpython"):
        wheel.libpython_directory("libnowhere.so.1")


def test_a_missing_numpy_1_is_named_with_its_remedy(tmp_path: Path) -> None:
    """The message has the command that installs it where it is looked for."""
    with pytest.raises(ResourceError, match=r"pip install --no-deps --target \S+triton-python numpy==1"):
        wheel.stub_packages(tmp_path)


def test_assembled_files_are_reused(tmp_path: Path) -> None:
    """A second start takes the directory of the first and leaves no staging behind."""
    first = backends.assemble(wheel.locate(), tmp_path)
    assert backends.assemble(wheel.locate(), tmp_path) == first
    assert [path.name for path in tmp_path.iterdir()] == [first.name]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "its log is empty"),
        ('I1123 17:09:32.0 97 a.cc:1] "loading"\nboom', 'I1123 17:09:32.0 97 a.cc:1] "loading"\nboom'),
        ('E1123 17:09:32.0 97 a.cc:1] "CudaDriverHelper has not been initialized."\nerror: it broke', "it broke"),
        ('E1123 17:09:32.0 97 a.cc:1] "bad\\n\\nAt:\\n  model.py"\nE1123 17:09:33.0 97 a.cc:1] "bad"', "bad"),
    ],
)
def test_the_reason_is_found_in_a_log(text: str, expected: str) -> None:
    """Errors win over other lines, harmless ones and stacks are left out, repeats are told once."""
    assert logs.reason(text) == expected


def run_command(*options: str) -> subprocess.CompletedProcess[str]:
    """The command, run to its end."""
    return subprocess.run([*COMMAND, *options], capture_output=True, text=True, timeout=60, check=False)


def test_the_command_announces_serves_and_stops(repository: Path, tmp_path: Path) -> None:
    """One JSON line once it is ready; SIGTERM ends it with status 0 and Triton with it."""
    command = [*COMMAND, "-r", str(repository), *FREE_PORTS, "-o", "json", "--log-file", str(tmp_path / "log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        facts = json.loads(process.stdout.readline())
        assert set(facts) == {"http", "grpc", "metrics", "pid", "log"}
        connection = http.client.HTTPConnection(facts["http"].removeprefix("http://"), timeout=5)
        connection.request("GET", "/v2/models/add_sub/ready")
        assert connection.getresponse().status == 200
        connection.close()
        process.terminate()
        assert process.wait(20) == ExitCode.OK
        assert process.stdout.read() == ""
    assert processes_of_group(facts["pid"]) == []


def test_triton_does_not_outlive_a_killed_command(repository: Path, tmp_path: Path) -> None:
    """SIGKILL on the command ends Triton and its helpers too, and their shared memory goes."""
    command = [*COMMAND, "-r", str(repository), *FREE_PORTS, "-o", "json", "--log-file", str(tmp_path / "log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        facts = json.loads(process.stdout.readline())
        process.kill()
    assert eventually(lambda: processes_of_group(facts["pid"]) == [])
    assert eventually(lambda: shared_memory_of(process.pid) == [])


def test_the_command_reports_a_lost_triton(repository: Path, tmp_path: Path) -> None:
    """When Triton dies while serving, the command says so and ends with status 1."""
    command = [*COMMAND, "-r", str(repository), *FREE_PORTS, "-o", "json", "--log-file", str(tmp_path / "log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        os.kill(json.loads(process.stdout.readline())["pid"], signal.SIGKILL)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == ExitCode.FAILED
    assert "Triton ended while serving (signal SIGKILL)" in errors


def test_the_command_explains_itself_without_a_traceback(repository: Path, tmp_path: Path) -> None:
    """Each failure has its own message and exit code."""
    missing = run_command("-r", str(tmp_path / "nowhere"))
    assert (missing.returncode, missing.stdout) == (ExitCode.CONFIG, "")
    assert "nowhere is not a directory" in missing.stderr
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        busy = run_command("-r", str(repository), *FREE_PORTS, "--http-port", port)
    assert busy.returncode == ExitCode.RESOURCE
    assert f"port {port} on 127.0.0.1 is in use" in busy.stderr
    usage = run_command("--model-control", "sometimes")
    assert usage.returncode == ExitCode.USAGE
    for result in (missing, busy, usage):
        assert "Traceback" not in result.stderr


def test_starting_a_program_runs_no_fork_handlers() -> None:
    """They would swallow a SIGTERM that arrives just then: the exception it raises is lost in a handler."""
    script = (
        "import os, signal, subprocess\n"
        "from gateway.localtriton.child import spawn\n"
        "os.register_at_fork(before=lambda: print('before'), after_in_parent=lambda: print('after'))\n"
        "process = spawn(['true'], output=subprocess.DEVNULL, env=os.environ, death_signal=signal.SIGTERM)\n"
        "print('status', process.wait(20))\n"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout == "status 0\n"


def test_a_program_that_does_not_exist_is_named(tmp_path: Path) -> None:
    """Its own output says which, and why it did not run."""
    program = tmp_path / "nowhere"
    with (tmp_path / "log").open("wb") as log:
        process = child.spawn([program], output=log, env=os.environ, death_signal=signal.SIGTERM)
        assert process.wait(20) == 1
    assert (tmp_path / "log").read_text() == f"cannot run {program}: No such file or directory\n"
