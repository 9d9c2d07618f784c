"""An S3 server of our own that sees every write, and can end the client that makes one."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import boto3
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

BUCKET = "models"
URL = f"s3://{BUCKET}/repository"
_WRITES = ("PUT", "POST", "DELETE")


class Gate:
    """A WSGI application before another. `writes` are the requests that change something, `PUT /bucket/key`, in order.

    `on_write` is called with each one before it is done; the write is left out when it says so.
    """

    def __init__(self, application: Callable[..., Iterable[bytes]]) -> None:
        self._application = application
        self.writes: list[str] = []
        self.on_write: Callable[[str], bool] = lambda _write: False

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """WSGI."""
        write = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}"
        if write.startswith(_WRITES):
            if self.on_write(write):
                start_response("503 Service Unavailable", [("Content-Length", "0")])
                return []
            self.writes.append(write)
        return self._application(environ, start_response)


class _Quiet(MotoRequestHandler):
    def log_request(self, *_arguments: Any) -> None:
        """Thousands of lines that nobody reads."""


@contextlib.contextmanager
def storage(cache: Path) -> Iterator[Gate]:
    """An empty bucket at `URL` for this process and its children; `cache` takes the publisher's local work."""
    gate = Gate(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, gate, threaded=True, request_handler=_Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    settings = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "XDG_CACHE_HOME": str(cache),
    }
    before = {key: os.environ.get(key) for key in settings}
    os.environ.update(settings)
    try:
        client = boto3.client("s3")
        if BUCKET in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:  # moto keeps them in the process
            for key in listing():
                client.delete_object(Bucket=BUCKET, Key=key)
        client.create_bucket(Bucket=BUCKET)
        gate.writes.clear()
        yield gate
    finally:
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.update({key: value})
        server.shutdown()
        thread.join()
        server.server_close()


def listing() -> list[str]:
    """All objects."""
    found = boto3.client("s3").list_objects_v2(Bucket=BUCKET)
    return sorted(entry["Key"] for entry in found.get("Contents", []))


def mirror(name: str, directory: Path) -> None:
    """Copy the model's objects to `directory`, as Triton does before it loads from S3; what is equal is not touched."""
    client = boto3.client("s3")
    for key in listing():
        _, _, path = key.partition(f"/{name}/")
        if not path:
            continue
        data, place = client.get_object(Bucket=BUCKET, Key=key)["Body"].read(), directory / path
        if not place.exists() or place.read_bytes() != data:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
