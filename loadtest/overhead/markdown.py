"""The benchmark's result as a page: method, machine, tables, targets."""

from collections.abc import Sequence
from typing import Final

from loadtest.overhead.figures import Overhead, Row
from loadtest.report.terminal import number

_METHOD: Final = """\
## Method

An nginx stub answers every inference with one small fixed body. It shares a CPU with the load generator, wrk (one
thread); the proxy under test has the other CPU to itself and runs one worker. All proxies are up during the whole
run. Every round visits every proxy, under each kind of load, in a new random order, so that whatever the machine
does in between hits all of them alike; a first round warms up and is not counted.

- `small`: a JSON request of one row of 20 numbers. `image`: a binary tensor of 602,112 bytes. Both at {connections}
  connections, {seconds:g} s a visit, {rounds} rounds. One connection for added latency.
- `refused`: the small request again, for a route that is full. Sluice has a route with one slot, which a request holds
  that its backend never answers, and nobody may wait; it finds that out anew for every request, whose key is drawn and
  which counts. nginx (`return 503`), HAProxy (`http-request return`) and Envoy (`direct_response`) answer with a fixed
  503, the least that they can do. The last column has that CPU over that of a served small request of the same proxy.
- CPU per request is user and system time of the proxy's whole process tree (for Sluice that includes supervisor and
  controller) over the answers that wrk counted. It is the figure to trust: rate and latency also depend on the stub
  and on wrk, which share a core.
- Ratios are taken within a round; the median over rounds is shown, with the lowest and highest round behind it.
- `direct` is wrk on the stub without a proxy; added p50 is the difference to it.
- Sluice is measured twice under two names. If the two differ by more than 5 %, the run does not count.
- All proxies split 90 to 10 over two upstreams with keep-alive, a timeout and limits. Sluice's split is sticky by a
  header, with a hundred keys in turn; on top come a request id, Server-Timing, a deadline, and counts per route and
  variant. nginx and HAProxy also split by the header; Envoy splits at random.
- Memory is that of the process that does the work, started afresh for each body size: resident size after the first
  inferences, and the peak (VmHWM) while {connections} connections send bodies of that size without a pause.
"""


def render(result: Overhead, command: str) -> str:
    """The page. `command` repeats the run."""
    machine = result.machine
    versions = ", ".join(f"{name} {version}" for name, version in result.programs.items())
    taken = (
        f"Taken {result.taken_at} with `{command}` on {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['kernel']}, Python {machine['python']}; {versions}. Ratios carry over to other machines better "
        "than microseconds do."
    )
    parts = [
        "# What a proxy costs per request",
        taken,
        f"Verdict: **{result.verdict.replace('_', ' ')}**.",
    ]
    parts += [f"Note: {note}" for note in result.notes]
    for load in dict.fromkeys(row.load for row in result.rows):
        parts += [f"## {load}", _table([row for row in result.rows if row.load == load])]
    if result.memory:
        sizes = list(result.memory[0].peak_mib)
        lines = [f"| arm | process | idle MiB | {' | '.join(f'peak MiB, {s} bodies' for s in sizes)} |"]
        lines.append("|---|---|" + "---|" * (1 + len(sizes)))
        for m in result.memory:
            peaks = " | ".join(number(m.peak_mib[s]) for s in sizes)
            lines.append(f"| {m.arm} | {m.process} | {number(m.idle_mib)} | {peaks} |")
        parts += ["## Memory of a worker", "\n".join(lines)]
    lines = ["| target | seen | verdict |", "|---|---|---|"]
    lines += [
        f"| {t.objective} | {number(t.value)} | {t.verdict.replace('_', ' ')}{': ' + t.reason if t.reason else ''} |"
        for t in result.targets
    ]
    parts += ["## Targets", "\n".join(lines)]
    parts.append(_METHOD.format(connections=result.connections, seconds=result.seconds, rounds=result.rounds).rstrip())
    return "\n\n".join(parts) + "\n"


def _table(rows: Sequence[Row]) -> str:
    columns = [
        "arm",
        "CPU us/request",
        "over Envoy's (rounds)",
        "requests/s",
        "p50 us",
        "added p50 us",
        "p99 us",
        "errors",
    ]
    refused = any(r.cpu_over_served is not None for r in rows)
    columns += ["over a served one"] * refused
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for r in rows:
        span = (
            f" ({r.cpu_over_envoy_range[0]:.2f} to {r.cpu_over_envoy_range[1]:.2f})" if r.cpu_over_envoy_range else ""
        )
        ratio = "-" if r.cpu_over_envoy is None else f"{r.cpu_over_envoy:.2f}{span}"
        cells = [r.arm, number(r.cpu_us), ratio, number(r.rate_per_s), number(r.p50_us), number(r.added_p50_us)]
        cells += [number(r.p99_us), str(r.errors), *([number(r.cpu_over_served)] if refused else [])]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
