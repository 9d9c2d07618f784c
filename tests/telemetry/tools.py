"""What several tests here need: programs that must be installed, and the metric names that queries may use."""

import re
import shutil
from pathlib import Path

import pytest

from gateway.telemetry.catalogue import catalogue

ROOT = Path(__file__).parents[2]
_REMEDY = "{} is not installed; Debian has it in the package prometheus (make test installs it when run as root)"
# Names of metrics: what is left of an expression without strings, label lists, durations, functions and keywords.
_STRINGS = re.compile(r'"[^"]*"')
_BRACES = re.compile(r"\{[^}]*\}")
_LISTS = re.compile(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)")
_WINDOWS = re.compile(r"\[[^]]*\]|\boffset\s+\w+")
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*(?!\s*\()\b(?!\s*\()")
_WORDS = {"and", "or", "unless", "bool"}


def program(name: str) -> str:
    """Path of an installed program; the test fails with the remedy where it is missing."""
    found = shutil.which(name)
    if found is None:
        pytest.fail(_REMEDY.format(name))
    return found


def names(expression: str) -> set[str]:
    """The metrics that an expression reads."""
    for pattern in (_STRINGS, _BRACES, _LISTS, _WINDOWS):
        expression = pattern.sub("", expression)
    return set(_NAME.findall(expression)) - _WORDS


def external() -> set[str]:
    """Metrics of Triton, dcgm-exporter and Prometheus that queries may use."""
    lines = (ROOT / "deploy/prometheus/known-metrics.txt").read_text().splitlines()
    return {line for line in lines if line and not line.startswith("#")}


def exposed() -> set[str]:
    """Every series name of the gateway's own metrics."""
    return {series for family in catalogue() for series in family.series}
