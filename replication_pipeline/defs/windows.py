"""The ops and jobs that run one window each.

A window repeats cycles for minutes inside one run (``engine.window``), because a run costs seconds
and a batch milliseconds. Consequences kept here:

* no ``RetryPolicy``: in this executor it would turn *Terminate* into another attempt. Outages are
  waited out inside the window; a window that fails is replaced by the sensor;
* the op answers SIGINT and SIGTERM itself: the batch in hand is finished, the totals are reported,
  connections are closed. Then, if an operator pressed *Terminate*, the run ends as CANCELED, as the
  operator expects; on any other signal (a service that is stopped, Ctrl+C) it ends as SUCCESS,
  since nothing failed, and so that no failure alert is sent for an orderly stop;
* a second signal interrupts the batch itself; its transaction is rolled back.

No postponed annotations here: Dagster compares the type of an op's ``context`` as an object.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import dagster as dg
from pydantic import Field

from replication_pipeline import logs
from replication_pipeline.defs import chart
from replication_pipeline.defs.lanes import (
    INSTANCE_TAG,
    PROCESS_TAG,
    REASON_TAG,
    Lane,
    apply_lane,
    publish_lane,
)
from replication_pipeline.defs.processes import mark
from replication_pipeline.defs.report import WindowReport
from replication_pipeline.defs.resources import KafkaResource, PostgresResource
from replication_pipeline.domain.errors import FatalError
from replication_pipeline.domain.model import WindowTotals
from replication_pipeline.engine.stopping import StopToken, stop_on_signals
from replication_pipeline.engine.window import Until
from replication_pipeline.settings import Settings

# For the chart, of who has stopped a window: a person in the UI, or a supervisor, who soon kills.
PATIENCE = {True: timedelta(seconds=5), False: timedelta()}
# A window that a sensor keeps alive lasts so much longer when its successor isn't there yet.
OVERTIME: Final = timedelta(minutes=1)


class WindowConfig(dg.Config):
    """How long this window lasts."""

    window_seconds: float | None = Field(
        default=None,
        ge=0,
        description="Length of this window in seconds; 0 runs one cycle and ends. Empty: as the "
        "contour's configuration says (publisher.window or consumer.window).",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowRun:
    """What a window needs to know of the run it is in."""

    instance: str
    stop: StopToken
    length: timedelta
    until: Until
    overtime: timedelta
    report: WindowReport


@dg.op(
    description="Takes captured changes from the queue and publishes them to Kafka, batch after "
    "batch, until the window is over. Safe to run at any time, and several at once."
)
def publish_batches(
    context: dg.OpExecutionContext,
    config: WindowConfig,
    postgres: PostgresResource,
    kafka: KafkaResource,
) -> None:
    """One publish window."""
    from replication_pipeline import runtime

    settings = postgres.settings()

    def window(run: WindowRun) -> WindowTotals:
        with postgres.outbox(run.instance) as outbox, kafka.producer() as producer:
            return runtime.publish_window(
                settings,
                outbox=outbox,
                producer=producer,
                stop=run.stop,
                length=run.length,
                until=run.until,
                overtime=run.overtime,
                observer=run.report,
                instance=run.instance,
            )

    run_window(context, settings, publish_lane(settings), config, window)


@dg.op(
    description="Reads changes of other contours from Kafka and applies those that are newer than "
    "what the tables hold, until the window is over. Safe to run at any time, and several at once."
)
def apply_batches(
    context: dg.OpExecutionContext,
    config: WindowConfig,
    postgres: PostgresResource,
    kafka: KafkaResource,
) -> None:
    """One apply window."""
    from replication_pipeline import runtime

    settings = postgres.settings()

    def window(run: WindowRun) -> WindowTotals:
        with postgres.inbox(run.instance) as inbox, kafka.consumer(inbox) as consumer:
            return runtime.apply_window(
                settings,
                inbox=inbox,
                consumer=consumer,
                stop=run.stop,
                length=run.length,
                until=run.until,
                overtime=run.overtime,
                observer=run.report,
                instance=run.instance,
            )

    run_window(context, settings, apply_lane(settings), config, window)


def run_window(
    context: dg.OpExecutionContext,
    settings: Settings,
    lane: Lane,
    config: WindowConfig,
    window: Callable[[WindowRun], WindowTotals],
) -> None:
    """Run ``window`` under signal handlers and report it.

    ``Failure`` when an operator has to act; ``DagsterExecutionInterruptedError`` after *Terminate*.
    """
    from replication_pipeline.runtime import instance_name

    logs.configure(settings.logging, contour=lane.contour)
    instance = instance_name(settings, lane.role)
    length = (
        lane.window if config.window_seconds is None else timedelta(seconds=config.window_seconds)
    )
    # What this run really is, for the sensor and for Dagster's monitor (an operator may have chosen
    # another length), and the instance, which leads from the run to its log lines.
    tags = {
        **lane.time_tags(length),
        INSTANCE_TAG: instance,
        PROCESS_TAG: mark() or "unknown",  # always marked: a run without a mark is taken for dead
    }
    context.instance.add_run_tags(context.run_id, tags)
    kept_alive = REASON_TAG in context.run.tags and lane.minimum > 0
    report = WindowReport(context, settings, lane.role, instance)
    with stop_on_signals(StopToken()) as stop:
        run = WindowRun(
            instance=instance,
            stop=stop,
            length=length,
            until="time" if length else "one_cycle",
            overtime=OVERTIME if kept_alive else timedelta(),
            report=report,
        )
        try:
            totals = window(run)
        except FatalError as error:
            report.finish(report.totals, failed=True)
            raise dg.Failure(description=str(error), allow_retries=False) from error
        terminated = bool(stop) and _terminated(context)
        report.finish(totals, patience=PATIENCE[terminated] if stop else chart.PATIENCE)
    if terminated:
        raise dg.DagsterExecutionInterruptedError(f"ended in good order on {stop.reason}")


def _terminated(context: dg.OpExecutionContext) -> bool:
    run = context.instance.get_run_by_id(context.run_id)
    return run is not None and run.status is dg.DagsterRunStatus.CANCELING


def window_jobs(settings: Settings) -> list[dg.JobDefinition]:
    """The jobs ``publish`` and ``apply``; each window length is filled in in the Launchpad."""

    def job(lane: Lane, op: dg.OpDefinition, description: str) -> dg.JobDefinition:
        @dg.job(
            name=lane.job,
            description=description,
            executor_def=dg.in_process_executor,  # the op is on the main thread, where signals go
            tags=lane.tags,
            config=dg.RunConfig(
                ops={op.name: WindowConfig(window_seconds=lane.window.total_seconds())}
            ),
        )
        def window_job() -> None:
            op()

        return window_job

    return [
        job(
            publish_lane(settings),
            publish_batches,
            "One window of queue → Kafka. publish_sensor keeps these runs alive; launching one by "
            "hand adds a worker for as long as it lasts.",
        ),
        job(
            apply_lane(settings),
            apply_batches,
            "One window of Kafka → tables. apply_sensor keeps these runs alive; launching one by "
            "hand adds a worker for as long as it lasts.",
        ),
    ]
