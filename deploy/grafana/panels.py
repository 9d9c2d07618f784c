"""What a dashboard is made of, and its JSON as Grafana reads it."""

from dataclasses import dataclass, field
from typing import Any, Final

_SOURCE: Final = {"type": "prometheus", "uid": "prometheus"}
_COLUMNS, _HEIGHT = 24, 8
_WINDOW: Final = "[$__rate_interval]"


@dataclass(frozen=True)
class Panel:
    """One graph or number; `queries` are (expression, legend), `lines` are thresholds drawn in red."""

    title: str
    unit: str
    queries: list[tuple[str, str]]
    text: str = ""
    kind: str = "timeseries"
    lines: list[float] = field(default_factory=list)
    stacked: bool = False


@dataclass(frozen=True)
class Board:
    """One dashboard; `variables` are (name, metric that has it as a label)."""

    uid: str
    title: str
    text: str
    rows: list[tuple[str, list[Panel]]]
    variables: list[tuple[str, str]] = field(default_factory=list)


def rate(metric: str, matchers: str = "") -> str:
    """A counter's increase per second, over the window that suits the graph's resolution."""
    return f"rate({metric}{{{matchers}}}{_WINDOW})" if matchers else f"rate({metric}{_WINDOW})"


def quantile(q: float, metric: str, by: str, matchers: str) -> str:
    """A quantile of a histogram for each value of the label `by`."""
    return f"histogram_quantile({q}, sum by ({by}, le) ({rate(metric + '_bucket', matchers)}))"


def to_json(board: Board) -> dict[str, Any]:
    """The dashboard; the same input gives the same bytes."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in board.rows:
        panels.append({"id": len(panels) + 1, "type": "row", "title": title, "collapsed": False, "panels": [],
                       "gridPos": {"h": 1, "w": _COLUMNS, "x": 0, "y": top}})  # fmt: skip
        top += 1
        across = 4 if all(panel.kind == "stat" for panel in row) else 2 if len(row) in {2, 4} else 3
        width, height = _COLUMNS // across, _HEIGHT // 2 if across == 4 else _HEIGHT
        for i, panel in enumerate(row):
            where = {"h": height, "w": width, "x": i % across * width, "y": top + i // across * height}
            panels.append({"id": len(panels) + 1, "gridPos": where, **_panel(panel)})
        top += -(-len(row) // across) * height
    return {
        "uid": board.uid,
        "title": board.title,
        "description": board.text,
        "tags": ["sluice"],
        "schemaVersion": 39,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "links": [{"type": "dashboards", "tags": ["sluice"], "asDropdown": True, "includeVars": True, "keepTime": True,
                   "title": "Sluice"}],
        "templating": {"list": [_variable(label, metric) for label, metric in board.variables]},
        "panels": panels,
    }  # fmt: skip


def _panel(panel: Panel) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    steps += [{"color": "red", "value": line} for line in panel.lines[:1]]
    steps += [{"color": "dark-red", "value": line} for line in panel.lines[1:]]
    custom: dict[str, Any] = {"fillOpacity": 10, "showPoints": "never", "spanNulls": False}
    if panel.lines:
        custom["thresholdsStyle"] = {"mode": "dashed"}
    if panel.stacked:
        custom["stacking"] = {"mode": "normal", "group": "A"}
    defaults: dict[str, Any] = {"unit": panel.unit, "thresholds": {"mode": "absolute", "steps": steps}}
    options: dict[str, Any] = {}
    if panel.kind == "timeseries":
        defaults |= {"custom": custom, "min": 0}
        options = {
            "tooltip": {"mode": "multi", "sort": "desc"},
            "legend": {"displayMode": "list", "placement": "bottom"},
        }
    else:
        options = {"reduceOptions": {"calcs": ["lastNotNull"]}, "graphMode": "area"}
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text,
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {"refId": chr(ord("A") + i), "datasource": _SOURCE, "expr": query, "legendFormat": legend, "exemplar": True}
            for i, (query, legend) in enumerate(panel.queries)
        ],
    }


def _variable(label: str, metric: str) -> dict[str, Any]:
    query = f"label_values({metric}, {label})"
    return {
        "name": label,
        "label": label,
        "type": "query",
        "datasource": _SOURCE,
        "definition": query,
        "query": {"query": query, "refId": label},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }
