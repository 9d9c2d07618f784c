"""Traces of a real gateway, as a collector receives them and as a backend sees them in `traceparent`."""

import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from gateway.configfile import load_config
from gateway.errors import ConfigError
from tests.operations.backend import Backend, backend
from tests.operations.serving import Gateway, route, serving, settings, until
from tests.telemetry.collector import Collector, Span, collector

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
_ENVIRONMENT = {"OTEL_BSP_SCHEDULE_DELAY": "100"}
_SHADOWED = route(
    "shadowed",
    variants=[
        {"name": "v1", "model": "m", "version": "1", "weight": 100},
        {"name": "v2", "model": "m", "version": "2"},
    ],
    shadows=[{"variant": "v2"}],
)


def traceparent(flags: str) -> dict[str, str]:
    """The header of a client that traces."""
    return {"traceparent": f"00-{TRACE}-{PARENT}-{flags}", "tracestate": "vendor=1"}


def parents(head: bytes) -> list[str]:
    """The `traceparent` fields of a request."""
    return [value.decode() for value in re.findall(rb"(?im)^traceparent: ([^\r]*)", head)]


class Setting:
    """A gateway, the backend behind it, and the collector beside it."""

    def __init__(self, gateway: Gateway, triton: Backend, traces: Collector) -> None:
        self.gateway = gateway
        self.triton = triton
        self.traces = traces


@contextmanager
def setting(folder: Path, *others: str, sample: float = 0.0, **more: Any) -> Iterator[Setting]:
    """All three running; `others` are backends tried first."""
    with ExitStack() as stack:
        triton, traces = stack.enter_context(backend()), stack.enter_context(collector())
        tracing = {"endpoint": traces.url, "sample": sample, **more.pop("tracing", {})}
        config = settings(folder, *others, triton.url, tracing=tracing, **more)
        gateway = stack.enter_context(serving(folder, config, [route(), _SHADOWED], **_ENVIRONMENT))
        yield Setting(gateway, triton, traces)


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    """One setting that records only what clients ask for."""
    with setting(tmp_path_factory.mktemp("traced")) as made:
        yield made


def of(traces: Collector, request_id: str) -> Span:
    """The span of a request, once it has arrived."""

    def find() -> list[Span]:
        return [span for span in traces.spans if span.attributes.get("sluice.request_id") == request_id]

    (found,) = until(find)
    return found


def test_a_request_has_spans_for_its_parts_within_the_clients_trace(traced: Setting) -> None:
    """Request, admission, attempt and copy, each inside the request, which is inside the client's span."""
    answer = traced.gateway.infer("shadowed", traceparent("01") | {"x-request-id": "parts"})
    root = of(traced.traces, "parts")
    assert answer.status_code == 200
    assert (root.name, root.trace, root.parent) == ("infer shadowed", TRACE, PARENT)
    assert root.attributes["sluice.outcome"] == "ok"
    assert root.attributes["http.response.status_code"] == 200
    assert root.attributes["sluice.variant"] == "v1"
    children = until(lambda: c if len(c := [s for s in traced.traces.spans if s.parent == root.id]) == 3 else None)
    assert {child.name for child in children} == {"admission", "attempt", "mirror"}
    assert {child.trace for child in children} == {TRACE}
    for child in children:
        assert root.start_ns <= child.start_ns <= child.end_ns
    (attempt,) = (child for child in children if child.name == "attempt")
    assert attempt.end_ns <= root.end_ns
    assert attempt.attributes["server.address"] == traced.triton.url


def test_triton_gets_the_trace_with_the_span_that_called_it(traced: Setting) -> None:
    """Exactly one `traceparent` for each request: that of the attempt, and for the copy that of the mirror."""
    traced.gateway.infer("shadowed", traceparent("01") | {"x-request-id": "forwarded"})
    root = of(traced.traces, "forwarded")
    heads = until(lambda: h if len(h := [h for h in traced.triton.heads if b"forwarded" in h]) == 2 else None)
    children = until(lambda: c if len(c := [s for s in traced.traces.spans if s.parent == root.id]) == 3 else None)
    spans = {child.name: child.id for child in children}
    sent = {("mirror" if b"x-sluice-shadow" in head else "attempt"): parents(head) for head in heads}
    assert sent == {name: [f"00-{TRACE}-{spans[name]}-01"] for name in ("attempt", "mirror")}
    assert all(b"tracestate: vendor=1" in head for head in heads)


def test_a_trace_that_is_not_recorded_passes_through(traced: Setting) -> None:
    """The client's own field reaches Triton as it came, and nothing is recorded."""
    before = len(traced.traces.spans)
    traced.gateway.infer("echo", traceparent("00") | {"x-request-id": "unrecorded"})
    traced.gateway.infer("echo", traceparent("01") | {"x-request-id": "after"})
    of(traced.traces, "after")
    (head,) = [head for head in traced.triton.heads if b"unrecorded" in head]
    assert parents(head) == [traceparent("00")["traceparent"]]
    assert not [s for s in traced.traces.spans[before:] if s.attributes.get("sluice.request_id") == "unrecorded"]


@pytest.mark.parametrize("bad", ["", "00-0-0-01", f"00-{'0' * 32}-{PARENT}-01", "garbage", "\xff"])
def test_a_malformed_traceparent_is_no_trace(traced: Setting, bad: str) -> None:
    """The request is served, and recorded by nobody."""
    headers = httpx.Headers([(b"traceparent", bad.encode("latin-1")), (b"x-request-id", b"malformed")])
    assert traced.gateway.infer("echo", headers).status_code == 200  # type: ignore[arg-type]
    after = f"next-{time.monotonic_ns()}"
    traced.gateway.infer("echo", traceparent("01") | {"x-request-id": after})
    # The one worker's spans leave in their order.
    of(traced.traces, after)
    assert not [span for span in traced.traces.spans if span.attributes.get("sluice.request_id") == "malformed"]


def test_requests_are_drawn(tmp_path: Path) -> None:
    """With all of them drawn, one without `traceparent` starts a trace; the collector learns who recorded it."""
    with setting(tmp_path, sample=100.0) as all_of_them:
        all_of_them.gateway.infer("echo", {"x-request-id": "drawn"})
        root = of(all_of_them.traces, "drawn")
        assert root.parent == ""
        assert parents(all_of_them.triton.heads[-1])[0].split("-")[1] == root.trace
        assert all_of_them.traces.resources[0]["service.name"] == "sluice"


def test_a_traced_request_is_the_example_of_its_latency_bucket(traced: Setting) -> None:
    """OpenMetrics has the trace id at one bucket, and a value that is inside it."""
    traced.gateway.infer("echo", traceparent("01"))

    def find() -> list[Any]:
        accept = {"accept": "application/openmetrics-text; version=1.0.0"}
        text = httpx.get(f"{traced.gateway.admin}/metrics", headers=accept, timeout=10, trust_env=False).text
        return [
            (sample.labels["le"], sample.exemplar)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.exemplar is not None and sample.labels["route"] == "echo"
        ]

    bound, exemplar = until(find)[0]
    assert exemplar.labels == {"trace_id": TRACE}
    assert 0 < exemplar.value <= float(bound)


def test_each_attempt_has_a_span(tmp_path: Path) -> None:
    """A backend that takes no connection, then one that answers: the first attempt failed, the second did not."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        dead = f"http://127.0.0.1:{free.getsockname()[1]}"
    ejection = {"consecutive": 0}
    with backend() as triton, collector() as traces:
        config = settings(tmp_path, dead, triton.url, tracing={"endpoint": traces.url})
        config["pools"][0] |= {"probe": {"interval_s": 0}, "ejection": ejection}
        with serving(tmp_path, config, [route()], **_ENVIRONMENT) as gateway:
            made = Setting(gateway, triton, traces)
            _two_attempts(made)


def _two_attempts(made: Setting) -> None:
    def twice() -> Span | None:
        request_id = f"retried-{time.monotonic_ns()}"
        made.gateway.infer("echo", traceparent("01") | {"x-request-id": request_id})
        root = of(made.traces, request_id)
        return root if root.attributes["sluice.attempts"] == 2 else None

    root = until(twice)
    first, second = until(
        lambda: a if len(a := [s for s in made.traces.named("attempt") if s.parent == root.id]) == 2 else None
    )
    assert (first.failed, second.failed, root.failed) == (True, False, False)


def test_no_more_traces_than_the_bound(tmp_path: Path) -> None:
    """Clients cannot have more recorded than `max_per_s`, and are served all the same."""
    with setting(tmp_path, tracing={"max_per_s": 2}) as made:
        answers = [made.gateway.infer("echo", traceparent("01")).status_code for _ in range(20)]
        assert answers == [200] * 20
        # At its end it sends what is left: then all have arrived.
        made.gateway.process.terminate()
        assert made.gateway.process.wait(60) == 0
        seen = made.traces.named("infer echo")
        assert seen
        began = {span.start_ns // 10**9 for span in seen}
        assert len(seen) <= 2 * (len(began) + 1)


def test_a_collector_that_is_gone_costs_nobody_an_answer(tmp_path: Path) -> None:
    """Requests are served, and the gateway ends in time."""
    with backend() as triton:
        config = settings(tmp_path, triton.url, tracing={"endpoint": "http://127.0.0.1:1/v1/traces", "sample": 100})
        with serving(tmp_path, config, [route()], **_ENVIRONMENT) as gateway:
            assert [gateway.infer().status_code for _ in range(5)] == [200] * 5
            gateway.process.terminate()
            assert gateway.process.wait(60) == 0


def test_without_tracing_its_library_is_not_loaded() -> None:
    """A worker imports nothing of OpenTelemetry."""
    code = "import sys, gateway.dataplane.worker; print([m for m in sys.modules if m.startswith('opentelemetry')])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(("key", "value"), [("sample", 101), ("endpoint", ""), ("max_per_s", 0), ("smaple", 1)])
def test_settings_of_tracing_are_checked(tmp_path: Path, key: str, value: object) -> None:
    """A value out of range and an unknown key are refused with their names."""
    file = tmp_path / "sluice.yaml"
    file.write_text(yaml.safe_dump({"tracing": {"endpoint": "http://127.0.0.1:1/v1/traces", key: value}}))
    with pytest.raises(ConfigError, match=key):
        load_config(file)
