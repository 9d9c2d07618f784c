"""Batches that Triton formed while the load ran, from differences of its statistics."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import httpx
import msgspec

from loadtest.results import BatchMoment, BatchSizes

_TIMEOUT_S = 10.0


class _Count(msgspec.Struct, frozen=True):
    count: int = 0
    ns: int = 0


class _Batch(msgspec.Struct, frozen=True):
    batch_size: int
    compute_infer: _Count


class _Inference(msgspec.Struct, frozen=True):
    success: _Count = _Count()
    queue: _Count = _Count()
    compute_infer: _Count = _Count()


class ModelStats(msgspec.Struct, frozen=True):
    """The part of Triton's statistics extension that is used here, for one version of a model."""

    name: str
    version: str
    inference_stats: _Inference
    batch_stats: list[_Batch]


class _Answer(msgspec.Struct, frozen=True):
    model_stats: list[ModelStats]


Snapshot = Mapping[str, ModelStats]


def snapshot(url: str, models: Iterable[str]) -> Snapshot:
    """Statistics of all versions of `models` at a Triton, by `model:version`.

    Raises:
        ValueError: the server does not give them; the message says what it answered.
    """
    found: dict[str, ModelStats] = {}
    with httpx.Client(timeout=_TIMEOUT_S, trust_env=False) as client:
        for model in sorted(set(models)):
            try:
                answer = client.get(f"{url}/v2/models/{model}/stats")
                answer.raise_for_status()
                stats = msgspec.json.decode(answer.content, type=_Answer).model_stats
            except (httpx.HTTPError, msgspec.DecodeError) as e:
                raise ValueError(f"no statistics of {model}: {e}") from None
            found |= {f"{s.name}:{s.version}": s for s in stats}
    return found


def difference(before: Snapshot, after: Snapshot) -> BatchSizes:
    """What happened between two snapshots; a model that was loaded anew in between counts from zero."""
    executions: dict[str, dict[int, int]] = {}
    requests: dict[str, int] = {}
    queue: dict[str, float] = {}
    compute: dict[str, float] = {}
    for key, new in after.items():
        old = before.get(key)
        if old and old.inference_stats.success.count > new.inference_stats.success.count:
            old = None
        known = {b.batch_size: b.compute_infer.count for b in old.batch_stats} if old else {}
        formed = {b.batch_size: b.compute_infer.count - known.get(b.batch_size, 0) for b in new.batch_stats}
        executions[key] = {size: n for size, n in sorted(formed.items()) if n}
        requests[key] = new.inference_stats.success.count - (old.inference_stats.success.count if old else 0)
        queue[key] = _mean_ms(old.inference_stats.queue if old else _Count(), new.inference_stats.queue)
        infer = new.inference_stats.compute_infer
        compute[key] = _mean_ms(old.inference_stats.compute_infer if old else _Count(), infer)
    return BatchSizes(executions=executions, requests=requests, queue_ms=queue, compute_ms=compute)


def series(samples: Sequence[tuple[float, Snapshot]], *, started_at: float) -> list[BatchMoment]:
    """What happened from each snapshot to the next.

    Args:
        samples: snapshots with the moment of each, in order, in seconds since the epoch.
        started_at: start of the run on the same clock; what ended before it is left out.
    """
    found: list[BatchMoment] = []
    for (begun, before), (ended, after) in pairwise(samples):
        if ended > started_at:
            seen = difference(before, after)
            executions = {model: sizes for model, sizes in seen.executions.items() if sizes}
            queue = {model: seen.queue_ms[model] for model in executions}
            found.append(BatchMoment(max(0.0, begun - started_at), ended - started_at, executions, queue))
    return found


def _mean_ms(old: _Count, new: _Count) -> float:
    count = new.count - old.count
    return (new.ns - old.ns) / count / 1e6 if count else 0.0


def not_ready(url: str, model: str) -> str | None:
    """Why `model` cannot be driven at `url`, or None when it is ready."""
    try:
        answer = httpx.get(f"{url}/v2/models/{model}/ready", timeout=_TIMEOUT_S, trust_env=False)
    except httpx.HTTPError as e:
        return f"{url} does not answer: {e}"
    if answer.status_code == httpx.codes.OK:
        return None
    detail: Any = answer.text[:200].strip()
    return f"model {model} is not ready at {url}: status {answer.status_code} {detail}".rstrip()
