"""The sensors that tell people: of trouble seen in the contour, and of runs that failed.

``alert_sensor`` takes one look at the database on each tick, stores the cheap checks' verdicts without
a run, and brings every receiver up to what is. When a message can't be sent it is tried again on later
ticks. A tick that was killed between sending and saving its cursor sends once more; messages of one
trouble have one id, so receivers can tell.

``run_failure_sensor`` tells of failed runs: of the first in a row for each job, and again after one has
succeeded. Windows that fail over and over are told as ``publisher_down`` or ``applier_down``.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Final

import dagster as dg

from replication_pipeline import logs
from replication_pipeline.defs import checks, deep, signals
from replication_pipeline.defs.lanes import CONTOUR_TAG, VERDICT_TAG
from replication_pipeline.defs.maintenance import LOCATION_TAG
from replication_pipeline.defs.resources import AlertsResource, PostgresResource
from replication_pipeline.defs.sensors import MINIMUM_INTERVAL
from replication_pipeline.defs.watched import Sight
from replication_pipeline.defs.window_runs import FINISHED
from replication_pipeline.domain.alerts import Alert
from replication_pipeline.domain.errors import ReplicationError
from replication_pipeline.notify import Message, Receiver

DEEP_EVERY: Final = 60.0  # seconds between looks at what the deep checks' runs said
ATTEMPTS: Final = 3
PAUSE: Final = 2.0  # seconds
RUNS_READ: Final = 50


@dg.sensor(
    minimum_interval_seconds=MINIMUM_INTERVAL,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Judges the contour's health, keeps the history of its checks, and tells people of "
    "trouble and of its end, as `monitoring` of the configuration says. Off: nobody is told.",
)
def alert_sensor(
    context: dg.SensorEvaluationContext, postgres: PostgresResource, alerts: AlertsResource
) -> dg.SensorResult:
    """One look, its verdicts, and what there is to tell."""
    settings = postgres.settings()
    contour, now = settings.contour.name, round(time.time(), 1)
    logs.configure(settings.logging, contour=contour)
    sight: Sight
    try:
        sight = postgres.watch()
    except ReplicationError as error:  # a fatal one is an alert as well
        sight = error
    memory = signals.Memory.read(context.cursor)
    if now - memory.deep_at >= DEEP_EVERY:
        said = deep.last_verdicts(context.instance, settings)
        memory = replace(memory, deep=said, deep_at=now)
    memory, found = signals.look(sight, memory, settings, now=now)
    due, stored = signals.verdicts(found, memory, now=now, settings=settings)
    receivers, errors = signals.tell(
        contour, memory.alerts, memory.receivers, alerts.receivers(), now=now
    )
    for untold in errors:
        logs.get_logger("alerts").error("not told", error=untold.message, remedy=untold.remedy)
    after = replace(memory, verdicts=stored, receivers=receivers)
    troubles = [_words(name, alert, now) for name, alert in memory.alerts.items() if _stands(alert)]
    return dg.SensorResult(
        skip_reason="; ".join([*troubles, *(untold.message for untold in errors)])
        or "nothing to tell",
        asset_events=[checks.evaluation(finding, contour) for finding in due],
        cursor=after.write(now=now),
    )


def _stands(alert: Alert) -> bool:
    return alert.level != "ok" or alert.coming is not None


def _words(name: str, alert: Alert, now: float) -> str:
    if alert.level == "ok":
        return f"{name} {alert.coming} if it stays so"
    going = "" if alert.coming is None else f", {alert.coming} if it stays so"
    return f"{name} {alert.level.upper()} for {now - alert.began:.0f} s: {alert.text}{going}"


@dg.run_failure_sensor(
    name="run_failure_sensor",
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Tells people of the first failed run of each job; again after one has succeeded.",
)
def run_failure_sensor(
    context: dg.RunFailureSensorContext, postgres: PostgresResource, alerts: AlertsResource
) -> dg.SkipReason | None:
    """One failed run."""
    settings = postgres.settings()
    contour, run = settings.contour.name, context.dagster_run
    logs.configure(settings.logging, contour=contour)
    if VERDICT_TAG in run.tags:
        return dg.SkipReason(
            f"run {run.run_id} has failed on purpose, to show hours or reasons red"
        )
    if _failed_before(context.instance, run):
        return dg.SkipReason(f"the run of {run.job_name} before {run.run_id} failed as well")
    now = time.time()
    message = Message(
        contour,
        f"run of {run.job_name} failed",
        "warning",
        _why(context),
        f"Open run {run.run_id} in the Dagster UI; its last error says what to do.",
        began=now,
        at=now,
    )
    untold = [
        error.message for receiver in alerts.receivers() if (error := _send(receiver, message))
    ]
    if untold:  # the tick turns red; nothing else would show it
        raise dg.Failure(f"run {run.run_id} failed, and not all were told: {'; '.join(untold)}")
    return None


def _failed_before(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether the run of the same job and contour that came before this one failed."""
    ours = {tag: run.tags[tag] for tag in (CONTOUR_TAG, LOCATION_TAG) if tag in run.tags}
    records = instance.get_run_records(
        dg.RunsFilter(job_name=run.job_name, tags=ours, statuses=FINISHED), limit=RUNS_READ
    )
    ids = [record.dagster_run.run_id for record in records]  # newest first
    if not ours or run.run_id not in ids:
        return False
    before = records[ids.index(run.run_id) + 1 :]
    return bool(before) and before[0].dagster_run.status is dg.DagsterRunStatus.FAILURE


def _why(context: dg.RunFailureSensorContext) -> str:
    """Only what is meant for people: other errors' texts may quote rows."""
    for event in context.get_step_failure_events():
        data = event.step_failure_data
        if data.user_failure_data is not None and data.user_failure_data.description:
            return f"Step {event.step_key}: {data.user_failure_data.description}"
        error = data.error and (data.error.cause or data.error)  # Dagster wraps it
        return f"Step {event.step_key} ended with {error.cls_name if error else 'no known error'}."
    return "The run ended without an error of its own: its process was lost, or it never started."


def _send(receiver: Receiver, message: Message) -> ReplicationError | None:
    for attempt in range(ATTEMPTS):
        try:
            receiver.send(message)
        except ReplicationError as error:
            if attempt == ATTEMPTS - 1:
                return error
            time.sleep(PAUSE)
        else:
            return None
    return None
