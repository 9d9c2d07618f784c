"""A raw client: sends any bytes, reads answers with h11, which shares no code with the gateway's own parser."""

import socket
import struct
import time
from dataclasses import dataclass
from typing import Literal, Self

import h11

_READ = 1 << 20


@dataclass(frozen=True, slots=True)
class Answer:
    """One whole response."""

    status: int
    headers: dict[str, str]
    body: bytes
    interim: tuple[int, ...] = ()


class ClosedError(Exception):
    """The gateway ended the connection before a whole answer; `how` is eof or reset."""

    def __init__(self, how: str) -> None:
        super().__init__(how)
        self.how = how


class Wire:
    """One connection to the gateway."""

    def __init__(self, port: int, timeout_s: float = 15.0, receive_buffer: int = 0) -> None:
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(timeout_s)
        self.socket.connect(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._pending = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Sends all of it, or as much as the gateway takes before it closes."""
        self.socket.sendall(data)

    def reset(self) -> None:
        """Leaves with RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def answer(self, method: str = "POST") -> Answer:
        """The next response, checked for valid framing; raises ClosedError when there is none or only a part."""
        parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
        parser.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
        parser.send(h11.EndOfMessage())
        head: h11.Response | None = None
        body: list[bytes] = []
        interim: list[int] = []
        if self._pending:
            parser.receive_data(self._pending)
            self._pending = b""
        while True:
            try:
                event = parser.next_event()
            except h11.RemoteProtocolError as error:
                if "closed" in str(error).lower():
                    raise ClosedError("eof") from None
                raise
            if event is h11.NEED_DATA:
                try:
                    parser.receive_data(self.socket.recv(_READ))
                except ConnectionResetError:
                    raise ClosedError("reset") from None
            elif isinstance(event, h11.InformationalResponse):
                interim.append(event.status_code)
            elif isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                self._pending = parser.trailing_data[0]
                assert head is not None
                headers = {name.decode(): value.decode("latin-1") for name, value in head.headers}
                return Answer(head.status_code, headers, b"".join(body), tuple(interim))
            else:
                raise ClosedError("eof")

    def end(self) -> Literal["eof", "reset", "open"]:
        """How the connection ended, reading away what is left; `open` when it did not within the time-out."""
        self._pending = b""
        deadline = time.monotonic() + (self.socket.gettimeout() or 0)
        try:
            while self.socket.recv(_READ):
                if time.monotonic() > deadline:
                    return "open"
        except ConnectionResetError:
            return "reset"
        except TimeoutError:
            return "open"
        return "eof"
