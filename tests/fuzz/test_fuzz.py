"""The short run of the fuzzer that CI makes; `make fuzz` makes the long one."""

import random

import pytest

from tests.fuzz.mutate import CORPUS, Mutator
from tests.fuzz.targets import TARGETS

_INPUTS = 3000


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_is_unhandled(name: str) -> None:
    """Mutated inputs of a fixed seed raise nothing and agree with both oracles."""
    mutator = Mutator(name, seed=1)
    for _ in range(_INPUTS):
        TARGETS[name](mutator.next(), mutator.chance)


@pytest.mark.parametrize("name", [path.name for path in sorted(CORPUS.glob("[!.]*"))])
def test_corpus(name: str) -> None:
    """Inputs that once failed stay handled, however they are cut."""
    data = (CORPUS / name).read_bytes()
    for seed in range(50):
        TARGETS[name.partition("-")[0]](data, random.Random(seed))
