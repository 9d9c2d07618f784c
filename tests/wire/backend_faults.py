"""What backends do wrong, as scripts: the tests' tables and a source of docs/bad-inputs.md."""

from tests.wire.backend import Script, pattern

OK = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
_HEAD = "HTTP/1.1 200 OK\r\n"

# A fault that comes before anything was passed on: what the client gets when no retry is allowed.
BEFORE = {
    "reset before the head": (Script(cut=0, then="reset"), 502),
    "close before the head": (Script(cut=0, then="close"), 502),
    "reset inside the head": (Script(cut=10, then="reset"), 502),
    "close inside the head": (Script(cut=20, then="close"), 502),
    "not HTTP": (Script(raw="SSH-2.0-OpenSSH_9.2\r\n\r\n", then="hang"), 502),
    "an endless head": (Script(raw=_HEAD + "x: " + "y" * 80_000, then="hang"), 502),
    "a huge head": (Script(headers=["x: " + "y" * 80_000]), 502),
    "two lengths": (Script(raw=_HEAD + "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", then="hang"), 502),
    "a negative length": (Script(raw=_HEAD + "Content-Length: -2\r\n\r\n{}", then="hang"), 502),
    "length and chunked": (
        Script(raw=_HEAD + "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", then="hang"),
        502,
    ),
    "an unknown coding": (Script(raw=_HEAD + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", then="hang"), 502),
    "no length and no close": (Script(raw=_HEAD + "\r\n{}", then="hang"), 502),
    "bare line feeds": (Script(raw=OK.replace("\r\n", "\n"), then="close"), 502),
    "a folded field": (Script(raw=_HEAD + "x: 1\r\n 2\r\nContent-Length: 2\r\n\r\n{}", then="hang"), 502),
    "a NUL in a value": (Script(raw=_HEAD + "x: \0\r\nContent-Length: 2\r\n\r\n{}", then="hang"), 502),
    "another protocol": (Script(raw="HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n", then="hang"), 502),
    "HTTP/2": (Script(raw="HTTP/2 200 OK\r\nContent-Length: 2\r\n\r\n{}", then="hang"), 502),
    "a status of two digits": (Script(raw="HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\n{}", then="hang"), 502),
    "an error cut short": (Script(status=503, body="x" * 100, cut=160, then="close"), 502),
    "accept and hang": (Script(cut=0, then="hang"), 504),
    "a head at one byte each 50 ms": (Script(raw=OK, chunk=1, drip_s=0.05), 504),
}


# A fault after bytes of the answer were passed on: nothing but the cut can tell the client.
AFTER = {
    "short body": Script(size=1000, cut=500, then="close"),
    "reset in the body": Script(size=1_000_000, cut=500_000, then="reset"),
    "short chunked body": Script(size=100_000, framing="chunked", cut=50_000, then="close"),
    "no last chunk": Script(size=1000, framing="chunked", cut=1092, then="close"),
    "bad chunk": Script(raw=_HEAD + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0x5\r\nhello\r\n0\r\n\r\n"),
    "chunk longer than said": Script(raw=_HEAD + "Transfer-Encoding: chunked\r\n\r\n2\r\nhello\r\n0\r\n\r\n"),
    "stalls in the body": Script(size=1000, cut=500, then="hang"),
}


# Odd answers that are valid, or whose valid part can be told: they reach the client whole.
ODD = {
    "chunked in odd sizes": Script(size=10_007, framing="chunked", chunk=7),
    "one byte at a time": Script(size=300, chunk=1),
    "until the connection closes": Script(size=100_000, framing="close"),
    "HTTP/1.0": Script(raw="HTTP/1.0 200 OK\r\n\r\n" + pattern(0, 256).decode("latin-1"), then="close"),
    "interim answers": Script(size=256, interim=[100, 102, 103]),
    "extra bytes": Script(size=256, extra=OK),
    "extra bytes behind chunks": Script(size=256, framing="chunked", extra=OK),
    "closes without saying so": Script(size=256, then="close"),
    "closes on reuse": Script(size=256, then="drop_next"),
    "no reason phrase": Script(raw="HTTP/1.1 200\r\nContent-Length: 256\r\n\r\n" + pattern(0, 256).decode("latin-1")),
    "chunk extensions and trailers": Script(
        raw=_HEAD
        + "Transfer-Encoding: chunked\r\nTrailer: x\r\n\r\n100;a=b\r\n"
        + pattern(0, 256).decode("latin-1")
        + "\r\n0\r\nx: y\r\n\r\n"
    ),
}
