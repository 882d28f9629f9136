"""What the commands share: the ``--config`` option, settings with logging set up, forms of input."""

from __future__ import annotations

import getpass
import json
import socket
from pathlib import Path
from typing import Annotated, Any

import typer

from replication_pipeline import logs
from replication_pipeline.settings import CONFIG_VARIABLE, Settings, load_settings

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


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    typer.echo(json.dumps(value, default=str))


def who() -> str:
    """Roles are shared, so the record says who sat before the machine as well."""
    try:
        return f" ({getpass.getuser()}@{socket.gethostname()})"
    except (KeyError, OSError):
        return f" ({socket.gethostname()})"


def printable(text: str) -> str:
    """Control characters could steer the terminal."""
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)
