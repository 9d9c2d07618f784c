"""Which variant serves a request, and within which time."""

from collections import Counter
from itertools import pairwise

import pytest
from scipy.stats import binomtest

from gateway.config import Limits
from gateway.core.route import Shadow, Variant
from gateway.telemetry.records import Outcome
from tests.wire.backend import Backend, Script, backends
from tests.wire.client import ClosedError
from tests.wire.gateway import Gateway, decoded, infer, pool, route, running, until


def _variant(gateway: Gateway, count: int, name: str = "split", extra: bytes = b"") -> Counter[str]:
    with gateway.connect() as wire:
        wire.send(infer(name=name, extra=extra) * count)
        return Counter(wire.answer().headers["x-sluice-variant"] for _ in range(count))


def test_weights(gateway: Gateway) -> None:
    """Two thousand draws agree with the configured 70 to 30, and each variant asks for its own version."""
    found = _variant(gateway, 2000)
    assert found.total() == 2000
    assert binomtest(found["a"], 2000, 0.7).pvalue > 1e-6


def test_variant_decides_the_path(gateway: Gateway, backend: Backend) -> None:
    """The backend is asked for the variant's model and version, with the client's query."""
    for variant, version in (("a", "1"), ("b", "2")):
        with gateway.connect() as wire:
            wire.send(
                infer(name="split", extra=f"x-sluice-variant: {variant}\r\n".encode()).replace(b"infer ", b"infer?q=1 ")
            )
            assert decoded(wire.answer().body)["target"] == f"/v2/models/model/versions/{version}/infer?q=1"


@pytest.mark.parametrize(
    ("extra", "expected"),
    [(b"x-tier: gold\r\n", "b"), (b"X-Tier: gold\r\n", "b"), (b"x-sluice-variant: a\r\nx-tier: gold\r\n", "a")],
)
def test_rules_before_chance(gateway: Gateway, extra: bytes, expected: str) -> None:
    """A matching header decides, a named variant decides before it, whatever the weights are."""
    assert _variant(gateway, 20, extra=extra) == {expected: 20}


def test_version_in_the_path_decides(gateway: Gateway) -> None:
    """A version that a variant serves is that variant; any other is unknown, in Triton's words."""
    with gateway.connect() as wire:
        for _ in range(10):
            wire.send(infer(name="split").replace(b"split/", b"split/versions/2/"))
            assert wire.answer().headers["x-sluice-variant"] == "b"
        wire.send(infer(name="split").replace(b"split/", b"split/versions/3/"))
        answer = wire.answer()
        assert answer.status == 404
        assert "version 3 is not found" in decoded(answer.body)["error"]


def test_unknown_variant(gateway: Gateway) -> None:
    """The answer names those there are."""
    with gateway.connect() as wire:
        wire.send(infer(name="split", extra=b"x-sluice-variant: c\r\n"))
        answer = wire.answer()
        assert answer.status == 404
        assert "known: a, b" in decoded(answer.body)["error"]


def test_stickiness(gateway: Gateway) -> None:
    """A key has one variant, keys spread by weight, and requests without a key are drawn."""
    found = Counter[str]()
    for user in range(400):
        [variant] = _variant(gateway, 2, "sticky", f"x-user: {user}\r\n".encode())
        found[variant] += 1
    assert binomtest(found["a"], 400, 0.7).pvalue > 1e-6
    assert len(_variant(gateway, 200, "sticky")) == 2


def test_growing_weight_only_moves_keys_one_way() -> None:
    """While a candidate's weight grows, a user who has it keeps it."""
    with Backend("a") as backend, running((route(),), (pool(backend.url),)) as gateway:
        held: list[set[int]] = []
        for weight in (0.0, 5.0, 25.0, 60.0, 100.0):
            pair = (Variant(name="a", model="m", weight=100 - weight), Variant(name="b", model="m", weight=weight))
            gateway.publish((route("sticky", variants=pair, sticky_header="x-user"),), (pool(backend.url),))
            with gateway.connect() as wire:
                wire.send(b"".join(infer(name="sticky", extra=f"x-user: {user}\r\n".encode()) for user in range(200)))
                held.append({user for user in range(200) if wire.answer().headers["x-sluice-variant"] == "b"})
        assert all(before <= after for before, after in pairwise(held))
        assert (len(held[0]), len(held[-1])) == (0, 200)


@pytest.mark.parametrize("asked", [b"", b"x-sluice-timeout-ms: 60000\r\n"])
def test_route_timeout(gateway: Gateway, backend: Backend, asked: bytes) -> None:
    """The route's time holds, and a client cannot lengthen it; the 504 has Triton's error shape."""
    before = gateway.outcome(Outcome.TIMEOUT)
    with gateway.connect() as wire:
        wire.send(infer(name="brief", extra=asked + Script(cut=0, then="hang").header()))
        answer = wire.answer()
        assert answer.status == 504
        assert answer.headers["content-type"] == "application/json"
        assert decoded(answer.body) == {"error": "deadline exceeded"}
        wire.send(infer(test_id="next"))
        assert decoded(wire.answer().body)["id"] == "next"
    assert gateway.outcome(Outcome.TIMEOUT) == before + 1


def test_client_timeout_is_shorter(gateway: Gateway) -> None:
    """A client's own time ends its request early, wherever it is: waiting, in its upload, in its answer."""
    limit = b"x-sluice-timeout-ms: 200\r\n"
    with gateway.connect() as wire:
        wire.send(infer(extra=limit + Script(delay_s=30, then="hang").header()))
        assert wire.answer().status == 504
        wire.send(infer(b"x" * 100_000, extra=limit)[:-1])
        assert wire.answer().status == 504
        wire.send(b"x")
        wire.send(infer(extra=limit + Script(size=10, chunk=1, drip_s=1).header()))
        with pytest.raises(ClosedError):
            wire.answer()


_SHADOWS = {
    "answers": (Script(), "ok"),
    "hangs": (Script(cut=0, then="hang"), "timeouts"),
    "sends 1 GB": (Script(size=1 << 30), "errors"),
    "is slow": (Script(size=100, chunk=1, drip_s=0.05), "timeouts"),
    "resets": (Script(cut=0, then="reset"), "errors"),
    "fails": (Script(status=500, body="{}"), "errors"),
}


@pytest.mark.parametrize("name", [*_SHADOWS, "is down"])
def test_shadow_is_nobodys_trouble(name: str) -> None:
    """Whatever a shadow does, clients are served, copies are counted by how they ended, and memory comes back."""
    with backends("main", "shadow") as (main, other):
        script, ended = _SHADOWS.get(name, (Script(), "errors"))
        other.script = script
        pair = (Variant(name="a", model="m", weight=100), Variant(name="b", model="m", weight=0, pool="shadow"))
        shadow = Shadow(variant="b", timeout_s=0.4, max_in_flight=8, max_response_bytes=1 << 20)
        fleets = (pool(main.url), pool(other.url, name="shadow"))
        with running((route(variants=pair, shadows=(shadow,)),), fleets) as gateway:
            if name == "is down":
                other.kill()
            before = gateway.rss()
            for size in (2, 50_000, 500_000):
                with gateway.connect() as wire:
                    for i in range(20):
                        wire.send(infer(b"x" * size, test_id=str(i)))
                        answer = wire.answer()
                        assert (answer.status, decoded(answer.body)["backend"]) == (200, "main")
            report = gateway.settle()
            [counts] = report.shadows
            assert counts.sent == getattr(counts, ended) > 0
            assert counts.sent + sum(counts.dropped.values()) == 60
            assert gateway.rss() - before < 30 << 20
            if name == "answers":
                assert {seen.headers["x-sluice-shadow"] for seen in other.seen} == {"true"}


def test_shadow_never_takes_the_primaries_memory() -> None:
    """Copies that pile up at a hung shadow use a bound of their own and shed no client."""
    with backends("main", "shadow") as (main, other):
        other.script = Script(cut=0, then="hang")
        pair = (Variant(name="a", model="m", weight=100), Variant(name="b", model="m", weight=0, pool="shadow"))
        shadow = Shadow(variant="b", timeout_s=1.0, max_in_flight=1000)
        limits = Limits(max_buffered_bytes=400_000)
        fleets = (pool(main.url), pool(other.url, name="shadow"))
        with running((route(variants=pair, shadows=(shadow,)),), fleets, limits) as gateway, gateway.connect() as wire:
            for _ in range(60):
                wire.send(infer(b"x" * 30_000))
                assert wire.answer().status == 200
            [counts] = gateway.settle().shadows
            assert counts.dropped["busy"] > 0


@pytest.mark.parametrize("reset", [True, False])
def test_leaving_at_any_byte(gateway: Gateway, backend: Backend, reset: bool) -> None:
    """A client may leave at any byte of its upload or its answer: nothing stays behind, nobody else notices."""
    short = infer(b"x" * 50, test_id="gone", extra=Script(size=300, chunk=100, drip_s=0.001).header())
    long = infer(b"x" * 150_000, test_id="gone", extra=Script(size=150_000, chunk=50_000).header())
    places = [(short, at) for at in range(1, len(short), 9)] + [(long, at) for at in range(1, len(long), 17_011)]
    for data, at in places:
        wire = gateway.connect()
        wire.send(data[:at])
        wire.reset() if reset else wire.socket.close()
    for data, size in ((short, 300), (long, 150_000)):
        for at in range(0, size, size // 25):
            wire = gateway.connect()
            wire.send(data)
            left = at
            while left > 0 and (got := wire.socket.recv(min(left, 1 << 16))):
                left -= len(got)
            wire.reset() if reset else wire.socket.close()
    with gateway.connect() as wire:
        wire.send(infer(test_id="next"))
        assert decoded(wire.answer().body)["id"] == "next"
    until(lambda: gateway.report().connections <= 1, "every connection is gone")
    report = gateway.settle()
    assert report.buffered_bytes == 0
