"""What people write into options and forms: a time, or how long ago, a length of time, and a key.

Commands and Dagster's forms read the same notation, and refuse it in the same words.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Final

from pydantic import TypeAdapter, ValidationError

from replication_pipeline.domain.errors import ConfigurationError
from replication_pipeline.settings import Duration

_DURATION: Final = re.compile(r"[\d.]+\s*[a-z]+", re.IGNORECASE)


def moment(text: str | None, option: str) -> datetime | None:
    """A moment with its zone, or so long ago."""
    if text is None:
        return None
    try:
        if _DURATION.fullmatch(text.strip()):
            return datetime.now(UTC) - TypeAdapter(Duration).validate_python(text)
        found = datetime.fromisoformat(text)
    except (ValueError, ValidationError, OverflowError):
        found = None
    if found is None or found.tzinfo is None:
        what = "has no zone" if found else "is no time"
        raise ConfigurationError(
            f"{option} {text} {what}",
            remedy="write how long ago, 30min, 2h or 7d, or a time with its zone, "
            "2026-11-22T10:00:00Z or 2026-11-22T10:00+01:00",
        )
    return found


def duration(text: str | None, option: str) -> timedelta | None:
    """A length of time, as in the configuration."""
    if text is None:
        return None
    try:
        return TypeAdapter(Duration).validate_python(text)
    except (ValidationError, OverflowError):
        raise ConfigurationError(
            f"{option} {text} is no length of time", remedy="write it as 30s, 5min or 2h"
        ) from None


def key_object(text: str, option: str) -> str:
    """A key as it is on Kafka, as text."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ConfigurationError(
            f"{option} is no JSON object",
            remedy="""write the key as it is on Kafka, on a command line in quotes: '{"id":1}'""",
        )
    return text
