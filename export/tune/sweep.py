"""Each candidate is loaded over the present configuration, driven, and in the end the present one is put back."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from export.errors import EXIT_TUNE, ExportError
from export.serving import confirm, proto
from export.serving.client import Triton
from export.tune.drive import measure
from export.tune.pareto import Candidate, Trial, choose, front

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
    trials: list[Trial]
    front: list[Trial]
    chosen: Trial | None
    reason: str


def run(url: str, name: str, version: int, grid: Grid, *, p99_ms: float, concurrency: int, seconds: float) -> Found:
    """Measure the present configuration, every candidate, and the present one again; the present one stays loaded."""
    with Triton(url) as triton:
        present = triton.config(name, version)
        inputs = _request(present)

        def trial(candidate: Candidate) -> Trial:
            return measure(triton.url, name, version, inputs, candidate, concurrency=concurrency, seconds=seconds)

        untuned = [trial(Candidate())]
        trials = []
        try:
            for candidate in grid.candidates():
                triton.load(name, {"config": json.dumps(applied(present, candidate))})
                triton.await_state(name, version, confirm.READY_S)
                trials.append(trial(candidate))
        except ExportError as error:
            raise TuneError(f"{name}: {error}") from error
        finally:
            triton.load(name)
        untuned.append(trial(Candidate()))
    chosen, reason = choose(trials, untuned, p99_ms)
    return Found(
        model=name,
        version=version,
        concurrency=concurrency,
        seconds=seconds,
        p99_bound_ms=p99_ms,
        untuned=untuned,
        trials=trials,
        front=front(trials),
        chosen=chosen,
        reason=reason,
    )


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
        chosen = applied({"instance_group": [{"kind": "KIND_AUTO"}]}, found.chosen.candidate)
        if found.chosen.candidate.instances is None:
            del chosen["instance_group"]
        overlay.write_text(proto.to_text(proto.from_dict(chosen)))


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
