"""What a worker keeps of requests that are not complete yet, all its clients together."""

_LEAST = 8 << 20  # so that a small bound on bodies does not turn away clients whose requests come in two pieces


class Partial:
    """Counts bytes of incomplete heads, bodies and pipelined requests against a bound of their own.

    They share nothing with bodies that are held for retries and copies: a crowd of slow clients must not cost anybody
    else a retry.

    Attributes:
        size: bytes now.
    """

    __slots__ = ("bound", "size")

    def __init__(self, max_buffered_bytes: int) -> None:
        self.bound = max(max_buffered_bytes // 2, _LEAST)
        self.size = 0

    def claim(self, size: int) -> bool:
        """Counts bytes more (negative ones are let go); False, and nothing counted, where the bound is reached."""
        if size > 0 and self.size + size > self.bound:
            return False
        self.size += size
        return True
