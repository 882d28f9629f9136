"""The other cheap verdicts: refusals, parked events, apply lag, contours, the queue's table.

``alert_sensor`` makes them on every tick from one look at the database, and an operator on demand. All
rules are pure functions of that look; what they compare with are settings under ``monitoring``.

No postponed annotations here: Dagster compares the type of a step's ``context`` as an object.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Literal

import dagster as dg

from replication_pipeline.defs.checks import CheckName, Finding, Metadata, asset_of, results
from replication_pipeline.defs.resources import PostgresResource
from replication_pipeline.domain.errors import ReplicationError, TransientError
from replication_pipeline.domain.health import Verdict
from replication_pipeline.domain.names import topic_for
from replication_pipeline.domain.watch import ApplyLag, Outcomes, Pair, Watch
from replication_pipeline.settings import MonitoringSettings, Settings

WatchedCheck = Literal["error_rate", "parked_events", "heartbeat", "queue_health"]
Sight = Watch | ReplicationError

DESCRIPTIONS: Final[dict[WatchedCheck, str]] = {
    "error_rate": "Which part of the events Kafka refused or could not be read, lately. When it fails: "
    "read `last_error` of the refused events with `replication-pipeline parked list`; it names the "
    "topic and the reason (too large, no such topic, no right). Mend that; they are tried again by "
    "themselves, and those that are parked already with `parked retry`.",
    "parked_events": "Events that can't go on, by table and reason; events of the same rows wait "
    "behind them, all others go on. When it fails: `refused by Kafka` waits for you: mend the "
    "topic, then retry. Other reasons mostly mend themselves when what is missing comes: a parent "
    "row, a column, a table set up here. `replication-pipeline parked show` says what an event waits "
    "for; `parked discard` gives it up and keeps it with your reason.",
    "heartbeat": "Whether every contour is heard of: how long each was silent, and until when its "
    "changes have all arrived here. When it fails: a silent contour publishes nothing, so look at its "
    "publish runs, database and way to Kafka; if all are silent, at Kafka or the apply runs here. "
    "A fenced contour was away for too long: load its tables again, then `contours admit`.",
    "queue_health": "What slows the queue's table down: dead rows, an old transaction that keeps "
    "vacuum from removing them, events held behind refused ones. When it fails: end the transaction "
    "that is named (a forgotten session, a prepared transaction, a long dump); if dead rows stay all "
    "the same, look at autovacuum. Held events go when `parked_events` is green.",
}
APPLY_LAG: Final = (
    "Events of this table that are in Kafka and not applied here yet. When it fails: see that "
    "apply_sensor is on and apply runs are green; if they are and the number grows, raise "
    "consumer.max_appliers (not above the topic's partitions) or consumer.max_batch_size. Nothing "
    "moves although runs are green: read the newest apply run's log."
)


@dataclass(frozen=True, slots=True)
class Refusals:
    """Events dealt with and refused during ``seconds``; ``None``: since the workers of the last hour
    began.
    """

    processed: int
    failed: int
    seconds: float | None = None

    @property
    def rate(self) -> float:
        return self.failed / (self.processed + self.failed) if self.failed else 0.0


def recent(outcomes: Outcomes) -> Refusals:
    """Without a memory of former looks."""
    return Refusals(outcomes.recent_processed, outcomes.recent_failed)


def findings(
    sight: Sight, settings: Settings, refusals: Refusals | None = None
) -> Sequence[Finding]:
    """The verdicts on one look: four on the queue, and one on each applied table."""
    monitoring = settings.monitoring
    if isinstance(sight, ReplicationError):
        unknown = [*((check, None) for check in DESCRIPTIONS), *_apply_checks(settings)]
        return [
            Finding(check, "unknown", f"Not known: {sight.message}", {}, table)
            for check, table in unknown
        ]
    return [
        error_rate(refusals or recent(sight.outcomes), monitoring),
        parked_events(sight, monitoring),
        heartbeat(sight.pairs, settings),
        queue_health(sight, monitoring),
        *apply_lags(sight, settings),
    ]


def error_rate(refusals: Refusals, monitoring: MonitoringSettings) -> Finding:
    """Refused events against all."""
    during = (
        "since the workers of the last hour began"
        if refusals.seconds is None
        else f"in the last {refusals.seconds:.0f} s"
    )
    return Finding(
        "error_rate",
        "warning" if refusals.rate >= monitoring.error_rate_warning else "ok",
        f"{refusals.rate:.2%} of the events were refused: {refusals.failed} of "
        f"{refusals.processed + refusals.failed} {during}.",
        {
            "error_rate": round(refusals.rate, 6),
            "processed": refusals.processed,
            "failed": refusals.failed,
            "warning_at": f"{monitoring.error_rate_warning:.2%}",
        },
    )


def parked_events(watch: Watch, monitoring: MonitoringSettings) -> Finding:
    """Parked at publishing: at once. At applying many wait for what is on its way, and may."""
    patience = monitoring.parked_warning.total_seconds()
    stuck = [p for p in watch.parked if p.side == "publish" or p.oldest > patience]
    total = sum(p.events for p in watch.parked)
    worst = max(stuck, key=lambda p: p.oldest, default=None)
    if worst is not None:
        text = (
            f"{sum(p.events for p in stuck)} events are parked, the oldest for {worst.oldest:.0f} s: "
            f"{worst.table or 'no table'}, {worst.reason}."
        )
    else:
        text = f"{total} events wait for what is on its way." if total else "No event is parked."
    metadata: Metadata = {
        "parked_publish": watch.status.parked_publish,
        "parked_apply": watch.status.parked_apply,
        "held": watch.status.held_publish,
        "warning_above": f"{patience:g} s (events of other contours)",
    }
    if watch.parked:
        metadata["parked"] = _table(
            ("side", "table", "reason", "events", "oldest_seconds"),
            [(p.side, p.table, p.reason, p.events, round(p.oldest, 1)) for p in watch.parked],
        )
    return Finding("parked_events", "warning" if stuck else "ok", text, metadata)


def heartbeat(pairs: Sequence[Pair], settings: Settings) -> Finding:
    """Every contour that this one knows, itself included."""
    monitoring = settings.monitoring
    if not monitoring.heartbeat_interval:
        return Finding("heartbeat", "ok", "Heartbeats are switched off.", {})
    longest = monitoring.heartbeat_warning.total_seconds()
    metadata: Metadata = {"warning_above": f"{longest:g} s"}
    if not pairs:
        return Finding("heartbeat", "unknown", "No contour was heard of here yet.", metadata)
    metadata["contours"] = _table(
        ("contour", "state", "silent_seconds", "arrived_until_seconds_ago", "clock_ahead_ms"),
        [
            (
                p.contour,
                p.state,
                round(p.silent, 1),
                "not told" if p.arrived is None else f"{p.arrived:.1f}",
                "not told" if p.clock_ahead is None else f"{p.clock_ahead * 1000:.0f}",
            )
            for p in pairs
        ],
    )
    fenced = [p.contour for p in pairs if p.state == "fenced"]
    silent = [p for p in pairs if p.state == "active" and p.silent > longest]
    if fenced:
        text = f"Fenced: {', '.join(fenced)}."
    elif silent:
        text = "; ".join(f"{p.contour} is silent for {p.silent:.0f} s" for p in silent) + "."
    else:
        text = f"All {len(pairs)} contours are heard of."
    verdict: Verdict = "error" if fenced else "warning" if silent else "ok"
    return Finding("heartbeat", verdict, text, metadata)


def queue_health(watch: Watch, monitoring: MonitoringSettings) -> Finding:
    """The table that the queue is, for PostgreSQL."""
    queue, held = watch.queue, watch.status.held_publish
    age = timedelta(seconds=queue.oldest_snapshot)
    troubles = [
        text
        for text, trouble in (
            (f"{queue.dead_rows} dead rows", queue.dead_rows >= monitoring.dead_rows_warning),
            (f"{queue.holder} is open for {_words(age)}", age > monitoring.snapshot_warning),
            (f"{held} events are held behind refused ones", held >= monitoring.held_warning),
        )
        if trouble
    ]
    metadata: Metadata = {
        "dead_rows": queue.dead_rows,
        "held": held,
        "oldest_snapshot_seconds": round(queue.oldest_snapshot, 1),
        "size_bytes": queue.size,
        "warning_at": f"{monitoring.dead_rows_warning:,} dead rows, {monitoring.held_warning} held, "
        f"a transaction of {_words(monitoring.snapshot_warning)}",
    }
    if queue.holder:
        metadata["oldest_snapshot"] = queue.holder
    if not queue.sees_everybody:
        metadata["note"] = (
            "Transactions of other roles are not seen. Remedy: grant pg_read_all_stats to the role "
            "that the pipeline connects as."
        )
    return Finding(
        "queue_health",
        "warning" if troubles else "ok",
        ("; ".join(troubles) or f"{queue.dead_rows} dead rows, no old transaction") + ".",
        metadata,
    )


def apply_lags(watch: Watch, settings: Settings) -> Iterable[Finding]:
    """One verdict a table. Nobody applies: then nobody has looked at Kafka either."""
    lags = {lag.topic: lag for lag in watch.lags}
    for table in settings.tables:
        topic = topic_for(table, prefix=settings.kafka.topic_prefix)
        yield apply_lag(
            table, lags.get(topic), appliers=watch.status.appliers, monitoring=settings.monitoring
        )


def apply_lag(
    table: str, lag: ApplyLag | None, *, appliers: int, monitoring: MonitoringSettings
) -> Finding:
    """``None``: no event of the table was ever read here."""
    patience = monitoring.apply_stalled_warning
    behind = lag.events if lag else 0
    still = timedelta(seconds=lag.still) if lag and behind else timedelta()
    metadata: Metadata = {
        "events_behind": behind,
        "warning_at": f"{monitoring.apply_lag_warning:,} events, or {_words(patience)} without any",
    }
    verdict: Verdict | Literal["unknown"] = "ok"
    text = f"{behind} events are still in Kafka." if behind else "All events are applied."
    if not appliers:
        verdict, text = "unknown", f"No applier is alive; when one was, {behind} events were left."
    elif behind >= monitoring.apply_lag_warning:
        verdict = "warning"
    elif still > patience:
        verdict, text = "warning", f"{behind} events wait, none was applied for {_words(still)}."
    return Finding("apply_lag", verdict, text, metadata, table)


def contour_checks(settings: Settings) -> dg.AssetChecksDefinition:
    """The same for an operator's *Execute*."""
    contour = settings.contour.name
    about: list[tuple[CheckName, str | None, str]] = [
        *((check, None, text) for check, text in DESCRIPTIONS.items()),
        *((check, table, APPLY_LAG) for check, table in _apply_checks(settings)),
    ]

    @dg.multi_asset_check(
        name="contour_checks",
        specs=[
            dg.AssetCheckSpec(check, asset=asset_of(contour, table), description=text)
            for check, table, text in about
        ],
        can_subset=True,
    )
    def check_contour(
        context: dg.AssetCheckExecutionContext, postgres: PostgresResource
    ) -> Iterator[dg.AssetCheckResult]:
        yield from results(context, contour, findings(sight_of(postgres), settings))

    return check_contour


def sight_of(postgres: PostgresResource) -> Sight:
    """One look, or why there is none now. Fatal errors are raised."""
    try:
        return postgres.watch()
    except TransientError as error:
        return error


def _apply_checks(settings: Settings) -> list[tuple[Literal["apply_lag"], str]]:
    return [("apply_lag", table) for table in settings.tables]


def _words(age: timedelta) -> str:
    seconds = age.total_seconds()
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length or seconds == length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str | float]]) -> dg.TableMetadataValue:
    return dg.MetadataValue.table(
        [dg.TableRecord(dict(zip(columns, row, strict=True))) for row in rows],
        schema=dg.TableSchema(columns=[dg.TableColumn(name) for name in columns]),
    )
