"""Triton's own queue as a signal: shadows pause while requests pile up inside it."""

import json
import threading
from pathlib import Path

import httpx

from gateway.localtriton.server import LocalTriton
from tests.triton.gateway import eventually, route, serving


def test_a_shadow_pauses_while_its_backends_queue_is_long(triton: LocalTriton, tmp_path: Path) -> None:
    """With its two instances busy and requests waiting in Triton, copies are dropped for that reason; later not."""
    port = int(triton.metrics_url.rsplit(":", 1)[1].split("/")[0])
    backends = [{"url": triton.http_url, "metrics_port": port}]
    slow = route("slowly", "slow")
    slow["shadows"] = [{"variant": "v1", "max_pending": 2}]
    pools = [{"name": "default", "backends": backends, "probe": {"interval_s": 0.1}}]
    body = json.dumps({"inputs": [{"name": "DELAY_MS", "datatype": "INT32", "shape": [1], "data": [700]}]})
    with serving(tmp_path, [], [slow], workers=1, pools=pools) as gateway:

        def ask() -> None:
            httpx.post(f"{gateway.url}/v2/models/slowly/infer", content=body, timeout=60, trust_env=False)

        def dropped() -> float:
            name = 'reason="backend_queue"'
            return sum(value for key, value in gateway.metrics().items() if name in key and "_total" in key)

        def fill() -> bool:
            threads = [threading.Thread(target=ask) for _ in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return dropped() > 0

        assert eventually(fill, 60)
