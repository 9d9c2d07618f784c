"""The five strategies as one thing: a list of stages that a single state machine walks through."""

from dataclasses import dataclass
from typing import Literal

from gateway.core.rollout_policy import RolloutPolicy

End = Literal["advance", "stay", "finish"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stretch of a rollout with fixed shares.

    Attributes:
        name: shown to people, unique within the rollout.
        weight: candidate's share of the traffic, per cent.
        baseline: share of the equal arm of the old version, per cent; 0 without one.
        shadow: share of the requests mirrored to the candidate, per cent.
        min_time_s: no pass counts before.
        min_samples: candidate observations below which there is no data.
        pause: wait for a person after the gates passed.
        slack: multiplies the gates' margins.
        end: after a pass `advance` to the next stage or promotion; `stay` for ever; `finish` after `max_time_s`.
        max_time_s: for `finish`.
    """

    name: str
    weight: float
    baseline: float = 0.0
    shadow: float = 0.0
    min_time_s: float = 0.0
    min_samples: int = 1
    pause: bool = False
    slack: float = 1.0
    end: End = "advance"
    max_time_s: float = 0.0

    @property
    def compares_traffic(self) -> bool:
        """Whether live requests are drawn to candidate and reference here, so that the relative gates can judge."""
        return 0 < self.weight < 100

    @property
    def share(self) -> float:
        """The candidate's share among the requests that are compared (0 when none are)."""
        if not self.compares_traffic:
            return 0.0
        return 0.5 if self.baseline else self.weight / 100


def stages(policy: RolloutPolicy) -> tuple[Stage, ...]:
    """What a policy goes through from the first request on, in order; never empty."""
    equal = policy.baseline == "equal"
    mirrored = policy.shadow_sample if policy.gates.shadow is not None else 0.0
    match policy.strategy:
        case "canary":
            return tuple(
                Stage(
                    name=f"step {i} ({step.weight:g} %)",
                    weight=step.weight,
                    baseline=step.weight if equal and step.weight <= 50 else 0.0,
                    shadow=mirrored,
                    min_time_s=step.min_time_s,
                    min_samples=step.min_samples,
                    pause=step.pause,
                    slack=step.slack,
                )
                for i, step in enumerate(policy.steps, 1)
            )
        case "blue_green":
            preview = Stage(
                name="preview",
                weight=0.0,
                shadow=policy.shadow_sample,
                min_time_s=policy.preview_time_s,
                min_samples=policy.preview_min_samples,
            )
            post = Stage(
                name="post-switch",
                weight=100.0,
                min_time_s=policy.post_time_s,
                min_samples=policy.preview_min_samples,
            )
            return preview, post
        case "shadow":
            return (
                Stage(
                    name="shadow",
                    weight=0.0,
                    shadow=policy.shadow_sample,
                    min_samples=policy.preview_min_samples,
                    end="finish",
                    max_time_s=policy.max_time_s,
                ),
            )
        case "ab" | "champion_challenger":
            return (
                Stage(
                    name="cohorts" if policy.strategy == "ab" else "challenger",
                    weight=policy.share,
                    baseline=policy.share if equal else 0.0,
                    shadow=mirrored,
                    end="finish" if policy.strategy == "ab" else "stay",
                    max_time_s=policy.max_time_s,
                ),
            )
