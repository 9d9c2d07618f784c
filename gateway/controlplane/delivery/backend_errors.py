"""How an order to a backend can fail."""


class RefusedError(Exception):
    """The backend understood and said no; trying again will not help."""


class UnavailableError(Exception):
    """The backend did not answer, or not now; trying again may help."""


class BusyError(UnavailableError):
    """The backend is still at something long, such as a load that was given up; it comes to an end by itself."""
