"""What a window tells Dagster, and when.

Every batch is a JSON log line (``observe.BatchLog``); Dagster gets one materialization per asset at
the window's end, at most one observation a minute in between, and one warning a minute while a
server is away: each costs a row in Dagster's event log, which would drown in batches. Metadata
holds counts and times, never row values.
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Final

import dagster as dg

from replication_pipeline.defs.assets import applied_key, queue_key
from replication_pipeline.domain.errors import TransientError
from replication_pipeline.domain.model import (
    MILLISECOND,
    BatchResult,
    Role,
    WindowTotals,
    percentile,
)
from replication_pipeline.logs import get_logger
from replication_pipeline.observe import BatchLog, log_window
from replication_pipeline.settings import Settings

EVERY: Final = timedelta(minutes=1)
APPLY_ONLY: Final = ("applied", "skipped", "own", "duplicates", "conflicts")


class WindowReport:
    """The observer of one window; ``finish`` writes its summary."""

    def __init__(
        self, context: dg.OpExecutionContext, settings: Settings, role: Role, instance: str
    ) -> None:
        self.totals = WindowTotals(role=role)  # until the first batch brings the window's own
        self._context = context
        self._settings = settings
        self._instance = instance
        self._log = BatchLog(role, instance, settings.logging.batch_lines)
        self._started = self._observed = self._warned = time.monotonic()
        self._warned -= EVERY.total_seconds()  # the first outage is told at once

    def batch(self, result: BatchResult, totals: WindowTotals) -> None:
        """Log the batch; once a minute, observe the asset that it moved."""
        self.totals = totals
        self._log.batch(result, totals)
        if time.monotonic() - self._observed < EVERY.total_seconds():
            return
        self._observed = time.monotonic()
        totals.elapsed = timedelta(seconds=self._observed - self._started)
        busiest = max(result.per_table, key=result.per_table.__getitem__, default=None)
        if totals.role == "publisher":
            key = queue_key(self._settings.contour.name)
        elif busiest is not None:
            key = applied_key(self._settings.contour.name, busiest)
        else:
            return
        try:
            self._context.log_event(dg.AssetObservation(key, metadata=_figures(totals)))
        except Exception as error:  # noqa: BLE001  Dagster's storage is away; replication isn't
            get_logger(totals.role).warning(
                "not observed in Dagster", instance=self._instance, error=type(error).__name__
            )

    def retrying(self, error: TransientError, attempt: int, pause: timedelta) -> None:
        """Log the failed attempt; once a minute, say it in Dagster too."""
        self._log.retrying(error, attempt, pause)
        if time.monotonic() - self._warned >= EVERY.total_seconds():
            self._warned = time.monotonic()
            self._context.log.warning("%s; the window waits and tries again", error.message)

    def finish(self, totals: WindowTotals, *, failed: bool = False) -> None:
        """Log the totals and materialize the assets; also with no events, as a sign of life."""
        if not totals.elapsed:
            totals.elapsed = timedelta(seconds=time.monotonic() - self._started)
        log_window(totals, self._instance)
        ended = "failed" if failed else totals.end or "stopped"
        for event in materializations(self._settings, totals, ended):
            self._context.log_event(event)
        self._context.add_output_metadata(_metadata(totals, ended))
        self._context.log.info(_sentence(totals, ended))


def materializations(
    settings: Settings, totals: WindowTotals, ended: str
) -> list[dg.AssetMaterialization]:
    """The queue's materialization, or one for each table: full for those that got rows."""
    contour = settings.contour.name
    metadata = _metadata(totals, ended)
    description = _sentence(totals, ended)
    if totals.role == "publisher":
        return [
            dg.AssetMaterialization(queue_key(contour), description=description, metadata=metadata)
        ]
    return [
        dg.AssetMaterialization(
            applied_key(contour, table),
            description=description,
            metadata={"events": events, **(metadata if events else {})},
        )
        for table in sorted({*settings.tables, *totals.per_table})
        for events in [totals.per_table[table]]
    ]


def _figures(totals: WindowTotals) -> dict[str, float]:
    """The numbers, each of which Dagster draws as a line over time."""
    figures: dict[str, float] = {
        "processed": totals.processed,
        "failed": totals.failed,
        "parked": totals.parked,
        "batches": totals.batches,
        "retries": totals.retries,
        "bytes": totals.bytes,
        "elapsed_seconds": round(totals.elapsed.total_seconds(), 3),
        "busy_seconds": round(totals.busy.total_seconds(), 3),
        "events_per_second": _rate(totals.processed, totals.elapsed),
        "events_per_busy_second": _rate(totals.processed, totals.busy),
        "batch_ms_p50": round(percentile(totals.durations_ms, 0.5), 1),
        "batch_ms_p95": round(percentile(totals.durations_ms, 0.95), 1),
        "batch_ms_max": round(max(totals.durations_ms, default=0.0), 1),
        "lag_ms_p50": round(percentile(totals.lags_ms, 0.5), 1),
        "lag_ms_p95": round(percentile(totals.lags_ms, 0.95), 1),
        "lag_ms_max": round(totals.max_lag / MILLISECOND, 1),
    }
    if totals.role == "applier":
        figures |= {name: getattr(totals, name) for name in APPLY_ONLY}
    return figures


def _metadata(totals: WindowTotals, ended: str) -> dict[str, dg.MetadataValue | float | str]:
    figures = _figures(totals)
    tables = totals.per_table.most_common()
    return {
        **figures,
        "ended_by": ended,
        "tables": dg.MetadataValue.table(
            [dg.TableRecord({"table": table, "events": events}) for table, events in tables],
            schema=dg.TableSchema(
                columns=[dg.TableColumn("table", "string"), dg.TableColumn("events", "int")]
            ),
        ),
        "summary": dg.MetadataValue.md(_summary(totals, figures, ended)),
    }


def _summary(totals: WindowTotals, figures: dict[str, float], ended: str) -> str:
    return "\n".join(
        [
            f"**{_sentence(totals, ended)}**",
            "",
            "| | p50 | p95 | max |",
            "|---|---:|---:|---:|",
            *(
                f"| {title}, ms | {figures[f'{name}_p50']:g} | {figures[f'{name}_p95']:g} "
                f"| {figures[f'{name}_max']:g} |"
                for title, name in (("batch", "batch_ms"), ("lag", "lag_ms"))
            ),
        ]
    )


def _sentence(totals: WindowTotals, ended: str) -> str:
    done = "published" if totals.role == "publisher" else "applied or skipped"
    trouble = f", {totals.failed} refused, {totals.parked} parked"
    return (
        f"{totals.processed} events {done} in {totals.batches} batches and "
        f"{totals.elapsed.total_seconds():.0f} s"
        f"{trouble if totals.failed or totals.parked else ''}; ended by: {ended}"
    )


def _rate(events: int, time_taken: timedelta) -> float:
    return round(events / time_taken.total_seconds(), 1) if time_taken else 0.0
