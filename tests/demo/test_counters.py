"""Reading /metrics."""

from gateway.demo.counters import Counters

TEXT = """
# TYPE sluice_requests counter
sluice_requests_total{outcome="ok",route="digits",variant="v1"} 7.0
sluice_requests_total{outcome="timeout",route="digits",variant="v1"} 1.0
sluice_requests_total{outcome="ok",route="digits",variant="v2"} 2.0
sluice_requests_total{outcome="ok",route="other",variant="v1"} 100.0
"""


def test_samples_are_summed_over_the_labels_left_open() -> None:
    """Labels that are given select; all others are summed over; what is not there counts nothing."""
    counters = Counters(TEXT)
    assert counters.total("sluice_requests_total", route="digits") == 10
    assert counters.total("sluice_requests_total", route="digits", variant="v1") == 8
    assert counters.total("sluice_requests_total", route="digits", variant="v1", outcome="ok") == 7
    assert counters.total("sluice_requests_total", route="nowhere") == 0
    assert counters.total("sluice_shadow_requests_total") == 0
