"""``conflicts``: concurrent writes that were decided: which, both images, and the other way round."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from replication_pipeline.cli.common import (
    ConfigOption,
    JsonOption,
    configured,
    print_json,
    printable,
    who,
)
from replication_pipeline.domain.errors import ConfigurationError
from replication_pipeline.inputs import key_object, moment
from replication_pipeline.postgres.conflicts import (
    Conflict,
    Image,
    Outcome,
    Side,
    list_conflicts,
    read_conflict,
    resolve,
)
from replication_pipeline.postgres.connection import connect
from replication_pipeline.settings import Settings

TOLD: dict[Outcome, str] = {
    "kept": "stays as it is",
    "updated": "has the values that had lost, as a new change for every contour",
    "inserted": "is there again, as a new change for every contour",
    "deleted": "is deleted, as a new change for every contour",
    "unchanged": "was like that already; nothing was written",
}


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    group = typer.Typer(
        help="Concurrent writes of one row, and how they were decided.", no_args_is_help=True
    )
    group.command("list")(list_)
    group.command("show")(show)
    group.command("resolve")(resolve_)
    app.add_typer(group, name="conflicts")


def list_(
    *,
    table: Annotated[str | None, typer.Option(metavar="T", help="Of this table.")] = None,
    key: Annotated[
        str | None, typer.Option(metavar="JSON", help="""Of this key: '{"id":1}'.""")
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Since: 2h (ago), 2026-11-22T10:00Z.")
    ] = None,
    open_only: Annotated[bool, typer.Option("--open", help="Only those not resolved.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, newest first.")] = 100,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show what was decided in this contour, without values of rows."""
    settings = configured(config)
    with connect(settings, application_name="replicator_conflicts") as connection:
        found = list_conflicts(
            connection,
            limit=limit,
            table=table,
            key=key_object(key, "--key") if key else None,
            since=moment(since, "--since"),
            open_only=open_only,
        )
    if json:
        print_json([_plain(conflict) for conflict in found])
    elif found:
        Console(highlight=False).print(_listing(settings, found))
        if len(found) == limit:
            typer.echo(f"only the newest {limit:,} are shown (--limit)")
    else:
        typer.echo(f"contour {settings.contour.name}: no conflict is recorded that matches")


def show(
    conflict_id: Annotated[int, typer.Argument(metavar="ID", help="As listed.")],
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show both images of one conflict, with the values of the row."""
    settings = configured(config)
    with connect(settings, application_name="replicator_conflicts") as connection:
        conflict, incoming, current = read_conflict(connection, conflict_id)
    if json:
        print_json(_plain(conflict) | {"incoming_row": incoming, "current_row": current})
        return
    console = Console(highlight=False)
    console.print(_facts(settings, conflict))
    console.print()
    console.print(_side_by_side(settings, conflict, incoming, current))


def resolve_(
    conflict_id: Annotated[int, typer.Argument(metavar="ID", help="As listed.")],
    *,
    winner: Annotated[
        str,
        typer.Option(
            metavar="SIDE", help="incoming or current: who shall win.", show_default=False
        ),
    ],
    force: Annotated[
        bool, typer.Option("--force", help="Even if the row was written again since.")
    ] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Let the other side win, by a new change that every contour takes; or confirm the winner.

    The image that lost is written as an ordinary UPDATE, INSERT or DELETE, under the table's triggers.
    """
    settings = configured(config)
    with connect(settings, application_name="replicator_conflicts") as connection:
        conflict, _, _ = read_conflict(connection, conflict_id)
        outcome = resolve(connection, conflict_id, _side(winner), who=who(), force=force)
    if json:
        print_json({"id": conflict_id, "winner": winner, "outcome": outcome})
    else:
        row = printable(f"{conflict.table_name} {conflict.record_key}")
        typer.echo(f"conflict {conflict_id} is resolved: {row} {TOLD[outcome]}")


def _side(winner: str) -> Side:
    match winner:
        case "incoming" | "current":
            return winner
        case _:
            raise ConfigurationError(
                f"--winner is incoming or current, not {winner}",
                remedy="conflicts show tells which is which",
            )


def _plain(conflict: Conflict) -> dict[str, Any]:
    """For JSON; versions exceed 2^53, so they are strings there as in events."""
    return asdict(conflict) | {
        "incoming_version": str(conflict.incoming_version),
        "current_version": str(conflict.current_version),
    }


def _listing(settings: Settings, found: list[Conflict]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("id", "recorded", "table", "key", "reason", "incoming", "current", "resolved"):
        table.add_column(name, justify="right" if name == "id" else "left", no_wrap=name != "key")
    for conflict in found:
        cells = (
            str(conflict.id),
            f"{conflict.recorded_at:%m-%d %H:%M:%S}",
            conflict.table_name,
            conflict.record_key,
            conflict.reason or "?",
            *_writers(settings, conflict),
            f"for {conflict.resolution}" if conflict.resolution else "",
        )
        table.add_row(*(Text(printable(cell)) for cell in cells))
    return table


def _writers(settings: Settings, conflict: Conflict) -> tuple[str, str]:
    """Who wrote the incoming and the current side, the winner with a mark."""
    id_ = conflict.current_version & 1023
    here = settings.contour.name if id_ == settings.contour.id else f"id {id_}"
    incoming = conflict.incoming_contour
    if conflict.winner == "incoming":
        return f"{incoming} (won)", here
    return incoming, f"{here} (won)"


def _facts(settings: Settings, conflict: Conflict) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    lost, _, won = (conflict.reason or "").partition("_")
    how = "only its columns that both wrote are shown"  # where columns merge
    if conflict.reason != "same_column":
        how = f"the {lost} lost to the {won}"
    facts = {
        "conflict": f"{conflict.id}, recorded in {settings.contour.name} "
        f"{conflict.recorded_at:%Y-%m-%d %H:%M:%S %Z}",
        "table": conflict.table_name,
        "key": conflict.record_key,
        "reason": f"{conflict.reason}: {how}" if conflict.reason else "",
        "event": str(conflict.event_id),
        "versions": f"incoming {conflict.incoming_version}, current {conflict.current_version}",
    }
    if conflict.resolved_at:
        facts["resolved"] = (
            f"{conflict.resolved_at:%Y-%m-%d %H:%M:%S %Z} for {conflict.resolution}, "
            f"by {conflict.resolved_by}"
        )
    for label, value in facts.items():
        if value:
            table.add_row(label, Text(printable(value)))
    return table


def _side_by_side(
    settings: Settings, conflict: Conflict, incoming: Image | None, current: Image | None
) -> Table:
    """A line a column; what differs is marked. A side without the row has none of its columns."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    sides = _writers(settings, conflict)
    for name in ("", "column", f"incoming: {sides[0]}", f"current: {sides[1]}"):
        table.add_column(name, overflow="fold")
    for column in dict.fromkeys([*(current or ()), *(incoming or ())]):
        values = [_shown(image, column) for image in (incoming, current)]
        mark = "" if values[0] == values[1] else "≠"
        table.add_row(mark, *(Text(printable(text)) for text in (column, *values)))
    return table


def _shown(image: Image | None, column: str) -> str:
    if image is None:
        return "(deleted)"
    if column not in image:
        return "(not sent)"
    value = image[column]
    return "null" if value is None else value
