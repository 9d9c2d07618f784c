"""The few things the gateway must read or write inside an inference request's JSON.

Only the top level and `parameters` are decoded; tensors stay bytes (msgspec.Raw), so that the cost does not grow
with their values.
"""

from typing import NamedTuple

import msgspec


class SequenceFlags(NamedTuple):
    """What a request says of its sequence (Triton's sequence extension).

    Attributes:
        id: uint64 or string, prefixed with its type so that 7 and "7" stay apart, as they do in Triton.
        start: first request of the sequence.
        end: last request of the sequence.
    """

    id: str
    start: bool
    end: bool


class _Flags(msgspec.Struct):
    sequence_id: int | str = 0
    sequence_start: bool = False
    sequence_end: bool = False
    priority: int = 0


class _Body(_Flags):
    parameters: _Flags | msgspec.UnsetType = msgspec.UNSET


# Bytes that are no UTF-8 and nesting beyond the stack raise errors that are not msgspec's.
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_body = msgspec.json.Decoder(_Body)
_top = msgspec.json.Decoder(dict[str, msgspec.Raw])
_parameters = msgspec.json.Decoder(dict[str, msgspec.Raw])


def sequence_of(json: bytes | memoryview) -> SequenceFlags | None:
    """The sequence a request belongs to; None when it belongs to none.

    `/infer` has the flags under `parameters`, `/generate` at the top level. JSON that does not decode is no
    sequence: Triton will say what is wrong with it.
    """
    try:
        found: _Body = _body.decode(json)
    except _UNREADABLE:
        return None
    flags = found.parameters if isinstance(found.parameters, _Flags) and found.parameters.sequence_id else found
    if not flags.sequence_id:
        return None
    kind = "s" if isinstance(flags.sequence_id, str) else "n"
    return SequenceFlags(f"{kind}{flags.sequence_id}", flags.sequence_start, flags.sequence_end)


def priority_of(json: bytes | memoryview) -> int:
    """The request's own `priority` (1 is the highest), 0 where it has none or does not decode."""
    try:
        found: _Body = _body.decode(json)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return 0
    flags = found.parameters if isinstance(found.parameters, _Flags) and found.parameters.priority else found
    return max(flags.priority, 0)


def with_queue_timeout(json: bytes, timeout_us: int) -> bytes:
    """The same request with Triton's queue `timeout` set, unless the client's own one is shorter.

    JSON that does not decode is returned as it is.
    """
    try:
        body = _top.decode(json)
        parameters = _parameters.decode(body["parameters"]) if "parameters" in body else {}
        own = msgspec.json.decode(parameters["timeout"], type=int) if "timeout" in parameters else 0
    except _UNREADABLE:
        return json
    if 0 < own <= timeout_us:
        return json
    parameters["timeout"] = msgspec.Raw(str(timeout_us).encode())
    body["parameters"] = msgspec.Raw(msgspec.json.encode(parameters))
    return msgspec.json.encode(body)
