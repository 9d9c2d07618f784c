"""Whether a shadow's answer agrees with the original's: per-output rules over decoded tensors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.core.rollout_policy import OutputRule

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """One decoded output: its name and V2 datatype, its declared shape, and its values in that shape.

    BYTES are an object array of `bytes`; BF16 comes as float32.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Agreement, or the first output that differs with its worst element.

    Attributes:
        agree: whether every output keeps its rule.
        reason: why not, in one sentence; empty when they agree.
        output: the output that differs.
        index: position of the worst element (of the worst row for argmax, top_k and cosine).
        original: the original's value there, as text.
        candidate: the candidate's value there.
        deviation: how far apart they are there: absolute difference, or 1 - cosine; 0 where no number says it.
        differing: share of the output's elements (rows) that break the rule.
    """

    agree: bool
    reason: str = ""
    output: str = ""
    index: tuple[int, ...] = ()
    original: str = ""
    candidate: str = ""
    deviation: float = 0.0
    differing: float = 0.0


AGREE = Comparison(agree=True)
_DEFAULT = (OutputRule(),)


def compare(
    original: Sequence[Tensor], candidate: Sequence[Tensor], rules: Sequence[OutputRule] = _DEFAULT
) -> Comparison:
    """Compares two answers output by output, in the original's order; names decide, not positions.

    An output on one side only, another datatype or another shape is a difference under every rule.
    """
    named = {rule.output: rule for rule in rules}
    ours = {tensor.name: tensor for tensor in candidate}
    for extra in ours.keys() - {tensor.name for tensor in original}:
        return Comparison(agree=False, reason=f"output {extra!r} exists on the candidate only", output=extra)
    for theirs in original:
        mine = ours.get(theirs.name)
        if mine is None:
            reason = f"output {theirs.name!r} is missing on the candidate"
            return Comparison(agree=False, reason=reason, output=theirs.name)
        rule = named.get(theirs.name) or named.get("*") or _DEFAULT[0]
        found = _compare_one(theirs, mine, rule)
        if not found.agree:
            return found
    return AGREE


def _compare_one(theirs: Tensor, mine: Tensor, rule: OutputRule) -> Comparison:
    declared = (("datatype", theirs.datatype, mine.datatype), ("shape", str(theirs.shape), str(mine.shape)))
    for what, expected, found in declared:
        if expected != found:
            reason = f"output {theirs.name!r}: {what} {found} instead of {expected}"
            return Comparison(agree=False, reason=reason, output=theirs.name, original=expected, candidate=found)
    a, b = np.asarray(theirs.values).reshape(theirs.shape), np.asarray(mine.values).reshape(mine.shape)
    if a.size == 0:
        return AGREE
    numbers = a.dtype.kind in "biufc" and b.dtype.kind in "biufc"
    if not numbers and rule.rule == "shape":
        return AGREE
    if not numbers:
        return _verdict(theirs.name, a, b, a != b, None, "differs")
    if a.dtype.kind in "fc":
        lost = np.isnan(b) & ~np.isnan(a) if rule.allow_nan else np.isnan(b)
        if lost.any():
            return _verdict(theirs.name, a, b, lost, None, "is NaN on the candidate")
        if not rule.allow_nan and np.isnan(a).any():
            return _verdict(theirs.name, a, b, np.isnan(a), None, "is NaN on the original")
    if rule.rule == "shape":
        return AGREE
    if rule.rule == "exact":
        same = (a == b) | (np.isnan(a) & np.isnan(b)) if a.dtype.kind in "fc" else a == b
        return _verdict(theirs.name, a, b, ~same, _distance(a, b), "differs")
    if rule.rule == "close":
        beyond = ~np.isclose(b, a, rtol=rule.rtol, atol=rule.atol, equal_nan=rule.allow_nan)
        return _verdict(
            theirs.name, a, b, beyond, _distance(a, b), f"is beyond atol {rule.atol:g} + rtol {rule.rtol:g}"
        )
    return _compare_rows(theirs.name, _rows(a), _rows(b), rule)


def _rows(values: Array) -> NDArray[np.float64]:
    """Rows of the last axis as float64; a scalar or a vector is one row. NaN (allowed by now) orders below all."""
    rows = values.reshape(-1, values.shape[-1]) if values.ndim else values.reshape(1, 1)
    return np.nan_to_num(rows.astype(np.float64), nan=-np.inf, posinf=np.inf, neginf=-np.inf)


def _compare_rows(name: str, a: NDArray[np.float64], b: NDArray[np.float64], rule: OutputRule) -> Comparison:
    if rule.rule == "argmax":
        first, second = a.argmax(axis=1), b.argmax(axis=1)
        return _verdict(name, first, second, first != second, None, "has another argmax")
    if rule.rule == "top_k":
        k = min(rule.k, a.shape[1])
        tops = [np.sort(np.argsort(-rows, axis=1, kind="stable")[:, :k], axis=1) for rows in (a, b)]
        broken = (tops[0] != tops[1]).any(axis=1)
        row = int(np.argmax(broken))
        found = _verdict(name, broken, broken, broken, None, f"has another top {k}")
        if found.agree:
            return found
        return Comparison(
            agree=False,
            reason=found.reason,
            output=name,
            index=(row,),
            original=str(tops[0][row].tolist()),
            candidate=str(tops[1][row].tolist()),
            differing=found.differing,
        )
    similarity = _cosine(a, b)
    return _verdict(
        name,
        np.ones_like(similarity),
        similarity,
        ~(similarity >= rule.min_cosine),
        1.0 - similarity,
        f"has a cosine below {rule.min_cosine:g}",
    )


def _cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cosine per row; two zero rows agree, one zero row does not; infinite rows agree only when equal."""
    finite: NDArray[np.bool_] = np.asarray(np.isfinite(np.hstack([a, b])).all(axis=1))
    x, y = _scaled(np.where(finite[:, None], a, 0.0)), _scaled(np.where(finite[:, None], b, 0.0))
    norms = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    both_zero = ~x.any(axis=1) & ~y.any(axis=1)
    found = np.where(both_zero, 1.0, np.einsum("ij,ij->i", x, y) / np.where(norms > 0, norms, 1.0))
    return np.where(finite, found, (a == b).all(axis=1).astype(np.float64))


def _scaled(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows divided by their largest element, so that squares neither overflow nor vanish."""
    top = np.abs(rows).max(axis=1, keepdims=True)
    scaled: NDArray[np.float64] = rows / np.where(top > 0, top, 1.0)
    return scaled


def _distance(a: Array, b: Array) -> NDArray[np.float64]:
    wide = np.complex128 if a.dtype.kind == "c" else np.float64
    with np.errstate(invalid="ignore", over="ignore"):
        found: NDArray[np.float64] = np.abs(a.astype(wide) - b.astype(wide))
    return np.nan_to_num(found, nan=np.inf, posinf=np.inf)


def _verdict(
    name: str, a: Array, b: Array, broken: NDArray[np.bool_], distance: NDArray[np.float64] | None, what: str
) -> Comparison:
    if not broken.any():
        return AGREE
    size = np.where(broken, distance if distance is not None else 1.0, -1.0)
    at = tuple(int(i) for i in np.unravel_index(int(np.argmax(size)), broken.shape))
    share = float(np.mean(broken))
    return Comparison(
        agree=False,
        reason=f"output {name!r} {what} at {list(at)} ({share:.3g} of it)",
        output=name,
        index=at,
        original=_text(a[at]),
        candidate=_text(b[at]),
        deviation=float(distance[at]) if distance is not None else 0.0,
        differing=share,
    )


def _text(value: object) -> str:
    text = repr(value) if isinstance(value, bytes | str) else str(value)
    return text if len(text) <= 100 else text[:97] + "..."
