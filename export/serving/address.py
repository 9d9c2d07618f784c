"""Where a Triton is: its URL, and its gRPC port where models shall be loaded over gRPC."""

from urllib.parse import urlsplit

from export.errors import UsageError


def parse(text: str) -> tuple[str, str]:
    """The URL and `host:port` of gRPC, which is empty where none was named.

    Args:
        text: `URL` or `URL,grpc_port=N`; without a scheme it is http.

    Raises:
        UsageError: it is neither.
    """
    url, comma, option = text.partition(",")
    url = url if "://" in url else f"http://{url}"
    key, _, port = option.partition("=")
    try:
        host = urlsplit(url).hostname
    except ValueError:
        host = None
    right = key == "grpc_port" and port.isascii() and port.isdigit() and 0 < int(port) < 65536
    if not host or (comma and not right):
        raise UsageError(f"{text!r} must be URL or URL,grpc_port=N, as in http://127.0.0.1:8000,grpc_port=8001")
    return url, (f"[{host}]:{port}" if ":" in host else f"{host}:{port}") if comma else ""
