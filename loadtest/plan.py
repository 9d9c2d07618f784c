"""What the parent command hands to the Locust processes: everything built, nothing left to compute or import.

Tokenizers and data sets are loaded by the parent only, so load generators start fast, stay small, and may run on
machines that have neither.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import msgspec

from loadtest.arrivals import Spacing
from loadtest.errors import UsageError
from loadtest.inputs import digits, sentences, synthetic
from loadtest.scenario import Request, Scenario
from loadtest.shapes import Point, Shape
from loadtest.slices import Slicing
from loadtest.v2body import Body, Tensors, build


class Arm(msgspec.Struct, frozen=True):
    """A server under test; in a run with two arms, time slices alternate between them."""

    name: str
    url: str


class PlannedRequest(msgspec.Struct, frozen=True):
    """A kind of request with its bodies ready to send."""

    name: str
    path: str
    weight: float
    headers: dict[str, str]
    bodies: list[Body]
    sticky_header: str | None
    sticky_keys: int
    sequence_length: int
    sequence_ids: Literal["numeric", "string"]


class Plan(msgspec.Struct, frozen=True):
    """One run. `slice_s` is the width of a time cell; with two arms it is how long one is driven before the other."""

    arms: list[Arm]
    arrivals: Literal["closed", "open"]
    spacing: Spacing
    shape: tuple[Point, ...]
    think_s: float
    connections: int
    timeout_s: float
    slice_s: float
    seed: int
    requests: list[PlannedRequest]

    @property
    def curve(self) -> Shape:
        """The level over time."""
        return Shape(self.shape)

    @property
    def slicing(self) -> Slicing:
        """How its time is cut and shared by the arms."""
        return Slicing(self.curve.duration_s, self.slice_s, len(self.arms))

    @property
    def users(self) -> int:
        """Locust users to start: connections of open arrivals, or the most users of closed ones."""
        return self.connections if self.arrivals == "open" else max(1, round(self.curve.peak))


MAX_SLICES = 1200


def make_plan(scenario: Scenario, arms: Sequence[Arm], *, arm_slice_s: float) -> Plan:
    """Build every body of the scenario and fix the width of time cells (a second, more for very long runs).

    Raises:
        UsageError: the run is too long for so short turns of two arms, or too short for each to have one that counts.
    """
    curve = scenario.shape.curve()
    if len(arms) > 1 and curve.duration_s / arm_slice_s > MAX_SLICES:
        raise UsageError(f"{curve.duration_s:g} s in slices of {arm_slice_s:g} s are too many: lengthen the slices")
    width = arm_slice_s if len(arms) > 1 else max(1.0, float(-(-curve.duration_s // MAX_SLICES)))
    slicing = Slicing(curve.duration_s, width, len(arms))
    if not all(slicing.measured(arm, scenario.warmup_s) for arm in range(len(arms))):
        raise UsageError(
            f"{curve.duration_s:g} s are too short: each arm needs a slice of {width:g} s after "
            f"{scenario.warmup_s:g} s of warm-up"
        )
    return Plan(
        arms=list(arms),
        arrivals=scenario.arrivals,
        spacing=scenario.spacing,
        shape=curve.points,
        think_s=scenario.think_s,
        connections=scenario.connections,
        timeout_s=scenario.timeout_s,
        slice_s=width,
        seed=scenario.seed,
        requests=[_planned(r, scenario.seed) for r in scenario.requests],
    )


def _planned(request: Request, seed: int) -> PlannedRequest:
    return PlannedRequest(
        name=request.name,
        path=f"/v2/models/{request.model}/infer",
        weight=request.weight,
        headers=request.headers,
        bodies=[build(t, binary=request.encoding == "binary") for t in _batches(request, seed)],
        sticky_header=request.sticky.header if request.sticky else None,
        sticky_keys=request.sticky.keys if request.sticky else 1,
        sequence_length=request.sequence.length if request.sequence else 0,
        sequence_ids=request.sequence.ids if request.sequence else "numeric",
    )


def _batches(request: Request, seed: int) -> list[Tensors]:
    if request.input == "synthetic":
        declared = [(t.name, t.datatype, t.shape, (t.low, t.high)) for t in request.tensors]
        return synthetic.batches(declared, batch=request.batch, count=request.variety, seed=seed)
    sources: Mapping[str, Callable[..., list[Tensors]]] = {"digits": digits.batches, "sentences": sentences.batches}
    return sources[request.input](batch=request.batch, count=request.variety, seed=seed)
