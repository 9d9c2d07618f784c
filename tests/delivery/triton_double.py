"""A scripted Triton: its repository API over real HTTP, and a place for hooks and webhooks to arrive at."""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Call:
    """One request that arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The decoded body."""
        return json.loads(self.body)


@dataclass
class TritonDouble:
    """Serves versions of models.

    Attributes:
        ready: (model, version) that are loaded.
        broken: (model, version) that cannot be loaded.
        calls: everything that arrived, in order.
        answers: path -> status and body, or a function that gives them, before anything else.
    """

    ready: set[tuple[str, str]] = field(default_factory=set)
    broken: set[tuple[str, str]] = field(default_factory=set)
    calls: list[Call] = field(default_factory=list)
    answers: dict[str, Callable[[Call], tuple[int, Any]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        double = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                size = int(self.headers.get("content-length") or 0)
                headers = {name.lower(): value for name, value in self.headers.items()}
                call = Call(self.command, self.path, headers, self.rfile.read(size))
                if len(call.body) < size:  # its sender was killed in the middle
                    self.close_connection = True
                    return
                double.calls.append(call)
                status, body = double.answer(call)
                data = b"" if body is None else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = _serve  # noqa: N815 - names given by the library

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self._thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops listening."""
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()

    def posted(self, path: str) -> list[Call]:
        """Calls of one path."""
        return [call for call in list(self.calls) if call.path == path]

    def answer(self, call: Call) -> tuple[int, Any]:
        """What Triton 2.51 answers."""
        if call.path in self.answers:
            return self.answers[call.path](call)
        if call.path == "/v2/repository/index":
            return 200, [{"name": m, "version": v, "state": "READY"} for m, v in sorted(self.ready)]
        parts = call.path.strip("/").split("/")
        if parts[1:3] == ["repository", "models"]:
            return self._order(parts[3], parts[4], call)
        if parts[1] == "models":
            version = parts[4] if "versions" in parts else ""
            there = any(m == parts[2] and version in {"", v} for m, v in self.ready)
            if parts[-1] == "ready":
                return (200 if there else 400), None
            if not there:
                return 400, {"error": f"Request for unknown model: '{parts[2]}' is not found"}
            if parts[-1] == "config":
                return 200, {"name": parts[2], "version_policy": {"latest": {"num_versions": 1}}}
            if parts[-1] == "infer":
                return 200, {"outputs": []}
            return 200, {"name": parts[2], "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]}
        return 404, {"error": "not found"}

    def _order(self, model: str, verb: str, call: Call) -> tuple[int, Any]:
        if verb == "unload":
            self.ready -= {found for found in self.ready if found[0] == model}
            return 200, None
        config = call.json.get("parameters", {}).get("config")
        wanted = (
            {str(v) for v in json.loads(config)["version_policy"]["specific"]["versions"]}
            if config
            else {v for m, v in self.ready if m == model} or {"1"}
        )
        failed = sorted(v for v in wanted if (model, v) in self.broken)
        if failed:
            return 400, {"error": f"failed to load '{model}', version {failed[0]}: no such file"}
        self.ready = {found for found in self.ready if found[0] != model} | {(model, v) for v in wanted}
        return 200, None
