"""When to leave somebody alone who does harm: after a few strikes in a row, for ever longer, then one try at a time."""

_STRIKES = 3
_BASE_S = 1.0
_MAX_S = 60.0


class Pause:
    """The harm that one party did lately.

    Attributes:
        strikes: in a row; 0 for a party in good standing.
    """

    __slots__ = ("_pauses", "_until", "strikes")

    def __init__(self) -> None:
        self.strikes = 0
        self._pauses = 0
        self._until = 0.0

    def holds(self, now: float, in_flight: int) -> bool:
        """Whether nothing may be begun now (any steady clock, in seconds); after a pause only one thing at a time."""
        return now < self._until or (self._pauses > 0 and in_flight > 0)

    def strike(self, now: float) -> None:
        """It did harm. What was begun before a pause makes that no longer."""
        self.strikes += 1
        if now >= self._until and (self._pauses or self.strikes >= _STRIKES):
            self._until = now + min(_BASE_S * 2**self._pauses, _MAX_S)
            self._pauses = min(self._pauses + 1, 10)

    def clear(self) -> None:
        """It did well: all is forgotten."""
        self.strikes = self._pauses = 0
        self._until = 0.0
