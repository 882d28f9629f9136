"""``snapshot``: a table's rows go to other contours, while everybody writes; and what there was."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

import typer

from replication_pipeline import runtime
from replication_pipeline.cli.common import ConfigOption, JsonOption, configured, print_json
from replication_pipeline.cli.progress import Bar
from replication_pipeline.domain.errors import ConfigurationError
from replication_pipeline.domain.model import MILLISECOND
from replication_pipeline.engine.snapshot import Progress, Run, Totals, Wanted
from replication_pipeline.engine.stopping import StopToken, stop_on_signals
from replication_pipeline.observe import SnapshotLog
from replication_pipeline.postgres.snapshot_runs import past_runs
from replication_pipeline.settings import Settings

TELL_EVERY = 10.0  # seconds, where there is no terminal


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command("snapshot")(snapshot)


def snapshot(
    *,
    table: Annotated[
        str | None, typer.Argument(metavar="T", help="A table that is set up: users, or s.users.")
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(metavar="CONTOUR", help="Only this contour applies it; default: all others."),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(metavar="SQL", help="""Only these rows: "country = 'DE'"."""),
    ] = None,
    rate: Annotated[
        float | None, typer.Option(min=1, metavar="N", help="At most N rows per second.")
    ] = None,
    parallel: Annotated[
        int, typer.Option(min=1, max=16, metavar="N", help="Connections that read the table.")
    ] = 2,
    restart: Annotated[
        bool, typer.Option("--restart", help="Give up an unfinished snapshot of it; begin anew.")
    ] = False,
    past: Annotated[bool, typer.Option("--list", help="Show snapshots, and do nothing.")] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Send a table's rows, as they are, to the other contours, while everybody writes.

    Each row goes with its own version, so it never wins over a newer one anywhere. The rows go through
    the queue: publishers and appliers must run. The same command goes on with a snapshot that was
    stopped or killed. SIGINT ends in order, and says how to go on.
    """
    settings = configured(config)
    if past:
        _list(past_runs(settings), json=json)
        return
    if table is None:
        raise ConfigurationError("no table is named", remedy="replication-pipeline snapshot T")
    wanted = Wanted(table, to, where)
    totals = load(settings, wanted, rate=rate, parallel=parallel, restart=restart, json=json)
    if totals.end != "done":
        raise typer.Exit(1)


def load(
    settings: Settings,
    wanted: Wanted,
    *,
    rate: float | None = None,
    parallel: int = 2,
    restart: bool = False,
    json: bool = False,
) -> Totals:
    """Run a snapshot to its end or until a signal, and tell about it."""
    stop = StopToken()
    watcher = _Watcher(quiet=json)
    run, work = runtime.prepare_snapshot(
        settings, wanted, watcher=watcher, stop=stop, restart=restart, workers=parallel, rate=rate
    )
    if not json:
        typer.echo(f"contour {settings.contour.name}: snapshot {run.id} of {run.table} {_aim(run)}")
        if run.resumed:
            typer.echo(f"  goes on with what was begun at {run.started:%Y-%m-%d %H:%M:%S} UTC")
    with stop_on_signals(stop), watcher.bar.shown(1, visible=not json):
        totals = work.run()
    if json:
        print_json(_plain(run, totals))
    else:
        _tell(run, totals)
    return totals


class _Watcher(SnapshotLog):
    """A bar on a terminal; elsewhere a line when it begins to wait for something, and why."""

    def __init__(self, *, quiet: bool) -> None:
        self.bar = Bar()
        self._tells = not quiet and not sys.stderr.isatty()
        self._told: tuple[str, float] = ("", 0.0)

    def progress(self, progress: Progress, waits: str) -> None:
        """Move the bar."""
        total = max(progress.estimate, progress.rows)
        self.bar.move(progress.rows, total, f"waits: {waits}" if waits else "")
        if self._tells and waits and time.monotonic() - self._told[1] > TELL_EVERY:
            self._told = (waits, time.monotonic())
            typer.echo(f"  {progress.rows:,} rows of about {total:,}; waits: {waits}", err=True)


def _aim(run: Run) -> str:
    return f"to {run.to or 'all other contours'}" + (f", where {run.where}" if run.where else "")


def _tell(run: Run, totals: Totals) -> None:
    seconds, done = totals.elapsed.total_seconds(), totals.progress
    speed = f", {totals.queued / seconds:,.0f} a second" if totals.queued and seconds >= 1 else ""
    typer.echo(f"queued: {done.rows:,} rows and {done.deletes:,} deletes, {seconds:.1f} s{speed}")
    match totals.end:
        case "done":
            typer.echo("  publishers send them like changes; status shows what is left of them")
        case "given up":
            typer.echo(
                "Another call has begun the snapshot anew (--restart), or the table was set up anew.",
                err=True,
            )
        case "stopped":
            typer.echo(f"Stopped in order. To go on:\n  {_command(run)}", err=True)


def _command(run: Run) -> str:
    words = ["replication-pipeline", "snapshot", run.table]
    words += ["--to", run.to] if run.to else []
    words += ["--where", run.where] if run.where else []
    return shlex.join(words)


def _plain(run: Run, totals: Totals) -> dict[str, Any]:
    return {
        "id": run.id,
        "table": run.table,
        "to": run.to,
        "where": run.where,
        "resumed": run.resumed,
        "ended_by": totals.end,
        "rows": totals.progress.rows,
        "deletes": totals.progress.deletes,
        "queued_by_this_call": totals.queued,
        "retries": totals.retries,
        "elapsed_ms": round(totals.elapsed / MILLISECOND),
    }


def _list(runs: list[Run], *, json: bool) -> None:
    if json:
        names = (
            "id",
            "table",
            "to",
            "where",
            "started",
            "finished",
            "given_up",
            "rows",
            "deletes",
            "by",
        )
        print_json([{name: getattr(run, name) for name in names} for run in runs])
        return
    if not runs:
        typer.echo("no snapshot was ever taken here")
        return
    columns: list[tuple[str, Callable[[Run], str]]] = [
        ("id", lambda run: str(run.id)),
        ("table", lambda run: run.table),
        ("rows", lambda run: f"{run.rows:,}"),
        ("deletes", lambda run: f"{run.deletes:,}"),
        ("begun", lambda run: _time(run.started)),
        ("ended", _ended),
        ("what", _aim),
    ]
    lines = [[name for name, _ in columns], *[[show(run) for _, show in columns] for run in runs]]
    widths = [max(len(line[n]) for line in lines) for n in range(len(columns))]
    for line in lines:
        typer.echo(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        )


def _ended(run: Run) -> str:
    if run.finished:
        return _time(run.finished)
    return f"given up {_time(run.given_up)}" if run.given_up else "not finished"


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}"
