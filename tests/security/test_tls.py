"""TLS to clients and to backends, with certificates that change while the gateway runs."""

import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml

from gateway.config import Limits
from gateway.core.pool import Backend as PoolBackend
from gateway.core.pool import BackendTls, Pool
from gateway.dataplane.pool import BackendRuntime, PoolRuntime
from gateway.http.head import Heads
from tests.operations.backend import Backend, backend
from tests.operations.serving import Gateway, route, serving, settings, sluice, until
from tests.security.certificates import Authority


@dataclass
class World:
    """A gateway that speaks TLS on every side, and the authorities behind it."""

    gateway: Gateway
    triton: Backend
    ours: Authority
    clients: Authority
    client: Path

    def trusting(self, own: Path | None = None, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
        """A client's context, with its own certificate where one is given."""
        context = ssl.create_default_context(cafile=str(self.ours.file))
        if own is not None:
            context.load_cert_chain(own)
        if version is not None:
            context.minimum_version = context.maximum_version = version
        return context


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Clients, admin API and backend, all with certificates; clients and the gateway show theirs."""
    folder = tmp_path_factory.mktemp("tls")
    ours, clients = Authority(folder / "ours"), Authority(folder / "clients", "clients")
    cert = ours.issue("gateway", "127.0.0.1")
    own = ours.issue("upstream")
    client = clients.issue("client")
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(ours.issue("triton", "triton.internal"))
    theirs.load_verify_locations(ours.file)
    theirs.verify_mode = ssl.CERT_REQUIRED
    listen = {"cert_file": str(cert), "client_ca_file": str(clients.file), "handshake_timeout_s": 1.0}
    with backend(tls=theirs) as triton:
        config = settings(
            folder,
            triton.url,
            listen={"port": 0, "tls": listen},
            admin={"port": 0, "tls": {"cert_file": str(cert)}},
        )
        config["pools"][0]["tls"] = {
            "ca_file": str(ours.file),
            "cert_file": str(own),
            "server_name": "triton.internal",
        }
        verify = ssl.create_default_context(cafile=str(ours.file))
        verify.load_cert_chain(client)
        with serving(folder, config, [route("echo")], verify=verify) as gateway:
            yield World(gateway, triton, ours, clients, client)


def _peer(world: World) -> str:
    """The serial number of the certificate that a new connection is shown."""
    address = ("127.0.0.1", world.gateway.port)
    with (
        socket.create_connection(address, 5) as plain,
        world.trusting(world.client).wrap_socket(plain, server_hostname="127.0.0.1") as tls,
    ):
        found = tls.getpeercert()
        assert found is not None
        return str(found["serialNumber"])


def test_requests_pass_over_tls_on_both_sides(world: World) -> None:
    """A client with a certificate is served; the backend sees the gateway's own, under the name it expects."""
    assert world.gateway.infer().json()["backend"] == "one"
    assert ((("commonName", "upstream"),),) in world.triton.peers


def test_a_client_without_a_certificate_is_not_served(world: World) -> None:
    """Nor is one whose certificate somebody else has signed."""
    stranger = Authority(world.gateway.folder / "stranger").issue("client")
    for own in (None, stranger):
        with httpx.Client(verify=world.trusting(own), trust_env=False) as client, pytest.raises(httpx.HTTPError):
            client.get(f"{world.gateway.url}/v2/health/live")


def test_old_protocols_and_plain_http_are_refused(world: World) -> None:
    """Nothing below TLS 1.2 is spoken, and nothing else on a TLS port."""
    with socket.create_connection(("127.0.0.1", world.gateway.port), 5) as plain:
        plain.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert not plain.recv(100).startswith(b"HTTP/")
    context = world.trusting(world.client)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    with (
        socket.create_connection(("127.0.0.1", world.gateway.port), 5) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as tls,
    ):
        assert tls.version() in {"TLSv1.2", "TLSv1.3"}
    # A hello of TLS 1.0, by hand: the library refuses to be told so without a warning.
    with socket.create_connection(("127.0.0.1", world.gateway.port), 5) as plain:
        plain.sendall(bytes.fromhex("160301002f0100002b0301" + "00" * 33 + "00040035002f0100"))
        with suppress(ConnectionError):
            hello = b"\x16"
            assert not plain.recv(7).startswith(hello)


def test_a_client_that_never_finishes_its_handshake_is_cut_off(world: World) -> None:
    """Within the handshake's own time limit; others are served meanwhile."""
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", world.gateway.port), 5) as silent:
        silent.settimeout(10)
        assert world.gateway.infer().status_code == 200
        with suppress(ConnectionError):
            assert silent.recv(1) == b""
    assert time.monotonic() - began < 8


def test_handshakes_under_way_are_bounded(tmp_path: Path) -> None:
    """Who comes while `max_handshakes` are not done waits in the backlog, and is served when one of them goes."""
    ours = Authority(tmp_path / "ours")
    tls = {"cert_file": str(ours.issue("gateway", "127.0.0.1")), "handshake_timeout_s": 60.0, "max_handshakes": 2}
    context = ssl.create_default_context(cafile=str(ours.file))
    with backend() as triton:
        config = settings(tmp_path, triton.url, workers=1, listen={"port": 0, "tls": tls})
        with serving(tmp_path, config, [route("echo")], verify=context) as gateway:
            address = ("127.0.0.1", gateway.port)
            with socket.create_connection(address, 5) as first, socket.create_connection(address, 5):
                with socket.create_connection(address, 1) as third, pytest.raises(TimeoutError):
                    context.wrap_socket(third, server_hostname="127.0.0.1")
                first.close()
                assert gateway.infer().json()["backend"] == "one"


def test_a_renewed_certificate_is_used_without_a_restart(world: World) -> None:
    """New connections get it, old ones go on; a broken file changes nothing and is reported."""
    before, pids = _peer(world), world.gateway.process.pid
    with world.gateway.client() as old:
        assert old.get("/v2/health/live").status_code == 200
        path = world.ours.issue("gateway", "127.0.0.1")
        until(lambda: _peer(world) != before)
        assert old.get("/v2/health/live").status_code == 200
    good, renewed = path.read_bytes(), _peer(world)
    path.write_text("nonsense")
    until(lambda: "no certificate with its private key" in world.gateway.log)
    assert _peer(world) == renewed
    path.write_bytes(good)
    assert pids == world.gateway.process.pid
    assert world.gateway.process.poll() is None


def test_the_gateways_certificate_for_backends_is_renewed(world: World) -> None:
    """Its next connections show the new one."""
    world.ours.issue("upstream")
    seen = len(world.triton.peers)
    until(lambda: world.gateway.infer().status_code == 200 and len(world.triton.peers) > seen)


def test_commands_speak_tls_to_the_admin_api(world: World) -> None:
    """With its authority they are answered, without they refuse to trust it."""
    done = world.gateway.command("get", "routes", SLUICE_ADMIN_CA_FILE=str(world.ours.file))
    assert (done.returncode, "echo" in done.stdout) == (0, True)
    refused = world.gateway.command("get", "routes")
    assert refused.returncode != 0
    assert "certificate" in refused.stderr.lower()
    applied = world.gateway.command("apply", "routes.yaml", SLUICE_ADMIN_CA_FILE=str(world.ours.file))
    assert applied.returncode == 0, applied.stderr


class _Unwatched:
    """No probes, no look-ups."""

    def watch_backend(self, pool: PoolRuntime, backend: BackendRuntime) -> None:
        """Nothing."""

    def watch_names(self, pool: PoolRuntime) -> None:
        """Nothing."""


async def test_a_backend_is_not_trusted_for_nothing(world: World, tmp_path: Path) -> None:
    """Under another authority, or a name that is not in its certificate, no connection is made."""
    own = str(world.ours.issue("upstream"))
    ours, other = str(world.ours.file), str(Authority(tmp_path, "other").file)
    named = {"cert_file": own, "server_name": "triton.internal"}
    cases = [
        (BackendTls(ca_file=ours, **named), True),
        (BackendTls(ca_file=other, **named), False),
        (BackendTls(ca_file=ours, cert_file=own), False),  # its certificate has no 127.0.0.1
        (BackendTls(ca_file=ours, cert_file=own, server_name="triton.elsewhere"), False),
        (BackendTls(verify=False, cert_file=own), True),
        (BackendTls(ca_file=str(tmp_path / "missing")), False),
    ]
    for tls, trusted in cases:
        config = Pool(name="p", backends=(PoolBackend(url=world.triton.url),), tls=tls)
        pool = PoolRuntime(config, Heads(Limits()), 65536, _Unwatched())
        if trusted:
            (await pool.backends[0].connect()).abort()
        else:
            with pytest.raises(OSError, match=r"certificate|cannot read"):
                await pool.backends[0].connect()


def test_wrong_files_are_found_before_anything_starts(tmp_path: Path) -> None:
    """Every one of them, by name, in one go, with the exit code of configuration."""
    (tmp_path / "empty.pem").write_text("")
    config = settings(
        tmp_path,
        "https://127.0.0.1:1",
        listen={"port": 0, "tls": {"cert_file": "missing.pem"}},
        admin={"port": 0, "tls": {"cert_file": "empty.pem"}, "tokens_file": "tokens.json"},
        auth={"keys_file": "keys.json", "jwt": {"jwks_file": "jwks.json", "audience": "a", "issuer": "i"}},
    )
    config["pools"][0]["tls"] = {"ca_file": "empty.pem"}
    (tmp_path / "keys.json").write_text('{"keys": [{"id": "a"}]}')
    (tmp_path / "jwks.json").write_text('{"keys": []}')
    (tmp_path / "sluice.yaml").write_text(yaml.safe_dump(config))
    done = sluice("serve", "--dry-run", cwd=tmp_path)
    assert done.returncode == 3
    for part in (
        "listen.tls.cert_file: cannot read missing.pem",
        "admin.tls: no certificate with its private key in empty.pem",
        "pools[0].tls.ca_file: empty.pem holds no certificates",
        "auth.keys_file: keys.json: Object missing required field",
        "auth.jwt.jwks_file: jwks.json",
        "admin.tokens_file: cannot read tokens.json",
    ):
        assert part in done.stderr
    assert "Traceback" not in done.stderr
