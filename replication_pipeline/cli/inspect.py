"""``status`` and ``cleanup``: what is going on, and looking after it."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta

import typer
from rich.console import Console
from rich.table import Table

from replication_pipeline.cli.common import ConfigOption, JsonOption, configured, print_json
from replication_pipeline.cli.contours import plain
from replication_pipeline.domain.health import (
    ContourStatus,
    Verdict,
    lag_verdict,
    skew_verdict,
    unpublished_verdict,
)
from replication_pipeline.postgres.cleanup import clean_up
from replication_pipeline.postgres.connection import connect
from replication_pipeline.postgres.status import read_contours, read_status
from replication_pipeline.settings import Settings

STYLES: dict[Verdict, str] = {"ok": "green", "warning": "yellow", "error": "bold red"}


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command("status")(status)
    app.command("cleanup")(cleanup)


def status(json: JsonOption = False, config: ConfigOption = None) -> None:
    """One screen that answers "is it fine?"; exit status 1 when it is not."""
    settings = configured(config)
    with connect(settings, application_name="replicator_status") as connection:
        now = read_status(connection, settings.contour.name)
        contours = read_contours(connection, settings.contour.name)
    verdicts = _verdicts(settings, now)
    if json:
        print_json(asdict(now) | {"contours": [plain(contour) for contour in contours]})
    else:
        Console(highlight=False).print(_screen(now, verdicts))
    if "error" in verdicts.values():
        raise typer.Exit(1)


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


def _verdicts(settings: Settings, now: ContourStatus) -> dict[str, Verdict]:
    monitoring = settings.monitoring
    backlog = unpublished_verdict(now.unpublished, warning=monitoring.unpublished_warning)
    lag = lag_verdict(
        timedelta(seconds=now.oldest_unpublished_seconds),
        warning=monitoring.lag_warning,
        critical=monitoring.lag_critical,
    )
    return {
        "unpublished": backlog,
        "lag": lag,
        "skew": skew_verdict(now.clock_skew_seconds, warning=monitoring.clock_skew_warning),
        "fenced": "warning" if now.fenced_contours else "ok",
        "parked": "warning" if now.parked_publish + now.parked_apply else "ok",
        "publishers": "ok" if now.publishers else "error",
        "appliers": "ok" if now.appliers else "error",
    }


def _screen(now: ContourStatus, verdicts: dict[str, Verdict]) -> Table:
    worst: Verdict = (
        "error"
        if "error" in verdicts.values()
        else "warning"
        if "warning" in verdicts.values()
        else "ok"
    )
    headline = {"ok": "healthy", "warning": "needs a look", "error": "NOT healthy"}[worst]
    table = Table(
        title=f"contour {now.contour}: [{STYLES[worst]}]{headline}[/]",
        title_justify="left",
        show_header=False,
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    table.add_column()
    table.add_column(justify="right")
    table.add_column(style="dim")

    def row(label: str, value: str, note: str = "", verdict: Verdict = "ok") -> None:
        table.add_row(label, f"[{STYLES[verdict]}]{value}[/]" if verdict != "ok" else value, note)

    row("unpublished", f"{now.unpublished:,}", "events", verdicts["unpublished"])
    row("lag", f"{now.oldest_unpublished_seconds:.1f}", "s, oldest unpublished", verdicts["lag"])
    row("apply lag", f"{now.apply_lag_events:,}", "events still in Kafka")
    row(
        "parked",
        f"{now.parked_publish:,} + {now.parked_apply:,}",
        "to publish + to apply",
        verdicts["parked"],
    )
    row("held", f"{now.held_publish:,}", "refused and tried again, or behind a refused one")
    row("publishers", str(now.publishers), "alive", verdicts["publishers"])
    row("appliers", str(now.appliers), "alive", verdicts["appliers"])
    row("published", f"{now.processed_total:,}", "events since installation")
    row("applied", f"{now.applied_total:,}", f"events; {now.skipped_total:,} older ones skipped")
    row("failed", f"{now.failed_total:,}", "refusals")
    row("conflicts", f"{now.conflicts_total:,}", "concurrent writes of one row")
    if verdicts["skew"] != "ok":
        row(
            "clock skew",
            f"{now.clock_skew_seconds:.3f}",
            "s between two contours",
            verdicts["skew"],
        )
    if now.fenced_contours:
        row("fenced", str(now.fenced_contours), "contours list tells which", verdicts["fenced"])
    if now.unique_conflicts:
        row("unique", f"{now.unique_conflicts:,}", "rows that another one keeps out", "warning")
    return table
