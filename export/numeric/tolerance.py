"""How far the served numbers may be from fp32 eager PyTorch.

|a-b| <= rtol*|ref| + k*rms(ref) for floats, with the same mask of finite values and a cosine of at least `cosine`
row by row; integers are exact unless a share of mismatches is allowed by name.
"""

from __future__ import annotations

import msgspec

from export.errors import UsageError


class Tolerance(msgspec.Struct, frozen=True):
    """Thresholds of one output; `mismatch` is the share of integer values that may differ."""

    rtol: float
    k: float
    cosine: float
    mismatch: float = 0.0


# Calibrated on the zoo (docs/export.md shows the observed maxima beside these).
MODES: dict[str, Tolerance] = {
    "fp32": Tolerance(rtol=1e-3, k=1e-4, cosine=0.99999),
    "fp32-cuda": Tolerance(rtol=1e-3, k=1e-3, cosine=0.99999),
    "tf32": Tolerance(rtol=1e-2, k=5e-3, cosine=0.9999),
    "fp16": Tolerance(rtol=1e-2, k=1e-2, cosine=0.999),
}
_FIELDS = ("rtol", "k", "cosine", "mismatch")


def tolerances(mode: str, outputs: list[str], overrides: tuple[str, ...]) -> dict[str, Tolerance]:
    """The tolerance of each output. An override reads `OUTPUT.FIELD=VALUE`; UsageError says which one is wrong."""
    result = dict.fromkeys(outputs, MODES[mode])
    for text in overrides:
        target, _, value = text.partition("=")
        output, _, field = target.rpartition(".")
        if output not in result or field not in _FIELDS:
            raise UsageError(
                f"tolerance {text!r}: write OUTPUT.FIELD=VALUE with OUTPUT one of {', '.join(outputs)} "
                f"and FIELD one of {', '.join(_FIELDS)}"
            )
        try:
            number = float(value)
        except ValueError:
            raise UsageError(f"tolerance {text!r}: {value!r} is not a number") from None
        result[output] = msgspec.structs.replace(result[output], **{field: number})
    return result
