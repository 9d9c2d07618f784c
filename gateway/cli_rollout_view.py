"""A rollout on the terminal."""

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

_COLOURS = {"pass": "green", "fail": "red", "error": "red", "inconclusive": "yellow", "no_data": "yellow"}
_ENDS = {"completed": "green", "aborted": "red", "rolled_back": "red"}


def view(rollout: dict[str, Any], now: float) -> RenderableType:
    """Everything that explains where a rollout stands."""
    parts: list[RenderableType] = [_head(rollout, now), _ladder(rollout), _arms(rollout)]
    if rollout["verdict"]:
        parts.append(_gates(rollout["verdict"]))
    return Group(*parts)


def _head(rollout: dict[str, Any], now: float) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    phase = rollout["phase"]
    table.add_row("rollout", f"{rollout['id']}  ({rollout['strategy']}, {rollout['stable']} -> {rollout['candidate']})")
    table.add_row("phase", Text(phase, style=_ENDS.get(phase, "bold")))
    table.add_row("because", rollout["reason"] or "-")
    if rollout["next_decision_at"]:
        table.add_row("next", f"the clock alone decides in {max(0.0, rollout['next_decision_at'] - now):.0f} s")
    if rollout["outstanding"]:
        table.add_row("doing", "; ".join(rollout["outstanding"]))
    return table


def _ladder(rollout: dict[str, Any]) -> RenderableType:
    text = Text("stages   ")
    for i, name in enumerate(rollout["stages"]):
        done = rollout["phase"] in {"promoting", "window", "retiring", "completed"} or i < rollout["stage_index"]
        here = i == rollout["stage_index"] and not rollout["final"] and not done
        text.append(
            f"{'✔ ' if done else '▶ ' if here else '· '}{name}  ", style="green" if done else "bold" if here else "dim"
        )
    text.append(f"(candidate {rollout['weight']:g} %")
    if rollout["baseline"]:
        text.append(f", baseline {rollout['baseline']:g} %")
    if rollout["shadow"]:
        text.append(f", shadow {rollout['shadow']:g} %")
    return text.append(")")


def _arms(rollout: dict[str, Any]) -> RenderableType:
    table = Table(box=None, pad_edge=False, header_style="bold")
    columns = ("assigned", "ok", "client_error", "upstream_error", "timeout", "connect_error", "shed")
    for name in ("ARM", *columns, "p50 ms", "p99 ms", "right", "wrong", "compared", "different"):
        table.add_column(name.upper().replace("_", " "), justify="left" if name == "ARM" else "right")
    for arm in ("candidate", "reference"):
        counts = rollout[f"{arm}_counts"]
        truth = (f"{counts[f'feedback_{name}']:.0f}" for name in ("correct", "wrong"))
        shadow = (str(counts[f"shadow_{name}"]) for name in ("compared", "disagreed"))
        times = ("-" if counts[name] is None else f"{counts[name]:.3g}" for name in ("p50_ms", "p99_ms"))
        table.add_row(arm, *(str(counts[name]) for name in columns), *times, *truth, *shadow)
    return table


def _gates(verdict: dict[str, Any]) -> RenderableType:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in (
        "gate",
        "verdict",
        "worse: evidence / bound",
        "fine: evidence / bound",
        "samples",
        "effect",
        "why",
        "changes with",
    ):
        table.add_column(name.upper(), overflow="fold")
    for gate in verdict["gates"]:
        outcome = Text(
            gate["outcome"] + ("" if gate["counts"] else " (dry run)"), style=_COLOURS.get(gate["outcome"], "")
        )
        table.add_row(
            gate["gate"],
            outcome,
            f"{gate['statistic']:.3g} / {gate['bound']:.3g}",
            f"{gate['pass_statistic']:.3g} / {gate['pass_bound']:.3g}",
            f"{gate['samples']:.0f} + {gate['reference_samples']:.0f}",
            _effect(gate),
            gate["reason"],
            gate["would_change"],
        )
    return table


def _effect(gate: dict[str, Any]) -> str:
    if gate["effect"] is None:
        return "-"
    if gate["effect_low"] is None:
        return f"{gate['effect']:.3g}"  # a size without an interval (PSI)
    low = f"{gate['effect_low']:.3g}"
    high = "∞" if gate["effect_high"] is None else f"{gate['effect_high']:.3g}"
    return f"{gate['effect']:.3g} [{low}, {high}]"
