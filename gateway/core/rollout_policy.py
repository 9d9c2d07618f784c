"""How a version is to be rolled out, as a user declares it under a route's `rollout` key.

Every field has a default, so that `rollout: {}` is a complete canary. Times are seconds, shares per cent, rates and
probabilities fractions, unless the name says otherwise. Contradictions between valid fields: `problems`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Le, Len, Lt

from gateway.core.pool import STRICT

Strategy = Literal["canary", "blue_green", "shadow", "ab", "champion_challenger"]
Clusters = Literal["learn", "block", "none"]
HookPhase = Literal[
    "pre_rollout", "pre_step", "post_step", "confirm_promotion", "post_promotion", "on_abort", "on_rollback"
]
Percent = Annotated[float, Ge(0), Le(100)]
Seconds = Annotated[float, Ge(0), Le(30 * 86_400)]
Probability = Annotated[float, Gt(0), Lt(1)]
Ratio = Annotated[float, Ge(1), Le(100)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One rung of a canary.

    Attributes:
        weight: the candidate's share of the route's traffic.
        min_time_s: shortest stay, however good the evidence.
        min_samples: candidate requests below which the step has no data.
        pause: wait for `promote` (this step only) after the gates have passed.
        slack: multiplies every gate's margin, and divides its own min_samples, while at this step. A small share may
            advance on weaker proof, because what it risks is small; the last step proves the margin itself (slack 1).
    """

    __pydantic_config__: ClassVar = STRICT

    weight: Annotated[float, Gt(0), Le(100)]
    min_time_s: Seconds = 60.0
    min_samples: Annotated[int, Ge(1)] = 100
    pause: bool = False
    slack: Ratio = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorsGate:
    """Candidate requests end badly more often than the reference's: server errors, client errors and sheds apart.

    Attributes:
        tolerance_ratio: being up to this many times as likely to fail is no reason to abort.
        margin_ratio: to pass, the candidate is shown to fail less than this many times as often, or more rarely
            than the guardrail's error rate allows (each times the step's slack).
        alpha_weight: this gate's part of alpha, relative to the other gates.
        dry_run: judged and shown, but without influence.
    """

    __pydantic_config__: ClassVar = STRICT

    tolerance_ratio: Ratio = 1.0
    margin_ratio: Annotated[float, Gt(1), Le(100)] = 2.0
    alpha_weight: Annotated[float, Gt(0), Le(100)] = 1.0
    dry_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyGate:
    """Candidate requests are slow more often than the reference's.

    Attributes:
        slow_ms: a slower request is slow; zero takes the stable variant's quantile, fixed when the rollout starts.
        quantile: that quantile.
        tolerance_ratio: see ErrorsGate; above 1 because a small arm forms smaller batches than a large one.
        margin_ratio: see ErrorsGate.
        alpha_weight: see ErrorsGate.
        dry_run: see ErrorsGate.
    """

    __pydantic_config__: ClassVar = STRICT

    slow_ms: Annotated[float, Ge(0), Le(86_400_000)] = 0.0
    quantile: Annotated[float, Ge(0.5), Lt(1)] = 0.95
    tolerance_ratio: Ratio = 1.25
    margin_ratio: Annotated[float, Gt(1), Le(100)] = 2.0
    alpha_weight: Annotated[float, Gt(0), Le(100)] = 1.0
    dry_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftGate:
    """The candidate's predictions are spread differently from the reference's.

    Attributes:
        output: name of the output tensor that holds the prediction.
        kind: `argmax` over the last axis, `label` for integer classes, `score` for one number per row.
        classes: number of classes for `argmax` and `label`; larger ones share the last bin.
        edges: ascending inner bin edges for `score`; n edges make n + 1 bins.
        sample: share of the answers that is decoded, per cent.
        min_samples: sampled candidate answers below which there is no data.
        tolerance_ratio: a bin may be up to this many times as frequent; a better version moves some predictions.
        psi_moderate: population stability index from which a rollout holds.
        psi_major: from which it aborts.
        ks_major: Kolmogorov-Smirnov distance from which it aborts (kind `score` only: classes have no order).
        alpha_weight: see ErrorsGate.
        dry_run: see ErrorsGate.
    """

    __pydantic_config__: ClassVar = STRICT

    output: Annotated[str, Len(1, 200)]
    kind: Literal["argmax", "label", "score"] = "argmax"
    classes: Annotated[int, Ge(2), Le(256)] = 10
    edges: Annotated[tuple[float, ...], Len(0, 255)] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    sample: Annotated[float, Gt(0), Le(100)] = 10.0
    min_samples: Annotated[int, Ge(1)] = 200
    tolerance_ratio: Ratio = 1.25
    psi_moderate: Annotated[float, Gt(0), Le(10)] = 0.1
    psi_major: Annotated[float, Gt(0), Le(10)] = 0.2
    ks_major: Annotated[float, Gt(0), Le(1)] = 0.2
    alpha_weight: Annotated[float, Gt(0), Le(100)] = 1.0
    dry_run: bool = False

    @property
    def bins(self) -> int:
        """Number of bins that predictions fall into."""
        return len(self.edges) + 1 if self.kind == "score" else self.classes


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputRule:
    """How one output tensor of the shadow must agree with the original's.

    Attributes:
        output: tensor name, or `*` for every output without a rule of its own.
        rule: exact | close (atol and rtol) | argmax | top_k (same set of k) | cosine (per row) | shape (nothing but
            shape, datatype and NaN, which every rule looks at).
        atol: absolute tolerance of `close`.
        rtol: relative tolerance of `close`.
        k: of `top_k`.
        min_cosine: least cosine similarity of a row.
        allow_nan: equal positions of NaN agree; otherwise any NaN on the candidate's side is a disagreement.
    """

    __pydantic_config__: ClassVar = STRICT

    output: Annotated[str, Len(1, 200)] = "*"
    rule: Literal["exact", "close", "argmax", "top_k", "cosine", "shape"] = "close"
    atol: Annotated[float, Ge(0)] = 1e-3
    rtol: Annotated[float, Ge(0)] = 1e-3
    k: Annotated[int, Ge(1), Le(10_000)] = 5
    min_cosine: Annotated[float, Ge(-1), Le(1)] = 0.999
    allow_nan: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowGate:
    """The candidate's answers to mirrored requests differ from the stable ones beyond the noise.

    Attributes:
        rules: how outputs are compared.
        max_disagreement: share of compared requests that may differ, over and above the noise arm's share.
        margin_disagreement: to pass, the excess is shown to be below this (times the step's slack).
        noise_share: part of the mirrored requests sent to the stable variant again; zero means no noise arm.
        min_samples: compared requests below which there is no data.
        alpha_weight: see ErrorsGate.
        dry_run: see ErrorsGate.
    """

    __pydantic_config__: ClassVar = STRICT

    rules: Annotated[tuple[OutputRule, ...], Len(1, 100)] = field(default_factory=lambda: (OutputRule(),))
    max_disagreement: Annotated[float, Ge(0), Lt(1)] = 0.01
    margin_disagreement: Annotated[float, Gt(0), Lt(1)] = 0.05
    noise_share: Annotated[float, Ge(0), Lt(1)] = 0.2
    min_samples: Annotated[int, Ge(1)] = 100
    alpha_weight: Annotated[float, Gt(0), Le(100)] = 1.0
    dry_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyGate:
    """Ground truth shows the candidate wrong more often than the reference.

    Attributes:
        max_drop: accuracy may be lower by this much (0.05: five points).
        margin_drop: to pass, the drop is shown to be below this (times the step's slack).
        min_samples: candidate answers with ground truth below which there is no data.
        alpha_weight: see ErrorsGate.
        dry_run: see ErrorsGate.
    """

    __pydantic_config__: ClassVar = STRICT

    max_drop: Annotated[float, Ge(0), Lt(1)] = 0.05
    margin_drop: Annotated[float, Gt(0), Lt(1)] = 0.05
    min_samples: Annotated[int, Ge(1)] = 100
    alpha_weight: Annotated[float, Gt(0), Le(100)] = 1.0
    dry_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Guardrails:
    """Objectives in absolute terms, which hold whatever the reference does. Zero turns one off.

    Where the old version misses an objective too, the candidate must only not be worse: it is not to blame for that.

    Attributes:
        error_rate: most that may end in a server error, timeout, connect error or shed (0.001 is 0.1 %).
        p50_ms: median latency.
        p99_ms: latency that 99 % stay below.
        alpha_weight: see ErrorsGate.
        dry_run: see ErrorsGate.
    """

    __pydantic_config__: ClassVar = STRICT

    error_rate: Annotated[float, Ge(0), Lt(1)] = 0.001
    p50_ms: Annotated[float, Ge(0)] = 20.0
    p99_ms: Annotated[float, Ge(0)] = 100.0
    alpha_weight: Annotated[float, Gt(0), Le(100)] = 1.0
    dry_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Gates:
    """Which gates judge each step; leave one out with null."""

    __pydantic_config__: ClassVar = STRICT

    errors: ErrorsGate | None = field(default_factory=ErrorsGate)
    latency: LatencyGate | None = field(default_factory=LatencyGate)
    guardrails: Guardrails | None = field(default_factory=Guardrails)
    drift: DriftGate | None = None
    shadow: ShadowGate | None = None
    accuracy: AccuracyGate | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hook:
    """An HTTP POST at a phase of the rollout; 2xx confirms, anything else or silence refuses.

    Attributes:
        phase: when it is called. A refusal at `pre_rollout`, `pre_step`, `post_step` or `confirm_promotion`
            stops the rollout as a failed gate does; elsewhere it is recorded only.
        url: where to.
        timeout_s: silence for so long is a refusal.
        secret_env: environment variable with the key that signs the body; empty sends it unsigned.
    """

    __pydantic_config__: ClassVar = STRICT

    phase: HookPhase
    url: Annotated[str, Len(8, 2000)]
    timeout_s: Annotated[float, Gt(0), Le(300)] = 10.0
    secret_env: Annotated[str, Len(0, 100)] = ""


def _ladder() -> tuple[Step, ...]:
    return (
        Step(weight=1, slack=5),
        Step(weight=5, slack=3),
        Step(weight=25, slack=1.5),
        Step(weight=50),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutPolicy:
    """Everything that decides how a candidate replaces (or is measured beside) the stable variant.

    Attributes:
        strategy: canary: `steps` up to promotion. blue_green: shadowed at no share, then all traffic at once, then
            analysed again. shadow: copies only, never promoted. ab: fixed `share` until `max_time_s`, a report, never
            promoted. champion_challenger: fixed `share`, standing, promoted only by command.
        steps: the canary's rungs; weights ascend.
        share: the candidate's share under ab and champion_challenger.
        shadow_sample: share of requests mirrored to the candidate, where the strategy or the shadow gate mirrors.
        baseline: `equal` puts an arm of the old version, as large as the candidate's, beside it and compares with
            that arm only; `none` compares with all remaining traffic (more evidence, less alike).
        unit: what was drawn at random: `request`, `key` for sticky routes; `auto` goes by the route.
        clusters: bad outcomes of one second may share a cause (a failed batch). `learn` counts a second once until
            the data show that they fall independently; `none` trusts each one; `block` always counts a second once,
            which suits arms of equal size only (a small arm has as many bursts, and fewer requests, as a large one).
        gates: what is judged.
        alpha: chance of aborting a candidate that is no worse, over the whole rollout and all gates.
        beta: chance of passing a candidate that is worse by a gate's margin.
        on_fail: `abort` takes traffic back; `hold` freezes the shares and waits for a person.
        max_hold_s: longest stay at a step after its minimum time without a pass.
        on_hold_timeout: what then: `abort`, or `wait` for a person.
        warm_quorum: part of the candidate's backends that must be loaded and warm before the first request.
        load_timeout_s: loading takes no longer.
        warm_timeout_s: nor warming up.
        preview_time_s: blue_green: how long the candidate is shadowed before the switch.
        post_time_s: blue_green: how long it is analysed after the switch.
        preview_min_samples: blue_green and shadow: compared requests below which there is no data.
        max_time_s: ab and shadow end by themselves after this.
        rollback_window_s: after promotion the old version stays loaded for this long and returns at once.
        unload_old: unload the old version after the window.
        hooks: HTTP calls.
    """

    __pydantic_config__: ClassVar = STRICT

    strategy: Strategy = "canary"
    steps: Annotated[tuple[Step, ...], Len(1, 50)] = field(default_factory=_ladder)
    share: Annotated[float, Gt(0), Lt(100)] = 10.0
    shadow_sample: Percent = 10.0
    baseline: Literal["none", "equal"] = "none"
    unit: Literal["auto", "request", "key"] = "auto"
    clusters: Clusters = "learn"
    gates: Gates = field(default_factory=Gates)
    alpha: Probability = 0.01
    beta: Probability = 0.05
    on_fail: Literal["abort", "hold"] = "abort"
    max_hold_s: Seconds = 3600.0
    on_hold_timeout: Literal["abort", "wait"] = "abort"
    warm_quorum: Annotated[float, Gt(0), Le(1)] = 1.0
    load_timeout_s: Annotated[float, Gt(0), Le(86_400)] = 600.0
    warm_timeout_s: Annotated[float, Gt(0), Le(86_400)] = 120.0
    preview_time_s: Seconds = 300.0
    post_time_s: Seconds = 300.0
    preview_min_samples: Annotated[int, Ge(1)] = 100
    max_time_s: Annotated[float, Gt(0), Le(365 * 86_400)] = 7 * 86_400.0
    rollback_window_s: Seconds = 3600.0
    unload_old: bool = True
    hooks: Annotated[tuple[Hook, ...], Len(0, 50)] = ()

    @property
    def shadow_gate(self) -> ShadowGate | None:
        """How mirrored requests are judged.

        Strategies that live on mirrored requests judge them even when nothing was said: that copies are answered at
        all, with the same shapes, datatypes and no NaN. That the values agree is not asked of a new version unasked.
        """
        if self.gates.shadow is None and self.strategy in {"shadow", "blue_green"}:
            return ShadowGate(rules=(OutputRule(rule="shape"),), noise_share=0.0)
        return self.gates.shadow


def problems(policy: RolloutPolicy) -> Iterator[tuple[str, str]]:
    """Contradictions as (dotted field, what); none when the policy can be run."""
    weights = [step.weight for step in policy.steps]
    if any(b <= a for a, b in pairwise(weights)):
        yield "steps", "weights must ascend from step to step"
    if policy.baseline == "equal":
        for i, weight in enumerate(weights if policy.strategy == "canary" else [policy.share]):
            if 2 * weight > 100:
                yield f"steps.{i}.weight", f"{weight:g} % leaves no room for an equal baseline arm (at most 50 %)"
    if policy.clusters == "block" and policy.baseline != "equal":
        yield "clusters", "block needs an equal baseline arm (baseline: equal)"
    if policy.strategy in {"shadow", "blue_green"} and policy.shadow_sample <= 0:
        yield "shadow_sample", f"strategy {policy.strategy} needs mirrored requests"
    yield from _unjudged(policy)
    yield from _gate_problems(policy.gates)


def _unjudged(policy: RolloutPolicy) -> Iterator[tuple[str, str]]:
    """Stages that no gate can judge, which a rollout would therefore never leave."""
    guard, shadow = policy.gates.guardrails, policy.shadow_gate
    guarded = guard is not None and not guard.dry_run
    copied = shadow is not None and not shadow.dry_run
    if policy.strategy == "blue_green":
        if not guarded:
            yield "gates.guardrails", "after the switch only the objectives judge: they must be on and not dry_run"
        if not copied:
            yield "gates.shadow.dry_run", "before the switch only copies judge: their gate must count"
    elif policy.strategy == "canary" and policy.steps[-1].weight >= 100 and not guarded and not copied:
        what = "at 100 % there is nothing to compare with: guardrails must be on and not dry_run"
        yield f"steps.{len(policy.steps) - 1}.weight", what


def _gate_problems(gates: Gates) -> Iterator[tuple[str, str]]:
    errors, latency, drift, shadow, accuracy = gates.errors, gates.latency, gates.drift, gates.shadow, gates.accuracy
    every = (errors, latency, gates.guardrails, drift, shadow, accuracy)
    if all(gate is None or gate.dry_run for gate in every):
        yield "gates", "at least one gate must be on and not dry_run: nothing is promoted without evidence"
    guard = gates.guardrails
    if guard is not None and not (guard.error_rate or guard.p50_ms or guard.p99_ms):
        yield "gates.guardrails", "no objective is on; leave the guardrails out with null"
    if drift is not None and any(b <= a for a, b in pairwise(drift.edges)):
        yield "gates.drift.edges", "edges must ascend"
    if drift is not None and drift.psi_major < drift.psi_moderate:
        yield "gates.drift.psi_major", "must not be below psi_moderate"
    for name, ratio_gate in (("errors", errors), ("latency", latency)):
        if ratio_gate is not None and ratio_gate.margin_ratio <= ratio_gate.tolerance_ratio:
            yield f"gates.{name}.margin_ratio", "must be above tolerance_ratio"
    if shadow is not None and shadow.margin_disagreement < shadow.max_disagreement:
        yield "gates.shadow.margin_disagreement", "must not be below max_disagreement"
    if accuracy is not None and accuracy.margin_drop < accuracy.max_drop:
        yield "gates.accuracy.margin_drop", "must not be below max_drop"
