"""``replay``: events are read from Kafka once more, for a contour restored from a backup."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from replication_pipeline import runtime
from replication_pipeline.chosen import chosen_tables
from replication_pipeline.cli.common import (
    ConfigOption,
    JsonOption,
    configured,
    print_json,
)
from replication_pipeline.cli.progress import Bar
from replication_pipeline.domain.errors import ConfigurationError
from replication_pipeline.domain.model import MILLISECOND, BatchResult, WindowTotals
from replication_pipeline.engine.stopping import StopToken, stop_on_signals
from replication_pipeline.inputs import moment
from replication_pipeline.observe import ReplayLog


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command("replay")(replay)


def replay(
    *,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Published at or after: 2h (ago), 2026-11-22T10:00Z."),
    ] = None,
    from_offset: Annotated[
        int | None,
        typer.Option(
            min=0, metavar="N", help="From this offset of every partition; 0: everything."
        ),
    ] = None,
    table: Annotated[
        list[str] | None, typer.Option(metavar="T", help="Of this table; repeatable.")
    ] = None,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Apply events from Kafka once more, this contour's own among them, up to the topics' ends now.

    For a contour restored from a backup: it learns again what it had published since. Versions
    decide, so nothing newer is overwritten, and a healthy contour is left as it is. Positions of
    appliers are not touched; they may run meanwhile. SIGINT ends in order; running it again does no
    harm.
    """
    settings = configured(config)
    start = moment(since, "--since") if from_offset is None else from_offset
    if start is None or (since is not None and from_offset is not None):
        raise ConfigurationError(
            "where to begin?", remedy="give either --since TIME or --from-offset N; 0: everything"
        )
    chosen_tables(settings, table)
    stop = StopToken()
    run = runtime.plan_replay(settings, start, tables=table, stop=stop)
    plan = run.plan
    if not json:
        typer.echo(f"contour {settings.contour.name}: {plan.events:,} events to read again")
        if plan.gone:
            typer.echo(f"  note: Kafka has removed {plan.gone:,} before them", err=True)
        elif plan.cut and since is not None:
            typer.echo(
                f"  note: Kafka has removed the beginning of {', '.join(plan.cut)}; events since "
                f"{start} may be among it",
                err=True,
            )
    watcher = _Watcher(run)
    with stop_on_signals(stop), watcher.bar.shown(plan.events, visible=not json):
        totals = run.run(watcher)
    if json:
        print_json(_plain(run, totals))
    else:
        _tell(run, totals)
    if totals.end != "drained":
        raise typer.Exit(1)


class _Watcher(ReplayLog):
    """Moves a bar on the terminal."""

    def __init__(self, run: runtime.Replay) -> None:
        self._run = run
        self.bar = Bar()

    def batch(self, result: BatchResult, totals: WindowTotals) -> None:  # noqa: ARG002
        """Move the bar."""
        self.bar.move(self._run.done, self._run.plan.events)


def _tell(run: runtime.Replay, totals: WindowTotals) -> None:
    seconds = totals.elapsed.total_seconds()
    typer.echo(f"read again: {run.done:,} events in {seconds:.1f} s")
    typer.echo(f"  {totals.applied:,} applied, {totals.skipped:,} were here already or are older")
    if totals.parked:
        typer.echo(f"  {totals.parked:,} wait: replication-pipeline parked list --side apply")
    if totals.end != "drained":
        typer.echo("Stopped before the end. Run it again: what was applied is skipped.", err=True)


def _plain(run: runtime.Replay, totals: WindowTotals) -> dict[str, Any]:
    return {
        "ended_by": "done" if totals.end == "drained" else totals.end,
        "planned": run.plan.events,
        "read": run.done,
        "applied": totals.applied,
        "skipped": totals.skipped,
        "parked": totals.parked,
        "gone": run.plan.gone,
        "per_table": totals.per_table,
        "retries": totals.retries,
        "bytes": totals.bytes,
        "elapsed_ms": round(totals.elapsed / MILLISECOND),
    }
