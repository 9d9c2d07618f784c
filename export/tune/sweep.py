"""Each candidate is loaded over the present configuration, driven, and in the end the present one is put back."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from export.errors import EXIT_TUNE, ExportError
from export.serving import confirm, proto
from export.serving.client import Triton
from export.tune.drive import measure
from export.tune.pareto import PAIRS, Candidate, Gain, Trial, best, choose, front, gain

_NUMPY = {"TYPE_FP32": "float32", "TYPE_FP16": "float16", "TYPE_FP64": "float64", "TYPE_BOOL": "bool"}
_LENGTH = 16


class TuneError(ExportError):
    """The sweep could not be made."""

    exit_code = EXIT_TUNE


class Grid(msgspec.Struct, frozen=True, kw_only=True):
    """Values to combine; an empty dimension stays as it is."""

    delays_us: tuple[int, ...] = ()
    preferred: tuple[int, ...] = ()
    instances: tuple[int, ...] = ()
    max_batches: tuple[int, ...] = ()

    def candidates(self) -> list[Candidate]:
        """All combinations that make sense."""
        sides = (
            self.delays_us or (None,),
            self.preferred or (None,),
            self.instances or (None,),
            self.max_batches or (None,),
        )
        made = [Candidate(*values) for values in itertools.product(*sides)]
        return [c for c in made if c.preferred is None or c.max_batch is None or c.preferred <= c.max_batch]


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """Everything measured; `chosen` is None when nothing beats the present configuration."""

    model: str
    version: int
    concurrency: int
    seconds: float
    p99_bound_ms: float
    untuned: list[Trial]
    confirmed: list[Trial]
    gain: Gain | None
    trials: list[Trial]
    front: list[Trial]
    chosen: Trial | None
    reason: str
    instance_kind: str


def run(
    url: str,
    name: str,
    version: int,
    grid: Grid,
    *,
    p99_ms: float,
    concurrency: int,
    seconds: float,
    pairs: int = PAIRS,
) -> Found:
    """Measure every candidate, then the best one in turns with the present configuration, which stays loaded."""
    with Triton(url) as triton:
        present = triton.config(name, version)
        inputs = _request(present)

        def trial(candidate: Candidate) -> Trial:
            triton.load(name, json.dumps(applied(present, candidate)))
            triton.await_state(name, version, confirm.READY_S)
            return measure(triton.url, name, version, inputs, candidate, concurrency=concurrency, seconds=seconds)

        measured: list[tuple[Trial, Trial]] = []
        try:
            trials = [trial(candidate) for candidate in grid.candidates()]
            fastest = best(trials, p99_ms)
            if fastest is not None:
                measured = _in_turns(lambda: trial(Candidate()), lambda: trial(fastest.candidate), pairs)
        except ExportError as error:
            raise TuneError(f"{name}: {error}") from error
        finally:
            # A load without a configuration keeps the last one that was given, as long as no file has changed.
            triton.load(name, json.dumps(present))
    chosen, reason = choose(fastest, measured, p99_ms)
    return Found(
        model=name,
        version=version,
        concurrency=concurrency,
        seconds=seconds,
        p99_bound_ms=p99_ms,
        untuned=[untuned for untuned, _ in measured],
        confirmed=[other for _, other in measured],
        gain=gain(measured) if len(measured) > 1 else None,
        trials=trials,
        front=front(trials),
        chosen=chosen,
        reason=reason,
        instance_kind=present["instance_group"][0]["kind"],
    )


def _in_turns(present: Callable[[], Trial], other: Callable[[], Trial], pairs: int) -> list[tuple[Trial, Trial]]:
    """Each goes first every other time, so that a machine that grows quieter favours neither."""
    measured = []
    for turn in range(pairs):
        if turn % 2:
            second = other()
            measured.append((present(), second))
        else:
            measured.append((present(), other()))
    return measured


def applied(config: dict[str, Any], candidate: Candidate) -> dict[str, Any]:
    """The configuration with the candidate's settings."""
    changed: dict[str, Any] = json.loads(json.dumps(config))
    batching = changed.setdefault("dynamic_batching", {})
    if candidate.delay_us is not None:
        batching["max_queue_delay_microseconds"] = candidate.delay_us
    if candidate.preferred is not None:
        batching["preferred_batch_size"] = [candidate.preferred]
    if candidate.max_batch is not None:
        changed["max_batch_size"] = candidate.max_batch
        preferred = [size for size in batching.get("preferred_batch_size", []) if size <= candidate.max_batch]
        batching["preferred_batch_size"] = preferred
        for sample in changed.get("model_warmup", []):
            sample["batch_size"] = min(int(sample["batch_size"]), candidate.max_batch)
    if candidate.instances is not None:
        for group in changed["instance_group"]:
            group["count"] = candidate.instances
    return changed


def write(found: Found, directory: Path) -> None:
    """result.json, the plot, and (when something was chosen) the overlay that `sluice export --overlay` takes."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "result.json").write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1))
    _plot(found, directory / "pareto.png")
    overlay = directory / "overlay.pbtxt"
    overlay.unlink(missing_ok=True)
    if found.chosen is not None:
        text = overlay_text(found.chosen.candidate, found.instance_kind)
        proto.from_text(text, str(overlay))
        overlay.write_text(text)


def overlay_text(candidate: Candidate, instance_kind: str) -> str:
    """The candidate's settings as a fragment of config.pbtxt; a delay of 0 is written out, or it would not count."""
    batching = [
        f"  {field}: {value}\n"
        for field, value in (
            ("max_queue_delay_microseconds", candidate.delay_us),
            ("preferred_batch_size", candidate.preferred),
        )
        if value is not None
    ]
    parts = [f"dynamic_batching {{\n{''.join(batching)}}}\n"] if batching else []
    if candidate.max_batch is not None:
        parts.append(f"max_batch_size: {candidate.max_batch}\n")
    if candidate.instances is not None:
        parts.append(f"instance_group {{\n  kind: {instance_kind}\n  count: {candidate.instances}\n}}\n")
    return "".join(parts)


def _plot(found: Found, path: Path) -> None:
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError:
        return  # the figures are in result.json; the picture needs the extra `loadtest`
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.scatter([t.p99_ms for t in found.trials], [t.throughput for t in found.trials], color="0.6", label="tried")
    axes.plot([t.p99_ms for t in found.front], [t.throughput for t in found.front], "o-", label="Pareto front")
    axes.scatter(
        [t.p99_ms for t in found.untuned], [t.throughput for t in found.untuned], marker="x", label="as it was"
    )
    if found.chosen:
        axes.scatter([found.chosen.p99_ms], [found.chosen.throughput], marker="*", s=180, label="chosen")
    axes.axvline(found.p99_bound_ms, linestyle=":", color="0.4", label="bound")
    axes.set(xlabel="p99 in ms", ylabel="requests per second", title=f"{found.model} version {found.version}")
    axes.legend()
    figure.savefig(path, dpi=120)


def _request(config: dict[str, Any]) -> dict[str, Any]:
    """A request of one row: random floats, ones for integers; dynamic dimensions get a middling length."""
    generator = np.random.default_rng(0)
    made = {}
    for entry in config["input"]:
        shape = [1, *(int(dim) if int(dim) > 0 else _LENGTH for dim in entry["dims"])]
        kind = entry["data_type"]
        dtype = _NUMPY.get(kind) or kind.removeprefix("TYPE_").lower()
        if dtype == "string":
            raise TuneError(f"{entry['name']!r} takes text; tune the model behind it")
        floating = dtype.startswith("float")
        made[entry["name"]] = (generator.normal(size=shape) if floating else np.ones(shape)).astype(dtype)
    return made
