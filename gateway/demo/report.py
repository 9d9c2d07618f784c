"""Shows what the demo found."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from gateway.demo.judge import Check


def as_plain(results: dict[str, Any], checks: Sequence[Check]) -> dict[str, Any]:
    """The report as plain data, with the verdict first."""
    return {
        "ok": all(check.ok for check in checks),
        **results,
        "checks": [{"name": check.name, "ok": check.ok, "text": check.text} for check in checks],
    }


def show(report: dict[str, Any], console: Console) -> None:
    """Print the report: one row per variant, the shadow, the rollouts, the checks and where to look."""
    traffic, shadow = report["traffic"], report["shadow"]
    table = Table(title=f"{traffic['requests']} digits, {traffic['concurrency']} at a time", title_justify="left")
    for column in ("variant", "weight", "share seen", "p50", "p99", "accuracy", "its manifest says"):
        table.add_column(column, justify="left" if column == "variant" else "right")
    for name, accuracy in report["held_out_accuracy"].items():
        seen = traffic["variants"].get(name)
        cells = ["shadow", f"{shadow['copies']} copies", "", ""]
        if seen:
            share = f"{seen['share_percent']:.2f} %"
            cells = [f"{seen['weight_percent']:g} %", share, f"{seen['p50_ms']:.1f} ms", f"{seen['p99_ms']:.1f} ms"]
        table.add_row(name, *cells, f"{accuracy:.4f}", f"{report['manifest_accuracy'][name]:.4f}")
    console.print(table)
    for route, rollout in report["rollouts"].items():
        console.print(f"{route}: {rollout['phase']} - {rollout['reason']}", markup=False, highlight=False)
        if "candidate_requests" in rollout:
            console.print(_raised(rollout), markup=False, highlight=False)
    for check in report["checks"]:
        console.print(f"{'✓' if check['ok'] else '✗'} {check['name']}: {check['text']}", markup=False, highlight=False)
    console.print()
    for name, label in (("metrics", "/metrics"), ("api", "admin API"), ("gateway", "data plane"), ("triton", "Triton")):
        console.print(f"{label:10} {report['urls'][name]}", markup=False, highlight=False)


def _raised(rollout: dict[str, Any]) -> str:
    asked, seconds = rollout["candidate_requests"], rollout["verdict_to_last_switch_s"]
    switch = "no switch" if seconds is None else f"{seconds:.3f} s from the verdict to the last worker's switch"
    return (
        "  its export's checks saw no fault: their samples have no faint pixels, live digits do\n"
        f"  requests that met the candidate: {asked}, of them errors: {rollout['candidate_errors']}\n"
        f"  {switch}"
    )
