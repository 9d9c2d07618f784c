"""Triton's own queue as a signal: shadows pause while requests pile up inside it."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from gateway.localtriton.server import LocalTriton
from tests.triton.gateway import eventually, route, serving

CLIENTS = 8
IN_FLIGHT = 4


def _ask(url: str, model: str, delay_ms: int) -> None:
    """One request that keeps an instance of the model busy for so long."""
    inputs = [{"name": "DELAY_MS", "datatype": "INT32", "shape": [1], "data": [delay_ms]}]
    answer = httpx.post(
        f"{url}/v2/models/{model}/infer", content=json.dumps({"inputs": inputs}), timeout=60, trust_env=False
    )
    answer.raise_for_status()


@contextmanager
def _piled_up(url: str) -> Iterator[None]:
    """Clients of Triton itself, each with a request always in flight: all but two of them wait in its queue."""
    over = threading.Event()

    def client() -> None:
        while not over.is_set():
            _ask(url, "slow", 200)

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_a_shadow_pauses_while_its_backends_queue_is_long(triton: LocalTriton, tmp_path: Path) -> None:
    """With its two instances busy and requests waiting in Triton, copies are dropped for that reason; later not."""
    port = int(triton.metrics_url.rsplit(":", 1)[1].split("/")[0])
    backends = [{"url": triton.http_url, "metrics_port": port}]
    slow = route("slowly", "slow")
    slow["shadows"] = [{"variant": "v1", "max_pending": 2, "max_in_flight": IN_FLIGHT}]
    pools = [{"name": "default", "backends": backends, "probe": {"interval_s": 0.1}}]
    with serving(tmp_path, [], [slow], workers=1, pools=pools) as gateway:

        def copies(sample: str) -> float:
            return sum(value for key, value in gateway.metrics().items() if key.startswith(sample))

        def dropped() -> bool:
            _ask(gateway.url, "slowly", 1)
            return copies('sluice_shadow_dropped_total{reason="backend_queue"') > 0

        def sent() -> bool:
            _ask(gateway.url, "slowly", 1)
            return copies("sluice_shadow_requests_total{") > before + IN_FLIGHT  # those were perhaps sent earlier

        with _piled_up(triton.http_url):
            assert eventually(dropped, 60)
        before = copies("sluice_shadow_requests_total{")
        assert eventually(sent, 60)
