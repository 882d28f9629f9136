"""``parked list`` and ``parked retry``: events that could not be published or applied."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from replication_pipeline.cli.common import ConfigOption, JsonOption, configured, print_json
from replication_pipeline.domain.errors import ConfigurationError
from replication_pipeline.postgres.connection import connect
from replication_pipeline.postgres.parked import ParkedEvent, Side, list_parked, retry_parked

SIDES: tuple[Side, ...] = ("publish", "apply")


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    group = typer.Typer(
        help="Events that could not be published or applied, and wait.", no_args_is_help=True
    )
    group.command("list")(list_events)
    group.command("retry")(retry)
    app.add_typer(group, name="parked")


def list_events(
    limit: Annotated[int, typer.Option(min=1, help="At most so many, oldest first.")] = 100,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show what waits, on which side, and why."""
    settings = configured(config)
    with connect(settings, application_name="replicator_parked") as connection:
        events = list_parked(connection, limit=limit)
    if json:
        print_json([asdict(event) for event in events])
    elif events:
        Console(highlight=False).print(_listing(events))
    else:
        typer.echo(f"contour {settings.contour.name}: nothing is parked")


def retry(
    ids: Annotated[
        list[int] | None, typer.Argument(metavar="ID...", help="Only these; needs --side.")
    ] = None,
    side: Annotated[
        str | None, typer.Option(help="publish or apply; default: both.", metavar="SIDE")
    ] = None,
    table: Annotated[str | None, typer.Option(help="Only events of this table.")] = None,
    config: ConfigOption = None,
) -> None:
    """Try parked events again: all of them, or those chosen."""
    settings = configured(config)
    chosen = [known for known in SIDES if side in (None, known)]
    if not chosen or (ids and side is None):
        raise ConfigurationError(
            "--side must be publish or apply, and is needed with ids",
            remedy="ids are listed for each side by: replication-pipeline parked list",
        )
    with connect(settings, application_name="replicator_parked") as connection:
        for each in chosen:
            count = retry_parked(connection, each, table=table, ids=ids)
            typer.echo(f"{each:<8} {count:>6,} events are due again")


def _listing(events: list[ParkedEvent]) -> Table:
    listing = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("side", "id", "since", "table", "key", "tries", "reason", "detail"):
        listing.add_column(name, justify="right" if name in ("id", "tries") else "left")
    for event in events:
        listing.add_row(
            event.side,
            str(event.id),
            event.parked_at.strftime("%m-%d %H:%M:%S"),
            event.table_name or "?",
            event.record_key or "?",
            str(event.attempts),
            event.reason,
            event.detail,
        )
    return listing
