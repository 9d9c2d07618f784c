"""All evidence of one rollout: a value that grows by one second's block at a time."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from gateway.core import drift
from gateway.core import evidence_bets as bets
from gateway.core.evidence_counts import NOTHING, ArmCounts, Block
from gateway.core.evidence_dispersion import Dispersion
from gateway.core.histogram import index, upper_us
from gateway.core.rollout_policy import DriftGate, Guardrails, RolloutPolicy

RECENT_DECAY = 0.9
"""Per second; the old version's recent rate looks back about ten seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Bad outcomes under one set of shares: `x` of `n` on the candidate, weighted for shared causes, and as counted."""

    epoch: int
    share: float
    x: float = 0.0
    n: float = 0.0
    raw_x: float = 0.0
    raw_n: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One kind of bad outcome over the whole rollout."""

    tallies: tuple[Tally, ...] = ()
    dispersion: Dispersion = field(default_factory=Dispersion)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Outcomes of known quality under one set of shares: `x` bad on the candidate, `y` on the reference, of `n` in all.

    `candidate` is the number of the candidate's outcomes among the n.
    """

    epoch: int
    share: float
    x: float = 0.0
    y: float = 0.0
    n: float = 0.0
    candidate: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """One guardrail: log wealth per stake, and the old version's fading recent bad and seen requests."""

    wealth: tuple[float, ...] = (0.0,) * len(bets.STAKES)
    recent_bad: float = 0.0
    recent_seen: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Looks:
    """Looks at PSI and KS so far, and the first size and chance that were too much."""

    taken: int = 0
    next_at: float = drift.FIRST_LOOK
    psi_beyond: bool = False
    ks_beyond: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Everything gates judge; storable, and independent of when it is looked at.

    Attributes:
        slow_bucket: latency bucket above which a request is slow; fixed when the rollout starts.
        by_key: sticky keys, not requests, are drawn and therefore counted.
        history: the stable variant's counts from before the rollout.
        checks: `server`, `client`, `shed`, `slow`, `bin:<k>`.
        assigned: requests or keys per set of shares, for the share check (`x` the candidate's, `n` all).
        shadow: compared copies per set of shares.
        feedback: ground truth per set of shares.
        objectives: `error_rate`, `p50`, `p99`.
        looks: at the spread of predictions.
        epoch: of the stage now judged.
        candidate: the candidate's counts of this stage.
        reference: the reference's.
        old: the old version's over the whole rollout, history included.
        seconds: blocks taken in during this stage.
    """

    slow_bucket: int
    by_key: bool = False
    history: ArmCounts = NOTHING
    checks: Mapping[str, Check] = field(default_factory=dict)
    assigned: tuple[Tally, ...] = ()
    shadow: tuple[Difference, ...] = ()
    feedback: tuple[Difference, ...] = ()
    objectives: Mapping[str, Objective] = field(default_factory=dict)
    looks: Looks = field(default_factory=Looks)
    epoch: int = 0
    candidate: ArmCounts = NOTHING
    reference: ArmCounts = NOTHING
    old: ArmCounts = NOTHING
    seconds: int = 0

    @property
    def slow_ms(self) -> float:
        """Requests slower than this are slow."""
        return upper_us(self.slow_bucket) / 1000


def begin(policy: RolloutPolicy, history: ArmCounts = NOTHING, *, sticky: bool = False) -> Evidence:
    """Evidence before the first request.

    Args:
        policy: of the rollout.
        history: the stable variant's recent counts (of the last minutes).
        sticky: whether the route assigns by a sticky key.
    """
    gate = policy.gates.latency
    bucket = None
    if gate is not None:
        bucket = index(round(gate.slow_ms * 1000)) if gate.slow_ms else history.quantile_bucket(gate.quantile)
    if bucket is None:
        guard = policy.gates.guardrails or Guardrails()
        bucket = index(round((guard.p99_ms or 100.0) * 1000))
    by_key = policy.unit == "key" or (policy.unit == "auto" and sticky)
    return Evidence(slow_bucket=bucket, by_key=by_key, history=history, old=history)


def absorb(evidence: Evidence, block: Block, policy: RolloutPolicy) -> Evidence:
    """The evidence with one more second. Blocks come in the order of time, each once; stragglers as their own block."""
    if block.epoch > evidence.epoch:
        looks = replace(evidence.looks, next_at=drift.FIRST_LOOK)
        evidence = replace(evidence, epoch=block.epoch, candidate=NOTHING, reference=NOTHING, seconds=0, looks=looks)
        if evidence.by_key and block.share >= 1:
            # With every key on the candidate it has drawn none in particular; what those drawn before did is no bet.
            evidence = replace(evidence, objectives={})
    current = block.epoch == evidence.epoch  # stragglers count for the stage they were assigned in
    after = replace(
        evidence,
        candidate=evidence.candidate.plus(block.candidate) if current else evidence.candidate,
        reference=evidence.reference.plus(block.reference) if current else evidence.reference,
        old=evidence.old.plus(block.old),
        seconds=evidence.seconds + current,
        objectives=_objectives(evidence, block, policy.gates.guardrails),
    )
    compared = 0.0 < block.share < 1.0
    if compared:
        known = _feedback(block, by_key=evidence.by_key)
        seen = dict(_key_units(block) if evidence.by_key else _request_units(block, evidence.slow_bucket))
        after = replace(
            after,
            checks=_checks(evidence.checks, block, seen, policy),
            assigned=_assigned(evidence.assigned, block, seen.get("assigned", (0.0, 0.0))),
            feedback=_differ(evidence.feedback, block, *known, share=block.share),
        )
    gate = policy.shadow_gate
    noise = gate.noise_share if gate is not None else 0.0
    c, r = block.candidate, block.reference
    after = replace(
        after,
        shadow=_differ(
            evidence.shadow,
            block,
            (c.shadow_compared, c.shadow_disagreed),
            (r.shadow_compared, r.shadow_disagreed) if noise else (0, 0),
            share=1.0 - noise,
        ),
    )
    if policy.gates.drift is not None and compared:
        alpha = gate_alpha(policy, "drift") / 2
        after = replace(after, looks=_look(after, policy.gates.drift, alpha))
    return after


def gate_alpha(policy: RolloutPolicy, name: str) -> float:
    """A gate's part of alpha: its weight over the weights of all gates that count."""
    gates = {gate: getattr(policy.gates, gate) for gate in GATES} | {"shadow": policy.shadow_gate}
    weights = {gate: g.alpha_weight for gate, g in gates.items() if g is not None and (not g.dry_run or gate == name)}
    return policy.alpha * float(weights.get(name, 1.0)) / float(sum(weights.values()) or 1.0)


GATES = ("errors", "latency", "guardrails", "drift", "shadow", "accuracy")


def _request_units(block: Block, slow_bucket: int) -> Iterable[tuple[str, tuple[float, float]]]:
    c, r = block.candidate, block.reference
    yield "assigned", (c.assigned, r.assigned)
    yield "server", (c.server_bad, r.server_bad)
    yield "client", (c.client_error, r.client_error)
    yield "shed", (c.shed, r.shed)
    yield "slow", (c.slower(slow_bucket), r.slower(slow_bucket))
    for k in c.predictions.keys() | r.predictions.keys():
        yield f"bin:{k}", (c.predictions.get(k, 0.0), r.predictions.get(k, 0.0))


def _key_units(block: Block) -> Iterable[tuple[str, tuple[float, float]]]:
    return (block.keys or {}).items()


def _feedback(block: Block, *, by_key: bool) -> tuple[tuple[float, float], tuple[float, float]]:
    if by_key:
        keys = block.keys or {}
        (cw, rw), (cc, rc) = keys.get("wrong", (0.0, 0.0)), keys.get("correct", (0.0, 0.0))
    else:
        cw, cc = block.candidate.feedback_wrong, block.candidate.feedback_correct
        rw, rc = block.reference.feedback_wrong, block.reference.feedback_correct
    return (cw + cc, cw), (rw + rc, rw)


def _checks(
    checks: Mapping[str, Check], block: Block, units: Mapping[str, tuple[float, float]], policy: RolloutPolicy
) -> dict[str, Check]:
    after = dict(checks)
    for name, (bad, other) in units.items():
        if name in {"assigned", "wrong", "correct"} or not bad + other:
            continue
        check = after.get(name) or Check()
        x, n = float(bad), float(bad + other)
        weight = {"none": 1.0, "block": 1.0 / max(n, 1.0)}.get(policy.clusters)
        dispersion = check.dispersion
        if policy.clusters == "learn":
            if check.tallies and check.tallies[-1].epoch < block.epoch:
                dispersion = dispersion.next_stage()
            weight = float(dispersion.weight(n))
            dispersion = _plain(dispersion.after(x, n, block.share))
        assert weight is not None
        tally, before = _of_epoch(check.tallies, block, block.share)
        tally = replace(
            tally,
            x=tally.x + weight * x,
            n=tally.n + weight * n,
            raw_x=tally.raw_x + x,
            raw_n=tally.raw_n + n,
        )
        after[name] = Check(tallies=_ordered((*before, tally)), dispersion=dispersion)
    return after


def _plain(d: Dispersion) -> Dispersion:
    return Dispersion(
        total=float(d.total),
        pairs=float(d.pairs),
        mixed=float(d.mixed),
        expected=float(d.expected),
        seconds=float(d.seconds),
        stage_bad=float(d.stage_bad),
        stage_total=float(d.stage_total),
    )


def _of_epoch(tallies: tuple[Tally, ...], block: Block, share: float) -> tuple[Tally, tuple[Tally, ...]]:
    for tally in tallies:
        if tally.epoch == block.epoch:
            return tally, tuple(other for other in tallies if other is not tally)
    return Tally(epoch=block.epoch, share=share), tallies


def _ordered(tallies: tuple[Tally, ...]) -> tuple[Tally, ...]:
    return tuple(sorted(tallies, key=lambda tally: tally.epoch))


def _assigned(tallies: tuple[Tally, ...], block: Block, units: tuple[float, float]) -> tuple[Tally, ...]:
    tally, before = _of_epoch(tallies, block, block.share)
    x, n = tally.x + units[0], tally.n + sum(units)
    return _ordered((*before, replace(tally, x=x, n=n, raw_x=x, raw_n=n)))


def _differ(
    before: tuple[Difference, ...],
    block: Block,
    candidate: tuple[float, float],
    reference: tuple[float, float],
    *,
    share: float,
) -> tuple[Difference, ...]:
    seen = candidate[0] + reference[0]
    if not seen:
        return before
    base = next((d for d in before if d.epoch == block.epoch), None) or Difference(epoch=block.epoch, share=share)
    grown = replace(
        base,
        x=base.x + candidate[1],
        y=base.y + reference[1],
        n=base.n + seen,
        candidate=base.candidate + candidate[0],
    )
    others = (d for d in before if d.epoch != block.epoch)
    return tuple(sorted((*others, grown), key=lambda d: d.epoch))


def _objectives(evidence: Evidence, block: Block, guard: Guardrails | None) -> Mapping[str, Objective]:
    if guard is None:
        return evidence.objectives
    after = dict(evidence.objectives)
    old = {name: (bad, seen) for name, _, bad, seen in guardrail_counts(guard, block.old)}
    ever = {name: (bad, seen) for name, _, bad, seen in guardrail_counts(guard, evidence.old)}
    for name, rate, bad, seen in guardrail_counts(guard, block.candidate):
        objective = after.get(name) or Objective()
        recent = (
            objective.recent_bad * RECENT_DECAY + old[name][0],
            objective.recent_seen * RECENT_DECAY + old[name][1],
        )
        wealth = objective.wealth
        if seen:
            # What the old version does to the same users, at the same time or always, is not the candidate's doing.
            allowed = max(rate, _part(*old[name]), _part(*recent), _part(*ever[name]))
            growth = bets.bet_above(min(allowed, 1.0), bad, seen)
            wealth = tuple(a + float(b) for a, b in zip(wealth, growth, strict=True))
        after[name] = Objective(wealth=wealth, recent_bad=recent[0], recent_seen=recent[1])
    return after


def _part(bad: float, seen: float) -> float:
    return bad / seen if seen else 0.0


def guardrail_counts(guard: Guardrails, counts: ArmCounts) -> Iterable[tuple[str, float, int, int]]:
    """Each objective that is on: (name, bad rate allowed, bad requests, requests)."""
    if guard.error_rate:
        yield "error_rate", guard.error_rate, counts.server_bad + counts.shed, counts.ended
    for name, rate, bound_ms in (("p50", 0.5, guard.p50_ms), ("p99", 0.01, guard.p99_ms)):
        if bound_ms:
            yield name, rate, counts.slower(index(round(bound_ms * 1000))), counts.timed


def _look(evidence: Evidence, gate: DriftGate, alpha: float) -> Looks:
    looks = evidence.looks
    c, r = evidence.candidate.predictions, evidence.reference.predictions
    size, other = sum(c.values()), sum(r.values())
    if size < looks.next_at:
        return looks
    allowed = drift.look_alpha(alpha, looks.taken + 1) / 2
    found_psi, found_ks = drift.psi(c, r, gate.bins), drift.ks(c, r, gate.bins)
    return Looks(
        taken=looks.taken + 1,
        next_at=2 * size,
        psi_beyond=found_psi >= gate.psi_major and drift.psi_chance(found_psi, size, other, gate.bins) <= allowed,
        ks_beyond=gate.kind == "score"
        and found_ks >= gate.ks_major
        and drift.ks_chance(found_ks, size, other) <= allowed,
    )
