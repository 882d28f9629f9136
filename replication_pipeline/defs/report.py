"""What a window tells Dagster, and when.

Every batch is a JSON log line (``observe.BatchLog``); Dagster gets one materialization per asset at
the window's end, at most one observation a minute in between, and one warning a minute while a
server is away: each costs a row in Dagster's event log, which would drown in batches.

One of the materializations, the queue's or that of the busiest table, carries the whole report: chart,
errors by kind, and those batches that people ask for. They are part of an event and not of the op's
output, because a window that fails or is terminated has no output. Metadata holds counts, times and
kinds of errors, never row values.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import timedelta
from typing import Final

import dagster as dg

from replication_pipeline.defs import chart
from replication_pipeline.defs.assets import applied_key, queue_key
from replication_pipeline.domain.batches import Batch, Batches
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
Metadata = dict[str, dg.MetadataValue | float | str]


class WindowReport:
    """The observer of one window; ``finish`` writes its summary."""

    def __init__(
        self, context: dg.OpExecutionContext, settings: Settings, role: Role, instance: str
    ) -> None:
        self.totals = WindowTotals(role=role)  # until the first batch brings the window's own
        self.batches = Batches()
        self._context = context
        self._settings = settings
        self._instance = instance
        self._log = BatchLog(role, instance, settings.logging.batch_lines)
        self._started = self._observed = self._warned = time.monotonic()
        self._warned -= EVERY.total_seconds()  # the first outage is told at once

    def batch(self, result: BatchResult, totals: WindowTotals) -> None:
        """Log the batch; once a minute, observe the asset that it moved."""
        self.totals = totals
        self.batches.add(result)
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
        metadata = {**_figures(totals), **_lists(self.batches)}
        try:
            self._context.log_event(dg.AssetObservation(key, metadata=metadata))
        except Exception as error:  # noqa: BLE001  Dagster's storage is away; replication isn't
            get_logger(totals.role).warning(
                "not observed in Dagster", instance=self._instance, error=type(error).__name__
            )

    def retrying(self, error: TransientError, attempt: int, pause: timedelta) -> None:
        """Log the failed attempt; once a minute, say it in Dagster too."""
        self.batches.add_failed_try(error)
        self._log.retrying(error, attempt, pause)
        if time.monotonic() - self._warned >= EVERY.total_seconds():
            self._warned = time.monotonic()
            self._context.log.warning("%s; the window waits and tries again", error.message)

    def finish(
        self,
        totals: WindowTotals,
        *,
        failed: bool = False,
        patience: timedelta = chart.PATIENCE,
    ) -> None:
        """Log the totals and materialize the assets; also with no events, as a sign of life. Without a
        chart if that takes longer than ``patience``.
        """
        if not totals.elapsed:
            totals.elapsed = timedelta(seconds=time.monotonic() - self._started)
        log_window(totals, self._instance)
        ended = "failed" if failed else totals.end or "stopped"
        events = materializations(self._settings, totals, ended, self.batches, patience)
        for event in events:
            self._context.log_event(event)
        self._context.log.info(_sentence(totals, ended))


def materializations(
    settings: Settings,
    totals: WindowTotals,
    ended: str,
    batches: Batches,
    patience: timedelta = chart.PATIENCE,
) -> list[dg.AssetMaterialization]:
    """The queue's materialization, or one for each table: figures for those that got rows, and the
    whole report for the busiest.
    """
    contour = settings.contour.name
    description = _sentence(totals, ended)
    picture = chart.markdown(batches, patience)
    whole = _metadata(totals, ended, batches, picture)
    if totals.role == "publisher":
        return [
            dg.AssetMaterialization(queue_key(contour), description=description, metadata=whole)
        ]
    figures: Metadata = {**_figures(totals), "ended_by": ended}
    tables = sorted({*settings.tables, *totals.per_table})
    reporting = max(tables, key=totals.per_table.__getitem__, default=None)

    def metadata(table: str) -> Metadata:
        events = totals.per_table[table]
        more = whole if table == reporting else figures if events else {}
        return {"events": events, **more}

    return [
        dg.AssetMaterialization(
            applied_key(contour, table), description=description, metadata=metadata(table)
        )
        for table in tables
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
        **_spread("batch_events", totals.counts, max(totals.counts, default=0)),
        **_spread("batch_ms", totals.durations_ms, max(totals.durations_ms, default=0.0)),
        **_spread("lag_ms", totals.lags_ms, totals.max_lag / MILLISECOND),
    }
    if totals.role == "applier":
        figures |= {name: getattr(totals, name) for name in APPLY_ONLY}
    return figures


def _spread(name: str, samples: Iterable[float], most: float) -> dict[str, float]:
    ordered = sorted(samples)
    return {
        f"{name}_p50": round(percentile(ordered, 0.5), 1),
        f"{name}_p95": round(percentile(ordered, 0.95), 1),
        f"{name}_p99": round(percentile(ordered, 0.99), 1),
        f"{name}_max": round(most, 1),
    }


def _metadata(totals: WindowTotals, ended: str, batches: Batches, picture: str) -> Metadata:
    figures = _figures(totals)
    return {
        "summary": dg.MetadataValue.md(_summary(totals, figures, ended, batches, picture)),
        "tables": _table({"table": "string", "events": "int"}, totals.per_table.most_common()),
        "errors_by_kind": _table(
            {"kind": "string", "outcome": "string", "batches": "int", "events": "int"},
            (
                (kind, trouble.outcome, trouble.batches, trouble.events)
                for kind, trouble in sorted(batches.trouble.items())
            ),
        ),
        **_lists(batches),
        **figures,
        "ended_by": ended,
    }


def _lists(batches: Batches) -> Metadata:
    """The batches that people ask for: newest or slowest first."""
    lists = {
        "last_batches": reversed(batches.last),
        "slowest_batches": batches.slowest,
        "failed_batches": reversed(batches.failed),
    }
    return {name: _batches(rows) for name, rows in lists.items()}


def _batches(batches: Iterable[Batch]) -> dg.MetadataValue:
    return _table(
        {
            "ended_utc": "string",
            "events": "int",
            "duration_ms": "float",
            "lag_ms": "float",
            "attempts": "int",
            "error": "string",
        },
        (
            (
                f"{batch.ended:%H:%M:%S.%f}"[:-3],
                batch.events,
                round(batch.duration_ms, 1),
                round(batch.lag_ms, 1),
                batch.attempts,
                batch.error or "",
            )
            for batch in batches
        ),
    )


def _table(columns: dict[str, str], rows: Iterable[Iterable[float | str]]) -> dg.MetadataValue:
    return dg.MetadataValue.table(
        [dg.TableRecord(dict(zip(columns, row, strict=True))) for row in rows],
        schema=dg.TableSchema(columns=[dg.TableColumn(*column) for column in columns.items()]),
    )


def _summary(
    totals: WindowTotals, figures: dict[str, float], ended: str, batches: Batches, picture: str
) -> str:
    """For people: a sentence, the chart, percentiles, errors. Dagster shows it in place."""
    rows = (("events a batch", "batch_events"), ("batch, ms", "batch_ms"), ("lag, ms", "lag_ms"))
    lines = [
        f"**{_sentence(totals, ended)}**",
        "",
        picture,
        "",
        "| | p50 | p95 | p99 | max |",
        "|---|---:|---:|---:|---:|",
        *(
            " | ".join(
                [
                    f"| {title}",
                    *(f"{figures[f'{name}_{of}']:,g}" for of in ("p50", "p95", "p99", "max")),
                ]
            )
            + " |"
            for title, name in rows
        ),
    ]
    if batches.trouble:
        lines += ["", "| error | outcome | batches | events |", "|---|---|---:|---:|"]
        lines += [
            f"| {kind} | {trouble.outcome} | {trouble.batches:,} | {trouble.events:,} |"
            for kind, trouble in sorted(batches.trouble.items())
        ]
    if left_out := batches.failed_count - len(batches.failed):
        lines += ["", f"{left_out:,} more failed batches are in the log lines of this window."]
    return "\n".join(lines)


def _sentence(totals: WindowTotals, ended: str) -> str:
    done = "published" if totals.role == "publisher" else "applied or skipped"
    trouble = f", {totals.failed:,} refused, {totals.parked:,} parked"
    return (
        f"{totals.processed:,} events {done} in {totals.batches:,} batches and "
        f"{totals.elapsed.total_seconds():.0f} s"
        f"{trouble if totals.failed or totals.parked else ''}; ended by: {ended}"
    )


def _rate(events: int, time_taken: timedelta) -> float:
    return round(events / time_taken.total_seconds(), 1) if time_taken else 0.0
