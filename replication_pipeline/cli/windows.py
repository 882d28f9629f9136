"""``publish`` and ``apply``: windows in the foreground, ended by time, work done or a signal."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Annotated

import typer

from replication_pipeline import runtime
from replication_pipeline.cli.common import ConfigOption, JsonOption, configured, print_json
from replication_pipeline.domain.model import MILLISECOND, WindowTotals, percentile
from replication_pipeline.engine.stopping import StopToken, stop_on_signals

WindowOption = Annotated[
    float | None, typer.Option("--window", min=0, help="End after so many seconds.")
]


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command("publish")(publish)
    app.command("apply")(apply)


def publish(
    window: WindowOption = None,
    until_empty: Annotated[
        bool, typer.Option("--until-empty", help="End when the queue has been drained.")
    ] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Publish queued events to Kafka until SIGINT or SIGTERM."""
    _run(runtime.publish, window, until_empty, json, config)


def apply(
    window: WindowOption = None,
    until_caught_up: Annotated[
        bool, typer.Option("--until-caught-up", help="End when all topics are read to their ends.")
    ] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Apply the other contours' events until SIGINT or SIGTERM."""
    _run(runtime.apply, window, until_caught_up, json, config)


def _run(
    run: Callable[..., WindowTotals],
    window: float | None,
    until_drained: bool,
    json: bool,
    config: ConfigOption,
) -> None:
    settings = configured(config)
    length = None if window is None else timedelta(seconds=window)
    with stop_on_signals(StopToken()) as stop:
        totals = run(
            settings, stop=stop, length=length, until="drained" if until_drained else "time"
        )
    if json:
        print_json(summary(totals))


def summary(totals: WindowTotals) -> dict[str, object]:
    """A window's totals as plain values; durations in milliseconds."""
    return {
        "role": totals.role,
        "ended_by": totals.end,
        "elapsed_ms": round(totals.elapsed / MILLISECOND),
        "batches": totals.batches,
        "processed": totals.processed,
        "applied": totals.applied,
        "skipped": totals.skipped,
        "own": totals.own,
        "duplicates": totals.duplicates,
        "failed": totals.failed,
        "parked": totals.parked,
        "conflicts": totals.conflicts,
        "retries": totals.retries,
        "bytes": totals.bytes,
        "lag_ms_p50": round(percentile(totals.lags_ms, 0.5), 1),
        "lag_ms_p99": round(percentile(totals.lags_ms, 0.99), 1),
    }
