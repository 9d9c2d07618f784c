"""Settings of progressive delivery that belong to the process and not to a route."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Le, Len

from gateway.core.pool import STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """Where rollout events go, as CloudEvents 1.0 in structured JSON.

    Attributes:
        url: where to POST.
        secret_env: environment variable with the key that signs each body; empty sends it unsigned.
        timeout_s: an attempt without an answer by then has failed and is repeated later.
    """

    __pydantic_config__: ClassVar = STRICT

    url: Annotated[str, Len(8, 2000)]
    secret_env: Annotated[str, Len(0, 100)] = ""
    timeout_s: Annotated[float, Gt(0), Le(60)] = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """How the controller runs rollouts and collects ground truth.

    Attributes:
        webhooks: told of every rollout event.
        block_s: bad outcomes within so long may share one cause and count for one until a rollout's own data show
            otherwise (see docs/delivery.md). Shorter finds a bad version sooner, and takes a fault that hits one arm
            alone for longer than this for the version's.
        mend_interval_s: how often the fleet is compared with the table and missing models are loaded; 0 turns it off.
        join_window_s: ground truth that comes later than this after its prediction finds nothing to join.
        join_max: predictions remembered at most; the oldest go first.
    """

    __pydantic_config__: ClassVar = STRICT

    webhooks: Annotated[tuple[Webhook, ...], Len(0, 20)] = ()
    block_s: Annotated[float, Ge(0.05), Le(60)] = 1.0
    mend_interval_s: Annotated[float, Ge(0), Le(3600)] = 15.0
    join_window_s: Annotated[float, Gt(0), Le(7 * 86_400)] = 3600.0
    join_max: Annotated[int, Ge(1), Le(10_000_000)] = 200_000
