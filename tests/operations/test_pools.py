"""A pool while it changes: names that are looked up again, backends drained and warmed up, settings taken over."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import Limits
from gateway.core.balance import warmth
from gateway.core.pool import Backend, BackendTls, Ejection, Pool, Probe, keep_drained
from gateway.core.rate import interval_ns, spend, tolerance_ns
from gateway.dataplane.addresses import address, keep_resolved, system_lookup
from gateway.dataplane.pool import BackendRuntime, PoolRuntime
from gateway.http.head import Heads
from tests.operations.backend import backend

Until = Callable[[Callable[[], object]], Awaitable[None]]


class Watcher:
    """Looks names up with a function of the test's own, and notes who is to be probed."""

    def __init__(self, lookup: Callable[[str, int], Awaitable[list[str]]] = system_lookup) -> None:
        self.probed: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []
        self._lookup = lookup

    def watch_backend(self, pool: PoolRuntime, backend: BackendRuntime) -> None:
        """Notes it."""
        self.probed.append(backend.url)

    def watch_names(self, pool: PoolRuntime) -> None:
        """Keeps looking."""
        self.tasks.append(asyncio.get_running_loop().create_task(keep_resolved(pool, self._lookup)))


def pool_of(*backends: Backend, watcher: Watcher | None = None, **settings: object) -> PoolRuntime:
    """A pool without probes, unless some are given."""
    config = Pool(name="p", backends=backends, **{"probe": Probe(interval_s=0), **settings})  # type: ignore[arg-type]
    return PoolRuntime(config, Heads(Limits()), 65536, watcher or Watcher())


@pytest.fixture
def until() -> Until:
    """Polls for a condition."""

    async def wait(condition: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.01)

    return wait


async def test_a_name_is_followed(until: Until) -> None:
    """Addresses come and go; one that stays keeps its leases and connections; a failing look-up changes nothing."""
    answers: list[list[str] | OSError] = [["127.0.0.1"]]

    async def lookup(host: str, port: int) -> list[str]:
        assert (host, port) == ("triton.internal", 8000)
        found = answers[-1]
        if isinstance(found, OSError):
            raise found
        return found

    watcher = Watcher(lookup)
    pool = pool_of(Backend(url="http://triton.internal:8000", dns=True, weight=2.0), watcher=watcher, resolve_s=0.05)
    assert pool.lease() is None
    await until(lambda: pool.backends)
    first = pool.lease()
    assert first is not None
    assert (first.url, first.host_line, first.weight) == (
        "http://127.0.0.1:8000",
        b"Host: triton.internal:8000\r\n",
        2.0,
    )
    answers.append(["127.0.0.2", "127.0.0.1", "::1", "127.0.0.2"])
    await until(lambda: len(pool.backends) == 3)
    assert first in pool.backends
    assert {b.url for b in pool.backends} >= {"http://[::1]:8000", "http://127.0.0.2:8000"}
    answers.append(OSError("no name service"))
    await asyncio.sleep(0.2)
    assert len(pool.backends) == 3
    answers.append(["127.0.0.2"])
    await until(lambda: len(pool.backends) == 1)
    assert first.retired
    assert first.in_flight == 1  # whoever holds the lease gives it back to this same object
    pool.retire()
    await asyncio.wait_for(asyncio.gather(*watcher.tasks), 5)


async def test_the_systems_names_are_asked(until: Until) -> None:
    """`localhost` is looked up as everything else on the machine does it."""
    with backend() as triton:
        pool = pool_of(Backend(url=f"http://localhost:{triton.port}", dns=True), resolve_s=0.05)
        await until(lambda: any(b.url == triton.url for b in pool.backends))
        connection = await next(b for b in pool.backends if b.url == triton.url).connect()
        await until(lambda: triton.connections)
        connection.abort()
        pool.retire()


async def test_settings_are_taken_over_in_place() -> None:
    """Backends that stay are the same objects; new ones wait for a probe; those that are gone close."""
    watcher = Watcher()
    pool = pool_of(Backend(url="http://a:1"), Backend(url="http://b:1"), watcher=watcher)
    a, b = pool.backends
    leased = pool.lease()
    assert leased is not None
    probing = replace(pool.config, probe=Probe(interval_s=1.0), max_in_flight=7)
    pool.reconfigure(replace(probing, backends=(Backend(url="http://a:1", weight=3.0), Backend(url="http://c:1"))))
    assert [x.url for x in pool.backends] == ["http://a:1", "http://c:1"]
    assert pool.backends[0] is a
    assert (a.weight, pool.max_in_flight, b.retired, a.retired) == (3.0, 7, True, False)
    assert watcher.probed == ["http://a:1", "http://c:1"]
    assert not pool.backends[1].health.up
    pool.reconfigure(replace(pool.config, tls=BackendTls(verify=False)))
    assert pool.tls.config == BackendTls(verify=False)


async def test_a_drained_backend_gets_nothing_even_in_panic() -> None:
    """Nor does it count when a pool is judged: not for panic, not for ejection, not for readiness."""
    pool = pool_of(
        *(Backend(url=f"http://{name}:1") for name in "abc"), drained=("http://a:1",), ejection=Ejection(consecutive=1)
    )
    a, b, c = pool.backends
    assert pool.healthy == 2
    assert {pool.lease() for _ in range(50)} == {b, c}
    b.observe(False)
    assert [x.status().state for x in pool.backends] == ["drained", "ejected", "up"]
    assert {pool.lease() for _ in range(50)} == {c}
    c.health.up = False
    pool.refresh()  # now nothing is healthy: panic, with all but the drained one
    assert set(pool.available) == {b, c}
    pool.reconfigure(replace(pool.config, drained=()))
    assert not a.drained
    assert pool.healthy == 1


async def test_a_backend_that_comes_back_is_warmed_up(until: Until) -> None:
    """It gets some requests at once, however idle the others are, and its whole share in the end."""
    random.seed(7)
    pool = pool_of(*(Backend(url=f"http://{name}:1") for name in "ab"), slow_start_s=0.5, panic_percent=0)
    b = pool.backends[1]

    def share(of: BackendRuntime) -> float:
        drawn = Counter(_draw(pool) for _ in range(1000))
        return drawn[of] / 1000

    assert 0.4 < share(b) < 0.6  # at first all are equally new
    b.health.up = False
    pool.refresh()
    assert share(b) == 0
    b.health.up = True
    pool.refresh()
    began = time.monotonic()
    early = share(b)
    assert 0 < early < 0.25 or time.monotonic() - began > 0.1
    await asyncio.sleep(0.7)
    await until(lambda: 0.4 < share(b) < 0.6)


async def test_an_ejected_backend_is_tried_by_one_request_at_a_time(until: Until) -> None:
    """However many requests it held, it was ejected once; then one request decides whether it gets others."""
    ejection = Ejection(consecutive=3, base_s=0.05, max_percent=100)
    urls = [Backend(url=f"http://{name}:1") for name in "abcd"]
    pool = pool_of(*urls, ejection=ejection, slow_start_s=0, panic_percent=0)
    broken = pool.backends[0]
    for _ in range(100):
        broken.observe(False)
    assert broken.ejections == 1
    assert broken not in pool.available

    for other in pool.backends[1:]:
        other.in_flight += 5  # so that it would be chosen
    await until(lambda: broken in pool.available)
    broken.in_flight += 1
    assert broken not in {_draw(pool) for _ in range(200)}
    broken.in_flight -= 1
    assert broken in {_draw(pool) for _ in range(200)}
    broken.observe(False)
    assert broken.ejections == 2

    await until(lambda: broken in pool.available)
    broken.observe(True)
    broken.in_flight += 1
    assert broken in {_draw(pool) for _ in range(200)}


async def test_the_only_backends_left_serve_although_they_are_on_trial(until: Until) -> None:
    """When all come back at once, nobody is turned away for want of one that has shown that it is well."""
    pool = pool_of(Backend(url="http://a:1"), Backend(url="http://b:1"), ejection=Ejection(consecutive=1, base_s=0.05))
    a, b = pool.backends
    a.observe(False)
    b.health.up = False
    await until(lambda: a in pool.available)
    leases = [pool.lease() for _ in range(5)]
    assert leases == [a] * 5


def _draw(pool: PoolRuntime) -> BackendRuntime:
    found = pool.lease()
    assert found is not None
    found.in_flight -= 1
    return found


def test_addresses_of_backends() -> None:
    """A literal stays as written; an address behind a name keeps the name for Host and TLS."""
    plain = address(Backend(url="http://127.0.0.1"))
    assert (plain.url, plain.host, plain.port, plain.authority) == ("http://127.0.0.1", "127.0.0.1", 80, "127.0.0.1")
    named = address(Backend(url="https://triton.internal"), "fd00::1")
    assert (named.url, named.host, named.port) == ("https://[fd00::1]:443", "fd00::1", 443)
    assert (named.name, named.authority, named.tls) == ("triton.internal", "triton.internal", True)


def test_what_is_drained_stays_so_over_new_settings() -> None:
    """As long as the backend exists; behind a name any address may."""
    before = (Pool(name="p", backends=(Backend(url="a"), Backend(url="b")), drained=("a", "b")),)
    after = (
        Pool(name="p", backends=(Backend(url="b"), Backend(url="c"))),
        Pool(name="q", backends=(Backend(url="a"),)),
    )
    assert [pool.drained for pool in keep_drained(after, before)] == [("b",), ()]
    named = (Pool(name="p", backends=(Backend(url="n", dns=True),)),)
    assert keep_drained(named, before)[0].drained == ("a", "b")


@given(st.floats(0, 100), st.floats(0.001, 100))
def test_warmth_is_a_share(age_s: float, slow_start_s: float) -> None:
    """From a tenth to all, never falling, and all of it when the time is over."""
    now, later = warmth(age_s, slow_start_s), warmth(age_s * 2, slow_start_s)
    assert 0.1 <= now <= later <= 1
    assert warmth(slow_start_s, slow_start_s) == 1


@given(
    st.floats(0.01, 1e6),
    st.integers(0, 1000),
    st.lists(st.integers(0, 3_000_000_000), min_size=1, max_size=200),
)
def test_a_rate_is_never_exceeded(rate: float, burst: int, gaps_ns: list[int]) -> None:
    """Over any span no more pass than the burst and what the rate allows; a refused one may pass after its wait."""
    interval, tolerance = interval_ns(rate), tolerance_ns(rate, burst)
    arrival, now, passed = 0, 10**18, []
    for gap in gaps_ns:
        now += gap
        arrival, wait = spend(arrival, now, interval, tolerance)
        if wait:
            assert spend(arrival, now + wait, interval, tolerance)[1] == 0
            assert spend(arrival, now + wait - 1, interval, tolerance)[1] > 0
        else:
            passed.append(now)
    for i, first in enumerate(passed):
        for j in range(i, len(passed)):
            assert j - i <= tolerance // interval + (passed[j] - first) // interval + 1
