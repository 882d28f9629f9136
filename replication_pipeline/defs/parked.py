"""``parked_events``: a partition for each reason that something is parked for, and what to do about it.

``console_sensor`` keeps the list: a reason comes when an event has been parked for it for a while, is
red, and goes with the last such event. Materializing one retries its events; the job ``parked`` is the
same with its form at hand, where an operator may also discard them, with a reason that is kept.

No postponed annotations here: Dagster compares the type of an op's ``context`` as an object.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

import dagster as dg
from pydantic import Field

from replication_pipeline.defs.assets import applied_key, parked_key, queue_key, runbook
from replication_pipeline.defs.resources import KafkaResource, PostgresResource
from replication_pipeline.defs.running import LONGEST, events_, orderly, table, tags_of
from replication_pipeline.defs.sending import Sending
from replication_pipeline.domain.errors import ConfigurationError, TransientError
from replication_pipeline.domain.parked import HINTS
from replication_pipeline.settings import Settings

if TYPE_CHECKING:
    from replication_pipeline.postgres.parked import ParkedEvent, Side

PATIENCE: Final = 60.0  # seconds
LOOK_EVERY: Final = 0.5


class Action(Enum):
    """What becomes of the events."""

    RETRY = "retry"
    DISCARD = "discard"
    LOOK = "look"


class ParkedConfig(dg.Config):
    """What to do with the events that are parked for the chosen reasons."""

    action: Action = Field(
        default=Action.RETRY,
        description="RETRY: try them again, with all attempts before them. DISCARD: give them up; "
        "they are kept in replication.discarded_events. LOOK: list them; the run fails if any is.",
    )
    because: str = Field(default="", description="Why they are discarded; kept with the events.")
    tables: list[str] = Field(default=[], description="Only events of these tables. Empty: of all.")
    ids: list[int] = Field(
        default=[], description="Only these events, by their ids as listed. Empty: all."
    )
    wait_seconds: float = Field(
        default=PATIENCE, ge=0, description="How long to wait at most for the outcome of a retry."
    )


def partitions_of(contour: str) -> dg.DynamicPartitionsDefinition:
    """Reasons: ``publish MSG_SIZE_TOO_LARGE``, ``apply missing_parent``."""
    return dg.DynamicPartitionsDefinition(name=f"{contour}_parked_events")


def key_of(side: str, reason: str) -> str:
    """The partition of a reason."""
    return f"{side} {reason}"


def parked_asset(settings: Settings) -> dg.AssetsDefinition:
    """What is parked in one contour."""
    contour = settings.contour.name

    @dg.asset(
        key=parked_key(contour),
        deps=[
            dg.AssetDep(queue_key(contour), partition_mapping=dg.AllPartitionMapping()),
            *(applied_key(contour, name) for name in settings.tables),
        ],
        description="Events that could not be published or applied, and wait. Each partition is a "
        "side and a reason, and is here as long as an event is parked for it. Materialize one to "
        "retry its events; to discard them, use the job `parked`. Its last run lists them.",
        kinds={"postgres"},
        owners=settings.monitoring.owners,
        group_name=contour,
        metadata=runbook(settings, "retry-a-parked-event"),
        partitions_def=partitions_of(contour),
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    def parked_events(
        context: dg.AssetExecutionContext,
        config: ParkedConfig,
        postgres: PostgresResource,
        kafka: KafkaResource,
    ) -> None:
        chosen = [_side_and_reason(key) for key in context.partition_keys]
        settings = postgres.settings()
        with orderly(context, settings) as stop:
            _handle(Sending(context, settings, postgres, kafka, stop), chosen, config)

    return parked_events


def parked_job(settings: Settings) -> "dg.UnresolvedAssetJobDefinition":
    """The asset's form as a job of its own."""
    return dg.define_asset_job(
        "parked",
        selection=dg.AssetSelection.assets(parked_key(settings.contour.name)),
        description="Retries or discards parked events: choose a side and reason as the partition, "
        "then the action. They are listed on the asset parked_events.",
        tags=tags_of(settings, LONGEST),
        executor_def=dg.in_process_executor,
    )


def _side_and_reason(key: str) -> "tuple[Side, str]":
    side, _, reason = key.partition(" ")
    return ("publish" if side == "publish" else "apply"), reason


def _handle(run: Sending, chosen: "Sequence[tuple[Side, str]]", config: ParkedConfig) -> None:
    from replication_pipeline.postgres.parked import SIDES

    if config.action is Action.DISCARD and not config.because.strip():
        raise ConfigurationError(
            "because is empty: nothing is discarded", remedy="say why, for those who ask later"
        )
    before = _parked(run, chosen, config)
    match config.action:
        case Action.RETRY:
            for side in SIDES:
                ids = [e.id for e in before if e.side == side and e.retriable]
                _retry(run, side, ids, config.wait_seconds)
        case Action.DISCARD:
            _discard(run, before, config.because.strip())
        case Action.LOOK:
            pass
    _tell(run, before, _parked(run, chosen, config), _parked(run, chosen, ParkedConfig()))


def _parked(
    run: Sending, chosen: "Sequence[tuple[Side, str]]", config: ParkedConfig
) -> "list[ParkedEvent]":
    from replication_pipeline.postgres.parked import list_parked

    ids, tables = config.ids or None, set(config.tables)
    with run.postgres.connection() as connection:
        return [
            event
            for side, reason in chosen
            for event in list_parked(connection, sides=[side], reason=reason, ids=ids)
            if not tables or event.table_name in tables
        ]


def _retry(run: Sending, side: "Side", ids: Sequence[int], seconds: float) -> None:
    from replication_pipeline.postgres.connection import patient
    from replication_pipeline.postgres.parked import retry_parked
    from replication_pipeline.postgres.stalled import count_undecided, read_tries

    if not ids:
        return
    with run.postgres.connection(patient(run.settings)) as connection:
        due = retry_parked(connection, side, ids=ids)
        run.context.log.info("%s of the %s side are due again", events_(due), side)

    def decided() -> bool:
        with run.postgres.connection() as connection:
            if side == "publish":
                return not count_undecided(connection, ids)
            return all(tries > 1 for tries in read_tries(connection, ids))  # 1: due

    if side == "publish":
        run.publish_until(decided, seconds)
    else:  # appliers do it; this run is none, as one that joins them would make them all pause
        _wait(run, decided, seconds)


def _wait(run: Sending, done: Callable[[], bool], seconds: float) -> None:
    from datetime import timedelta

    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if done():
                return
        except TransientError as error:
            run.context.log.warning("%s; waiting", error.message)
        if run.stop.wait(timedelta(seconds=LOOK_EVERY)):
            return


def _discard(run: Sending, events: "Sequence[ParkedEvent]", because: str) -> None:
    from replication_pipeline.postgres.connection import patient
    from replication_pipeline.postgres.parked import SIDES, discard_parked

    who = f" (Dagster run {run.context.run.run_id})"
    with run.postgres.connection(patient(run.settings)) as connection:
        for side in SIDES:
            ids = [event.id for event in events if event.side == side]
            gone = discard_parked(
                connection,
                side,
                ids,
                contour=run.settings.contour.name,
                because=because,
                who=who,
            )
            for name, count in sorted(gone.items()):
                run.context.log.info("%s of %s, %s side: discarded", events_(count), name, side)


def _tell(
    run: Sending,
    before: "Sequence[ParkedEvent]",
    after: "Sequence[ParkedEvent]",
    left: "Sequence[ParkedEvent]",
) -> None:
    """Counts before and after. ``Failure`` if any event is parked for the partitions' reasons."""
    context, key = run.context, parked_key(run.settings.contour.name)
    then = Counter((e.side, e.reason, e.table_name or "?") for e in before)
    now = Counter((e.side, e.reason, e.table_name or "?") for e in after)
    counts = table(
        ("side", "reason", "table", "parked before", "parked now"),
        [(*group, count, now[group]) for group, count in sorted(then.items())],
    )
    context.log_event(
        dg.AssetObservation(
            key,
            description=f"{events_(len(before))} parked before, {len(after):,} now",
            metadata={"parked": counts, "parked_before": len(before), "parked_now": len(after)},
        )
    )
    parked_here = {key_of(event.side, event.reason) for event in left}
    free = [name for name in context.partition_keys if name not in parked_here]
    if not parked_here:
        return
    for name in free:
        context.log_event(dg.AssetMaterialization(key, partition=name))
    for name in sorted(parked_here):
        events = [each for each in left if key_of(each.side, each.reason) == name]
        told: dict[str, Any] = {
            "parked_events": len(events),
            "events": listing(events, of_one_reason=True),
        }
        context.log_event(dg.AssetObservation(key, partition=name, metadata=told))
    reasons = "; ".join(sorted(parked_here))
    hint = next((HINTS[e.reason] for e in left if e.reason in HINTS), "")
    raise dg.Failure(
        description=f"{events_(len(left))} parked: {reasons}" + (f"\n→ {hint}" if hint else ""),
        metadata={"counts": counts, "events": listing(left)},
        allow_retries=False,
    )


def listing(
    events: "Sequence[ParkedEvent]", *, of_one_reason: bool = False
) -> dg.MarkdownMetadataValue:
    """A line an event, without values of rows; without what all of one reason have in common."""
    shared = () if of_one_reason else ("side", "reason", "what to do")
    names = ("id", "table", "key", "since", "tries", "behind", "detail", *shared)
    return table(
        names,
        [
            (
                str(event.id),
                event.table_name or "?",
                event.record_key or "?",
                f"{event.parked_at:%Y-%m-%d %H:%M:%S}" if event.parked_at else "",
                event.attempts,
                event.behind or 0,
                event.detail,
                *((event.side, event.reason, HINTS.get(event.reason, "")) if shared else ()),
            )
            for event in events
        ],
    )
