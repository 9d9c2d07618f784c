"""Structured logs on standard error; nothing on the request path calls them."""

import logging
import sys
from typing import Any

import msgspec
import structlog
from structlog.typing import FilteringBoundLogger

from gateway.config import Log


class _Forward(logging.Handler):
    """Passes records of libraries that use the standard library's logging to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        logger(record.name).log(record.levelno, record.getMessage(), exc_info=record.exc_info)


def configure(log: Log, **identity: Any) -> None:
    """Sets up this process's logging; `identity` (process, worker) stands on every line."""
    level = logging.getLevelNamesMapping()[log.level.upper()]
    render: list[structlog.typing.Processor]
    if log.format == "json":
        render = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_dump)]
    else:
        plain = structlog.dev.plain_traceback
        render = [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            *render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.bind_contextvars(**identity)
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[_Forward()], force=True)


def logger(name: str) -> FilteringBoundLogger:
    """A logger whose lines carry `component=name`."""
    bound: FilteringBoundLogger = structlog.get_logger(component=name)
    return bound


def _dump(event: object, **_: Any) -> str:
    return msgspec.json.encode(event, enc_hook=str).decode()
