"""Tells systemd how the gateway is doing (sd_notify(3)); without systemd nothing happens."""

import os
import socket
import time
from contextlib import suppress

_SEND_S = 0.2  # a manager that does not read must not stop the supervisor


class Notify:
    """The line to the service manager that NOTIFY_SOCKET names."""

    def __init__(self) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "")
        own = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        usec = os.environ.get("WATCHDOG_USEC", "")
        self._every_s = int(usec) / 2e6 if own and usec.isascii() and usec.isdigit() else 0.0
        self._due = 0.0

    def ready(self, status: str) -> None:
        """Everything serves, or serves again after a reload."""
        self._send(f"READY=1\nSTATUS={status}")

    def reloading(self) -> None:
        """New settings are being taken in; `ready` ends it."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}\nSTATUS=reloading")

    def stopping(self) -> None:
        """No new requests are taken."""
        self._send("STOPPING=1\nSTATUS=draining")

    def alive(self, now: float) -> None:
        """A sign of life, as often as the watchdog wants one; `now` is monotonic seconds."""
        if self._every_s and now >= self._due:
            self._due = now + self._every_s
            self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as line:
            line.settimeout(_SEND_S)
            line.sendto(message.encode(), address)
