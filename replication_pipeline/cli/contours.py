"""``contours``: who takes part, and an operator's word on who does.

``admit`` and ``forget`` write a record to the heartbeat topic, so that every contour comes to know of
it at the same place; then this contour reads up to there itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table

from replication_pipeline import runtime
from replication_pipeline.cli.common import ConfigOption, JsonOption, configured, print_json
from replication_pipeline.domain.contours import Contour, State
from replication_pipeline.domain.errors import FatalError, TransientError
from replication_pipeline.domain.heartbeat import Record, encode
from replication_pipeline.engine.heartbeat import Listening
from replication_pipeline.postgres.connection import connect
from replication_pipeline.postgres.heartbeats import PostgresHeart
from replication_pipeline.postgres.status import read_contours
from replication_pipeline.settings import Settings

STYLES: Final[dict[State, str]] = {"active": "green", "fenced": "bold red", "forgotten": "dim"}
PATIENCE: Final = 30.0  # seconds until this contour has read what it has written

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Of the contour.")]


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    group = typer.Typer(
        help="Which contours take part, as their heartbeats tell.", no_args_is_help=True
    )
    group.command("list")(list_contours)
    group.command("admit")(admit)
    group.command("forget")(forget)
    app.add_typer(group, name="contours")


def list_contours(json: JsonOption = False, config: ConfigOption = None) -> None:
    """Show every contour that was heard of, when, and what its clock shows."""
    settings = configured(config)
    with connect(settings, application_name="replicator_contours") as connection:
        contours = read_contours(connection, settings.contour.name)
    if json:
        print_json([plain(contour) for contour in contours])
    elif contours:
        Console(highlight=False).print(_table(contours, settings.contour.name))
    else:
        typer.echo(f"contour {settings.contour.name}: no heartbeat was read yet")


def admit(name: NameArgument, config: ConfigOption = None) -> None:
    """Let a contour take part again, after its tables were loaded from another one.

    In its own database this also settles which database it is: after a restore, or instead of
    another one of that name.
    """
    settings = configured(config)
    _write(settings, lambda heart: heart.admission(name))
    typer.echo(f"contour {name} takes part from here on; its parked events are tried again")


def forget(
    name: NameArgument,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    config: ConfigOption = None,
) -> None:
    """Take a contour that is gone for good out of account; deletes no longer wait for it."""
    settings = configured(config)
    if not yes:
        typer.confirm(f"Is contour {name} gone for good?", abort=True)
    _write(settings, lambda heart: heart.forgetting(name))
    typer.echo(f"contour {name} is forgotten; should it come back, it has to be admitted")


def _write(settings: Settings, word: Callable[[PostgresHeart], Record]) -> None:
    with runtime.open_heartbeats(settings) as (heart, topic):

        def read() -> None:
            with suppress(FatalError):  # what is wrong here is what the word is to mend
                Listening(heart, topic, lambda _: None)()

        read()
        offset = topic.send(encode(word(heart)))
        deadline = time.monotonic() + PATIENCE
        while (heart.standing().next_offset or 0) <= offset:
            read()
            if time.monotonic() > deadline:
                raise TransientError(
                    f"contour {settings.contour.name}: the heartbeats could not be read to their end",
                    remedy="what was said is in Kafka; a running apply window will read it",
                )


def plain(contour: Contour) -> dict[str, Any]:
    """As JSON has it."""
    return {
        "contour": contour.identity.contour,
        "id": contour.identity.id,
        "incarnation": contour.identity.incarnation,
        "state": contour.state,
        "sequence": contour.sequence,
        "last_beat": _time(contour.last_beat),
        "fenced_at": _time(contour.fenced_at),
        "clock_ahead_seconds": contour.clock_ahead,
    }


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()


def _table(contours: list[Contour], me: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for title, justify in (
        ("contour", "left"),
        ("id", "right"),
        ("state", "left"),
        ("last beat", "left"),
        ("clock ahead, s", "right"),
    ):
        table.add_column(title, justify="right" if justify == "right" else "left")
    for contour in contours:
        name, state = contour.identity.contour, contour.state
        ahead = contour.clock_ahead
        table.add_row(
            name + (" (here)" if name == me else ""),
            str(contour.identity.id),
            f"[{STYLES[state]}]{state}[/]",
            datetime.fromtimestamp(contour.last_beat, UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
            "" if ahead is None else f"{ahead:+.3f}",
        )
    return table
