"""What a feature costs the tail, told apart from what the machine does meanwhile.

Two gateways with the same settings are loaded at the same moments: one by the route with the feature, the other by the
route without it, then the other way round. Whatever else the machine does meets both arms at once, and whatever makes
one process slower than its twin is in both arms once; both cancel out of a block, which is one such pair of visits.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from loadtest.resilience.figures import Paired, paired
from loadtest.resilience.gateway import Gateway
from loadtest.resilience.load import Load, Outcome, quantile_ms, request

_ORDER: Final = (((0, 1), (1, 0)), ((1, 0), (0, 1)))  # which gateway gets (with, without); alternating between blocks


class Crossed(msgspec.Struct, frozen=True):
    """All visits.

    Attributes:
        with_it, without: outcomes of each visit.
        ratio: p99 with the feature over p99 without it; None where a visit had no answer.
    """

    with_it: list[Sequence[Outcome]]
    without: list[Sequence[Outcome]]
    ratio: Paired | None


def cross(
    pair: tuple[Gateway, Gateway], routes: tuple[str, str], *, rate: float, seconds: float, blocks: int,
    say: Callable[[str], None],
) -> Crossed:  # fmt: skip
    """Visits both gateways at once, `blocks` times both ways round; the first block warms up and is not counted.

    Args:
        pair: two gateways alike.
        routes: with the feature, without it.
        rate: requests per second to each gateway.
        seconds: length of one visit.
        blocks: counted ones.
        say: told how far it is.
    """
    with_it: list[Sequence[Outcome]] = []
    without: list[Sequence[Outcome]] = []
    for number in range(blocks + 1):
        say(f"block {number} of {blocks}")
        for turn, (first, second) in enumerate(_ORDER[number % 2]):
            ports = (pair[first].port, pair[second].port)
            seen = asyncio.run(
                together(ports, (request(routes[0]), request(routes[1])), rate, seconds, 2 * number + turn)
            )
            if number:
                with_it.append(seen[0])
                without.append(seen[1])
    return Crossed(with_it, without, ratio_of(with_it, without))


async def together(
    ports: Sequence[int], payloads: Sequence[bytes], rate: float, seconds: float, seed: int
) -> list[Sequence[Outcome]]:
    """Loads several ports at the same moments, each at `rate`, with gaps of its own."""
    loads = [Load(port, payload) for port, payload in zip(ports, payloads, strict=True)]
    await asyncio.gather(
        *(load.at_rate(rate, seconds, seed=seed * len(loads) + number) for number, load in enumerate(loads))
    )
    return [load.outcomes for load in loads]


def ratio_of(with_it: Sequence[Sequence[Outcome]], without: Sequence[Sequence[Outcome]]) -> Paired | None:
    """The ratio of p99, block by block: the geometric mean of the two visits of a block."""
    p99 = [[quantile_ms(outcomes, 0.99) for outcomes in arm] for arm in (with_it, without)]
    blocks = [[math.sqrt(a * b) if a and b else None for a, b in zip(arm[::2], arm[1::2], strict=True)] for arm in p99]
    return paired(blocks[0], blocks[1])
