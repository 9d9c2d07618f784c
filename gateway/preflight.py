"""Looks at all that settings name outside themselves, so that a mistake is found before anything depends on it."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from gateway import tls
from gateway.config import Config
from gateway.credentials import load_keys, load_tokens
from gateway.errors import ConfigError


def preflight(config: Config) -> None:
    """Reads every certificate, key and credential file; raises ConfigError with all that is wrong."""
    problems: list[str] = []

    def attempt(check: Callable[[], object]) -> None:
        try:
            check()
        except ConfigError as error:
            problems.extend(error.problems)

    for where, listener in (("listen.tls", config.listen.tls), ("admin.tls", config.admin.tls)):
        if listener is not None:
            attempt(lambda where=where, listener=listener: tls.listener_context(listener, where))  # type: ignore[misc]
    for i, pool in enumerate(config.pools):
        if any(tls.backend_files(pool.tls)):
            attempt(lambda i=i, pool=pool: tls.backend_context(pool.tls, f"pools[{i}].tls"))  # type: ignore[misc]
    if path := config.auth.keys_file:
        attempt(lambda: load_keys(Path(path), "auth.keys_file"))
    if (jwt := config.auth.jwt) is not None:
        from gateway.tokens import TokenChecker  # noqa: PLC0415 - its library is large

        attempt(lambda: TokenChecker(jwt))
    if tokens := config.admin.tokens_file:
        attempt(lambda: load_tokens(Path(tokens), "admin.tokens_file"))
    if config.tracing is not None and not _installed("opentelemetry.exporter.otlp.proto.http"):
        problems.append("tracing: needs the extra 'otel': pip install 'sluice[otel]'")
    if problems:
        raise ConfigError(problems)


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # a package above it is missing
        return False
