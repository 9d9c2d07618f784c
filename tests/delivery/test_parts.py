"""The parts of delivery alone: decoding answers, taking each count once, joining ground truth."""

import gzip
import random
import zlib
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient.utils import serialize_byte_tensor

from gateway.controlplane.delivery.digest import Lens, digest
from gateway.controlplane.delivery.feed import Feed
from gateway.controlplane.delivery.feedback import Joined, JoinWindow, Prediction
from gateway.controlplane.delivery.record import Record, Share, with_weights
from gateway.controlplane.delivery.tensors import decode
from gateway.core.evidence_state import begin
from gateway.core.rollout import Effect, RolloutState
from gateway.core.rollout_policy import DriftGate, Gates, RolloutPolicy, ShadowGate
from gateway.core.route import Predictions, Route, Shadow, Variant
from gateway.telemetry.records import Answer, Outcome, Sample, VariantCounts, WorkerReport

_TYPES = {"FP32": "<f4", "FP64": "<f8", "INT64": "<i8", "INT32": "<i4", "UINT8": "u1", "FP16": "<f2", "BOOL": "?"}


def _binary(outputs: list[tuple[str, str, np.ndarray]], encoding: str = "") -> Answer:
    """An answer with the binary extension, as Triton writes it."""
    blobs, described = [], []
    for name, datatype, values in outputs:
        blob = serialize_byte_tensor(values).item() if datatype == "BYTES" else values.tobytes()
        parameters = {"binary_data_size": len(blob)}
        described.append({"name": name, "datatype": datatype, "shape": list(values.shape), "parameters": parameters})
        blobs.append(blob)
    head = msgspec.json.encode({"model_name": "m", "outputs": described})
    body = head + b"".join(blobs)
    packed = {"": lambda data: data, "gzip": gzip.compress, "deflate": zlib.compress}[encoding](body)
    return Answer(variant="v", status=200, header_length=len(head), encoding=encoding, body=packed)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(sorted(_TYPES)),
    st.lists(st.integers(1, 4), min_size=1, max_size=3),
    st.sampled_from(["", "gzip", "deflate"]),
)
def test_binary_tensors_come_back(datatype: str, shape: list[int], encoding: str) -> None:
    """Every type and shape, compressed or not, equals what was sent."""
    values = np.arange(np.prod(shape)).reshape(shape).astype(_TYPES[datatype])
    found = decode(_binary([("x", datatype, values), ("y", datatype, values[:1])], encoding))
    assert [(tensor.name, tensor.datatype, tensor.shape) for tensor in found] == [
        ("x", datatype, values.shape),
        ("y", datatype, values[:1].shape),
    ]
    assert np.array_equal(found[0].values, values)


def test_strings_and_json_data_come_back() -> None:
    """BYTES as tritonclient writes them; JSON flat, nested, with null for NaN."""
    words = np.array([b"a", b"", "é".encode(), b"\x00" * 9], dtype=object)
    assert decode(_binary([("s", "BYTES", words)]))[0].values.tolist() == words.tolist()
    numeric = {"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [[1, 2], [3, None]]}
    textual = {"name": "s", "datatype": "BYTES", "shape": [2], "data": ["a", "b"]}
    body = msgspec.json.encode({"outputs": [numeric, textual]})
    numbers, strings = decode(Answer(variant="v", status=200, body=body))
    assert numbers.values[0].tolist() == [1.0, 2.0]
    assert np.isnan(numbers.values[1, 1])
    assert strings.values.tolist() == [b"a", b"b"]


def test_bfloat16_is_the_upper_half_of_a_float() -> None:
    """1.5 is 0x3FC0."""
    head = b'{"outputs":[{"name":"x","datatype":"BF16","shape":[1],"parameters":{"binary_data_size":2}}]}'
    answer = Answer(variant="v", status=200, header_length=len(head), body=head + b"\xc0\x3f")
    assert decode(answer)[0].values.tolist() == [1.5]


_HEAD = b'{"outputs":[{"name":"x","datatype":"%s","shape":%s,"parameters":{"binary_data_size":%s}}]}'


@pytest.mark.parametrize(
    ("head", "data", "encoding"),
    [
        (b"not json", b"", ""),
        (_HEAD % (b"FP32", b"[2]", b"8"), b"1234", ""),
        (_HEAD % (b"FP32", b"[3]", b"8"), b"12345678", ""),
        (_HEAD % (b"FP32", b"[-1]", b"8"), b"12345678", ""),
        (_HEAD % (b"FP32", b"[2]", b"-8"), b"12345678", ""),
        (_HEAD % (b"FP33", b"[2]", b"8"), b"12345678", ""),
        (_HEAD % (b"BYTES", b"[1]", b"8"), b"\xff\xff\xff\x7f1234", ""),
        (_HEAD % (b"BYTES", b"[1]", b"2"), b"\x01\x00", ""),
        (_HEAD % (b"FP32", b"[2]", b"8"), b"12345678", "br"),
        (_HEAD % (b"FP32", b"[2]", b"8"), b"12345678", "gzip"),
    ],
)
def test_a_malformed_answer_is_a_value_error(head: bytes, data: bytes, encoding: str) -> None:
    """Never another exception: samples come from the network."""
    with pytest.raises(ValueError, match=r"\w"):
        decode(Answer(variant="v", status=200, header_length=len(head), encoding=encoding, body=head + data))


@given(st.binary(max_size=300), st.integers(-1, 400), st.sampled_from(["", "gzip", "deflate"]))
def test_any_bytes_are_a_problem_and_not_an_end(body: bytes, length: int, encoding: str) -> None:
    """`digest` never raises, whatever the backends answered."""
    garbage = Answer(variant="v", status=200, header_length=length, encoding=encoding, body=body)
    lens = Lens(predictions=Predictions(output="x"), drift=DriftGate(output="x"))
    sample = Sample(route="r", epoch=0, pinned=False, request_id="1", key=0, original=garbage, copy=garbage)
    digest(sample, lens)


def test_a_digest_reads_predictions_and_compares() -> None:
    """Labels per row, bins that sum to one, and a copy that failed counts as different."""
    scores = np.array([[0.1, 0.9], [0.8, 0.2]], dtype="<f4")
    original = _binary([("p", "FP32", scores)])
    lens = Lens(predictions=Predictions(output="p"), drift=DriftGate(output="p", classes=2))
    dead = Answer(variant="w", status=0)
    sample = Sample(route="r", epoch=0, pinned=False, request_id="1", key=0, original=original, copy=dead)
    found = digest(sample, lens)
    assert (found.labels, found.bins) == (("1", "0"), {0: 0.5, 1: 0.5})
    assert found.comparison is not None
    assert not found.comparison.agree
    assert "no answer" in found.comparison.reason
    missing = digest(sample, Lens(predictions=Predictions(output="q")))
    assert "has no output 'q' (it has: p)" in missing.problem


def _record(**policy: object) -> Record:
    variants = (Variant(name="new", model="m", version="2"), Variant(name="old", model="m", version="1", weight=100.0))
    route = Route(name="r", variants=variants, shadows=(Shadow(variant="new", sample=5.0),))
    rules = RolloutPolicy(**policy)  # type: ignore[arg-type]
    state = RolloutState(id="r.1", route="r", stable="old", candidate="new", epoch=1)
    shares = {1: Share(candidate=20.0), 2: Share(candidate=50.0)}
    return Record(
        id="r.1", created=0.0, who="", why="", policy=rules, original=route, state=state,
        evidence=begin(rules), shares=shares,
    )  # fmt: skip


def _report(incarnation: str, counts: dict[tuple[str, int], int], worker: int = 0) -> WorkerReport:
    rows = []
    for (variant, epoch), n in counts.items():
        row = VariantCounts(route="r", variant=variant, epoch=epoch, assigned=n)
        row.outcomes[Outcome.OK] = n
        rows.append(row)
    rows.append(VariantCounts(route="r", variant="new", epoch=1, pinned=True, assigned=10**6))
    rows.append(VariantCounts(route="other", variant="new", epoch=1, assigned=10**6))
    return msgspec.convert(
        {
            "worker": worker, "incarnation": incarnation, "pid": 1, "generation": 1, "uptime_s": 1.0, "draining": False,
            "variants": rows, "new_keys": [], "shadows": [], "backends": [], "faults": [], "connections": 0,
            "accepted": 0, "in_flight": 0, "buffered_bytes": 0, "retries": 0, "rss_bytes": 0,
        },
        WorkerReport,
    )  # fmt: skip


_events = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(["old", "new"]), st.integers(1, 3), st.integers(0, 9),
              st.sampled_from(["count", "die", "crash", "look"])),
    max_size=40,
)  # fmt: skip


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_events)
def test_every_reported_request_is_evidence_once(events: list[tuple[int, str, int, int, str]]) -> None:
    """Against a model: workers count and die, the controller crashes after a stored look, and the sums are right."""
    record = _record()
    feed = Feed(record)
    counts: list[dict[tuple[str, int], int]] = [{}, {}, {}]
    lives = [0, 0, 0]
    sums = {"old": 0, "new": 0}
    seen = {"old": 0, "new": 0}

    def look() -> Record:
        blocks, _ = feed.take(record)
        for block in blocks:
            seen["new"] += block.candidate.assigned
            seen["old"] += block.reference.assigned
        return msgspec.msgpack.decode(msgspec.msgpack.encode(_marked(record, feed)), type=Record)

    for worker, variant, epoch, more, what in events:
        if what == "die":
            lives[worker] += 1
            counts[worker] = {}
        elif what == "crash":
            record = look()
            feed = Feed(record)
        elif what == "look":
            record = look()
        counts[worker][variant, epoch] = counts[worker].get((variant, epoch), 0) + more
        if epoch in record.shares:
            sums[variant] += more
        feed.report(_report(f"{worker}-{lives[worker]}", counts[worker], worker), record.shares)
    look()
    assert seen == sums


def _marked(record: Record, feed: Feed) -> Record:
    return replace(record, marks=feed.marks())


@pytest.mark.parametrize(
    ("candidate", "baseline", "shadow", "weights", "stable", "copies"),
    [
        (0.0, 0.0, 0.0, {"old": 100.0, "new": 0.0}, "old", {"new": 5.0}),
        (0.0, 0.0, 30.0, {"old": 100.0, "new": 0.0}, "old", {"new": 30.0}),
        (20.0, 0.0, 0.0, {"old": 80.0, "new": 20.0}, "old", {}),
        (20.0, 20.0, 0.0, {"old": 60.0, "old.baseline": 20.0, "new": 20.0}, "old", {}),
        (100.0, 0.0, 0.0, {"old": 0.0, "new": 100.0}, "new", {}),
    ],
)
def test_weights_become_a_route(
    candidate: float, baseline: float, shadow: float, weights: dict[str, float], stable: str, copies: dict[str, float]
) -> None:
    """Shares in force, the candidate last (monotone stickiness), the user's shadow while the candidate has nothing."""
    record = _record(gates=Gates(shadow=ShadowGate()))
    effect = Effect(id="e", kind="weights", candidate=candidate, baseline=baseline, shadow=shadow, epoch=7)
    found = with_weights(record.original, record, effect)
    assert {variant.name: variant.weight for variant in found.variants} == weights
    assert found.variants[-1].name == "new"
    assert (found.stable, found.epoch) == (stable, 7)
    assert {s.variant: s.sample for s in found.shadows} == copies
    assert with_weights(found, record, effect) == found


def _prediction(labels: tuple[str, ...] = ("1",)) -> Prediction:
    return Prediction(route="r", variant="v", epoch=1, pinned=False, key=0, labels=labels)


def test_truth_and_prediction_meet_in_either_order() -> None:
    """Once, within the window, with equal numbers of rows."""
    window = JoinWindow(window_s=100.0, limit=10)
    assert window.predicted("a", _prediction(("1", "2")), 0.0) is None
    assert window.observed("r", "a", ("1", "1", "1"), 1.0) == "mismatch"
    joined = window.observed("r", "a", ("1", "3"), 1.0)
    assert isinstance(joined, Joined)
    assert (joined.correct, joined.wrong) == (0.5, 0.5)
    assert window.observed("r", "a", ("1", "3"), 1.0) == "early", "a second truth finds nothing"
    assert window.observed("r", "b", ("1",), 2.0) == "early"
    late = window.predicted("b", _prediction(), 3.0)
    assert late is not None
    assert late.correct == 1.0
    assert window.predicted("c", _prediction(), 0.0) is None
    assert window.observed("r", "c", ("1",), 101.0) == "early", "the window is over"


@given(st.integers(0, 2**32))
def test_the_join_window_is_bounded(seed: int) -> None:
    """However many predictions and truths come, no more than the limit are kept."""
    rng, window = random.Random(seed), JoinWindow(window_s=5.0, limit=20)
    for now in range(200):
        name = str(rng.randrange(100))
        if rng.random() < 0.5:
            window.predicted(name, _prediction(), float(now))
        else:
            window.observed("r", name, ("1",), float(now))
        assert len(window) <= 20
