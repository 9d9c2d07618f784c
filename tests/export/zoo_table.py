"""The zoo: what is exported once for the tests, with the limits it is checked in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """A model of the zoo: its SPEC, its name in the repository, and the largest batch."""

    spec: str
    name: str
    max_batch: int


SMALL = (
    Entry("export.zoo.digits:v1", "digits", 64),
    Entry("export.zoo.digits:convolutional", "digits_cnn", 64),
    Entry("export.zoo.shapes:mixed", "mixed", 16),
    Entry("export.zoo.shapes:rank_one", "rank_one", 16),
    Entry("export.zoo.shapes:detector", "detector", 16),
    Entry("export.zoo.shapes:recurrent_step", "recurrent_step", 8),
)
LARGE = (
    Entry("export.zoo.minilm:encoder", "minilm", 16),
    Entry("export.zoo.large:resnet50", "resnet50", 4),
    Entry("export.zoo.large:distilbert", "distilbert", 4),
)
