"""What is measured: models with the requests that drive them, on a GPU and, smaller, on a CPU."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

# A slow model answers fewer requests in a probe, so only what so few can tell is asked.
_SHORT: Final = (
    {"metric": "latency_p50_ms", "below": 20},
    {"metric": "latency_p99_ms", "below": 100},
    {"metric": "error_rate", "below": 0.01},
)
_MODEST: Final = ({"metric": "latency_p50_ms", "below": 200}, {"metric": "error_rate", "below": 0.05})


def _tokens(name: str, low: int, high: int) -> dict[str, Any]:
    return {"name": name, "datatype": "INT64", "shape": [64], "low": low, "high": high}


@dataclass(frozen=True, slots=True)
class Model:
    """One model of the benchmark.

    Attributes:
        name: its name in Triton, before the precision.
        spec: what `sluice export` is given.
        what: for readers.
        request: keys of a scenario's request beside name and model.
        objectives: what must hold at the knee.
        low: lowest rate that is tried, requests per second.
        max_batch: largest batch that Triton may form.
    """

    name: str
    spec: str
    what: str
    request: Mapping[str, Any]
    objectives: tuple[Mapping[str, Any], ...] = _SHORT
    low: float = 100.0
    max_batch: int = 64


_TEXT: Final = {"input": "synthetic", "tensors": [_tokens("input_ids", 1, 30_000), _tokens("attention_mask", 1, 2)]}
_IMAGE: Final = {
    "input": "synthetic",
    "variety": 16,
    "tensors": [{"name": "pixel_values", "datatype": "FP32", "shape": [3, 224, 224], "low": -2, "high": 2}],
}
GPU: Final = (
    Model("resnet50", "export.zoo.large:resnet50", "ResNet-50, one 224 x 224 image a request (602 KB)", _IMAGE),
    Model("distilbert", "export.zoo.large:distilbert", "DistilBERT's architecture, 64 tokens a request", _TEXT),
    Model("minilm", "export.zoo.minilm:encoder", "MiniLM sentence encoder, 64 tokens a request", _TEXT),
)
CPU: Final = (
    Model(
        "digits",
        "export.zoo.digits:v2",
        "8 x 8 digits classifier, one image a request",
        {"input": "digits"},
    ),
    Model(
        "minilm",
        "export.zoo.minilm:encoder",
        "MiniLM sentence encoder, one sentence a request",
        {"input": "sentences"},
        objectives=_MODEST,
        low=8.0,
    ),
)


def smoke(model: Model) -> Model:
    """The model with so little asked of it that one short probe can tell."""
    return replace(model, objectives=_MODEST, low=60.0)


def scenario(model: Model, served_as: str) -> dict[str, Any]:
    """The scenario file that drives a model under the name it has in Triton."""
    return {
        "name": f"gpu-{served_as}",
        "description": model.what,
        "arrivals": "open",
        "connections": 256,
        "warmup_s": 1,
        "shape": {"kind": "steady", "level": model.low, "duration_s": 10},
        "requests": [{"name": served_as, "model": served_as, "encoding": "binary", **model.request}],
        "objectives": [dict(objective) for objective in model.objectives],
    }


def routes(served_as: str, *, delivery: bool) -> dict[str, Any]:
    """The route under the model's own name; with `delivery` a canary of a tenth and a shadow of a tenth beside it."""
    variants = [{"name": "v1", "model": served_as, "version": "1", "weight": 100.0}]
    route: dict[str, Any] = {"name": served_as, "variants": variants}
    if delivery:
        variants[0]["weight"] = 90.0
        variants.append({"name": "canary", "model": served_as, "version": "1", "weight": 10.0})
        variants.append({"name": "copy", "model": served_as, "version": "1", "weight": 0.0})
        route["shadows"] = [{"variant": "copy", "sample": 10}]
    return {"routes": [route]}
