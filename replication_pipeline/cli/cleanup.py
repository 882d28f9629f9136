"""``cleanup``: looking after what is finished."""

from __future__ import annotations

from dataclasses import asdict

import typer

from replication_pipeline.cli.common import ConfigOption, JsonOption, configured, print_json
from replication_pipeline.postgres.cleanup import clean_up
from replication_pipeline.postgres.connection import connect


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command("cleanup")(cleanup)


def cleanup(json: JsonOption = False, config: ConfigOption = None) -> None:
    """Remove published rows and other finished things that are old enough, now."""
    settings = configured(config)
    with connect(settings, application_name="replicator_cleanup") as connection:
        removed = clean_up(connection, settings)
    if json:
        print_json(asdict(removed))
        return
    typer.echo(f"published events removed   {removed.published:>10,}")
    typer.echo(f"processed ids removed      {removed.processed_events:>10,}")
    typer.echo(f"conflicts removed          {removed.conflicts:>10,}")
    typer.echo(f"ended workers folded       {removed.workers:>10,}")
    typer.echo(f"tombstones removed         {removed.tombstones:>10,}")
    for contour, count in removed.tombstones_waiting.items():
        typer.echo(f"tombstones kept            {count:>10,}  until contour {contour} knows them")
