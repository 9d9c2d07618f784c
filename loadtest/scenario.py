"""The scenario file: which requests are sent, how many, when, and what must hold. Frozen; unknown keys are errors."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from loadtest import shapes
from loadtest.errors import UsageError
from loadtest.objectives import DEFAULT_OBJECTIVES, Objective
from loadtest.v2body import DATATYPES

Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9_.:@/-]+$")]
Level = Annotated[float, Field(ge=0, le=10_000_000)]
Seconds = Annotated[float, Field(gt=0, le=7 * 86_400)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Steady(_Strict):
    """One level for the whole run."""

    kind: Literal["steady"] = "steady"
    level: Level
    duration_s: Seconds

    def curve(self) -> shapes.Shape:
        """The level over time."""
        return shapes.steady(self.level, self.duration_s)


class Soak(_Strict):
    """One level for a long time, an hour unless told otherwise, to find leaks and slow drift."""

    kind: Literal["soak"]
    level: Level
    duration_s: Seconds = 3600.0

    def curve(self) -> shapes.Shape:
        """The level over time."""
        return shapes.steady(self.level, self.duration_s)


class Ramp(_Strict):
    """A straight line from `start` to `end`."""

    kind: Literal["ramp"]
    start: Level = 0.0
    end: Level
    duration_s: Seconds

    def curve(self) -> shapes.Shape:
        """The level over time."""
        return shapes.ramp(self.start, self.end, self.duration_s)


class Step(_Strict):
    """Each of `levels` held for `each_s`."""

    kind: Literal["step"]
    levels: Annotated[tuple[Level, ...], Field(min_length=1, max_length=1000)]
    each_s: Seconds

    def curve(self) -> shapes.Shape:
        """The level over time."""
        return shapes.step(self.levels, self.each_s)


class Spike(_Strict):
    """`base` throughout, but `peak` from `at_s` for `spike_s`."""

    kind: Literal["spike"]
    base: Level
    peak: Level
    at_s: Seconds
    spike_s: Seconds
    duration_s: Seconds

    @model_validator(mode="after")
    def _fits(self) -> "Spike":
        self.curve()
        return self

    def curve(self) -> shapes.Shape:
        """The level over time."""
        return shapes.spike(self.base, self.peak, self.at_s, self.spike_s, self.duration_s)


class TwicePeak(_Strict):
    """Up to the expected `peak`, then to twice that, then back: each climb `ramp_s`, each plateau `hold_s`."""

    kind: Literal["2x-peak"]
    peak: Level
    ramp_s: Seconds
    hold_s: Seconds

    def curve(self) -> shapes.Shape:
        """The level over time."""
        return shapes.twice_peak(self.peak, self.ramp_s, self.hold_s)


ShapeSpec = Annotated[Steady | Soak | Ramp | Step | Spike | TwicePeak, Field(discriminator="kind")]


class Tensor(_Strict):
    """One input of a synthetic request; `shape` leaves the batch axis out, values are in [low, high)."""

    name: Name
    datatype: Literal["INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "FP16", "FP32", "FP64"]
    shape: Annotated[tuple[PositiveInt, ...], Field(max_length=8)]
    low: float = 0.0
    high: float = 1.0

    @model_validator(mode="after")
    def _ordered(self) -> "Tensor":
        if self.high <= self.low:
            raise ValueError("high must be above low")
        if self.datatype not in DATATYPES.values():
            raise ValueError(f"{self.datatype} cannot be generated")
        return self


class Sequence(_Strict):
    """Requests that belong together: the first carries START, the last END, all of them one id."""

    length: Annotated[int, Field(ge=1, le=10_000)]
    ids: Literal["numeric", "string"] = "numeric"


class Sticky(_Strict):
    """A header whose value is drawn, for each request, from a fixed number of keys."""

    header: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$", max_length=100)]
    keys: Annotated[int, Field(ge=1, le=10_000_000)] = 1000


class Request(_Strict):
    """One kind of request in the mix; `weight` is its share relative to the others."""

    name: Name
    model: Name
    input: Literal["digits", "sentences", "synthetic"]
    tensors: tuple[Tensor, ...] = ()
    encoding: Literal["json", "binary"] = "binary"
    batch: Annotated[int, Field(ge=1, le=65_536)] = 1
    weight: PositiveFloat = 1.0
    variety: Annotated[int, Field(ge=1, le=10_000)] = 64
    headers: dict[str, str] = Field(default_factory=dict)
    sticky: Sticky | None = None
    sequence: Sequence | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "Request":
        if (self.input == "synthetic") != bool(self.tensors):
            raise ValueError("`tensors` are declared exactly when input is synthetic")
        if self.encoding == "json" and any(t.datatype == "FP16" for t in self.tensors):
            raise ValueError("FP16 travels only as binary: set encoding to binary")
        return self


class Scenario(_Strict):
    """A load test.

    `level` of the shape means users when arrivals are closed, requests per second when they are open.
    `connections` bounds the requests in flight of open arrivals; requests due beyond it wait, and their wait counts.
    """

    name: Name
    description: str = ""
    arrivals: Literal["closed", "open"] = "closed"
    spacing: Literal["poisson", "even"] = "poisson"
    shape: ShapeSpec
    warmup_s: Annotated[float, Field(ge=0, le=3600)] = 2.0
    think_s: Annotated[float, Field(ge=0, le=3600)] = 0.0
    connections: Annotated[int, Field(ge=1, le=20_000)] = 64
    timeout_s: Seconds = 10.0
    seed: int = 0
    requests: Annotated[tuple[Request, ...], Field(min_length=1, max_length=100)]
    objectives: Annotated[tuple[Objective, ...], Field(max_length=200)] = DEFAULT_OBJECTIVES

    @model_validator(mode="after")
    def _consistent(self) -> "Scenario":
        names = [r.name for r in self.requests]
        if len(set(names)) != len(names):
            raise ValueError("each request needs its own name")
        curve = self.shape.curve()
        if self.warmup_s >= curve.duration_s:
            raise ValueError(f"warmup_s {self.warmup_s:g} leaves nothing of the {curve.duration_s:g} s to measure")
        if curve.peak <= 0:
            raise ValueError("the shape never rises above 0")
        if self.arrivals == "closed" and curve.peak > 20_000:
            raise ValueError("at most 20000 users")
        return self


_LEVELS = frozenset({"level", "levels", "start", "end", "base", "peak"})


def resized(scenario: Scenario, *, peak: float | None = None, duration_s: float | None = None) -> Scenario:
    """The scenario with its shape stretched to another peak level or length; proportions stay.

    Raises:
        UsageError: the result is not a valid scenario, as when the warm-up would take all of it.
    """
    curve = scenario.shape.curve()
    level = peak / curve.peak if peak is not None else 1.0
    time = duration_s / curve.duration_s if duration_s is not None else 1.0
    shape = {
        key: value if key == "kind" else _times(value, level if key in _LEVELS else time)
        for key, value in scenario.shape.model_dump().items()
    }
    return changed(scenario, shape=shape)


def changed(scenario: Scenario, **values: Any) -> Scenario:
    """The scenario with other values, checked as a whole again.

    Raises:
        UsageError: the result is not a valid scenario.
    """
    try:
        return Scenario.model_validate(scenario.model_dump() | values)
    except ValidationError as e:
        problem = e.errors(include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise UsageError(f"scenario {scenario.name}: {where}{': ' if where else ''}{problem['msg']}") from None


def _times(value: float | tuple[float, ...], factor: float) -> float | tuple[float, ...]:
    return tuple(v * factor for v in value) if isinstance(value, tuple) else value * factor
