"""Power of two choices."""

from collections import Counter
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.balance import choose


@dataclass
class Server:
    """What balancing looks at."""

    name: int
    in_flight: int = 0
    weight: float = 1.0
    waiting: float = 0.0


_servers = st.lists(st.tuples(st.integers(0, 50), st.floats(0.1, 10)), min_size=1, max_size=10).map(
    lambda rows: [Server(i, in_flight, weight) for i, (in_flight, weight) in enumerate(rows)]
)


def test_nobody_and_one() -> None:
    """Without a backend there is none to choose, and one is always chosen."""
    assert choose([], 0.5) is None
    one = Server(0, in_flight=9)
    assert choose([one], 0.999) is one


@given(_servers, st.floats(0, 1, exclude_max=True))
def test_the_worst_is_never_chosen(servers: list[Server], chance: float) -> None:
    """Of two different backends the less loaded one wins, so a backend worse than all others never does."""
    found = choose(servers, chance)
    assert found is not None
    costs = sorted((server.in_flight + 1) / server.weight for server in servers)
    if len(servers) > 1 and costs[-1] > costs[-2]:
        assert (found.in_flight + 1) / found.weight < costs[-1]


def test_both_choices_cover_all() -> None:
    """Among equals every backend is drawn equally often, from one draw of chance."""
    servers = [Server(i) for i in range(5)]
    counts = Counter(choose(servers, i / 10_000).name for i in range(10_000))  # type: ignore[union-attr]
    assert all(1700 < counts[i] < 2300 for i in range(5))


def test_what_waits_inside_a_backend_is_load() -> None:
    """A long queue of its own counts as leases do, and for its weight."""
    for chance in (0.1, 0.6):
        assert choose([Server(0, in_flight=3), Server(1, waiting=5)], chance).name == 0  # type: ignore[union-attr]
        assert choose([Server(0, in_flight=3), Server(1, waiting=5, weight=2)], chance).name == 1  # type: ignore[union-attr]


def test_leases_follow_weight() -> None:
    """Backends that keep what they get end up with leases in proportion to their weights."""
    servers = [Server(0, weight=1), Server(1, weight=3)]
    for i in range(400):
        found = choose(servers, (i * 0.618034) % 1)
        assert found is not None
        found.in_flight += 1
    assert 2.5 < servers[1].in_flight / servers[0].in_flight < 3.5
