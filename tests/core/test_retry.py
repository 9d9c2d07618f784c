"""Which answers mean "not here", and how many retries there may be."""

from itertools import takewhile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.retry import Answer, RetryBudget, blames_backend, blames_client, classify, within_budget


@pytest.mark.parametrize(
    ("status", "text", "alternatives", "elsewhere"),
    [
        (503, b"Server exiting", 0, True),
        (503, b"Server not ready", 0, True),
        (503, b"model 'm' is not at ready state", 0, True),
        (503, b"Exceeds maximum queue size", 3, False),
        (503, b"Request timeout expired", 3, False),
        (400, b"Request for unknown model: 'm' is not found", 1, True),
        (400, b"Request for unknown model: 'm' is not found", 0, False),
        (404, b"Request for unknown model: 'm' has no available versions", 1, True),
        (400, b"unexpected shape for input", 1, False),
        (500, b"Server exiting", 1, False),
        (501, b"doesn't support decoupled", 1, False),
        (200, b"Server exiting", 1, False),
    ],
)
def test_answers(status: int, text: bytes, alternatives: int, elsewhere: bool) -> None:
    """Triton's texts decide together with the status and with whether there is anywhere else."""
    body = b'{"error":"' + text + b'"}'
    assert (classify(status, body, alternatives) is Answer.ELSEWHERE) is elsewhere


def test_malformed_requests_are_the_clients() -> None:
    """Triton answers 500 to JSON that its parser refuses; a failing model answers 500, too, with other words."""
    assert blames_client(500, b'{"error":"failed to parse the request JSON buffer: Invalid value. at 1"}')
    assert blames_client(500, b'{"error":"Unable to parse \'shape\': attempt to access JSON non-unsigned-integer"}')
    assert not blames_client(500, b'{"error":"CUDA out of memory"}')
    assert not blames_client(503, b'{"error":"failed to parse the request JSON buffer"}')


@pytest.mark.parametrize(
    ("status", "text", "failure"),
    [
        (500, b"CUDA out of memory", True),
        (500, b"failed to parse the request JSON buffer: Invalid value. at 1", False),
        (501, b"doesn't support decoupled", False),
        (502, b"", True),
        (503, b"Server not ready", True),
        (503, b"in ensemble 'e', Exceeds maximum queue size", False),
        (503, b"Request timeout expired", False),
        (503, b"Request for unknown model: 'm' version 1 is not at ready state", False),
        (404, b"CUDA out of memory", False),
    ],
)
def test_what_counts_against_a_backend(status: int, text: bytes, failure: bool) -> None:
    """What clients or operators bring about ejects no backend."""
    assert blames_backend(status, b'{"error":"' + text + b'"}') is failure


def test_only_the_beginning_is_read() -> None:
    """A text deep inside a long body is not what Triton said."""
    assert classify(503, b"x" * 100_000 + b"Server exiting", 1) is Answer.FINAL


def test_a_burst_after_a_busy_time() -> None:
    """After ten seconds of a thousand requests each, two thousand retries may start at once."""
    budget = RetryBudget(0.0)
    for second in range(1, 31):
        budget.refill(float(second), second * 1000)
    assert 1900 < sum(budget.take() for _ in range(5000)) < 2200


def test_lasting_failure_is_bounded_by_the_share() -> None:
    """When every request fails for a minute, a fifth of them is tried again, and a few more."""
    budget, retries = RetryBudget(0.0), 0
    for second in range(1, 61):
        budget.refill(float(second), second * 1000)
        retries += sum(budget.take() for _ in range(1000))
    assert retries <= 0.2 * 60_000 + 10 * 60 + 100
    assert retries > 0.15 * 60_000


def test_a_quiet_service_may_retry() -> None:
    """Without any traffic before, the first failures are tried again."""
    budget = RetryBudget(0.0)
    assert sum(budget.take() for _ in range(1000)) == 100


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 10_000)), max_size=30))
def test_budget_never_goes_wrong(steps: list[tuple[float, int]]) -> None:
    """Clocks that jump and counters that fall never make it negative or endless."""
    budget, now, most = RetryBudget(0.0), 0.0, 0
    for elapsed, requests in steps:
        now += elapsed
        most = max(most, requests)
        budget.refill(now, requests)
    assert sum(takewhile(bool, (budget.take() for _ in range(400_000)))) <= 200 + 0.2 * sum(
        requests for _, requests in steps
    )


@given(st.integers(0, 1000), st.integers(0, 10_000))
def test_hedges_stay_a_share(retrying: int, in_flight: int) -> None:
    """At least three, at most a fifth of what is in flight."""
    assert within_budget(retrying, in_flight) is (retrying < max(3, in_flight // 5))
