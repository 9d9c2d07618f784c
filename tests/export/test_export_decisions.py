"""Decisions that need no model: tolerances, policies, Pareto fronts, TensorRT command lines, configuration."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.errors import ExportError, UsageError
from export.graph import tensorrt
from export.numeric import cases
from export.numeric.compare import compare
from export.numeric.tolerance import MODES, tolerances
from export.publish import policy as policies
from export.publish.reference import distribution
from export.serving import overlay, proto
from export.serving.config import DynamicBatching, ModelConfig
from export.state import AxisInfo, TensorInfo
from export.targets import TARGETS, target
from export.tune.pareto import Candidate, Trial, best, choose, front, gain

_CONFIG = 'name: "m" backend: "onnxruntime" max_batch_size: 8 version_policy { specific { versions: 1 } }'
_FLOATS = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40)


@settings(deadline=None)  # the first example pays for imports
@given(_FLOATS)
def test_equal_values_never_differ(values: list[float]) -> None:
    """Whatever the numbers are, a tensor agrees with itself."""
    array = np.array(values, dtype=np.float32).reshape(1, -1)
    outcome = compare("c", array, array.copy(), MODES["fp32"])
    assert outcome.reason == ""
    assert outcome.observed.excess == 0


@settings(deadline=None)  # the first example pays for imports
@given(_FLOATS, st.data())
def test_one_wrong_value_is_found_in_its_row(values: list[float], data: st.DataObject) -> None:
    """A single value off by more than all tolerances is refused, and the row is named."""
    reference = np.array(values, dtype=np.float32).reshape(-1, 1)
    row = data.draw(st.integers(0, len(values) - 1))
    actual = reference.copy()
    actual[row] += np.float32(np.abs(reference).max() * 0.5 + 1)
    outcome = compare("c", actual, reference, MODES["fp32"])
    assert outcome.reason
    assert outcome.worst_row == row


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_values_are_refused(bad: float) -> None:
    """NaN and infinity pass no comparison unless the reference has the same infinity there."""
    reference = np.ones((2, 3), dtype=np.float32)
    actual = reference.copy()
    actual[1, 1] = bad
    assert "not finite" in compare("c", actual, reference, MODES["fp16"]).reason
    if np.isinf(bad):
        assert compare("c", actual, actual.copy(), MODES["fp32"]).reason == ""


def test_integers_are_exact_unless_a_share_is_allowed() -> None:
    """One wrong label in ten is refused, and accepted once ten per cent may differ."""
    reference = np.arange(10)
    actual = reference.copy()
    actual[3] = 99
    assert compare("c", actual, reference, tolerances("fp32", ["label"], ())["label"]).reason
    assert not compare("c", actual, reference, tolerances("fp32", ["label"], ("label.mismatch=0.1",))["label"]).reason


@pytest.mark.parametrize("text", ["label", "other.rtol=1", "label.speed=1", "label.rtol=much"])
def test_unusable_tolerances_are_named(text: str) -> None:
    """A tolerance for an unknown output, field or number says which one is meant."""
    with pytest.raises(UsageError, match=text.split("=", maxsplit=1)[0]):
        tolerances("fp32", ["label"], (text,))


def test_cases_cover_batches_and_extremes_of_every_axis() -> None:
    """Batches 1, 2, 3 and the largest, and both ends of an axis that two inputs share."""
    rows = {name: np.arange(24).reshape(4, 6) for name in ("ids", "mask")}
    axes = {name: {1: AxisInfo("tokens", 2, 50)} for name in rows}
    built = {case.name: case.inputs for case in cases.build(rows, axes, 9, real=True)}
    assert {"batch-1", "batch-2", "batch-3", "batch-9", "tokens-2", "tokens-50", "samples-0"} == set(built)
    assert built["tokens-50"]["ids"].shape == built["tokens-50"]["mask"].shape == (2, 50)
    assert built["batch-9"]["ids"].shape == (9, 6)


@settings(deadline=None)  # the first example pays for imports
@given(st.lists(st.tuples(st.integers(1, 6), st.booleans()), max_size=12))
def test_rollback_undoes_each_promotion(steps: list[tuple[int, bool]]) -> None:
    """However versions are promoted, rolling back walks the same policies backwards, through the file and back."""
    policy = policies.Policy((1,))
    seen = [policy]
    for version, alone in steps:
        following = policy.with_version(version, alone=alone)
        if following != policy:
            seen.append(following)
        policy = following
    message, _ = policies.read(_CONFIG, "m")
    for expected in reversed(seen):
        assert policy.served == expected.served
        _, again = policies.read(policies.write(message, policy), "m")
        assert again == policy
        if policy.before:
            policy = policy.rolled_back()
    with pytest.raises(ExportError, match="nothing to roll back"):
        policy.rolled_back()


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4), st.booleans()), max_size=12), st.integers(1, 4))
def test_version_that_never_was_leaves_no_trace(steps: list[tuple[int, bool]], gone: int) -> None:
    """A version taken back is in no policy and in no history, all others stay in order, and each rollback changes."""
    policy = policies.Policy((1,))
    for version, alone in steps:
        policy = policy.with_version(version, alone=alone)
    left = policy.without(gone)
    walked = (*left.before, left.served)
    assert all(gone not in served for served in walked)
    assert all(one != then for one, then in itertools.pairwise(walked))
    assert left.served == tuple(version for version in policy.served if version != gone)
    assert {v for served in walked for v in served} == {v for s in (*policy.before, policy.served) for v in s} - {gone}


def test_overlay_merges_messages_replaces_lists_and_refuses_the_contract(tmp_path: Path) -> None:
    """A queue size changes inside its message, a list is replaced, and inputs are not the user's to change."""
    message = proto.from_text(
        _CONFIG + " dynamic_batching { preferred_batch_size: 4 max_queue_delay_microseconds: 7 }", "m"
    )
    wish = tmp_path / "wish.pbtxt"
    wish.write_text("dynamic_batching { preferred_batch_size: 8 } response_cache { enable: true }")
    assert overlay.merge(message, wish) == ["dynamic_batching", "response_cache"]
    assert list(message.dynamic_batching.preferred_batch_size) == [8]
    assert message.dynamic_batching.max_queue_delay_microseconds == 7
    assert message.response_cache.enable
    wish.write_text("dynamic_batching { max_queue_delay_microseconds: 0 }")
    overlay.merge(message, wish)
    assert message.dynamic_batching.max_queue_delay_microseconds == 0
    assert list(message.dynamic_batching.preferred_batch_size) == [8]
    refusals = (
        ("input { name: 'x' }", "may not be set"),
        ("backend: ''", "may not be set"),
        ("nonsense: 1", "nonsense"),
    )
    for text, reason in refusals:
        wish.write_text(text)
        with pytest.raises(ExportError, match=reason):
            overlay.merge(message, wish)


@pytest.mark.parametrize(("kind", "told"), [("auto", "KIND_AUTO"), ("cpu", "KIND_CPU"), ("gpu", "KIND_GPU")])
def test_configuration_names_instances_and_bounds_the_queue(kind: Literal["auto", "cpu", "gpu"], told: str) -> None:
    """Each kind of instance group, with its count, and a queue that refuses instead of growing without bound."""
    batching = DynamicBatching(max_queue_delay_us=5, max_queue_size=6, queue_timeout_us=7, preferred_batch_sizes=(2, 4))
    config = proto.to_dict(
        ModelConfig(name="m", backend="onnxruntime", max_batch_size=4, inputs=(), outputs=(), instance_kind=kind,
                    instance_count=3, dynamic_batching=batching).to_proto()
    )  # fmt: skip
    (group,) = config["instance_group"]
    assert (group.get("kind", "KIND_AUTO"), group["count"]) == (told, 3)
    queue = config["dynamic_batching"]["default_queue_policy"]
    assert queue.get("timeout_action", "REJECT") == "REJECT"
    assert (queue["max_queue_size"], queue["default_timeout_microseconds"]) == (6, "7")
    assert config["dynamic_batching"]["preferred_batch_size"] == [2, 4]


def test_distribution_counts_every_value_once() -> None:
    """Histogram counts add up to the number of finite values, few integers are counted by value."""
    values = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    found = distribution(values, "user")
    assert sum(found.counts) == 1000
    assert len(found.edges) == len(found.counts) + 1
    labels = distribution(np.array([3, 1, 3, 3]), "model")
    assert (labels.values, labels.counts) == ([1, 3], [1, 3])
    assert sum(distribution(np.full(9, 2.5), "user").counts) == 9


def test_front_holds_what_nothing_beats() -> None:
    """A trial slower and later than another is not on the front; one that failed never is."""
    fast, quick, beaten = (
        Trial(Candidate(i), rate, 1, late, 0) for i, rate, late in ((1, 90, 9), (2, 50, 3), (3, 40, 5))
    )
    failing = Trial(Candidate(4), 500, 1, 1, failed=3)
    assert front([beaten, quick, failing, fast]) == [fast, quick]


def _pairs(*rates: tuple[float, float], p99: float = 5) -> list[tuple[Trial, Trial]]:
    return [(Trial(Candidate(), old, 1, 5, 0), Trial(Candidate(0), new, 1, p99, 0)) for old, new in rates]


def test_tuning_leaves_what_it_cannot_beat() -> None:
    """Only what beats the present configuration by the bound of its repetitions, and in time, is chosen."""
    tried = Trial(Candidate(0), 120, 1, 5, 0)
    steady = _pairs((100, 120), (99, 121), (101, 119), (100, 122))
    assert choose(tried, steady, 10)[0] == tried
    assert 1.1 < gain(steady).low < gain(steady).mean < 1.3
    noisy = _pairs((100, 150), (120, 90), (90, 140), (130, 95))
    assert gain(noisy).mean > 1
    assert choose(tried, noisy, 10)[0] is None
    assert choose(tried, _pairs((100, 120), (99, 121), p99=50), 10)[0] is None
    assert choose(best([Trial(Candidate(0), 300, 1, 50, 0)], 10), [], 10)[0] is None


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(1, 1e4), st.floats(1, 1e4)), min_size=2, max_size=30))
def test_bound_is_never_above_the_mean_and_turns_around(rates: list[tuple[float, float]]) -> None:
    """The lower bound is at most the gain, and of two configurations at most one certainly beats the other."""
    found, back = gain(_pairs(*rates)), gain(_pairs(*[(new, old) for old, new in rates]))
    assert found.low <= found.mean * (1 + 1e-9)
    assert found.mean * back.mean == pytest.approx(1)
    assert not (found.low > 1 + 1e-9 and back.low > 1 + 1e-9)


def test_trtexec_line_has_profiles_and_leaves_the_precision_to_the_graph() -> None:
    """Shapes come from batch and axes; TensorRT 10 is asked for strong typing, 11 has nothing else to offer."""
    inputs = [TensorInfo("ids", "int64", ["batch", "tokens"]), TensorInfo("x", "float32", ["batch", 3])]
    shapes = tensorrt.profiles(inputs, {"ids": {1: AxisInfo("tokens", 2, 64)}}, 8)
    old = tensorrt.command(Path("m"), Path("p"), shapes, strongly_typed=False)
    new = tensorrt.command(Path("m"), Path("p"), shapes, strongly_typed=True)
    assert "--minShapes=ids:1x2,x:1x3" in old
    assert "--maxShapes=ids:8x64,x:8x3" in old
    assert set(old) - set(new) == {"--stronglyTyped"}
    assert not {"--fp16", "--best"} & {*old, *new}
    assert "precision_mode" not in str(tensorrt.accelerator(shapes, fp16=True, target=TARGETS["26.07"]))
    assert "precision_mode" in str(tensorrt.accelerator(shapes, fp16=True, target=TARGETS["26.05"]))


@pytest.mark.parametrize(
    ("here", "wanted", "fits"),
    [
        ("10.9.0.34", "10.9.0.34", True),
        ("10.9.0.34.post1", "10.9.0.34", True),
        ("10.9.0", "10.9.0.34", True),
        ("10.9.0.34", "10.9.0", True),
        ("10.9.0.33", "10.9.0.34", False),
        ("10.9.1.34", "10.9.0.34", False),
        ("10.10.0.31", "10.9.0.34", False),
        ("10.8.0.43", "10.9.0.34", False),
        ("11.0.0.1", "10.9.0.34", False),
    ],
)
def test_plans_load_only_in_the_very_tensorrt_that_built_them(here: str, wanted: str, fits: bool) -> None:
    """Every component that both sides tell must agree, the build number too; a major version alone settles nothing."""
    problem = tensorrt.mismatch(here, target("25.03", wanted))
    assert (problem is None) is fits
    assert fits or f"25.03 loads plans of {wanted} only" in str(problem)
    assert "give --target-tensorrt" in str(tensorrt.mismatch(here, target("25.03")))
    with pytest.raises(UsageError, match=r"26\.07 has TensorRT 11"):
        target("26.07", wanted)
