"""The pictures of a report, each a self-contained SVG."""

import io
from collections.abc import Iterator, Mapping, Sequence
from math import nan
from typing import Any, Final, TypeVar

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogFormatter, MaxNLocator

from loadtest import histogram
from loadtest.report.series import Track, measured, tracks
from loadtest.results import BatchMoment, BatchSizes, Result
from loadtest.shapes import Shape

_SIZE: Final = (8.0, 2.9)
_COLOURS: Final = ("#1f6f8b", "#d1495b", "#3a7d44", "#8e6c8a", "#e0a100", "#555555")
_MAX_TICKS: Final = 24
_PERCENTILES: Final = (0.0, 0.5, 0.9, 0.99, 0.999, 0.9999)

_T = TypeVar("_T")


class Picture:
    """A figure with one set of axes that becomes SVG text."""

    def __init__(self, x: str, y: str) -> None:
        self._figure = Figure(figsize=_SIZE, layout="constrained")
        self.axes: Any = self._figure.subplots()
        self.axes.set_xlabel(x)
        self.axes.set_ylabel(y)
        self.axes.grid(visible=True, alpha=0.3)

    def log(self, *axes: str) -> None:
        """Make axes logarithmic, unless there is nothing on them: an empty logarithm cannot be drawn."""
        if self.axes.has_data() and (self.axes.dataLim.width > 0 or self.axes.dataLim.height > 0):
            for axis in axes:
                getattr(self.axes, f"set_{axis}scale")("log")
                # 20, not 2 x 10^1.
                scale = getattr(self.axes, f"{axis}axis")
                scale.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                scale.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(1.5, 0.5)))

    def not_counted(self, until: float) -> None:
        """Shade the warm-up."""
        if until > 0:
            self.axes.axvspan(0, until, color="#888888", alpha=0.15, linewidth=0, label="warm-up")

    def svg(self) -> str:
        """The picture as an <svg> element; the same figures give the same text."""
        if self.axes.get_legend_handles_labels()[1]:
            # Beside the axes: inside it would hide what it names.
            self._figure.legend(fontsize=8, frameon=False, loc="outside right upper")
        out = io.StringIO()
        with mpl.rc_context({"svg.hashsalt": "sluice"}):
            self._figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
        text = out.getvalue()
        return text[text.index("<svg") :]


def all_pictures(result: Result, curve: Shape) -> list[tuple[str, str]]:
    """(title, SVG) of everything there is to see in a run."""
    lines = tracks(result)
    pictures = [
        ("Rate over time", rate(lines, curve if result.offered_per_s is not None else None, result.warmup_s)),
        ("Latency over time", latency(lines, result.warmup_s)),
        ("Latency histogram", latency_histogram(result)),
        ("Latency by percentile", percentiles([(a.name, measured(result, a.name)) for a in result.arms])),
    ]
    if any(sum(t.errors) for t in lines):
        pictures.append(("Errors over time", errors(lines, result.warmup_s)))
    if result.batch_sizes and any(result.batch_sizes.executions.values()):
        pictures.append(("Batches formed by Triton", batches(result.batch_sizes)))
        if result.batch_sizes.series:
            pictures.append(("Batch sizes over time", batches_over_time(result.batch_sizes.series)))
    return pictures


def rate(lines: Sequence[Track], offered: Shape | None, warmup_s: float = 0.0) -> str:
    """Good answers per second; the offered rate as a dashed line when arrivals were open."""
    picture = Picture("seconds", "answers per second")
    for colour, track in _coloured(lines):
        picture.axes.plot(track.t, track.rate, color=colour, label=track.name)
    if offered is not None:
        t, level = zip(*offered.points, strict=True)
        picture.axes.plot(t, level, color="black", linestyle="--", linewidth=1, label="offered")
    picture.not_counted(warmup_s)
    picture.axes.set_ylim(bottom=0)
    return picture.svg()


def latency(lines: Sequence[Track], warmup_s: float = 0.0) -> str:
    """Median, 90th and 99th percentile of each slice of time."""
    picture = Picture("seconds", "milliseconds")
    for colour, track in _coloured(lines):
        for values, style, name in ((track.p50, "-", "p50"), (track.p90, ":", "p90"), (track.p99, "--", "p99")):
            numbers = [float("nan") if v is None else v for v in values]
            picture.axes.plot(track.t, numbers, color=colour, linestyle=style, label=f"{track.name} {name}")
    picture.log("y")
    picture.not_counted(warmup_s)
    return picture.svg()


def latency_histogram(result: Result) -> str:
    """How many answers took how long, after the warm-up."""
    picture = Picture("milliseconds", "answers")
    for colour, arm in _coloured(result.arms):
        buckets = measured(result, arm.name)
        if buckets:
            values = [max(histogram.midpoint_us(b), 1) / 1000 for b in buckets]
            weights = list(buckets.values())
            edges = _log_edges(min(values), max(values))
            picture.axes.hist(values, bins=edges, weights=weights, histtype="step", color=colour, label=arm.name)
    picture.log("x")
    return picture.svg()


def percentiles(named: Sequence[tuple[str, Mapping[int, int]]]) -> str:
    """Latency histograms against the share of answers that were faster, stretched towards the slowest."""
    picture = Picture("percentile", "milliseconds")
    for colour, (name, buckets) in _coloured(named):
        total, seen = sum(buckets.values()), 0
        if not total:
            continue
        x, y = [], []
        for bucket in sorted(buckets):
            seen += buckets[bucket]
            x.append(max(1 - (seen - 0.5) / total, 0.5 / total))
            y.append(histogram.midpoint_us(bucket) / 1000)
        picture.axes.plot(x, y, color=colour, label=name)
    picture.log("x", "y")
    picture.axes.invert_xaxis()
    picture.axes.set_xticks([1 - p for p in _PERCENTILES], [f"{100 * p:g} %" for p in _PERCENTILES])
    return picture.svg()


def errors(lines: Sequence[Track], warmup_s: float = 0.0) -> str:
    """Failed requests per second."""
    picture = Picture("seconds", "failures per second")
    for colour, track in _coloured(lines):
        picture.axes.plot(track.t, track.errors, color=colour, label=track.name, drawstyle="steps-mid")
    picture.not_counted(warmup_s)
    picture.axes.set_ylim(bottom=0)
    return picture.svg()


def batches(sizes: BatchSizes) -> str:
    """Executions by batch size, for each model and version."""
    picture = Picture("batch size", "executions")
    models = [(name, counts) for name, counts in sizes.executions.items() if counts]
    known = sorted({size for _, counts in models for size in counts})
    width = 0.8 / len(models)
    for i, (colour, (name, counts)) in enumerate(_coloured(models)):
        positions = [known.index(size) + (i - (len(models) - 1) / 2) * width for size in counts]
        picture.axes.bar(positions, list(counts.values()), width=width, color=colour, label=name)
    every = -(-len(known) // _MAX_TICKS)
    picture.axes.set_xticks(range(0, len(known), every), [str(size) for size in known[::every]])
    return picture.svg()


def batches_over_time(moments: Sequence[BatchMoment]) -> str:
    """Mean size of the batches of each model and version over time, and the largest as a dotted line."""
    picture = Picture("seconds", "rows per execution")
    for colour, name in _coloured(sorted({model for moment in moments for model in moment.executions})):
        t = [(moment.start_s + moment.end_s) / 2 for moment in moments]
        sizes = [moment.executions.get(name, {}) for moment in moments]
        mean = [sum(s * n for s, n in found.items()) / sum(found.values()) if found else nan for found in sizes]
        picture.axes.plot(t, mean, color=colour, marker=".", markersize=3, label=f"{name} mean")
        largest = [float(max(found)) if found else nan for found in sizes]
        picture.axes.plot(t, largest, color=colour, linestyle=":", linewidth=1, label=f"{name} largest")
    picture.axes.set_ylim(bottom=0)
    picture.axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    return picture.svg()


def _coloured(items: Sequence[_T]) -> Iterator[tuple[str, _T]]:
    return ((_COLOURS[i % len(_COLOURS)], item) for i, item in enumerate(items))


def _log_edges(low: float, high: float) -> list[float]:
    steps = 80
    ratio = (max(high, low * 1.01) / low) ** (1 / steps)
    return [low * 0.999 * ratio**i * (1.002 if i == steps else 1) for i in range(steps + 1)]
