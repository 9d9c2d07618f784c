"""What must hold, and the verdict on it. Too few observations never pass: unknown is not success."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Final, Literal

import msgspec
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from loadtest import errors, selector
from loadtest.summary import Group

Verdict = Literal["pass", "fail", "inconclusive", "no_data", "error"]
ORDER: Final[Sequence[Verdict]] = ("pass", "inconclusive", "no_data", "fail", "error")
EXIT_CODES: Final[dict[Verdict, int]] = {
    "pass": errors.EXIT_PASS,
    "fail": errors.EXIT_MISSED,
    "inconclusive": errors.EXIT_UNDECIDED,
    "no_data": errors.EXIT_UNDECIDED,
    "error": errors.EXIT_BROKEN,
}
Metric = Literal["latency_p50_ms", "latency_p90_ms", "latency_p99_ms", "latency_p999_ms", "latency_mean_ms"]
_QUANTILES: Final = {"latency_p50_ms": 0.5, "latency_p90_ms": 0.9, "latency_p99_ms": 0.99, "latency_p999_ms": 0.999}
# A tail quantile rests on the observations beyond it, a median on those on either side, a share on the events counted:
# with fewer than these it is luck.
_MIN_BEYOND: Final = 10
_MIN_EITHER_SIDE: Final = 5
_MIN_EVENTS: Final = 3


def _checked_selector(text: str) -> str:
    try:
        selector.parse(text)
    except errors.UsageError as e:
        raise ValueError(str(e)) from None
    return text


class Objective(BaseModel):
    """`metric` must stay below or above a bound, for the part of the run that `where` selects."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    metric: Metric | Literal["rate_per_s", "error_rate"]
    below: Annotated[float, Field(gt=0)] | None = None
    above: Annotated[float, Field(ge=0)] | None = None
    where: Annotated[str, AfterValidator(_checked_selector)] = ""

    @model_validator(mode="after")
    def _one_bound(self) -> "Objective":
        if (self.below is None) == (self.above is None):
            raise ValueError("an objective has exactly one of `below` and `above`")
        if (self.above is not None) != (self.metric == "rate_per_s"):
            raise ValueError("rates are bounded by `above`, latencies and error rates by `below`")
        return self

    def __str__(self) -> str:
        bound = f"< {self.below:g}" if self.below is not None else f"> {self.above:g}"
        return f"{self.metric} {bound}" + (f" where {self.where}" if self.where else "")


DEFAULT_OBJECTIVES: Final = (
    Objective(metric="latency_p50_ms", below=20),
    Objective(metric="latency_p99_ms", below=100),
    Objective(metric="rate_per_s", above=1000),
    Objective(metric="error_rate", below=0.001),
)


class Judgement(msgspec.Struct, frozen=True):
    """An objective with the value seen, the verdict and the reason for it."""

    objective: str
    value: float | None
    verdict: Verdict
    reason: str


def judge(objective: Objective, group: Group | None, *, instances: int, offered_per_s: float | None) -> Judgement:
    """Verdict on one objective.

    Args:
        objective: what must hold.
        group: figures of the selected part of the run; None when nothing matched.
        instances: how many gateways shared the load; rates are judged for each.
        offered_per_s: the rate that open arrivals asked for, None when arrivals were closed.
    """

    def say(value: float | None, verdict: Verdict, reason: str) -> Judgement:
        return Judgement(objective=str(objective), value=value, verdict=verdict, reason=reason)

    if group is None or group.requests == 0:
        return say(None, "no_data", "no request matched")
    if objective.metric == "rate_per_s":
        assert objective.above is not None
        rate = group.rate_per_s / instances
        if rate > objective.above:
            return say(rate, "pass", "")
        if offered_per_s is not None and offered_per_s / instances <= objective.above:
            return say(rate, "inconclusive", f"only {offered_per_s / instances:.0f}/s per instance were offered")
        return say(rate, "fail", f"{rate:.0f}/s per instance")
    assert objective.below is not None
    need = requests_needed(objective)
    if objective.metric == "error_rate":
        if group.error_rate >= objective.below:
            return say(group.error_rate, "fail", f"{group.errors} of {group.requests} requests failed")
        if group.requests < need:
            return say(group.error_rate, "inconclusive", f"{group.requests} requests, {need:.0f} are needed to tell")
        return say(group.error_rate, "pass", "")
    value: float | None = getattr(group.latency, objective.metric.removeprefix("latency_"))
    if value is None:
        return say(None, "no_data", "no request succeeded")
    answers = group.requests - group.errors
    if answers < need:
        return say(value, "inconclusive", f"{answers} answers are too few for this figure")
    return say(value, "pass" if value < objective.below else "fail", "")


def requests_needed(objective: Objective) -> float:
    """Requests (of latencies: answers) below which a verdict on an objective would be luck; 0 for a rate."""
    if objective.metric == "rate_per_s":
        return 0.0
    if objective.metric == "error_rate":
        assert objective.below is not None
        return _MIN_EVENTS / objective.below
    q = _QUANTILES.get(objective.metric, 0.5)
    # Rounded: 1 - 0.99 is a little more than a hundredth.
    return round((_MIN_BEYOND if q > 0.5 else _MIN_EITHER_SIDE) / (1 - q), 6)


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The verdict on the whole: the worst of its parts, no_data where there are none."""
    return max(verdicts, key=ORDER.index, default="no_data")
