"""Request bodies are those of tritonclient."""

import json
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from loadtest.inputs import digits, sentences, synthetic
from loadtest.v2body import DATATYPES, Tensors, build, sequence_parameters

DTYPES = sorted(set(DATATYPES) - {"bool"})


def reference(tensors: Tensors, *, binary: bool, **sequence: Any) -> tuple[bytes, int | None]:
    """What tritonclient would send."""
    inputs = []
    for name, array in tensors.items():
        entry = triton.InferInput(name, list(array.shape), DATATYPES[array.dtype.name])
        entry.set_data_from_numpy(array, binary_data=binary)
        inputs.append(entry)
    body, length = triton.InferenceServerClient.generate_request_body(inputs, **sequence)
    return body, length


@st.composite
def tensor_sets(draw: st.DrawFn) -> dict[str, np.ndarray]:
    """One to three inputs with a common batch axis."""
    batch = draw(st.integers(1, 4))
    found = {}
    for name in draw(st.lists(st.from_regex(r"[A-Za-z_]{1,8}", fullmatch=True), min_size=1, max_size=3, unique=True)):
        dtype = np.dtype(draw(st.sampled_from(DTYPES)))
        shape = (batch, *draw(st.lists(st.integers(1, 5), max_size=2)))
        values = arrays.from_dtype(dtype, allow_nan=False, allow_infinity=False)
        found[name] = draw(arrays.arrays(dtype, shape, elements=values))
    return found


@given(tensors=tensor_sets())
def test_binary_bodies_equal_tritonclients(tensors: dict[str, np.ndarray]) -> None:
    """Any numeric tensors give the same bytes and the same header length as tritonclient's own builder."""
    assert build(tensors, binary=True).render() == reference(tensors, binary=True)


@given(tensors=tensor_sets())
def test_json_bodies_carry_tritonclients_numbers(tensors: dict[str, np.ndarray]) -> None:
    """JSON bodies decode to what tritonclient's decode to, number for number, and need no header length."""
    wanted = {name: a for name, a in tensors.items() if a.dtype.name != "float16"}
    if not wanted:
        return
    body, length = build(wanted, binary=False).render()
    assert json.loads(body) == json.loads(reference(wanted, binary=False)[0])
    assert length is None


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("batch", [1, 64])
def test_real_digits_and_sentences_equal_tritonclients(batch: int, binary: bool) -> None:
    """The bodies of the built-in inputs are byte for byte tritonclient's, single and in batches of 64."""
    for source in (digits, sentences):
        for tensors in source.batches(batch=batch, count=2, seed=1):
            assert build(tensors, binary=binary).render() == reference(tensors, binary=binary)


@given(
    identity=st.one_of(st.integers(1, 2**64 - 1), st.from_regex(r"[a-z0-9-]{1,20}", fullmatch=True)),
    start=st.booleans(),
    end=st.booleans(),
    binary=st.booleans(),
)
def test_sequence_parameters_equal_tritonclients(identity: int | str, start: bool, end: bool, binary: bool) -> None:
    """Sequence parameters put in at send time give tritonclient's bytes, for numeric and string ids."""
    tensors = digits.batches(batch=1, count=1, seed=0)[0]
    parameters = sequence_parameters(identity, start=start, end=end)
    wanted = reference(tensors, binary=binary, sequence_id=identity, sequence_start=start, sequence_end=end)
    assert build(tensors, binary=binary).render(parameters) == wanted


def test_half_precision_in_json_is_refused() -> None:
    """FP16 has no JSON form in Triton, so building one is an error that names the input."""
    with pytest.raises(ValueError, match="input X: FP16"):
        build({"X": np.zeros((1, 4), np.float16)}, binary=False)


def test_sentences_are_real_and_padded() -> None:
    """Sentences are English prose; masks mark exactly the tokens, starting with the tokenizer's first special token."""
    corpus = sentences.corpus()
    assert len(corpus) > 100
    assert all(s[-1] in ".!?" and len(s.split()) >= 6 for s in corpus)
    request = sentences.batches(batch=8, count=1, seed=3)[0]
    ids, mask = request["input_ids"], request["attention_mask"]
    assert ids.dtype == mask.dtype == np.int64
    assert ids.shape == mask.shape
    assert 2 < ids.shape[1] <= sentences.MAX_TOKENS
    assert (mask.sum(axis=1) > 2).all()
    assert (ids[mask == 0] == 0).all()
    assert set(ids[:, 0]) == {101}


def test_synthetic_tensors_have_the_declared_form() -> None:
    """Declared type, shape, range and seed decide a synthetic tensor completely."""
    declared = [("image", "FP16", (3, 8, 8), (-1.0, 1.0)), ("ids", "INT64", (7,), (5, 9))]
    first, second = (synthetic.batches(declared, batch=2, count=3, seed=4) for _ in range(2))
    assert len(first) == 3
    for a, b in zip(first, second, strict=True):
        assert a["image"].dtype == np.float16
        assert a["image"].shape == (2, 3, 8, 8)
        assert a["ids"].dtype == np.int64
        assert a["ids"].shape == (2, 7)
        assert set(np.unique(a["ids"])) <= {5, 6, 7, 8}
        assert (np.abs(a["image"]) <= 1).all()
        np.testing.assert_array_equal(a["ids"], b["ids"])
    assert not np.array_equal(first[0]["image"], first[1]["image"])
