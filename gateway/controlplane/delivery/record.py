"""What is stored of one rollout, and what of it the workers are told."""

from dataclasses import dataclass, field, replace

from gateway.core.evidence_counts import ArmCounts
from gateway.core.evidence_state import Evidence as Judged
from gateway.core.rollout import Effect, RolloutState
from gateway.core.rollout_policy import RolloutPolicy
from gateway.core.route import Evidence, Route, Shadow, Variant

BASELINE_SUFFIX = ".baseline"
_KEEP_EPOCHS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Shares that were in force under one epoch, per cent."""

    candidate: float = 0.0
    baseline: float = 0.0
    shadow: float = 0.0

    @property
    def of_candidate(self) -> float:
        """The candidate's chance among the requests that are compared."""
        reference = self.baseline or 100.0 - self.candidate
        return self.candidate / (self.candidate + reference)


@dataclass(frozen=True, slots=True)
class Mark:
    """Up to where one worker's cumulative counts of a variant and epoch have become evidence."""

    variant: str
    epoch: int
    counts: ArmCounts


@dataclass(frozen=True, slots=True)
class WorkerMarks:
    """All marks of one worker process."""

    worker: int
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Everything needed to go on with a rollout after a crash.

    Attributes:
        id: unique.
        created: Unix time.
        who: started it.
        why: reason given.
        policy: fixed at the start.
        original: the route before the rollout.
        shares: by epoch; requests that were assigned under an earlier one may still end.
        state: where the state machine stands.
        evidence: all that was counted.
        marks: by incarnation of the worker; the last few of each slot.
        loaded: backends on which the rollout itself loaded the candidate, and where alone it may unload it.
        because: reason of the last decision that was more than a confirmation.
    """

    id: str
    created: float
    who: str
    why: str
    policy: RolloutPolicy
    original: Route
    state: RolloutState
    evidence: Judged
    shares: dict[int, Share] = field(default_factory=dict)
    marks: dict[str, WorkerMarks] = field(default_factory=dict)
    loaded: tuple[str, ...] = ()
    because: str = ""

    @property
    def route(self) -> str:
        """The route's name."""
        return self.original.name

    def variant(self, name: str) -> Variant:
        """One of the route's variants, which exist for as long as the rollout does."""
        found = self.original.variant(name)
        assert found is not None, name
        return found

    def with_shares(self, effect: Effect) -> "Record":
        """The record once an effect's weights are to be in force; the oldest shares are forgotten."""
        share = Share(candidate=effect.candidate, baseline=effect.baseline, shadow=effect.shadow)
        shares = {**self.shares, effect.epoch: share}
        kept = dict(sorted(shares.items())[-_KEEP_EPOCHS:])
        return replace(self, shares=kept)


def with_weights(route: Route, record: Record, effect: Effect) -> Route:
    """The route as an effect's weights want it. Pure, and the same however often it is done.

    The candidate comes last, so that its growing share only adds sticky keys (core.split).
    """
    stable, candidate = record.state.stable, record.state.candidate
    over = effect.candidate in {0.0, 100.0} and not effect.shadow
    baseline = replace(record.variant(stable), name=stable + BASELINE_SUFFIX, weight=effect.baseline)
    weights = {stable: 100.0 - effect.candidate - effect.baseline, candidate: effect.candidate}
    variants = [
        replace(variant, weight=weights.get(variant.name, 0.0))
        for variant in sorted(route.variants, key=lambda variant: variant.name == candidate)
        if variant.name != baseline.name
    ]
    if effect.baseline:
        variants.insert(-1, baseline)
    return replace(
        route,
        variants=tuple(variants),
        stable=candidate if effect.candidate >= 100.0 else stable,
        shadows=_shadows(record, effect),
        evidence=record.original.evidence if over and effect.candidate == 0.0 else _evidence(record),
        epoch=max(route.epoch, effect.epoch),
    )


def _shadows(record: Record, effect: Effect) -> tuple[Shadow, ...]:
    """The user's own shadows, except that of the candidate while the rollout mirrors to it."""
    if not effect.shadow:
        kept = record.original.shadows
        # A candidate with live traffic needs no copies; when it has none again, the user's wish holds again.
        return tuple(s for s in kept if not effect.candidate or s.variant != record.state.candidate)
    gate = record.policy.shadow_gate
    own = next((s for s in record.original.shadows if s.variant == record.state.candidate), None)
    mirror = replace(
        own or Shadow(variant=record.state.candidate),
        sample=effect.shadow,
        compare=True,
        noise=100.0 * (gate.noise_share if gate is not None else 0.0),
    )
    return (*(s for s in record.original.shadows if s.variant != record.state.candidate), mirror)


def _evidence(record: Record) -> Evidence:
    gates, wanted = record.policy.gates, 0.0
    if gates.drift is not None:
        wanted = gates.drift.sample
    if gates.accuracy is not None:  # ground truth is rare: every answer may be the one it comes for
        wanted = 100.0
    base = record.original.evidence or Evidence()
    return replace(
        base,
        answers=max(base.answers, wanted),
        keys=record.evidence.by_key,
        slow_bin=record.evidence.slow_bucket,
        judged=True,
    )
