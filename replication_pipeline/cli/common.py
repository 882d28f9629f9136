"""What the commands share: the ``--config`` option, settings with logging set up, JSON output."""

from __future__ import annotations

import json
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
