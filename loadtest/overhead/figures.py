"""From samples to figures: medians over rounds, ratios taken round by round, and the targets they are held to."""

from collections.abc import Sequence
from statistics import median
from typing import Any, Final

import msgspec

from loadtest.objectives import Judgement, Verdict, worst
from loadtest.overhead import recipes
from loadtest.overhead.bench import DIRECT, Footprint, Sample

FORMAT: Final = "sluice.overhead/1"
AGREEMENT: Final = 0.05


class Row(msgspec.Struct, frozen=True):
    """An arm under one kind of load: medians over rounds, and CPU per request over Envoy's (lowest, highest round).

    `cpu_over_served` is the CPU of a refusal over that of the same arm's small request.
    """

    load: str
    arm: str
    cpu_us: float | None
    rate_per_s: float
    p50_us: float
    p99_us: float
    added_p50_us: float | None
    errors: int
    cpu_over_envoy: float | None
    cpu_over_envoy_range: tuple[float, float] | None
    cpu_over_served: float | None = None


class Overhead(msgspec.Struct, frozen=True):
    """The benchmark's result as stored."""

    format: str
    taken_at: str
    rounds: int
    seconds: float
    connections: int
    machine: dict[str, Any]
    programs: dict[str, str]
    rows: list[Row]
    memory: list[Footprint]
    targets: list[Judgement]
    verdict: Verdict
    notes: list[str]
    samples: list[Sample]


def rows(samples: Sequence[Sample]) -> list[Row]:
    """A row for each load and arm, arms from the cheapest to the dearest."""
    found: list[Row] = []
    for load in dict.fromkeys(s.load for s in samples):
        of_load = [s for s in samples if s.load == load]
        arms = dict.fromkeys(s.arm for s in of_load)
        straight = [s.measured.p50_us for s in of_load if s.arm == DIRECT]
        direct = median(straight) if straight else None
        of_arms = [_row(of_load, load, arm, direct) for arm in arms]
        if load == "refused":
            of_arms = [msgspec.structs.replace(r, cpu_over_served=_median(refusals(samples, r.arm))) for r in of_arms]
        found += sorted(of_arms, key=lambda r: r.cpu_us or 0.0)
    return found


def _row(samples: Sequence[Sample], load: str, arm: str, direct_p50_us: float | None) -> Row:
    mine = [s for s in samples if s.arm == arm]
    costs = [s.cpu_us_per_request for s in mine if s.cpu_us_per_request is not None]
    against = ratios(samples, arm, recipes.ENVOY)
    p50 = median(s.measured.p50_us for s in mine)
    return Row(
        load=load,
        arm=arm,
        cpu_us=median(costs) if costs else None,
        rate_per_s=median(s.measured.rate_per_s for s in mine),
        p50_us=p50,
        p99_us=median(s.measured.p99_us for s in mine),
        added_p50_us=None if direct_p50_us is None else p50 - direct_p50_us,
        errors=sum(s.measured.errors for s in mine),
        cpu_over_envoy=median(against) if against else None,
        cpu_over_envoy_range=(min(against), max(against)) if against else None,
    )


def ratios(samples: Sequence[Sample], arm: str, reference: str) -> list[float]:
    """CPU per request of `arm` over that of `reference`, for each round in which both were measured."""
    costs = {(s.round, s.arm): s.cpu_us_per_request for s in samples}
    found: list[float] = []
    for (number, name), cost in costs.items():
        other = costs.get((number, reference))
        if name == arm and cost and other:
            found.append(cost / other)
    return found


def refusals(samples: Sequence[Sample], arm: str) -> list[float]:
    """CPU of a refused request of `arm` over that of its served small one, for each round that has both."""
    costs = {(s.load, s.round): s.cpu_us_per_request for s in samples if s.arm == arm}
    pairs = [(cost, costs.get(("small", number))) for (load, number), cost in costs.items() if load == "refused"]
    return [cost / served for cost, served in pairs if cost and served]


def judge(samples: Sequence[Sample], memory: Sequence[Footprint]) -> list[Judgement]:
    """The targets of the data plane; what was not measured is no_data, never a pass."""
    small = [s for s in samples if s.load == "small"]
    image = [s for s in samples if s.load == "image"]
    single = [s for s in samples if s.connections == 1]
    verdicts = [
        _below(f"{name}: CPU per request over Envoy's", _median(ratios(load, recipes.SLUICE, recipes.ENVOY)), limit)
        for name, load, limit in (("small", small, 0.60), ("image", image, 1.0))
    ]
    verdicts += [
        _below(
            f"{name}: CPU with 10 % shadow over without", _median(ratios(load, recipes.SHADOW, recipes.SLUICE)), 1.25
        )
        for name, load in (("small", small), ("image", image))
    ]
    verdicts.append(
        _below("CPU of a refused request over a served one", _median(refusals(samples, recipes.SLUICE)), 0.25)
    )
    added = {arm: _added(single, arm) for arm in (recipes.SLUICE, recipes.ENVOY)}
    ours, theirs = added[recipes.SLUICE], added[recipes.ENVOY]
    relative = None if ours is None or theirs is None else ours / max(theirs, 1.0)
    verdicts.append(_below("added p50 at 1 connection over Envoy's", relative, 1.0))
    of_sluice = next((m for m in memory if m.arm == recipes.SLUICE), None)
    peaks = list(of_sluice.peak_mib.values()) if of_sluice else []
    growth = peaks[-1] / peaks[0] if len(peaks) > 1 else None
    verdicts.append(_below("peak RSS of a worker, largest bodies over smallest", growth, 1.2))
    verdicts.append(_below("RSS of an idle worker, MiB", of_sluice.idle_mib if of_sluice else None, 60.0))
    return verdicts


def validity(samples: Sequence[Sample]) -> list[Judgement]:
    """Whether the run counts at all: the same program twice must agree, and nothing may have failed."""
    found: list[Judgement] = []
    for load in ("small", "image"):
        of_load = [s for s in samples if s.load == load]
        costs = [[s.cpu_us_per_request or 0.0 for s in of_load if s.arm == a] for a in (recipes.SLUICE, recipes.TWIN)]
        name = f"{load}: Sluice and Sluice again agree within {AGREEMENT:.0%}"
        if not all(costs):
            found.append(Judgement(name, None, "no_data", "not measured"))
            continue
        apart = abs(median(costs[0]) / median(costs[1]) - 1)
        agree = apart <= AGREEMENT
        why = "" if agree else "the machine was disturbed: repeat the run"
        found.append(Judgement(name, apart, "pass" if agree else "inconclusive", why))
    errors = sum(s.measured.errors for s in samples)
    found.append(
        Judgement(
            "requests that failed", float(errors), "error" if errors else "pass", "they are cheaper" if errors else ""
        )
    )
    return found


def overall(valid: Sequence[Judgement], targets: Sequence[Judgement]) -> Verdict:
    """The worst target; but a run that does not count decides nothing, whatever its targets say."""
    counts = worst(j.verdict for j in valid)
    return worst(j.verdict for j in targets) if counts == "pass" else counts


def _below(name: str, value: float | None, limit: float) -> Judgement:
    text = f"{name} at most {limit:g}"
    if value is None:
        return Judgement(text, None, "no_data", "not measured")
    return Judgement(text, value, "pass" if value <= limit else "fail", "")


def _median(values: Sequence[float]) -> float | None:
    return median(values) if values else None


def _added(samples: Sequence[Sample], arm: str) -> float | None:
    direct = [s.measured.p50_us for s in samples if s.arm == DIRECT]
    mine = [s.measured.p50_us for s in samples if s.arm == arm]
    return median(mine) - median(direct) if mine and direct else None
