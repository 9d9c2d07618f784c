"""Sending one request of the mix and noting what came back."""

import random
import time
from itertools import accumulate
from typing import Any, Final

import gevent
from locust.contrib.fasthttp import FastHttpSession

from loadtest.ledger import Ledger
from loadtest.plan import Arm, Plan, PlannedRequest
from loadtest.v2body import HEADER_LENGTH, sequence_parameters

VARIANT_HEADER: Final = "x-sluice-variant"


class _Run:
    """A sequence in progress: its id and how many of its requests were sent."""

    __slots__ = ("identity", "sent")

    def __init__(self, identity: int | str) -> None:
        self.identity = identity
        self.sent = 0


class Sender:
    """Chooses requests by weight, renders them and counts the outcome in the ledger."""

    def __init__(self, plan: Plan, ledger: Ledger, rng: random.Random) -> None:
        self._requests, self._timeout_s = plan.requests, plan.timeout_s
        self._ledger, self._rng = ledger, rng
        self._weights = list(accumulate(r.weight for r in plan.requests))
        self._idle_runs: dict[str, list[_Run]] = {r.name: [] for r in plan.requests}

    def pick(self) -> PlannedRequest:
        """The next kind of request, by weight."""
        if len(self._requests) == 1:
            return self._requests[0]
        return self._rng.choices(self._requests, cum_weights=self._weights)[0]

    def send(
        self, client: FastHttpSession, request: PlannedRequest, arm: Arm, *, at_s: float, due_clock: float
    ) -> None:
        """Send `request` and wait for its answer, at most the plan's timeout.

        Args:
            client: the user's own HTTP session.
            request: what to send.
            arm: the server to send it to.
            at_s: seconds into the run at which it was due; decides the slice it is counted in.
            due_clock: the same moment on `time.perf_counter`; latency counts from here.
        """
        body = self._rng.choice(request.bodies)
        run = self._next_run(request) if request.sequence_length else None
        parameters = b""
        if run:
            last = run.sent + 1 == request.sequence_length
            parameters = sequence_parameters(run.identity, start=run.sent == 0, end=last)
        payload: Any  # Locust's annotation knows only text, its client takes bytes
        payload, header_length = body.render(parameters)
        # Locust asks for compressed answers by itself; tritonclient does not, and compressing would be measured too.
        headers = {"Accept-Encoding": "identity", **request.headers}
        if header_length is None:
            headers["Content-Type"] = "application/json"
        else:
            headers["Content-Type"] = "application/octet-stream"
            headers[HEADER_LENGTH] = str(header_length)
        if request.sticky_header:
            headers[request.sticky_header] = f"key-{self._rng.randrange(request.sticky_keys)}"

        sent = time.perf_counter()
        # The socket timeout restarts with every byte that arrives; this one bounds the whole exchange.
        with gevent.Timeout(self._timeout_s):
            response = client.request("POST", arm.url + request.path, name=request.name, data=payload, headers=headers)
        ended = time.perf_counter()

        ok = response.status_code == 200 and response.content is not None
        variant = str(response.headers.get(VARIANT_HEADER) or "") if response.headers else ""
        labels = (at_s, arm.name, request.name, variant)
        if ok:
            self._ledger.success(*labels, latency_s=ended - due_clock, service_s=ended - sent, items=body.items)
        else:
            self._ledger.failure(*labels, kind=_kind(response))
        if run and ok:
            run.sent += 1
            if run.sent < request.sequence_length:
                self._idle_runs[request.name].append(run)

    def _next_run(self, request: PlannedRequest) -> _Run:
        # Last in, first out: a sequence that was begun is continued soon, within the server's idle limit.
        idle = self._idle_runs[request.name]
        if idle:
            return idle.pop()
        number = self._rng.getrandbits(63) | 1
        return _Run(number if request.sequence_ids == "numeric" else f"seq-{number:016x}")


def _kind(response: Any) -> str:
    """A short name for a failure: the status, or what happened instead of one."""
    if response.status_code not in (0, 200):
        return f"http_{response.status_code}"
    wrapped = getattr(response, "error", None)
    error = getattr(wrapped, "original", wrapped)
    if isinstance(error, gevent.Timeout | TimeoutError):
        return "timeout"
    return "refused" if isinstance(error, ConnectionRefusedError) else "connection"
