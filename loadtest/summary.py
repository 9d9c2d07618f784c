"""Figures of a run, from its cells: what happened in one slice of time, for one arm, request and variant."""

from collections.abc import Iterable, Mapping

import msgspec

from loadtest import histogram, selector


class Cell(msgspec.Struct, array_like=True):
    """Counts of one slice of time.

    `slice` numbers slices from the start of the run by intended send time. `latency` counts successful answers by
    microseconds since the intended send time (open arrivals) or the send itself (closed); `service` always since
    the send. `late` counts how long after its intended time a request left while a connection was free, which is
    the load generator's own delay. `errors` counts failures by kind; `items` sums the batch sizes of successes.
    """

    slice: int
    arm: str
    request: str
    variant: str
    latency: dict[int, int] = {}
    service: dict[int, int] = {}
    late: dict[int, int] = {}
    errors: dict[str, int] = {}
    items: int = 0


class Latency(msgspec.Struct, frozen=True):
    """Quantiles and mean in milliseconds; None where nothing was observed."""

    mean_ms: float | None
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    p999_ms: float | None
    max_ms: float | None


class Group(msgspec.Struct, frozen=True):
    """Figures of the selected cells over `measured_s` seconds. `error_rate` is a fraction of `requests`."""

    where: str
    requests: int
    errors: int
    error_rate: float
    error_kinds: dict[str, int]
    rate_per_s: float
    items_per_s: float
    measured_s: float
    latency: Latency
    service: Latency
    generator_late_p99_ms: float | None


def latency_of(buckets: Mapping[int, int]) -> Latency:
    """Quantiles of a histogram."""

    def ms(q: float) -> float | None:
        us = histogram.quantile_us(buckets, q)
        return None if us is None else us / 1000

    mean = histogram.mean_us(buckets)
    return Latency(
        mean_ms=None if mean is None else mean / 1000,
        p50_ms=ms(0.5),
        p90_ms=ms(0.9),
        p99_ms=ms(0.99),
        p999_ms=ms(0.999),
        max_ms=ms(1.0),
    )


def select(cells: Iterable[Cell], where: str) -> list[Cell]:
    """The cells that the selector `where` names."""
    conditions = selector.parse(where)
    return [c for c in cells if selector.matches(conditions, arm=c.arm, request=c.request, variant=c.variant)]


def group(cells: Iterable[Cell], *, where: str, measured_s: float) -> Group | None:
    """Figures of the cells that `where` selects, None if there are none. Rates count successful answers."""
    chosen = select(cells, where)
    if not chosen:
        return None
    latency = histogram.merge(c.latency for c in chosen)
    kinds: dict[str, int] = {}
    for cell in chosen:
        for kind, count in cell.errors.items():
            kinds[kind] = kinds.get(kind, 0) + count
    good, bad = sum(latency.values()), sum(kinds.values())
    late = histogram.quantile_us(histogram.merge(c.late for c in chosen), 0.99)
    return Group(
        where=where,
        requests=good + bad,
        errors=bad,
        error_rate=bad / (good + bad) if good + bad else 0.0,
        error_kinds=dict(sorted(kinds.items(), key=lambda kv: -kv[1])),
        rate_per_s=good / measured_s,
        items_per_s=sum(c.items for c in chosen) / measured_s,
        measured_s=measured_s,
        latency=latency_of(latency),
        service=latency_of(histogram.merge(c.service for c in chosen)),
        generator_late_p99_ms=None if late is None else late / 1000,
    )


def labels(cells: Iterable[Cell], key: str) -> list[str]:
    """The values of arm, request or variant that occur, sorted."""
    return sorted({str(getattr(c, key)) for c in cells} - {""})
