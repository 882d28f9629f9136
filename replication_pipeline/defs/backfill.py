"""``replication_queue``: the queue by hours, and *Materialize*, which sends what is stalled in some.

An hour that holds events which don't leave is red (its last run failed), one whose events have all
left is green. ``console_sensor`` sees to that; an operator who materializes hours

* puts their parked and refused events on their way again, with all attempts before them,
* publishes until they are out, beside windows that go on (locks in PostgreSQL share out the work),
* gets counts before and after, and a failed run, with the reasons, for hours that still hold any.

On request events that are published already are sent once more, by table.

No postponed annotations here: Dagster compares the type of an op's ``context`` as an object.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import dagster as dg
from pydantic import Field

from replication_pipeline.defs import hours
from replication_pipeline.defs.assets import queue_key, runbook, table_key
from replication_pipeline.defs.resources import KafkaResource, PostgresResource
from replication_pipeline.defs.running import Watcher, events_, orderly, table
from replication_pipeline.defs.sending import Sending
from replication_pipeline.domain.parked import HINTS
from replication_pipeline.settings import Settings

if TYPE_CHECKING:
    from replication_pipeline.engine.republish import Plan, Totals
    from replication_pipeline.postgres.stalled import Span, Waiting

PATIENCE: Final = 120.0  # seconds
MOST_TOLD: Final = 50  # hours that get a table of their own


class BackfillConfig(dg.Config):
    """What to do with the chosen hours."""

    tables: list[str] = Field(
        default=[], description="Only events of these tables are sent. Empty: of all."
    )
    only_look: bool = Field(
        default=False,
        description="Send nothing, only count. The run fails when events are stalled.",
    )
    republish: bool = Field(
        default=False,
        description="Also send once more what was published in these hours already, for a reader "
        "that lost it. Contours that have it skip it. Later events of the same keys follow.",
    )
    wait_seconds: float = Field(
        default=PATIENCE,
        ge=0,
        description="How long to go on publishing at most, until the events are out.",
    )


@dataclass(frozen=True, slots=True)
class Hours:
    """The partitions of a run: ``first`` to before ``end``. The very first has all before it too."""

    keys: Sequence[str]
    first: datetime
    end: datetime
    all_before: bool

    @property
    def since(self) -> datetime | None:
        """From when on; ``None``: from the beginning."""
        return None if self.all_before else self.first


def queue_asset(settings: Settings, since: datetime) -> dg.AssetsDefinition:
    """The queue of one contour, in hours from ``since`` on."""
    contour = settings.contour.name

    @dg.asset(
        key=queue_key(contour),
        deps=[table_key(contour, name) for name in settings.tables],
        description="Captured changes that wait for Kafka, by the hour (UTC) of their capture. "
        "Green: all of the hour are published. Red: some are stalled or parked; materialize the "
        "hour to send them, and read what the run says. Each publish window reports here too, and "
        "the checks say whether events leave faster than they arrive.",
        kinds={"postgres"},
        owners=settings.monitoring.owners,
        group_name=contour,
        metadata=runbook(settings, "backfill-a-stalled-hour"),
        partitions_def=hours.hours_since(since),
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    def replication_queue(
        context: dg.AssetExecutionContext,
        config: BackfillConfig,
        postgres: PostgresResource,
        kafka: KafkaResource,
    ) -> None:
        chosen = _chosen(context, since)
        settings = postgres.settings()
        with orderly(context, settings) as stop:
            _backfill(Sending(context, settings, postgres, kafka, stop), chosen, config)

    return replication_queue


def _chosen(context: dg.AssetExecutionContext, since: datetime) -> Hours:
    keys = context.partition_keys
    first, last = hours.hour_of(keys[0]), hours.hour_of(keys[-1])
    return Hours(keys, first, last + hours.HOUR, all_before=first <= since)


def _backfill(run: Sending, chosen: Hours, config: BackfillConfig) -> None:
    from replication_pipeline.postgres import stalled
    from replication_pipeline.postgres.connection import patient

    with run.postgres.connection() as connection:
        now = stalled.read_clock(connection)
        # What is captured while this runs is no matter of it.
        whole = stalled.Span(chosen.since, min(chosen.end, now))
        before = stalled.read_hours(connection, whole, first=chosen.first)
    if not config.only_look:
        span = stalled.Span(whole.since, whole.until, tuple(config.tables))
        if before:
            with run.postgres.connection(patient(run.settings)) as connection:
                armed = stalled.rearm(connection, span)
            run.context.log.info(
                "%s are parked no longer, %s refused ones are due at once",
                events_(armed.retried),
                f"{armed.hurried:,}",
            )
            _publish(run, span, config.wait_seconds)
        if config.republish and not run.stop:
            _republish(run, chosen, config)
    with run.postgres.connection() as connection:
        after = stalled.read_hours(connection, whole, first=chosen.first)
    if config.only_look:  # what has only just come is not stalled
        patience = run.settings.monitoring.stalled_after
        after = list(stalled.stalled(after, now=now, patience=patience))
    _tell(run, chosen, before, after)


def _publish(run: Sending, span: "Span", seconds: float) -> None:
    """Publish until none of ``span`` is on its way any more."""
    from replication_pipeline.postgres.stalled import count_on_their_way

    def out() -> bool:
        with run.postgres.connection() as connection:
            return not count_on_their_way(connection, span)

    run.publish_until(out, seconds)


def _republish(run: Sending, chosen: Hours, config: BackfillConfig) -> None:
    from replication_pipeline import runtime
    from replication_pipeline.engine.republish import Selection

    selection = Selection(since=chosen.since, until=chosen.end, tables=tuple(config.tables) or None)
    with runtime.open_republish(
        run.settings, selection, watcher=Watcher(run.context), stop=run.stop
    ) as again:
        plan = again.plan()
        totals = again.run()
    run.context.log_event(
        dg.AssetObservation(
            queue_key(run.settings.contour.name),
            description=f"{events_(totals.sent)} sent again",
            metadata={
                "sent_again": totals.sent,
                "sent_again_by_table": sent_again(plan, totals),
            },
        )
    )


def sent_again(plan: "Plan", totals: "Totals") -> dg.MarkdownMetadataValue:
    """What was chosen of each table, and what was sent."""
    return table(
        ("table", "events chosen", "keys", "sent again"),
        [
            (each.table, each.events, each.keys, totals.per_table[each.table])
            for each in plan.tables
        ],
    )


def _tell(
    run: Sending, chosen: Hours, before: "Sequence[Waiting]", after: "Sequence[Waiting]"
) -> None:
    """Counts of each hour before and after. ``Failure`` if any hour still holds events."""
    context, key = run.context, queue_key(run.settings.contour.name)
    figures = _figures(chosen, before, after)
    metadata = {
        "hours": table(
            ("hour (UTC)", "unpublished before", "parked before", "unpublished now", "parked now"),
            [(hour, *counts.values()) for hour, counts in figures.items()],
        )
    }
    done = [hour for hour, counts in figures.items() if not counts["unpublished_now"]]
    published = sum(w.events for w in before) - sum(w.events for w in after)
    context.log_event(
        dg.AssetObservation(
            key,
            description=f"{events_(published)} of these hours left the queue",
            metadata=metadata,
        )
    )
    if len(done) == len(chosen.keys):
        for hour in done:
            context.add_asset_metadata(figures[hour], asset_key=key, partition_key=hour)
        return
    for hour in done:
        context.log_event(dg.AssetMaterialization(key, partition=hour, metadata=figures[hour]))
    for hour in [name for name in chosen.keys if name not in done][:MOST_TOLD]:
        left = [each for each in after if hours.key_of(each.hour) == hour]
        told: dict[str, Any] = {**figures[hour], "what_is_left": what_is_left(left)}
        context.log_event(dg.AssetObservation(key, partition=hour, metadata=told))
    raise dg.Failure(
        description=_complaint(chosen, done, after),
        metadata={**metadata, "what_is_left": what_is_left(after)},
        allow_retries=False,
    )


def _figures(
    chosen: Hours, before: "Sequence[Waiting]", after: "Sequence[Waiting]"
) -> Mapping[str, dict[str, int]]:
    def count(waiting: "Sequence[Waiting]") -> tuple[Counter[str], Counter[str]]:
        unpublished, parked = Counter[str](), Counter[str]()
        for each in waiting:
            unpublished[hours.key_of(each.hour)] += each.events
            parked[hours.key_of(each.hour)] += each.events * (each.state == "parked")
        return unpublished, parked

    (unpublished, parked), (unpublished_now, parked_now) = count(before), count(after)
    return {
        key: {
            "unpublished_before": unpublished[key],
            "parked_before": parked[key],
            "unpublished_now": unpublished_now[key],
            "parked_now": parked_now[key],
        }
        for key in chosen.keys
    }


def _complaint(chosen: Hours, done: Sequence[str], after: "Sequence[Waiting]") -> str:
    left = len(chosen.keys) - len(done)
    which = "this hour" if len(chosen.keys) == 1 else f"{left} of {len(chosen.keys)} hours"
    reasons = Counter[str]()
    for each in after:
        reasons[each.reason or each.state] += each.events
    told = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
    hint = next((HINTS[reason] for reason, _ in reasons.most_common() if reason in HINTS), "")
    total = sum(reasons.values())
    return (
        f"{events_(total)} of {which} {'is' if total == 1 else 'are'} not published: {told}\n"
        f"→ {hint or 'materialize once Kafka takes them; publish runs say what keeps them'}"
    )


def what_is_left(waiting: "Sequence[Waiting]") -> dg.MarkdownMetadataValue:
    """Unpublished events by hour, state, table and reason, with what to do."""
    rows: list[tuple[Any, ...]] = [
        (
            hours.key_of(each.hour),
            each.table_name,
            each.state,
            each.reason,
            each.events,
            HINTS.get(each.reason, ""),
        )
        for each in waiting
    ]
    return table(("hour (UTC)", "table", "state", "reason", "events", "what to do"), rows)
