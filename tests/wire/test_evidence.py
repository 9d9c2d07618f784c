"""What a worker collects for the controller to judge: sampled answers, pairs with copies, sticky keys, sequences."""

import json
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from gateway.config import Limits
from gateway.core.route import Evidence, Match, Shadow, Variant
from tests.wire.backend import Backend, Script
from tests.wire.gateway import Gateway, infer, pool, route, running, until

PAIR = (
    Variant(name="a", model="model", version="1", weight=50.0),
    Variant(name="b", model="model", version="2", weight=50.0),
    Variant(name="c", model="model", version="3"),
)
VIP = (Match(header="x-vip", value="1", variant="b"),)
EVERYTHING = Evidence(answers=100.0, max_body_bytes=2000, max_per_s=100_000)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, Backend]]:
    """A worker whose routes are judged: by answers, by pairs, by keys, with sequences."""
    routes = (
        route(
            "answers",
            variants=PAIR,
            evidence=EVERYTHING,
            epoch=7,
            matches=(Match(header="x-vip", value="1", variant="b"),),
        ),
        route("pairs", variants=PAIR, shadows=(Shadow(variant="c", compare=True),)),
        route("noisy", variants=PAIR, shadows=(Shadow(variant="c", compare=True, noise=50.0),)),
        route(
            "keys",
            variants=PAIR,
            sticky_header="x-user",
            evidence=Evidence(keys=True, slow_bin=60),
            epoch=3,
            salt="fixed",
        ),
        route("few", evidence=Evidence(answers=100.0, max_per_s=5)),
        route("sequences", variants=PAIR, shadows=(Shadow(variant="c", sample=50.0),)),
    )
    with Backend("a") as backend:
        backend.config["sequence_batching"] = {"max_sequence_idle_microseconds": 5_000_000}
        with running(routes, (pool(backend.url),), Limits()) as gateway:
            yield gateway, backend


def ask(gateway: Gateway, name: str, count: int = 1, extra: bytes = b"", body: bytes = b"{}") -> Counter[str]:
    """Sends requests on one connection; which variants answered."""
    seen: Counter[str] = Counter()
    with gateway.connect() as wire:
        for _ in range(count):
            wire.send(infer(body, name=name, extra=extra))
            answer = wire.answer()
            assert answer.status < 600
            seen[answer.headers.get("x-sluice-variant", "")] += 1
    return seen


def test_good_answers_are_sampled_whole(judged: tuple[Gateway, Backend]) -> None:
    """Each good answer comes once with its variant, epoch, request id and body; errors do not come."""
    gateway, _ = judged
    gateway.samples.clear()
    seen = ask(gateway, "answers", 40)
    ask(gateway, "answers", 3, Script(status=500).header())
    until(lambda: len(gateway.samples) >= 40, "40 samples")
    gateway.settle()
    assert Counter(sample.original.variant for sample in gateway.samples) == seen
    assert {(sample.route, sample.epoch, sample.pinned, sample.copy) for sample in gateway.samples} == {
        ("answers", 7, False, None)
    }
    assert len({sample.request_id for sample in gateway.samples}) == 40
    assert all(json.loads(sample.original.body)["backend"] == "a" for sample in gateway.samples)


def test_a_pinned_answer_says_so(judged: tuple[Gateway, Backend]) -> None:
    """What a rule or the client decided is marked: nobody drew it at random."""
    gateway, _ = judged
    gateway.samples.clear()
    ask(gateway, "answers", 2, b"x-vip: 1\r\n")
    ask(gateway, "answers", 2, b"x-sluice-variant: c\r\n")
    until(lambda: len(gateway.samples) == 4, "4 samples")
    assert all(sample.pinned for sample in gateway.samples)


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_long_answers_are_not_sampled(judged: tuple[Gateway, Backend], framing: str) -> None:
    """An answer above the bound reaches the client whole and the controller not at all; one below comes whole."""
    gateway, _ = judged
    gateway.samples.clear()
    ask(gateway, "answers", 1, Script(size=300_000, framing=framing).header())  # type: ignore[arg-type]
    ask(gateway, "answers", 1, Script(size=1500, chunk=100, drip_s=0.001, framing=framing).header())  # type: ignore[arg-type]
    until(lambda: len(gateway.samples) == 1, "one sample")
    gateway.settle()
    assert [len(sample.original.body) for sample in gateway.samples] == [1500]


def test_samples_are_bounded_per_second(judged: tuple[Gateway, Backend]) -> None:
    """Not more than `max_per_s` answers of a route go out in a second, however many there are."""
    gateway, _ = judged
    gateway.samples.clear()
    ask(gateway, "few", 200)
    gateway.settle()
    assert 0 < len(gateway.samples) <= 5 * 10  # a slow machine may have needed some seconds


def test_pairs_hold_original_and_copy(judged: tuple[Gateway, Backend]) -> None:
    """Each request of a compared shadow comes as one pair: the client's answer and the copy's."""
    gateway, _ = judged
    gateway.samples.clear()
    seen = ask(gateway, "pairs", 20)
    until(lambda: len(gateway.samples) == 20, "20 pairs")
    assert Counter(pair.original.variant for pair in gateway.samples) == seen
    for pair in gateway.samples:
        assert pair.copy is not None
        assert (pair.copy.variant, pair.copy.status, pair.noise) == ("c", 200, False)
        assert json.loads(pair.copy.body)["target"] == "/v2/models/model/versions/3/infer"


def test_a_failed_copy_is_a_pair_too(judged: tuple[Gateway, Backend]) -> None:
    """Where the copy failed and the original did not, the pair says status 0 or the error."""
    gateway, backend = judged
    gateway.samples.clear()
    with gateway.connect() as wire:
        wire.send(infer(name="pairs"))
        assert wire.answer().status == 200
        until(lambda: len(gateway.samples) == 1, "a good pair")
        # The next copy arrives behind its original on the shadow's own connection.
        backend.queue.extend([Script(), Script(then="reset", cut=0)])
        wire.send(infer(name="pairs"))
        wire.answer()
    until(lambda: len(gateway.samples) == 2, "a second pair")
    backend.queue.clear()
    statuses = sorted(pair.copy.status for pair in gateway.samples if pair.copy is not None)
    assert statuses == [0, 200]


def test_the_noise_arm_goes_to_the_variant_that_served(judged: tuple[Gateway, Backend]) -> None:
    """About half the copies go to the original's own variant and say so; the rest to the shadow's."""
    gateway, _ = judged
    gateway.samples.clear()
    ask(gateway, "noisy", 200)
    until(lambda: len(gateway.samples) == 200, "200 pairs")
    noise = [pair for pair in gateway.samples if pair.noise]
    assert all(pair.copy is not None and pair.copy.variant == pair.original.variant for pair in noise)
    assert all(p.copy is not None and p.copy.variant == "c" for p in gateway.samples if not p.noise)
    assert abs(len(noise) - 100) < 6 * 50**0.5


def test_sticky_keys_are_told_once_per_check(judged: tuple[Gateway, Backend]) -> None:
    """Each key comes once as assigned and once as failed, under the variant it sticks to, however often it asks."""
    gateway, _ = judged
    gateway.reports.clear()
    homes = {}
    for user in range(30):
        extra = b"x-user: u%d\r\n" % user
        (home,) = ask(gateway, "keys", 3, extra)
        ask(gateway, "keys", 2, extra + Script(status=500).header() if user < 5 else extra)
        homes[user] = home
    gateway.settle()
    rows = [row for report in gateway.reports for row in report.new_keys if row.route == "keys"]
    assert {row.epoch for row in rows} == {3}
    assigned = [key for row in rows if row.check == "assigned" for key in row.hashes]
    assert len(assigned) == len(set(assigned)) == 30
    by_variant = Counter(row.variant for row in rows if row.check == "assigned" for _ in row.hashes)
    assert by_variant == Counter(homes.values())
    failed = [key for row in rows if row.check == "server" for key in row.hashes]
    assert len(failed) == len(set(failed)) == 5
    assert set(failed) <= set(assigned)


def test_keys_that_named_their_variant_are_no_draws(judged: tuple[Gateway, Backend]) -> None:
    """A sticky key is told only where its hash chose the variant; who asked for one is counted apart."""
    gateway, _ = judged
    gateway.reports.clear()
    failing = Script(status=500).header()
    for user in range(10):
        extra = b"x-user: named%d\r\n" % user
        assert set(ask(gateway, "keys", 1, extra + b"x-sluice-variant: b\r\n" + failing)) <= {"b", ""}
        ask(gateway, "keys", 1, extra + failing if user == 0 else extra)
    gateway.settle()
    told = {"assigned": 0, "server": 0}
    for report in gateway.reports:
        for row in report.new_keys:
            if row.route == "keys":
                told[row.check] += len(row.hashes)
    assert told == {"assigned": 10, "server": 1}


def test_a_judged_route_is_reported_often(judged: tuple[Gateway, Backend]) -> None:
    """Reports that are due every minute come again and again while a rollout judges a route, and then no more."""
    _, backend = judged
    place = (pool(backend.url),)
    with running((route("m"),), place, report_interval_s=60.0) as gateway:
        gateway.publish((route("m", evidence=Evidence(judged=True)),), place)
        have = len(gateway.reports)
        until(lambda: len(gateway.reports) >= have + 6, "six reports within a minute", within_s=50)
        gateway.publish((route("m"),), place)
        have = len(gateway.reports)
        time.sleep(1.5)
        assert len(gateway.reports) <= have + 1


def test_a_sequence_is_copied_whole_or_not_at_all(judged: tuple[Gateway, Backend]) -> None:
    """Of 40 sequences about half are mirrored, each with all of its requests or none."""
    gateway, backend = judged
    backend.seen.clear()
    with gateway.connect() as wire:
        for number in range(1, 41):
            for step in range(3):
                flags = {"sequence_id": number, "sequence_start": step == 0, "sequence_end": step == 2}
                body = json.dumps({"parameters": flags}).encode()
                wire.send(infer(body, name="sequences", test_id=f"{number}-{step}"))
                assert wire.answer().status == 200
    report = gateway.settle()
    shadow = next(row for row in report.shadows if row.route == "sequences")
    assert not shadow.dropped
    copied = Counter(
        seen.test_id.split("-")[0] for seen in list(backend.seen) if seen.headers.get("x-sluice-shadow") == "true"
    )
    assert set(copied.values()) == {3}
    assert 5 < len(copied) < 35


def test_old_epochs_and_routes_are_forgotten() -> None:
    """A worker reports the last epochs of the routes it serves, however many there were."""
    with Backend("a") as backend:
        place = pool(backend.url)
        with running((route(epoch=1), route("gone")), (place,)) as gateway:
            for epoch in range(1, 9):
                gateway.publish((route(epoch=epoch),), (place,))
                ask(gateway, "m", 2)
            report = gateway.settle()
            counted = {row.epoch: sum(row.outcomes) for row in report.variants if not row.pinned}
            assert {row.route for row in report.variants} == {"m"}
            assert counted == {5: 2, 6: 2, 7: 2, 8: 2}
