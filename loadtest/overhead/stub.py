"""A stub that costs next to nothing: one nginx worker answering every inference with the same small body.

A request with raw tensors is answered only when all of it has arrived, as Triton does. nginx by itself would answer
on seeing the headers, and what a proxy does then (and what wrk does) is not what is to be measured.
"""

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from loadtest.errors import BrokenRunError, MissingToolError

ANSWER: Final = (
    '{"model_name":"m","model_version":"1","outputs":[{"name":"y","datatype":"FP32","shape":[1,2],"data":[0,1]}]}'
)
_START_S: Final = 10.0
_CONFIG: Final = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  keepalive_timeout 3600;
  client_max_body_size 128m;
  client_body_buffer_size 80m;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  upstream answer {{ server 127.0.0.1:{answer_port}; keepalive 64; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} reuseport backlog=4096;
    default_type application/json;
    error_page 418 = @whole;
    location / {{
      if ($http_inference_header_content_length) {{ return 418; }}
      return 200 '{answer}';
    }}
    location @whole {{
      proxy_pass http://answer;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Content-Length "";
      proxy_pass_request_body off;
    }}
  }}
  server {{
    listen 127.0.0.1:{answer_port};
    location / {{ default_type application/json; return 200 '{answer}'; }}
  }}
}}
"""


def find(program: str, package: str) -> str:
    """Path of a program, also where Debian keeps daemons.

    Raises:
        MissingToolError: it is not installed; names the Debian package that has it.
    """
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise MissingToolError(f"{program} is not installed: apt-get install {package}")
    return found


@contextmanager
def running(cpu: Sequence[str] = ()) -> Iterator[int]:
    """Run the stub and give its port; `cpu` is a command prefix that pins it to a CPU.

    Raises:
        MissingToolError: nginx is not installed.
        BrokenRunError: nginx did not start.
    """
    nginx = find("nginx", "nginx-light")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="sluice-stub-") as name:
        config = Path(name) / "nginx.conf"
        config.write_text(_CONFIG.format(folder=name, port=port, answer_port=free_port(), answer=ANSWER))
        child = subprocess.Popen(
            [*cpu, nginx, "-p", name, "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            wait_for_port(port, child)
            yield port
        finally:
            child.terminate()
            child.wait(_START_S)


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


def wait_for_port(port: int, child: "subprocess.Popen[bytes]", timeout_s: float = _START_S) -> None:
    """Return once somebody listens.

    Raises:
        BrokenRunError: the child ended, or nobody listens in time.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise BrokenRunError(f"{child.args!r} ended with status {child.returncode} before it listened")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise BrokenRunError(f"{child.args!r} does not listen on port {port}")
