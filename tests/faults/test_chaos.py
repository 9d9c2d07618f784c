"""Short runs of what `make chaos` does for minutes."""

from tests.faults.chaos import aborted, storm


def test_storm() -> None:
    """Random faults for some seconds break no invariant."""
    report = storm(3.0, seed=7)
    assert not report.faults
    assert report.polite.answered > 300


def test_aborted_requests() -> None:
    """A thousand requests that were given up leave nothing to those of others."""
    report = aborted(1000, seed=7)
    assert not report.faults
    assert report.rude.left.total() >= 1000
