"""Shadow comparison: every rule agrees with itself, and finds a seeded fault with its place and reason."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gateway.core.compare import Comparison, Tensor, compare
from gateway.core.rollout_policy import OutputRule

RULES: tuple[Any, ...] = ("exact", "close", "argmax", "top_k", "cosine", "shape")
GOOD = np.array([[0.1, 0.7, 0.2], [0.6, 0.3, 0.1]], dtype=np.float32)


def tensor(values: Any, name: str = "y", datatype: str = "FP32", shape: tuple[int, ...] | None = None) -> Tensor:
    values = np.asarray(values)
    return Tensor(name, datatype, values.shape if shape is None else shape, values)


def judge(a: Any, b: Any, **rule: Any) -> Comparison:
    return compare([tensor(a)], [tensor(b)], [OutputRule(**rule)])


@pytest.mark.parametrize("rule", RULES)
@given(
    values=hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=0, max_dims=3, max_side=4),
        elements=st.floats(width=32, allow_nan=True, allow_infinity=True),
    )
)
def test_an_answer_agrees_with_itself(rule: Any, values: Any) -> None:
    """Any tensor, infinities and (where allowed) NaN included, keeps every rule against itself."""
    found = judge(values, values.copy(), rule=rule, allow_nan=True)
    assert found.agree, found.reason


@pytest.mark.parametrize(
    ("rule", "fault", "index", "reason"),
    [
        ({"rule": "exact"}, ((1, 2), 0.10001), (1, 2), "differs at [1, 2]"),
        ({"rule": "close", "atol": 0.05, "rtol": 0.0}, ((0, 1), 0.8), (0, 1), "beyond atol 0.05"),
        ({"rule": "argmax"}, ((1, 1), 0.9), (1,), "another argmax"),
        ({"rule": "top_k", "k": 1}, ((0, 2), 0.9), (0,), "another top 1"),
        ({"rule": "cosine", "min_cosine": 0.99}, ((1, 0), -0.6), (1,), "cosine below 0.99"),
    ],
)
def test_each_rule_finds_its_fault(rule: dict[str, Any], fault: Any, index: tuple[int, ...], reason: str) -> None:
    """One changed element is found, named and placed by the rule that it breaks."""
    bad = GOOD.copy()
    bad[fault[0]] = fault[1]
    found = judge(GOOD, bad, **rule)
    assert not found.agree
    assert reason in found.reason
    assert (found.output, found.index) == ("y", index)
    assert 0 < found.differing <= 0.5


def test_the_worst_element_is_shown() -> None:
    """Among several differences the largest is reported with both values and its distance."""
    bad = GOOD.copy()
    bad[0, 0], bad[1, 1] = 0.2, 5.3
    found = judge(GOOD, bad, rule="close")
    assert (found.index, found.original, found.candidate) == ((1, 1), "0.3", "5.3")
    assert found.deviation == pytest.approx(5.0)
    assert found.differing == pytest.approx(2 / 6)


def test_tolerances_let_small_differences_be() -> None:
    """Differences inside atol plus rtol agree, and order of top-k members does not matter."""
    assert judge(GOOD, GOOD + 1e-4, rule="close").agree
    assert judge([[3.0, 2.0, 1.0]], [[2.0, 3.0, 1.0]], rule="top_k", k=2).agree
    assert judge(GOOD, GOOD * 1000, rule="cosine").agree


@pytest.mark.parametrize("rule", RULES)
def test_nan_on_the_candidate_is_a_difference_unless_allowed(rule: Any) -> None:
    """A NaN never passes as agreement by being incomparable."""
    bad = GOOD.copy()
    bad[0, 2] = np.nan
    found = judge(GOOD, bad, rule=rule)
    assert not found.agree
    assert "NaN on the candidate" in found.reason
    assert found.index == (0, 2)
    assert not judge(GOOD, bad, rule=rule, allow_nan=True).agree
    assert not judge(bad, GOOD, rule=rule).agree


@pytest.mark.parametrize("rule", RULES)
def test_shape_and_datatype_come_first(rule: Any) -> None:
    """Another shape or datatype differs under every rule, whatever the values."""
    wide = compare([tensor(GOOD)], [tensor(GOOD.reshape(3, 2))], [OutputRule(rule=rule)])
    assert "shape (3, 2) instead of (2, 3)" in wide.reason
    half = compare([tensor(GOOD)], [tensor(GOOD, datatype="FP16")], [OutputRule(rule=rule)])
    assert "datatype FP16 instead of FP32" in half.reason


def test_outputs_are_matched_by_name() -> None:
    """Order of the outputs is free; a missing one and an additional one are differences."""
    a, b = tensor(GOOD, "a"), tensor(GOOD + 1, "b")
    assert compare([a, b], [b, a]).agree
    assert compare([a, b], [a]).reason == "output 'b' is missing on the candidate"
    assert compare([a], [a, b]).reason == "output 'b' exists on the candidate only"


def test_rules_go_by_output_with_a_default() -> None:
    """A named rule wins over `*`, which wins over the built-in one."""
    a, b = [tensor(GOOD, "a"), tensor(GOOD, "b")], [tensor(GOOD * 2, "a"), tensor(GOOD * 2, "b")]
    assert compare(a, b, [OutputRule(output="a", rule="argmax"), OutputRule(rule="cosine")]).agree
    assert compare(a, b, [OutputRule(output="a", rule="argmax")]).output == "b"
    assert compare(a, b, [OutputRule(output="*", rule="argmax")]).agree


def test_bytes_are_compared_exactly() -> None:
    """Strings have no distance: any rule compares them for equality."""
    words = np.array([b"cat", b"dog"], dtype=object)
    other = np.array([b"cat", b"cow"], dtype=object)
    assert judge(words, words).agree
    found = judge(words, other)
    assert (found.index, found.original, found.candidate) == ((1,), "b'dog'", "b'cow'")


def test_whole_numbers_and_empty_outputs() -> None:
    """Integers and booleans work under every rule, and two empty outputs agree."""
    for rule in RULES:
        assert judge([1, 2, 3], [1, 2, 3], rule=rule).agree
        assert judge([True, False], [True, False], rule=rule).agree
        assert judge(np.empty((0, 3)), np.empty((0, 3)), rule=rule).agree
    assert not judge([1, 2, 3], [1, 2, 4], rule="exact").agree


def test_cosine_of_zero_and_huge_rows() -> None:
    """Zero rows agree only with zero rows, and squares of huge values do not overflow into disagreement."""
    assert judge([[0.0, 0.0]], [[0.0, 0.0]], rule="cosine").agree
    assert not judge([[0.0, 0.0]], [[1.0, 0.0]], rule="cosine").agree
    assert judge([[1e200, 1e200]], [[1e200, 1e200]], rule="cosine").agree


def test_shape_asks_nothing_of_the_values() -> None:
    """Other numbers and other words agree as long as shape, datatype and NaN do."""
    assert judge(GOOD, GOOD * -7, rule="shape").agree
    assert judge(np.array([b"a"], dtype=object), np.array([b"b"], dtype=object), rule="shape").agree


def test_long_values_are_cut() -> None:
    """What is kept of a difference is bounded, however long the string."""
    found = judge(np.array([b"x" * 10_000], dtype=object), np.array([b"y" * 10_000], dtype=object))
    assert len(found.original) == len(found.candidate) == 100
