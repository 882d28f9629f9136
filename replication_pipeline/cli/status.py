"""``status``: one screen that answers "is it fine?": a verdict with its reasons, then the figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import Annotated, Any, Final

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from replication_pipeline.cli.common import (
    ConfigOption,
    JsonOption,
    configured,
    print_json,
    printable,
)
from replication_pipeline.cli.contours import plain
from replication_pipeline.domain.health import Verdict
from replication_pipeline.domain.verdicts import Reason, Thresholds, reasons, words, worst
from replication_pipeline.domain.watch import Pair, Watch
from replication_pipeline.engine.stopping import StopToken, stop_on_signals
from replication_pipeline.postgres.connection import connect
from replication_pipeline.postgres.status import read_contours
from replication_pipeline.postgres.watch import look
from replication_pipeline.settings import Settings

STYLES: Final[dict[Verdict, str]] = {"ok": "green", "warning": "yellow", "error": "bold red"}
SAID: Final[dict[Verdict, str]] = {"ok": "fine", "warning": "look at it", "error": "broken"}
EVERY: Final = timedelta(seconds=2)


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command("status")(status)


def status(
    *,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Look again every 2 s, until Ctrl-C.")
    ] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """One screen that answers "is it fine?".

    Exit status 1 when it is broken: nobody publishes or applies, the lag is critical, or a contour is
    fenced. 0 when it is fine, and when something should be looked at.
    """
    settings = configured(config)
    with connect(settings, application_name="replicator_status") as connection:
        now = look(connection, settings)
        if watch and not json:
            stop = StopToken()
            with stop_on_signals(stop), Live(_screen(settings, now), screen=False) as live:
                while not stop.wait(EVERY):
                    now = look(connection, settings)
                    live.update(_screen(settings, now))
        contours = read_contours(connection, settings.contour.name) if json else []
    found = reasons(now, _limits(settings))
    if json:
        told: dict[str, Any] = {
            "verdict": worst(found),
            "reasons": [asdict(reason) for reason in found],
            "contours": [plain(contour) for contour in contours],
        }
        print_json(asdict(now.status) | told)
    elif not watch:
        Console(highlight=False).print(_screen(settings, now))
    if worst(found) == "error":
        raise typer.Exit(1)


def _limits(settings: Settings) -> Thresholds:
    monitoring = settings.monitoring
    return Thresholds(
        unpublished=monitoring.unpublished_warning,
        lag_warning=monitoring.lag_warning,
        lag_critical=monitoring.lag_critical,
        parked=monitoring.parked_warning,
        apply_lag=monitoring.apply_lag_warning,
        apply_stalled=monitoring.apply_stalled_warning,
        silence=monitoring.heartbeat_warning,
        skew=monitoring.clock_skew_warning,
        held=monitoring.held_warning,
        snapshot=monitoring.snapshot_warning,
        dead_rows=monitoring.dead_rows_warning,
    )


def _screen(settings: Settings, now: Watch) -> RenderableType:
    found = reasons(now, _limits(settings))
    verdict = worst(found)
    lines: list[RenderableType] = [
        Text.assemble(f"contour {settings.contour.name}: ", (SAID[verdict], STYLES[verdict]))
    ]
    lines += [Text(f"  {printable(r.text)}", style=STYLES[r.verdict]) for r in found]
    lines += ["", _figures(now, found)]
    if now.pairs:
        lines += ["", _contours(now.pairs, settings.contour.name)]
    return Group(*lines)


def _figures(now: Watch, found: Sequence[Reason]) -> Table:
    styles: dict[str, str] = {}
    for reason in found:
        styles.setdefault(reason.about, STYLES[reason.verdict])
    table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column()
    table.add_column(justify="right")
    table.add_column(style="dim")

    def row(about: str, label: str, value: str, note: str, group: str = "") -> None:
        table.add_row(group, label, Text(value, style=styles.get(about, "")), note)

    s = now.status
    age = words(timedelta(seconds=s.oldest_unpublished_seconds))
    row("publishers", "publishers", f"{s.publishers:,}", "alive", "publish")
    row("unpublished", "waiting", f"{s.unpublished:,}", "events, not in Kafka yet")
    row(
        "oldest",
        "oldest",
        age.rpartition(" ")[0],
        f"{age.rpartition(' ')[2]}, since it was written",
    )
    row("held", "held", f"{s.held_publish:,}", "refused and tried again, or behind such ones")
    row("parked", "parked", f"{s.parked_publish:,}", "refused for good: parked list")
    row("", "published", f"{s.processed_total:,}", f"events ever; {s.failed_total:,} refusals")
    row("queue", "queue", f"{now.queue.size / 1e6:,.1f}", f"MB, {now.queue.dead_rows:,} dead rows")
    row("appliers", "appliers", f"{s.appliers:,}", "alive", "apply")
    row("behind", "behind", f"{s.apply_lag_events:,}", _behind(now))
    note = (
        f"{s.unique_conflicts:,} of them kept out by another row" if s.unique_conflicts else "wait"
    )
    row("parked", "parked", f"{s.parked_apply:,}", note)
    row(
        "",
        "applied",
        f"{s.applied_total:,}",
        f"events ever; {s.skipped_total:,} older ones skipped",
    )
    row("", "conflicts", f"{s.conflicts_total:,}", "concurrent writes of one row: conflicts list")
    return table


def _behind(now: Watch) -> str:
    lagging = sorted((lag for lag in now.lags if lag.events), key=lambda lag: -lag.events)
    most = ", ".join(f"{lag.topic} {lag.events:,}" for lag in lagging[:3])
    return f"events still in Kafka: {most}" if most else "events still in Kafka"


def _contours(pairs: Sequence[Pair], me: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("contour", "state", "heard of", "its changes are here", "clock"):
        table.add_column(title, justify="left" if title in ("contour", "state") else "right")
    for pair in pairs:
        here = pair.contour == me
        arrived = "not told" if pair.arrived is None else f"up to {_ago(pair.arrived)}"
        clock = "" if pair.clock_ahead is None else f"{pair.clock_ahead * 1000:+,.0f} ms"
        style = "" if pair.state == "active" else "bold red"
        table.add_row(
            pair.contour + (" (here)" if here else ""),
            Text(pair.state, style=style),
            _ago(pair.silent),
            "" if here else arrived,
            clock,
        )
    return table


def _ago(seconds: float) -> str:
    return f"{words(timedelta(seconds=seconds))} ago"
