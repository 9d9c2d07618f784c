"""What each Triton release can load: the table that preflight judges against."""

from __future__ import annotations

from dataclasses import dataclass

from export.errors import UsageError


@dataclass(frozen=True, slots=True)
class Target:
    """One Triton container release, by its calendar name.

    `max_opset` and `max_ir` bound what is published for it. `tensorrt` holds the components that are known.
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


# ONNX Runtime -> an opset and IR version that it certainly accepts. Newer releases accept newer ones too; a bound that
# nobody has confirmed would let a model through that the server then refuses.
_RUNTIME_LIMITS: dict[str, tuple[int, int]] = {
    "1.19": (21, 10),
    "1.20": (21, 10),
    "1.24": (23, 11),
    "1.27": (23, 11),
}

# Release, ONNX Runtime, TensorRT (as far as it is known: the major version decides about typing and precision flags).
_RELEASES: tuple[tuple[str, str, str], ...] = (
    ("24.10", "1.19.2", "10"),
    ("25.03", "1.20.1", "10"),
    ("26.04", "1.24.4", "10"),
    ("26.05", "1.24.4", "10"),
    ("26.06", "1.24.4", "11"),
    ("26.07", "1.27", "11"),
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
