"""``parked``: events that could not be published or applied: look, try again, or give up."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.console import Console

from replication_pipeline.cli.common import ConfigOption, JsonOption, configured, print_json, who
from replication_pipeline.cli.parked_view import (
    as_json,
    back_off_line,
    events_,
    fact_sheet,
    image_lines,
    listing,
    plain,
)
from replication_pipeline.domain.errors import ConfigurationError, RefusedError
from replication_pipeline.postgres.connection import connect, patient
from replication_pipeline.postgres.parked import (
    SIDES,
    ParkedEvent,
    Side,
    discard_parked,
    list_parked,
    read_backing_off,
    read_image,
    read_shapes,
    retry_parked,
)
from replication_pipeline.settings import Settings

LISTED = "they are listed by: replication-pipeline parked list"
SHOWN_BYTES = 64 * 1024  # of an image, without --full
LARGEST = 2**31 - 1

IdsArgument = Annotated[
    list[int] | None, typer.Argument(metavar="ID...", help="These; needs --side.")
]
SideOption = Annotated[str | None, typer.Option(metavar="SIDE", help="publish or apply.")]
TableOption = Annotated[str | None, typer.Option(metavar="T", help="Events of this table.")]
ReasonOption = Annotated[
    str | None,
    typer.Option(
        metavar="R", help="Events with this reason: missing_parent, MSG_SIZE_TOO_LARGE, …"
    ),
]
AllOption = Annotated[bool, typer.Option("--all", help="Every parked event (of the side).")]


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    group = typer.Typer(
        help="Events that could not be published or applied, and wait.", no_args_is_help=True
    )
    group.command("list")(list_events)
    group.command("show")(show)
    group.command("retry")(retry)
    group.command("discard")(discard)
    app.add_typer(group, name="parked")


def list_events(
    *,
    side: SideOption = None,
    table: TableOption = None,
    reason: ReasonOption = None,
    backing_off: Annotated[
        bool,
        typer.Option("--backing-off", help="Instead: events still tried again by themselves."),
    ] = False,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, oldest first.")] = 100,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show what waits, on which side, and why."""
    settings = configured(config)
    sides = _sides(side)
    with connect(settings, application_name="replicator_parked") as connection:
        events = list_parked(
            connection,
            limit=limit,
            sides=sides,
            table=table,
            reason=reason,
            backing_off=backing_off,
        )
        waiting = read_backing_off(connection)
    if json:
        print_json([plain(event) for event in events])
        return
    if events:
        Console(highlight=False).print(listing(events))
        if len(events) == limit:
            typer.echo(f"only the oldest {limit:,} are shown (--limit)")
    else:
        chosen = " that matches" if side or table or reason else ""
        state = "in back-off" if backing_off else "parked"
        typer.echo(f"contour {settings.contour.name}: nothing is {state}{chosen}")
    if waiting.count and not (backing_off or table or reason) and "publish" in sides:
        typer.echo(back_off_line(waiting))


def show(
    side: Annotated[str, typer.Argument(metavar="SIDE", help="publish or apply.")],
    event_id: Annotated[int, typer.Argument(metavar="ID", help="As listed.")],
    full: Annotated[bool, typer.Option("--full", help="The whole image, however long.")] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show all about one event, with the values of its row."""
    settings = configured(config)
    sides = _sides(side)
    limit = LARGEST if full or json else SHOWN_BYTES
    with connect(settings, application_name="replicator_parked") as connection:
        found = list_parked(connection, sides=sides, ids=[event_id]) or list_parked(
            connection, sides=sides, ids=[event_id], backing_off=True
        )
        if not found:
            raise _unknown(settings, sides, {event_id})
        (event,) = found
        image = read_image(connection, event, contour=settings.contour.name, limit=limit)
        shapes = read_shapes(connection, event)
    if json:
        typer.echo(as_json(event, image, shapes))
        return
    Console(highlight=False).print(fact_sheet(event, image[1] if image else None, shapes))
    if image:
        typer.echo()
        for line in image_lines(*image, full=full):
            typer.echo(line)


def retry(
    ids: IdsArgument = None,
    *,
    side: SideOption = None,
    table: TableOption = None,
    reason: ReasonOption = None,
    everything: AllOption = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Try parked events again, with all attempts before them."""
    settings = patient(configured(config))
    with connect(settings, application_name="replicator_parked") as connection:
        chosen = _chosen(
            connection, settings, ids, side, table=table, reason=reason, everything=everything
        )
        due = {
            each: retry_parked(connection, each, ids=of_side) if of_side else 0
            for each, of_side in _by_side(chosen, side)
        }
    hopeless = sum(not event.retriable for event in chosen)
    if json:
        print_json({"due": due, "not_retriable": hopeless})
        return
    for each, count in due.items():
        typer.echo(f"{each:<8} {count:>6,} {'event is' if count == 1 else 'events are'} due again")
    if hopeless:
        typer.echo(
            f"{'':<8} {hopeless:>6,} left alone: there is nothing to try (too_large, malformed); "
            "see parked discard"
        )


def discard(
    ids: IdsArgument = None,
    *,
    because: Annotated[
        str, typer.Option(metavar="TEXT", help="Why; kept with the events.", show_default=False)
    ],
    side: SideOption = None,
    table: TableOption = None,
    reason: ReasonOption = None,
    everything: AllOption = False,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Give parked events up for good. They are kept in replication.discarded_events.

    The other contours never see a discarded event of the publish side, and this contour never one of
    the apply side: its row stays different until it is written again.
    """
    if not because.strip():
        raise ConfigurationError("--because is empty", remedy="say why, for those who ask later")
    settings = patient(configured(config))
    with connect(settings, application_name="replicator_parked") as connection:
        chosen = _chosen(
            connection, settings, ids, side, table=table, reason=reason, everything=everything
        )
        if chosen and not yes:
            _confirm(chosen)
        gone = {
            each: discard_parked(
                connection,
                each,
                of_side,
                contour=settings.contour.name,
                because=because.strip(),
                who=who(),
            )
            for each, of_side in _by_side(chosen, side)
            if of_side
        }
    if json:
        print_json({"discarded": gone})
        return
    for each, tables in gone.items():
        for name, count in sorted(tables.items()):
            plural = "event is" if count == 1 else "events are"
            typer.echo(f"{each:<8} {name}: {count:,} {plural} discarded")
    if not any(gone.values()):
        typer.echo("nothing is discarded: no event matches")


def _sides(side: str | None) -> tuple[Side, ...]:
    chosen = tuple(known for known in SIDES if side in (None, known))
    if not chosen:
        raise ConfigurationError(
            f"a side is publish or apply, not {side}", remedy="leave it out to mean both"
        )
    return chosen


def _chosen(
    connection: Any,
    settings: Settings,
    ids: Sequence[int] | None,
    side: str | None,
    *,
    table: str | None,
    reason: str | None,
    everything: bool,
) -> list[ParkedEvent]:
    """What the ids and filters choose. Refuses no choice at all, and ids that are not parked."""
    sides = _sides(side)
    if not (ids or table or reason or everything):
        raise ConfigurationError(
            "which events? Nothing is chosen", remedy="give ids, --table, --reason or --all"
        )
    if ids and side is None:
        raise ConfigurationError("ids need --side publish or --side apply", remedy=LISTED)
    if ids and everything:
        raise ConfigurationError("--all goes without ids", remedy="give one of them")
    chosen = list_parked(connection, sides=sides, table=table, reason=reason, ids=ids or None)
    if ids and (missing := set(ids) - {event.id for event in chosen}):
        raise _unknown(settings, sides, missing)
    return chosen


def _by_side(chosen: Sequence[ParkedEvent], side: str | None) -> list[tuple[Side, list[int]]]:
    return [(each, [e.id for e in chosen if e.side == each]) for each in _sides(side)]


def _unknown(settings: Settings, sides: Sequence[Side], ids: set[int]) -> RefusedError:
    named = ", ".join(str(id_) for id_ in sorted(ids))
    return RefusedError(
        f"contour {settings.contour.name}: no such parked event on the {sides[0]} side: {named}",
        remedy=LISTED,
    )


def _confirm(chosen: Sequence[ParkedEvent]) -> None:
    if not sys.stdin.isatty():
        raise ConfigurationError(
            f"this would discard {events_(len(chosen))}, and nobody is here to confirm it",
            remedy="add --yes",
        )
    Console(highlight=False, stderr=True).print(listing(chosen[:20]))
    if len(chosen) > 20:  # noqa: PLR2004
        typer.echo(f"… and {len(chosen) - 20:,} more", err=True)
    plural = "this event" if len(chosen) == 1 else f"these {len(chosen):,} events"
    typer.confirm(f"Discard {plural} for good?", abort=True, err=True)
