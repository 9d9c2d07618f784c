"""What Triton's metrics say about its queues."""

import re

_PENDING = re.compile(rb"^nv_inference_pending_request_count\{([^}]*)\} ([0-9.eE+]+)\s*$", re.MULTILINE)
_MODEL = re.compile(rb'model="([^"]*)"')


def pending_by_model(metrics: bytes) -> dict[str, int]:
    """Requests that wait in Triton for execution, by model name, all versions added up.

    Args:
        metrics: Triton's /metrics in the Prometheus text format; anything else gives an empty result.
    """
    found: dict[str, int] = {}
    for labels, value in _PENDING.findall(metrics):
        if name := _MODEL.search(labels):
            model = name[1].decode("utf-8", "replace")
            found[model] = found.get(model, 0) + int(float(value))
    return found
