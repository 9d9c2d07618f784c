"""What each Triton release can load: the table that preflight judges against."""

from __future__ import annotations

from dataclasses import dataclass

from export.errors import UsageError


@dataclass(frozen=True, slots=True)
class Target:
    """One Triton container release, by its calendar name.

    `max_opset` and `max_ir` are the newest ONNX opset and IR version its ONNX Runtime accepts.
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


# ONNX Runtime -> newest opset and IR it accepts (its own release notes and versioning table).
_RUNTIME_LIMITS: dict[str, tuple[int, int]] = {
    "1.17": (20, 9),
    "1.18": (21, 10),
    "1.19": (21, 10),
    "1.20": (21, 10),
    "1.21": (22, 10),
    "1.22": (23, 11),
    "1.23": (23, 11),
    "1.24": (24, 12),
    "1.27": (25, 13),
}

_RELEASES: tuple[tuple[str, str, str], ...] = (
    ("24.10", "1.19.2", "10.5.0"),
    ("26.04", "1.24.4", "10.16"),
    ("26.05", "1.24.4", "10.16"),
    ("26.06", "1.24.4", "11.0"),
    ("26.07", "1.27.0", "11.0"),
)

TARGETS: dict[str, Target] = {
    release: Target(release, runtime, tensorrt, *_RUNTIME_LIMITS[".".join(runtime.split(".")[:2])])
    for release, runtime, tensorrt in _RELEASES
}
DEFAULT_TARGET = "26.07"


def target(release: str) -> Target:
    """The table's row for `release`; UsageError names the releases that are known."""
    try:
        return TARGETS[release]
    except KeyError:
        raise UsageError(f"Triton release {release!r} is not in the table; known: {', '.join(TARGETS)}") from None
