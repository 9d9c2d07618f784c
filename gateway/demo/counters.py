"""Reads the gateway's /metrics."""

import time

import httpx
from prometheus_client.parser import text_string_to_metric_families

from gateway.demo.commands import Deadline
from gateway.errors import UnreachableError

_POLL_S = 0.1
# Workers report once a second: a sum that stands still for so long has arrived.
_QUIET_S = 3.0


class Counters:
    """Values of one scrape.

    Args:
        text: Prometheus text format.
    """

    def __init__(self, text: str) -> None:
        self._samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    def total(self, name: str, **labels: str) -> int:
        """Sum over all samples of this name that have these labels."""
        wanted = labels.items()
        return int(sum(s.value for s in self._samples if s.name == name and wanted <= s.labels.items()))


def scrape(admin_url: str) -> Counters:
    """The counters as they are now; raises UnreachableError."""
    try:
        answer = httpx.get(f"{admin_url}/metrics", timeout=5.0, trust_env=False)
        answer.raise_for_status()
    except httpx.HTTPError as error:
        raise UnreachableError(f"{admin_url}/metrics: {error}") from error
    return Counters(answer.text)


def await_total(admin_url: str, name: str, least: int, deadline: Deadline, **labels: str) -> Counters:
    """Scrape until a sum has reached a value: workers report about once a second.

    Raises:
        UnreachableError: the deadline has passed, or nobody answers.
    """
    while True:
        counters = scrape(admin_url)
        if counters.total(name, **labels) >= least:
            return counters
        deadline.left(f"{name} to reach {least}")
        time.sleep(_POLL_S)


def await_quiet(admin_url: str, names: tuple[str, ...], deadline: Deadline, **labels: str) -> Counters:
    """Scrape until the sum of some counters has stood still for three reports.

    Raises:
        UnreachableError: the deadline has passed, or nobody answers.
    """
    last, since = -1, time.monotonic()
    while True:
        counters = scrape(admin_url)
        now = sum(counters.total(name, **labels) for name in names)
        if now != last:
            last, since = now, time.monotonic()
        elif time.monotonic() - since > _QUIET_S:
            return counters
        deadline.left(f"{' and '.join(names)} to stand still")
        time.sleep(_POLL_S)
