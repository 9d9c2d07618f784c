"""Rate limits by the generic cell rate algorithm (ITU-T I.371): one number per caller says all.

That number is the theoretical arrival time: when the next request would come if the caller kept exactly to its rate.
A caller may be early by its burst. A time in the past carries nothing, so an idle caller costs no memory.
"""


def interval_ns(rate: float) -> int:
    """Time between two requests at that many per second."""
    return max(1, round(1e9 / rate))


def tolerance_ns(rate: float, burst: int) -> int:
    """How early a request may be when `burst` of them may come at once; the rate, rounded up, when it is 0."""
    return (max(1, burst or -int(-rate // 1)) - 1) * interval_ns(rate)


def spend(arrival_ns: int, now_ns: int, interval: int, tolerance: int) -> tuple[int, int]:
    """Admits one request or not.

    Returns:
        The new theoretical arrival time and 0, or the old one and how long to wait, in nanoseconds.
    """
    due = max(arrival_ns, now_ns)
    wait = due - now_ns - tolerance
    return (arrival_ns, wait) if wait > 0 else (due + interval, 0)
