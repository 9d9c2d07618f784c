"""Orders over gRPC to a real Triton: done, refused, not in time, not to be reached, and with TLS on both sides."""

import asyncio
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from gateway.controlplane.delivery.backend_errors import BusyError, RefusedError, UnavailableError
from gateway.controlplane.delivery.model_control import ModelControl
from gateway.core.pool import Backend, BackendTls, Pool
from gateway.localtriton import ports
from gateway.localtriton.server import LocalTriton
from tests.delivery.slow_version import SlowVersion, ready_versions, slow_version
from tests.security.certificates import Authority
from tests.triton import zoo

T = TypeVar("T")
URL = "http://127.0.0.1:1"


def order(
    port: int, model: str, *, url: str = URL, tls: BackendTls | None = None, timeout_s: float = 60
) -> Awaitable[bool]:
    """A load by a gateway whose one backend has its gRPC there."""
    pool = Pool(name="default", backends=(Backend(url=f"{url}/", grpc_port=port),), tls=tls or BackendTls())
    return ModelControl(lambda: (pool,)).order(url, model, "load", None, timeout_s)


def ended(what: Awaitable[T]) -> T:
    """Runs it to its end."""

    async def run() -> T:
        return await what

    return asyncio.run(run())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SlowVersion:
    """A repository with a model, one that cannot be loaded, and one that takes until `go` exists."""
    made = slow_version(tmp_path_factory.mktemp("control"))
    zoo.add_sub(made.repository)
    zoo.add_sub(made.repository, "broken")
    (made.repository / "broken" / "1" / "model.onnx").write_bytes(b"not a model")
    config = made.repository / "m" / "config.pbtxt"
    config.write_text(config.read_text().replace("versions: 1", "versions: 2"))
    return made


@contextmanager
def serving(made: SlowVersion, place: Path, *extra: str) -> Iterator[LocalTriton]:
    """Triton with nothing loaded."""
    with LocalTriton(made.repository, load=[], log_file=place / "log", exit_timeout_s=1, extra_args=extra) as triton:
        yield triton


def test_orders_are_done_or_refused_in_tritons_own_words(made: SlowVersion, tmp_path: Path) -> None:
    """A load is done when it returns; what cannot be loaded says why; an unload needs no answer but the end."""
    with serving(made, tmp_path) as triton:
        port = triton.grpc_port
        assert ended(order(port, "add_sub"))
        with pytest.raises(RefusedError, match=rf"gRPC on 127.0.0.1:{port}: .*broken.*INVALID_PROTOBUF"):
            ended(order(port, "broken"))
        with pytest.raises(RefusedError, match="nobody"):
            ended(order(port, "nobody"))
        pool = Pool(name="default", backends=(Backend(url=URL, grpc_port=port),))
        assert ended(ModelControl(lambda: (pool,)).order(URL, "add_sub", "unload", None, 60))
        assert not ended(ModelControl(lambda: (pool,)).order("http://127.0.0.1:2", "add_sub", "load", None, 60))


def test_a_load_out_of_time_is_called_busy(made: SlowVersion, tmp_path: Path) -> None:
    """The order was taken; Triton goes on with it, and says meanwhile what it is doing."""
    with serving(made, tmp_path) as triton:
        try:
            with pytest.raises(BusyError, match="Deadline"):
                ended(order(triton.grpc_port, "m", timeout_s=1))
            assert ready_versions(triton.http_url) == set()
        finally:
            made.go.touch()


def test_a_port_that_nobody_listens_on_is_named() -> None:
    """Trying again may help, and the message has the address."""
    port = ports.settle("127.0.0.1", {"grpc": 0})["grpc"]
    with pytest.raises(UnavailableError, match=f"{URL}, gRPC on 127.0.0.1:{port}: .*refused"):
        ended(order(port, "add_sub"))


def test_tls_on_both_sides(made: SlowVersion, tmp_path: Path) -> None:
    """For an https url the pool's authorities, name and own certificate are used; a wrong one reaches nothing."""
    ours, others = Authority(tmp_path, "ours"), Authority(tmp_path, "others")
    server, client = ours.issue("server", "triton.example"), ours.issue("client")
    options = ["--grpc-use-ssl=true", "--grpc-use-ssl-mutual=true", f"--grpc-server-cert={server}"]
    options += [f"--grpc-server-key={server}", f"--grpc-root-cert={ours.file}"]
    url = "https://127.0.0.1:1"
    right = BackendTls(ca_file=str(ours.file), cert_file=str(client), server_name="triton.example")
    wrong = [
        BackendTls(ca_file=str(others.file), cert_file=str(client), server_name="triton.example"),
        BackendTls(ca_file=str(ours.file), cert_file=str(client), server_name="other.example"),
        BackendTls(ca_file=str(ours.file), server_name="triton.example"),
    ]
    with serving(made, tmp_path, *options) as triton:
        assert ended(order(triton.grpc_port, "add_sub", url=url, tls=right))
        for tls in wrong:
            with pytest.raises(UnavailableError):
                ended(order(triton.grpc_port, "add_sub", url=url, tls=tls))
        gone = BackendTls(ca_file=str(tmp_path / "gone.pem"))
        with pytest.raises(UnavailableError, match=r"cannot read .*gone\.pem: No such file"):
            ended(order(triton.grpc_port, "add_sub", url=url, tls=gone))
