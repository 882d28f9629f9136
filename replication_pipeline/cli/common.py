"""What the commands share: the ``--config`` option, settings with logging set up, forms of input."""

from __future__ import annotations

import getpass
import json
import re
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from pydantic import TypeAdapter, ValidationError

from replication_pipeline import logs
from replication_pipeline.domain.errors import ConfigurationError
from replication_pipeline.settings import CONFIG_VARIABLE, Duration, Settings, load_settings

_DURATION: Final = re.compile(r"[\d.]+\s*[a-z]+", re.IGNORECASE)

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", help=f"Configuration of one contour; default: ${CONFIG_VARIABLE}."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]


def configured(config: Path | None) -> Settings:
    """Settings of the contour, with logging set up for this process."""
    settings = load_settings(config)
    logs.configure(settings.logging, contour=settings.contour.name)
    return settings


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


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    typer.echo(json.dumps(value, default=str))


def key_option(text: str) -> str:
    """A key as it is on Kafka, as text."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ConfigurationError(
            "--key is no JSON object",
            remedy="""write the key as it is on Kafka, in quotes of the shell: --key '{"id":1}'""",
        )
    return text


def who() -> str:
    """Roles are shared, so the record says who sat before the machine as well."""
    try:
        return f" ({getpass.getuser()}@{socket.gethostname()})"
    except (KeyError, OSError):
        return f" ({socket.gethostname()})"


def printable(text: str) -> str:
    """Control characters could steer the terminal."""
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)
