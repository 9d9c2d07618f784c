"""The part of sluice.yaml that says how long the supervisor waits for its processes."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Le

from gateway.core.pool import STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class Supervision:
    """How long the supervisor waits for the controller and the workers. Each says four times a second that it lives.

    Attributes:
        start_s: until all of them serve for the first time, and until the successor of a worker serves.
        warn_s: a process without a sign of life for so long is reported.
        kill_s: and after so long it is killed and started anew; more than `warn_s`.
    """

    __pydantic_config__: ClassVar = STRICT

    start_s: Annotated[float, Gt(0), Le(3600)] = 60.0
    warn_s: Annotated[float, Gt(0), Le(3600)] = 5.0
    kill_s: Annotated[float, Ge(1), Le(3600)] = 30.0
