"""What stands in for an exchange where a request was answered at once."""

from typing import Final

from gateway.errors import Fault


class Answered:
    """Stands for an exchange that was over before its request was complete."""

    def body_data(self, data: bytes | memoryview) -> None:
        """Nothing is needed any more."""

    def body_end(self) -> None:
        """Nothing is needed any more."""

    def body_failed(self, fault: Fault) -> None:
        """Nothing is needed any more."""

    def client_gone(self) -> None:
        """Nothing is held."""

    def client_paused(self, paused: bool) -> None:
        """Nothing is sent."""


ANSWERED: Final = Answered()
