"""The study's results as a Markdown page."""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from gateway.core.rollout_policy import RolloutPolicy
from gateway.verdicts.allgates import RATE, Outcomes
from gateway.verdicts.study import Aborts, Walk, upper_bound
from gateway.verdicts.traffic import OUTAGE_EVERY_S, Scenario, Schedule

Result = tuple[Scenario, Sequence[Aborts]]


def page(
    nulls: Sequence[Result],
    beyond: Sequence[Result],
    regressions: Sequence[Result],
    walks: Sequence[tuple[str, Walk]],
    everything: Sequence[Outcomes],
    *,
    schedule: Schedule,
    policy: RolloutPolicy,
    rollouts: int,
    seed: int,
    command: str,
    seconds: float,
    processes: int,
) -> str:
    """Everything: method, false aborts, detection, whole rollouts, and the command that repeats it."""
    shares = " -> ".join(f"{share:.0%}" for share in schedule.shares)
    alpha, rate = policy.alpha, schedule.rate
    worse = _judges(regressions)
    worse_rows = ((scenario.name, *(_detected(found, name) for name in worse)) for scenario, found in regressions)
    text = f"""# Verdicts: false aborts and detection, by simulation

Repeat with `{command}` (seed {seed}; {seconds / 60:.0f} minutes, processes: {processes}).
{rollouts:,} simulated rollouts per setting.

Every judge sees the same traces: {rate:g} requests/s, the candidate's share {shares}, {schedule.step_s} s each, looked
at after every second. `Sluice` is the default policy's errors gate and error-rate guardrail, with alpha {alpha:g}
split over all its gates; `errors gate alone` is the relative test without the guardrail. `interval x threshold` is
Flagger's rule with the values of its documentation (interval 60 s, 5 failed checks, success rate 99 %). `Mann-Whitney`
is a rank test in the manner of Kayenta's judge, on per-second error rates against an equal-size baseline, asked each
minute.

## False aborts: the candidate is exactly as good as the old version

{_false_aborts(nulls)}
Share of the rollouts aborted, with the exact 99 % upper confidence bound in brackets. Sluice promises at most
{alpha:.0%}. Sticky keys: 1,000 keys with Zipf-distributed traffic, one in a hundred failing half of its requests
on any version; counting their requests is shown only to tell why keys are counted instead. On a sticky route the
guardrail holds and never aborts: Sluice is its errors gate alone there. An interval rule compares with a fixed success
rate and knows no old version: where that itself fails 1 % or more, it ends rollouts by its definition, not by chance.

### Causes that last as long as a block, or longer

{_false_aborts(beyond)}
Shown only: nothing is promised here, and the command does not fail over it. The candidate is exactly as good as before,
but what multiplies its errors sits on one arm for seconds: bursts, or outages in which every request of an arm fails,
each arm once in {OUTAGE_EVERY_S} s on average. Outages are as frequent on an arm of 1 % as on one of 99 %, which no
draw by shares would do, and what lasts longer than a block of evidence (here a second) looks like several causes that
agree.

## Detection: the candidate is worse from its first request

{_table(("regression", *worse), worse_rows)}
Median candidate requests and seconds until the abort; in brackets the share of rollouts aborted, where not all.
"""
    if walks:
        text += _whole(walks, rate)
    if everything:
        text += _every_gate(everything)
    return text


def _false_aborts(results: Sequence[Result]) -> str:
    names = _judges(results)
    rows = ((scenario.name, *(_rate(found, name) for name in names)) for scenario, found in results)
    return _table(("setting", *names), rows)


def _every_gate(everything: Sequence[Outcomes]) -> str:
    head = ("candidate", "rollouts", "passed every step", "aborted", "by gate", "median requests, s")
    rows = (
        (
            found.name,
            f"{found.rollouts:,}",
            f"{found.passed / found.rollouts:.1%}",
            f"{found.aborted / found.rollouts:.1%} (at most {upper_bound(found.aborted, found.rollouts):.1%})",
            ", ".join(f"{gate} {count}" for gate, count in sorted(found.failed_by.items())) or "-",
            f"{_number(found.median_requests)}, {_number(found.median_s)}",
        )
        for found in everything
    )
    return f"""
## Every gate on

{_table(head, rows)}
Default policy with drift, accuracy and shadow gates as well and steps of at least 20 s, through the controller's own
`absorb` and `judge`, every second, at {RATE:g} requests/s: a tenth of the answers sampled for their class, a fifth with
ground truth, a tenth mirrored (a fifth of the copies are noise). At most: exact 99 % upper bound.
"""


def _whole(walks: Sequence[tuple[str, Walk]], rate: float) -> str:
    head = ("setting", "promoted", "aborted", "held", "median s to promotion", "median s per step")
    rows = (
        (
            name,
            f"{w.promoted / w.rollouts:.2%}",
            f"{w.aborted / w.rollouts:.2%}",
            f"{(w.rollouts - w.promoted - w.aborted) / w.rollouts:.2%}",
            _number(w.promote_s),
            ", ".join(_number(float(np.median(spent)) if len(spent) else math.nan) for spent in w.step_s),
        )
        for name, w in walks
    )
    return f"""
## Whole rollouts under the default policy

{_table(head, rows)}
{walks[0][1].rollouts:,} rollouts per setting at {rate:g} requests/s, advancing by the policy's own rules. Held: neither
promoted nor aborted within an hour. Without data nothing is promoted.
"""


def _judges(results: Sequence[Result]) -> list[str]:
    names: dict[str, None] = {}
    for _, found in results:
        names.update(dict.fromkeys(a.judge for a in found))
    return list(names)


def _rate(found: Sequence[Aborts], name: str) -> str:
    match = next((a for a in found if a.judge == name), None)
    return "-" if match is None else f"{match.rate:.2%} ({match.upper:.2%})"


def _detected(found: Sequence[Aborts], name: str) -> str:
    match = next((a for a in found if a.judge == name), None)
    if match is None:
        return "-"
    if not match.aborted:
        return "never"
    part = "" if match.aborted == match.rollouts else f" ({match.rate:.1%})"
    return f"{match.median_requests:,.0f} requests, {match.median_seconds:.0f} s{part}"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.0f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"
