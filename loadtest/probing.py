"""One probe of a search for the knee: a scenario at one steady open rate, judged without its objectives on the rate."""

from loadtest import knee, results
from loadtest.execute import SATURATED
from loadtest.scenario import Scenario, changed

WARMUP_S = 1.0


def at(base: Scenario, rate: float, seconds: float, connections: int | None = None) -> Scenario:
    """The scenario at one steady open rate, the first second of it to warm up."""
    shape = {"kind": "steady", "level": rate, "duration_s": seconds}
    more = {"connections": connections} if connections else {}
    return changed(base, arrivals="open", warmup_s=WARMUP_S, shape=shape, **more)


def probe(result: results.Result, rate: float) -> knee.Probe:
    """What a run at `rate` says about the knee."""
    group = result.groups[0]
    verdict, reasons = knee.without_rate(result.objectives)
    busiest = max(result.generator.cpu_shares, default=0.0)
    if verdict != "pass" and busiest > SATURATED:
        reasons.append("the load generator used its whole CPU, so this limit may be its own")
    return knee.Probe(
        rate_per_s=rate,
        achieved_per_s=group.rate_per_s,
        p50_ms=group.latency.p50_ms,
        p99_ms=group.latency.p99_ms,
        error_rate=group.error_rate,
        generator_cpu=busiest,
        verdict="error" if result.generator.missing else verdict,
        reasons=reasons,
        requests=group.requests,
    )


def line(p: knee.Probe) -> str:
    """A probe in one line, for the terminal."""
    latency = "no answer" if p.p50_ms is None or p.p99_ms is None else f"p50 {p.p50_ms:.3g} ms, p99 {p.p99_ms:.3g} ms"
    why = f" ({'; '.join(p.reasons)})" if p.reasons else ""
    return f"{p.rate_per_s:8,.0f}/s offered, {p.achieved_per_s:8,.0f}/s answered, {latency}: {p.verdict}{why}"
