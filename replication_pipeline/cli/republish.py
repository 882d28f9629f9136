"""``republish``: events that are published already, sent once more for a consumer that lacks them."""

from __future__ import annotations

import shlex
from typing import Annotated, Any

import typer

from replication_pipeline import runtime
from replication_pipeline.cli.common import (
    ConfigOption,
    JsonOption,
    configured,
    print_json,
)
from replication_pipeline.cli.progress import Bar
from replication_pipeline.domain.errors import ConfigurationError
from replication_pipeline.domain.model import MILLISECOND
from replication_pipeline.engine.republish import Plan, Selection, Totals
from replication_pipeline.engine.stopping import StopToken, stop_on_signals
from replication_pipeline.inputs import key_object, moment
from replication_pipeline.observe import RepublishLog
from replication_pipeline.settings import Settings


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command("republish")(republish)


def republish(
    *,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Published at or after: 2h (ago), 2026-11-22T10:00Z."),
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="Published before; default: now.")
    ] = None,
    table: Annotated[
        list[str] | None, typer.Option(metavar="T", help="Of this table; repeatable.")
    ] = None,
    key: Annotated[
        list[str] | None,
        typer.Option(metavar="JSON", help="""Of this key: '{"id":1}'; repeatable."""),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that retention has left.")] = False,
    rate: Annotated[
        float | None, typer.Option(min=1, metavar="N", help="At most N events per second.")
    ] = None,
    from_id: Annotated[
        int, typer.Option(min=0, metavar="ID", help="Go on where a former run stopped.")
    ] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count, and send nothing.")] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Send published events again, beside running publishers. Changes nothing in the queue.

    Every chosen event is followed by all later ones of its key, whatever --until says, so that the last
    event of each key in Kafka stays its newest. Contours that have them already skip them. SIGINT
    ends in order, and says how to go on.
    """
    settings = configured(config)
    if not (since or until or table or key or everything):
        raise ConfigurationError(
            "which events? Nothing is chosen",
            remedy="give --since, --until, --table, --key or --all",
        )
    selection = Selection(
        since=moment(since, "--since"),
        until=moment(until, "--until"),
        tables=tuple(table) if table else None,
        keys=tuple(key_object(each, "--key") for each in key) if key else None,
        from_id=from_id,
    )
    if selection.since and selection.until and selection.since >= selection.until:
        raise ConfigurationError("--since is not before --until", remedy="nothing lies between")
    stop = StopToken()
    watcher = _Bar()
    with runtime.open_republish(settings, selection, watcher=watcher, stop=stop, rate=rate) as run:
        plan = run.plan()
        if not json:
            _tell_plan(settings, selection, plan)
        if dry_run:
            if json:
                print_json(_plain_plan(plan) | {"dry_run": True})
            return
        with stop_on_signals(stop), watcher.bar.shown(plan.events, visible=not json):
            totals = run.run()
    if json:
        print_json(_plain_plan(plan) | _plain(totals))
    else:
        _tell(totals, plan, selection)
    if totals.end != "done":
        raise typer.Exit(1)


class _Bar(RepublishLog):
    """A bar on the terminal; nothing where there is none."""

    def __init__(self) -> None:
        self.bar = Bar()

    def progress(self, sent: int, total: int) -> None:
        """Move the bar."""
        self.bar.move(sent, total)


def _tell_plan(settings: Settings, selection: Selection, plan: Plan) -> None:
    keys = sum(table.keys for table in plan.tables)
    told = f"{plan.events:,} events of {keys:,} keys" if plan.events else "nothing"
    typer.echo(f"contour {settings.contour.name}: {told} to send again")
    width = max((len(table.table) for table in plan.tables), default=0)
    for table in plan.tables:
        typer.echo(f"  {table.table:<{width}}  {table.events:>10,} events  {table.keys:>10,} keys")
    for name in set(selection.tables or ()) - {table.table for table in plan.tables}:
        typer.echo(f"  {name}: nothing that is chosen was published", err=True)
    if plan.oldest and selection.since:
        typer.echo(
            "  note: --since is before the oldest event that is still there, published "
            f"{plan.oldest:%Y-%m-%d %H:%M:%S %Z}; what retention has removed can't be sent again",
            err=True,
        )


def _tell(totals: Totals, plan: Plan, selection: Selection) -> None:
    seconds = totals.elapsed.total_seconds()
    if plan.events or totals.sent:
        speed = f", {totals.sent / seconds:,.0f} a second" if seconds >= 1 else ""
        typer.echo(
            f"sent again: {totals.sent:,} events, {totals.bytes / 1e6:,.1f} MB "
            f"in {seconds:.1f} s{speed}"
        )
    if totals.added:
        typer.echo(f"  {totals.added:,} of them were published while this ran")
    if totals.gone:
        typer.echo(f"  {totals.gone:,} were removed by retention while this ran")
    if totals.end == "done":
        return
    if totals.torn:
        typer.echo(
            "Stopped while a server was away: of some keys an older event may be the last one in "
            "Kafka. Going on mends that:",
            err=True,
        )
    else:
        typer.echo("Stopped between keys, in order. To go on:", err=True)
    typer.echo(f"  {_command(totals, plan, selection)}", err=True)


def _command(totals: Totals, plan: Plan, selection: Selection) -> str:
    """The command that goes on; times are fixed, as 2h ago is another moment then."""
    words = ["replication-pipeline", "republish"]
    if selection.since:
        words += ["--since", selection.since.isoformat()]
    words += ["--until", plan.until.isoformat()]
    for option, values in (("--table", selection.tables), ("--key", selection.keys)):
        for value in values or ():
            words += [option, value]
    return shlex.join([*words, "--from-id", str(totals.position)])


def _plain_plan(plan: Plan) -> dict[str, Any]:
    return {
        "planned": plan.events,
        "tables": {table.table: table._asdict() for table in plan.tables},
        "oldest_left": plan.oldest,
        "until": plan.until,
    }


def _plain(totals: Totals) -> dict[str, Any]:
    return {
        "ended_by": totals.end,
        "sent": totals.sent,
        "bytes": totals.bytes,
        "per_table": totals.per_table,
        "published_meanwhile": totals.added,
        "gone": totals.gone,
        "retries": totals.retries,
        "elapsed_ms": round(totals.elapsed / MILLISECOND),
        "torn": totals.torn,
        "from_id": totals.position,
    }
