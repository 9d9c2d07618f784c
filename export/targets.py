"""What each Triton release can load: the table that preflight judges against.

Sources
- Release -> ONNX Runtime: docs/introduction/compatibility.md of triton-inference-server/server, section "ONNX Runtime
  Versions", as of release 26.08 (25.08 ships a commit before 1.23.0).
- ONNX Runtime -> opset and IR: measured on the wheels that PyPI has of these versions. A graph of one node was
  stamped with each opset and each IR version, and the bound is the highest that `InferenceSession` accepts; the next
  one it refuses. It is also what docs/Versioning.md of microsoft/onnxruntime calls the ONNX release implemented.
- TensorRT: the major version alone, which decides about typing and precision flags. Release 26.06 is the first built
  against TensorRT 11. The rest stands in NVIDIA's Frameworks Support Matrix and is not repeated here: whoever builds a
  plan has to name it, because a plan loads only in the very version that built it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from export.errors import UsageError


@dataclass(frozen=True, slots=True)
class Target:
    """One Triton container release, by its calendar name.

    `max_opset` and `max_ir` are the newest that its ONNX Runtime opens. `tensorrt` holds the components that are known:
    the major version, or all of them where they were given.
    """

    release: str
    onnxruntime: str
    tensorrt: str
    max_opset: int
    max_ir: int

    @property
    def tensorrt_strongly_typed(self) -> bool:
        """TensorRT 11 and later know no precision flags: the precision must be in the graph."""
        return int(self.tensorrt.split(".")[0]) >= 11


_RUNTIME_LIMITS: dict[str, tuple[int, int]] = {
    "1.19": (21, 10),
    "1.20": (21, 10),
    "1.21": (22, 10),
    "1.22": (22, 10),
    "1.23": (23, 11),
    "1.24": (25, 13),
    "1.27": (26, 13),
    "1.28": (26, 13),
}

_RUNTIMES: tuple[tuple[str, str], ...] = (
    ("24.10", "1.19.2"),
    ("24.11", "1.19.2"),
    ("24.12", "1.20.1"),
    ("25.01", "1.20.1"),
    ("25.02", "1.20.1"),
    ("25.03", "1.21.0"),
    ("25.04", "1.21.0"),
    ("25.05", "1.22.0"),
    ("25.06", "1.22.0"),
    ("25.07", "1.22.0"),
    ("25.08", "1.23.0"),
    ("25.09", "1.23.0"),
    ("25.10", "1.23.1"),
    ("25.11", "1.23.2"),
    ("25.12", "1.23.2"),
    ("26.01", "1.23.2"),
    ("26.02", "1.24.1"),
    ("26.03", "1.24.2"),
    ("26.04", "1.24.4"),
    ("26.05", "1.24.4"),
    ("26.06", "1.24.4"),
    ("26.07", "1.27.0"),
    ("26.08", "1.28.0"),
)
_FIRST_WITH_TENSORRT_11 = "26.06"

TARGETS: dict[str, Target] = {
    release: Target(
        release,
        runtime,
        "11" if release >= _FIRST_WITH_TENSORRT_11 else "10",
        *_RUNTIME_LIMITS[runtime.rpartition(".")[0]],
    )
    for release, runtime in _RUNTIMES
}
DEFAULT_TARGET = "26.07"


def target(release: str, tensorrt: str | None = None) -> Target:
    """The table's row for `release`, with the exact version of its TensorRT where that is given.

    UsageError names the releases that are known, or the major version that the release has.
    """
    try:
        row = TARGETS[release]
    except KeyError:
        raise UsageError(f"Triton release {release!r} is not in the table; known: {', '.join(TARGETS)}") from None
    if tensorrt is None:
        return row
    if tensorrt.split(".")[0] != row.tensorrt:
        raise UsageError(f"Triton {release} has TensorRT {row.tensorrt}, so it cannot have {tensorrt}")
    return dataclasses.replace(row, tensorrt=tensorrt)
