"""The commands' end of the admin API."""

import getpass
import os
import socket
import ssl
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from gateway.errors import ConfigError, RejectedError, ResourceError, SluiceError, StoreError, UnreachableError

_TIMEOUT = httpx.Timeout(30.0, connect=3.0)
AdminUrl = Annotated[str, typer.Option("--admin-url", envvar="SLUICE_ADMIN_URL", help="The gateway's admin API.")]
_MARK = "x-sluice-api"  # on every answer of the admin API
DEFAULT_URL = "http://127.0.0.1:8081"


class AdminClient:
    """Calls a gateway's admin API; every failure is a SluiceError that says what to do.

    The token comes from SLUICE_ADMIN_TOKEN, or from the file that SLUICE_ADMIN_TOKEN_FILE names; the authorities for
    https from the file that SLUICE_ADMIN_CA_FILE names, or else from the system.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._headers = {"x-sluice-who": _who()}
        if token := _token():
            self._headers["authorization"] = f"Bearer {token}"

    def get(self, path: str, **params: Any) -> Any:
        """The decoded answer to GET /api/v1`path`."""
        return self._call("GET", path, params, None)

    def put(self, path: str, body: bytes, **params: Any) -> Any:
        """The decoded answer to PUT with a JSON body."""
        return self._call("PUT", path, params, body)

    def post(self, path: str, body: bytes | None = None, **params: Any) -> Any:
        """The decoded answer to POST, with a JSON body where one is given."""
        return self._call("POST", path, params, body)

    def _call(self, method: str, path: str, params: dict[str, Any], body: bytes | None) -> Any:
        given = {key: value for key, value in params.items() if value is not None}
        headers = self._headers | ({"content-type": "application/json"} if body is not None else {})
        try:
            with httpx.Client(timeout=_TIMEOUT, trust_env=False, verify=_verify()) as client:
                url = f"{self._url}/api/v1{path}"
                answer = client.request(method, url, params=given, content=body, headers=headers)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise ConfigError([f"--admin-url {self._url!r} is not a URL: {error}"]) from error
        except httpx.TimeoutException as error:
            raise UnreachableError(f"{self._url} does not answer in time; is it a Sluice admin API?") from error
        except httpx.HTTPError as error:
            raise UnreachableError(
                f"no gateway answers at {self._url} ({error}); start one with `sluice serve`, or name another with "
                "--admin-url or SLUICE_ADMIN_URL"
            ) from error
        if _MARK not in answer.headers:
            raise UnreachableError(f"{self._url} answers, but is not a Sluice admin API")
        if answer.is_success:
            return answer.json()
        raise _error(answer, self._url)


def _error(answer: httpx.Response, url: str) -> SluiceError:
    body = answer.json()
    text, problems = str(body["error"]), [str(problem) for problem in body.get("problems", [])]
    match answer.status_code:
        case 400 | 413 | 422:
            return ConfigError(problems or [text])
        case 401 | 403:
            return RejectedError(f"{url}: {text}; set SLUICE_ADMIN_TOKEN or SLUICE_ADMIN_TOKEN_FILE")
        case 404 | 409:
            return RejectedError(text)
        case 502:
            return UnreachableError(text)
        case 503:
            return StoreError(text)
    return SluiceError(text)


def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in some containers
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}".encode("ascii", "replace").decode()


def _verify() -> ssl.SSLContext | bool:
    path = os.environ.get("SLUICE_ADMIN_CA_FILE", "")
    if not path:
        return True
    try:
        return ssl.create_default_context(cafile=path)
    except OSError as error:
        raise ResourceError(f"SLUICE_ADMIN_CA_FILE: no certificates in {path}: {error.strerror or error}") from error


def _token() -> str:
    if token := os.environ.get("SLUICE_ADMIN_TOKEN", ""):
        return token
    path = os.environ.get("SLUICE_ADMIN_TOKEN_FILE", "")
    if not path:
        return ""
    try:
        return Path(path).read_text(encoding="ascii").partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not ASCII"
        raise ResourceError(f"SLUICE_ADMIN_TOKEN_FILE: cannot read {path}: {reason}") from error
