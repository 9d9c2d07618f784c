"""The little of Triton's protocols that publishing needs: readiness, repository control, binary inference."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Collection, Mapping
from types import TracebackType
from typing import Any, Self

import httpx
import numpy as np
import numpy.typing as npt

from export.errors import ExportError
from export.serving.address import parse

Array = npt.NDArray[np.generic]
# Triton's HTTP front end refuses larger bodies unless told otherwise; gRPC's bound is protobuf's, less a configuration.
_BODY_LIMIT = 64 * 1024 * 1024
_MESSAGE_LIMIT = 2**31 - 2**20
_LENGTH = "Inference-Header-Content-Length"
_TO_TRITON = {
    "bool": "BOOL",
    "object": "BYTES",
    **{f"{kind}{bits}": f"{kind.upper()}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
    **{f"float{bits}": f"FP{bits}" for bits in (16, 32, 64)},
}
_FROM_TRITON = {triton: name for name, triton in _TO_TRITON.items()}


class TritonError(ExportError):
    """Triton cannot be reached, or answered with an error; the message is Triton's own."""


class Triton:
    """A running Triton. Every call ends within `timeout_s`.

    Args:
        address: its URL; with `,grpc_port=N` behind it models are loaded and unloaded over gRPC. Over HTTP,
            requests on most of Triton's connections wait until a load is done, which matters where it has other users.
        timeout_s: for each call.

    Attributes:
        url: the URL alone.

    Raises:
        UsageError: `address` is not one.
    """

    def __init__(self, address: str, timeout_s: float = 120.0) -> None:
        self.url, control = parse(address)
        self._timeout_s = timeout_s
        self._grpc = _grpc_client(control, self.url.startswith("https://")) if control else None
        self._http = httpx.Client(base_url=self.url, timeout=timeout_s, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()
        if self._grpc is not None:
            self._grpc.close()

    def load(self, name: str, config: str | None = None, files: Mapping[str, bytes] | None = None) -> None:
        """Load or reload a model.

        Args:
            name: of the model.
            config: as JSON, in place of the repository's.
            files: content by `VERSION/NAME`, in place of the repository's; needs `config`.
        """
        sent = {f"file:{place}": content for place, content in (files or {}).items()}
        if self._grpc is not None:
            self._order(self._grpc.load_model, name, config=config, files=sent or None)
            return
        parameters = {place: base64.b64encode(content).decode() for place, content in sent.items()}
        parameters |= {"config": config} if config is not None else {}
        self._json("POST", f"/v2/repository/models/{name}/load", {"parameters": parameters} if parameters else {})

    def unload(self, name: str) -> None:
        """Unload all versions of a model."""
        if self._grpc is not None:
            self._order(self._grpc.unload_model, name)
            return
        self._json("POST", f"/v2/repository/models/{name}/unload", {})

    @property
    def load_limit(self) -> int:
        """Most bytes of files that one load can carry."""
        return _MESSAGE_LIMIT if self._grpc is not None else _BODY_LIMIT * 3 // 4

    def states(self, name: str) -> dict[int, tuple[str, str]]:
        """Version -> (state, reason) of a model, from the repository index."""
        index = self._json("POST", "/v2/repository/index", {})
        entries = [entry for entry in index if entry["name"] == name and entry.get("version")]
        return {int(e["version"]): (e.get("state", ""), e.get("reason", "")) for e in entries}

    def config(self, name: str, version: int) -> dict[str, Any]:
        """The configuration as Triton completed it."""
        config: dict[str, Any] = self._json("GET", f"/v2/models/{name}/versions/{version}/config")
        return config

    def metadata(self, name: str, version: int) -> dict[str, Any]:
        """Names, types and shapes of inputs and outputs."""
        metadata: dict[str, Any] = self._json("GET", f"/v2/models/{name}/versions/{version}")
        return metadata

    def await_state(self, name: str, version: int, timeout_s: float) -> None:
        """Return once the version is READY; TritonError with its reason when it is not in time."""
        deadline = time.monotonic() + timeout_s
        while True:
            state, reason = self.states(name).get(version, ("unknown to Triton", ""))
            if state == "READY":
                return
            if time.monotonic() >= deadline:
                raise TritonError(f"{self.url}: {name} version {version} is {state} {reason}".rstrip())
            time.sleep(0.05)

    def await_only(self, name: str, versions: Collection[int], timeout_s: float) -> None:
        """Return once `versions` are READY and no others; TritonError with what is there when it is not in time."""
        deadline = time.monotonic() + timeout_s
        while True:
            states = self.states(name)
            ready = {version for version, (state, _) in states.items() if state == "READY"}
            if ready == set(versions):
                return
            if time.monotonic() >= deadline:
                wanted = f"{sorted(ready)} are READY in place of {sorted(versions)}"
                raise TritonError(f"{self.url}: of {name}, {wanted}: {states}")
            time.sleep(0.05)

    def infer(
        self, name: str, version: int | None, inputs: dict[str, Array], parameters: dict[str, Any] | None = None
    ) -> dict[str, Array]:
        """One inference in binary; outputs by name as the server orders them."""
        entries, blobs = [], []
        for key, values in inputs.items():
            blob = _to_bytes(values)
            entry = {"name": key, "datatype": _TO_TRITON[str(values.dtype)], "shape": list(values.shape)}
            entries.append({**entry, "parameters": {"binary_data_size": len(blob)}})
            blobs.append(blob)
        header = json.dumps(
            {"inputs": entries, "parameters": {"binary_data_output": True, **(parameters or {})}}
        ).encode()
        path = f"/v2/models/{name}" + (f"/versions/{version}" if version else "") + "/infer"
        response = self._request("POST", path, content=header + b"".join(blobs), headers={_LENGTH: str(len(header))})
        length = int(response.headers.get(_LENGTH, len(response.content)))
        answer, data, position = json.loads(response.content[:length]), response.content[length:], 0
        outputs = {}
        for entry in answer["outputs"]:
            size = entry.get("parameters", {}).get("binary_data_size", 0)
            outputs[entry["name"]] = _from_bytes(data[position : position + size], entry["datatype"], entry["shape"])
            position += size
        return outputs

    def _order(self, call: Any, name: str, **options: Any) -> None:
        from tritonclient.utils import InferenceServerException  # noqa: PLC0415 - see _grpc_client

        try:
            call(name, client_timeout=self._timeout_s, **options)
        except InferenceServerException as error:
            raise TritonError(f"{self.url}, gRPC: {error.message()}") from error

    def _json(self, method: str, path: str, body: Any = None) -> Any:
        response = self._request(method, path, json=body) if body is not None else self._request(method, path)
        return response.json() if response.content else {}

    def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **options)
        except httpx.HTTPError as error:
            raise TritonError(f"{self.url}{path}: {error or type(error).__name__}") from error
        if response.status_code != 200:
            try:
                message = response.json()["error"]
            except (ValueError, KeyError, TypeError):
                message = response.text[:300]
            raise TritonError(f"{self.url}{path}: {response.status_code} {message}")
        return response


def _grpc_client(address: str, tls: bool) -> Any:
    """A client for the gRPC port; the library is large, so it comes in only where it is wanted."""
    from tritonclient.grpc import InferenceServerClient  # noqa: PLC0415

    options = [("grpc.enable_http_proxy", 0), ("grpc.max_send_message_length", -1)]
    return InferenceServerClient(address, ssl=tls, channel_args=options)


def numpy_type(datatype: str) -> str:
    """The name of numpy's type for a Triton data type; KeyError for BF16, which numpy lacks."""
    return _FROM_TRITON[datatype]


def _to_bytes(values: Array) -> bytes:
    if values.dtype != object:
        return np.ascontiguousarray(values).tobytes()
    items = [item if isinstance(item, bytes) else str(item).encode() for item in values.reshape(-1)]
    return b"".join(len(item).to_bytes(4, "little") + item for item in items)


def _from_bytes(data: bytes, datatype: str, shape: list[int]) -> Array:
    if datatype != "BYTES":
        return np.frombuffer(data, dtype=numpy_type(datatype)).reshape(shape)
    items, position = [], 0
    while position < len(data):
        size = int.from_bytes(data[position : position + 4], "little")
        items.append(data[position + 4 : position + 4 + size])
        position += 4 + size
    return np.array(items, dtype=object).reshape(shape)
