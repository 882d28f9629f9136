"""``trace``: one row's story."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from replication_pipeline import tracing
from replication_pipeline.cli import trace_view
from replication_pipeline.cli.common import (
    ConfigOption,
    JsonOption,
    configured,
    print_json,
)


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command("trace")(trace)


def trace(
    table: Annotated[str, typer.Argument(metavar="TABLE", help="As in the configuration.")],
    key: Annotated[str, typer.Argument(metavar="KEY", help="""42, or as on Kafka: '{"id":42}'.""")],
    *,
    values: Annotated[
        bool, typer.Option("--values", help="Show the row's values as well.")
    ] = False,
    seconds: Annotated[
        float,
        typer.Option("--kafka-seconds", min=0, help="Read Kafka for so long at most; 0: not."),
    ] = 10.0,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """One row's story: its events, where they are in Kafka, and what each contour made of them.

    Contours named under compare.contours are asked as well. Exit status 1 when nobody has ever heard
    of the row.
    """
    settings = configured(config)
    story = tracing.trace(settings, table, key, values=values, seconds=seconds)
    if json:
        print_json(trace_view.plain(story))
    else:
        trace_view.show(Console(highlight=False), story)
    if not story.seen:
        raise typer.Exit(1)
