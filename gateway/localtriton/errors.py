"""What can go wrong with a local Triton beyond a missing resource or a wrong path."""

from gateway.errors import SluiceError


class TritonDiedError(SluiceError):
    """Triton ended by itself; the text has its exit status, the reason found in its log and where the log is."""
