"""The document of a run: tables, pictures, what was not measured, and the command that repeats it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from scipy import stats

from loadtest.execute import SATURATED
from loadtest.gpu.measure import DELIVERY, DIRECT, Bench, Settings
from loadtest.gpu.stack import Stack
from loadtest.report.plots import Picture

_UNKNOWN: Final = "unknown"
_CONFIDENCE: Final = 0.95
_NO_GPU: Final = (
    "**No GPU was at hand.** These are figures of the same code with small models on a processor: they show that every "
    "stage runs and what the gateway adds there. What Sluice does in front of a GPU - its knees, batches, utilization "
    "and memory with ResNet-50, DistilBERT and MiniLM in fp32 and fp16 - is **unknown** until somebody runs "
    "`make gpu-bench` on one.\n"
)

_SMOKE: Final = "**One short probe each.** It shows that every stage works; the rates say nothing about speed.\n"

_BUSY: Final = (
    "**The machine was busy with other work**, so rates are lower and latencies higher than it can do, unevenly so: "
    "knees that were found at different times do not compare. Side by side in one run, both ways suffered alike.\n"
)


def write(page: Path, stack: Stack, settings: Settings, bench: Bench, machine: Mapping[str, Any], command: str) -> None:
    """Writes the document and its pictures beside it."""
    page.parent.mkdir(parents=True, exist_ok=True)
    arms = settings.arms()
    lines = [f"# {'Processor' if settings.cpu else 'GPU'}: {stack.device}", ""]
    lines += [_NO_GPU] if settings.cpu else []
    lines += [_SMOKE] if settings.smoke else []
    lines += ["Repeat it with:", "", "```sh", command, "```", ""]
    lines += _machine(stack, machine)
    lines += _objectives(settings)
    for model, name in settings.served():
        knees = {arm: bench.knee(name, arm) for arm in arms}
        load = bench.load(name)
        picture = page.with_name(f"{page.stem}-{name}.svg")
        picture.write_text(_picture(knees), encoding="utf-8")
        lines += ["", f"## {name}", "", f"{model.what}.", ""]
        lines += _knee_table(knees, gpu=not settings.cpu)
        lines += ["", f"![p99 by rate, {name}]({picture.name})", ""]
        lines += _side_by_side(load)
        lines += _batches(load, name)
    page.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


def _machine(stack: Stack, machine: Mapping[str, Any]) -> list[str]:
    rows = [("processor", f"{machine['cpu']}, {machine['cores']} cores usable, {machine['memory_gib']} GiB")]
    rows += [("GPU", f"{g.name}, {g.memory_mib} MiB, driver {g.driver}, compute {g.compute}") for g in stack.gpus]
    rows += [("ONNX Runtime", f"{stack.onnxruntime}, {stack.provider}"), ("kernel", str(machine["kernel"]))]
    rows += [(name, version) for name, version in machine["packages"].items()]
    rows += [("load average over the 15 minutes before", f"{machine['load']:.1f}")]
    table = [f"| {name} | {value} |" for name, value in rows]
    return ["| | |", "|---|---|", *table, "", *([_BUSY] if machine["load"] > machine["cores"] else [])]


def _objectives(settings: Settings) -> list[str]:
    lines = [
        (
            "A *knee* is the highest open-loop rate at which the objectives hold; latency counts from the intended "
            f"time of sending. Searches stop within {settings.within:.0%}, so smaller differences between knees mean "
            "nothing. Where the load generator used its whole CPU at the rate that failed, the knee is its own; such "
            "rows are marked."
        ),
        "",
        (
            "To tell 0.1 % of failures, a service's objective, from more takes 3,000 requests without one; a probe has "
            f"{settings.each_s - 1:g} seconds, in which a slow model gets fewer. So a knee is held to the error rates "
            "below, and each count of failures has beside it what the true rate is below with "
            f"{_CONFIDENCE:.0%} confidence (Clopper and Pearson): what the figures show, and no more."
        ),
        "",
        "| model | objectives |",
        "|---|---|",
    ]
    for model in settings.models():
        texts = [f"{o['metric']} < {o['below']:g}" for o in model.objectives]
        lines.append(f"| {model.name} | {', '.join(texts)} |")
    return lines


def _knee_table(knees: Mapping[str, dict[str, Any] | None], *, gpu: bool) -> list[str]:
    head = "| way | knee, requests/s | p50 there, ms | p99 there, ms | failed there |" + (
        " GPU busy, mean | GPU memory, MiB |" if gpu else ""
    )
    lines = [head, "|---" * head.count(" | ") + "|---|"]
    for arm, found in knees.items():
        shown = "straight to Triton" if arm == DIRECT else f"gateway, {arm}"
        if found is None:
            lines.append(f"| {shown} | not measured | | | |" + (" | |" if gpu else ""))
            continue
        rate = found["knee"]["rate_per_s"]
        at = next((p for p in found["probes"] if p["rate_per_s"] == rate and p["verdict"] == "pass"), None)
        why = "" if found["knee"]["why"] == "found" else f" ({found['knee']['why']})"
        if any(p["verdict"] == "fail" and p["generator_cpu"] > SATURATED for p in found["probes"]):
            why += " (the load generator's limit)"
        cells = [
            f"{rate:,.0f}{why}" if rate else f"none{why}",
            _ms(at["p50_ms"]) if at else "",
            _ms(at["p99_ms"]) if at else "",
            failures(round(at["error_rate"] * at["requests"]), at["requests"]) if at else "",
        ]
        if gpu:
            seen = found["gpu"]
            cells += [f"{seen['utilization_mean']:.0f} %", f"{seen['memory_max_mib']:.0f}"] if seen else [_UNKNOWN] * 2
        lines.append(f"| {shown} | " + " | ".join(cells) + " |")
    return lines


def _side_by_side(load: dict[str, Any] | None) -> list[str]:
    if load is None:
        return ["The comparison at one rate was not measured.", ""]
    lines = [
        (
            f"Direct and through the gateway ({DELIVERY}: a tenth to the canary, a tenth copied) in turns, at "
            f"{load['rate']:,.0f} requests/s:"
        ),
        "",
        "| | failed | p50, ms | p99, ms |",
        "|---|---|---|---|",
    ]
    for group in load["groups"]:
        latency = group["latency"]
        row = (failures(group["errors"], group["requests"]), _ms(latency["p50_ms"]), _ms(latency["p99_ms"]))
        lines.append(f"| {_group(group)} | " + " | ".join(row) + " |")
    return [*lines, ""]


def _group(group: Mapping[str, Any]) -> str:
    return str(group["where"]) or "both together"


def _batches(load: dict[str, Any] | None, name: str) -> list[str]:
    sizes = (load or {}).get("batches")
    found = next((v for k, v in sizes["executions"].items() if k.startswith(f"{name}:")), None) if sizes else None
    if not found:
        return [f"Batches that Triton formed: {_UNKNOWN}."]
    counts = {int(size): count for size, count in found.items()}
    total = sum(counts.values())
    rows = sum(size * count for size, count in counts.items())
    shares = ", ".join(f"{size}: {count / total:.1%}" for size, count in sorted(counts.items()))
    return [f"Batches that Triton formed in that run: {rows / total:.2f} rows on average ({shares})."]


def failures(failed: int, requests: int) -> str:
    """So many of so many requests, and the rate below which failures are with 95 % confidence."""
    bound = float(stats.beta.ppf(_CONFIDENCE, failed + 1, requests - failed)) if failed < requests else 1.0
    return f"{failed:,} of {requests:,} (below {100 * bound:.3g} %)"


def _ms(value: float | None) -> str:
    return _UNKNOWN if value is None else f"{value:.1f}"


def _picture(knees: Mapping[str, dict[str, Any] | None]) -> str:
    """The p99 of every probe over the rate that was offered."""
    picture = Picture("offered, requests/s", "p99, ms")
    for arm, found in knees.items():
        probes = sorted(found["probes"], key=lambda p: p["rate_per_s"]) if found else []
        seen = [(p["rate_per_s"], p["p99_ms"]) for p in probes if p["p99_ms"] is not None]
        if seen:
            picture.axes.plot(*zip(*seen, strict=True), marker="o", markersize=3, label=arm)
    picture.log("x", "y")
    return picture.svg()
