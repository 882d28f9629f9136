"""Structured logging: one JSON object a line on standard error, through structlog.

Every line carries ``level``, ``component`` and ``event``; batches add ``count``, ``duration_ms`` and
``total_processed``. Nothing here or elsewhere logs row values, keys' contents or secrets.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

import structlog

from replication_pipeline.settings import LoggingSettings

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger, Processor


def configure(settings: LoggingSettings, **context: str) -> None:
    """Set up logging for this process; ``context`` (such as ``contour``) is on every line."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
    ]
    renderer: Processor = (
        structlog.processors.JSONRenderer()
        if settings.format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0)
    )
    structlog.configure(
        processors=[*shared, structlog.processors.dict_tracebacks, renderer]
        if settings.format == "json"
        else [*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(settings.level),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(**context)
    logging.getLogger("psycopg").setLevel(logging.ERROR)


def get_logger(component: str) -> FilteringBoundLogger:
    """A logger whose lines name their component."""
    logger: FilteringBoundLogger = structlog.get_logger(component=component)
    return logger
