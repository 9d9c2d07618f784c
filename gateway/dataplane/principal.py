"""Who sends a request: known from its head, remembered with it."""

from collections.abc import Iterable

from gateway.rates import Limit

ALL = "*"


class Principal:
    """The holder of a valid credential.

    Attributes:
        name: for logs; says nothing secret.
        expires: Unix time from which on the credential is void.
        limit: the caller's rate; None without one.
    """

    __slots__ = ("_routes", "expires", "limit", "name")

    def __init__(self, name: str, routes: Iterable[str], expires: float, limit: Limit | None) -> None:
        self.name = name
        self.expires = expires
        self.limit = limit
        self._routes = frozenset(routes)

    def may_use(self, route: str) -> bool:
        """Whether the credential covers a route, or with an empty name what belongs to all of them."""
        return ALL in self._routes or (bool(route) and route in self._routes)
