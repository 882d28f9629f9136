"""The sensors that keep windows alive: look, decide, request what is missing.

Dagster runs one tick of a sensor at a time and has one daemon, so counting runs and requesting the
difference has no race. A tick costs one look at the database and one at Dagster's storage; the row
of failures is read only when a window is missing. Requests carry no run key: a key once used would
suppress its request for ever. The cursor is a memory that may be lost at any time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta

import dagster as dg

from replication_pipeline.defs import checks, scaling, window_runs
from replication_pipeline.defs.lanes import REASON_TAG, Lane, apply_lane, publish_lane
from replication_pipeline.defs.resources import PostgresResource
from replication_pipeline.domain.errors import TransientError
from replication_pipeline.domain.health import ContourStatus

# Dagster's loop ticks every 5 s and no faster; asking for 5 would beat against that loop and give
# ticks after 5 or 10 s.
MINIMUM_INTERVAL = 1


@dataclass(frozen=True, slots=True)
class Memory:
    """What a tick leaves to the next: its decision in words, windows called for, how far the work had
    got and when, since when windows are silent, runs whose process was gone, and verdicts stored.
    """

    decision: str = ""  # for people: Dagster shows the cursor of each tick
    called_for: int = 0
    backlog: int | None = None
    done: int = 0
    at: float = 0.0
    silent_since: float | None = None
    gone: Sequence[str] = ()
    verdicts: checks.Stored = field(default_factory=dict)

    @classmethod
    def read(cls, cursor: str | None) -> Memory:
        """From the cursor; empty when there is none, or another version wrote it."""
        try:
            saved = json.loads(cursor or "")
            since = saved["silent_since"]
            return cls(
                decision=str(saved["decision"]),
                called_for=int(saved["called_for"]),
                backlog=None if saved["backlog"] is None else int(saved["backlog"]),
                done=int(saved["done"]),
                at=float(saved["at"]),
                silent_since=None if since is None else float(since),
                gone=[str(run_id) for run_id in saved["gone"]],
                verdicts={name: (str(v), float(at)) for name, (v, at) in saved["verdicts"].items()},
            )
        except (ValueError, TypeError, KeyError, AttributeError):
            return cls()

    def write(self) -> str:
        """As the cursor's text."""
        return json.dumps(asdict(self))


@dg.sensor(
    job_name="publish",
    minimum_interval_seconds=MINIMUM_INTERVAL,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Keeps publish windows alive, more of them while events pile up, and checks the "
    "queue. Off: windows that run end in their time and no new ones start.",
)
def publish_sensor(
    context: dg.SensorEvaluationContext, postgres: PostgresResource
) -> dg.SensorResult:
    """Request missing publish windows; store the queue's verdicts when they are due."""
    settings = postgres.settings()
    lane, now = publish_lane(settings), time.time()
    memory = Memory.read(context.cursor)
    look = checks.look_at(postgres)
    decision, memory = _decide(context.instance, lane, look, memory, now)
    due, verdicts = checks.due(
        checks.findings(look, settings.monitoring),
        memory.verdicts,
        now=now,
        every=settings.monitoring.check_interval,
    )
    return _result(
        lane,
        decision,
        replace(memory, verdicts=verdicts),
        [checks.evaluation(finding, lane.contour) for finding in due],
    )


@dg.sensor(
    job_name="apply",
    minimum_interval_seconds=MINIMUM_INTERVAL,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Keeps apply windows alive, more of them while this contour lags behind Kafka. "
    "Off: windows that run end in their time and no new ones start.",
)
def apply_sensor(
    context: dg.SensorEvaluationContext, postgres: PostgresResource
) -> dg.SensorResult:
    """Request missing apply windows."""
    lane = apply_lane(postgres.settings())
    memory = Memory.read(context.cursor)
    look = checks.look_at(postgres)
    return _result(lane, *_decide(context.instance, lane, look, memory, time.time()))


def _decide(
    instance: dg.DagsterInstance, lane: Lane, look: checks.Look, memory: Memory, now: float
) -> tuple[scaling.Decision, Memory]:
    """The decision, and the memory with what was seen for it."""
    windows = window_runs.live_windows(instance, lane, now)
    memory = replace(memory, gone=_close_ghosts(instance, windows, memory))
    running, load = scaling.Running.of(windows), None
    if isinstance(look, TransientError):
        memory = replace(memory, backlog=None, silent_since=None)
    else:
        load, memory = _load(lane, look, memory, now)
        unheard = running.unheard(scaling.workers_of(lane, look))
        since = (memory.silent_since or now) if unheard else None
        memory = replace(memory, silent_since=since)
        if since is not None and now - since >= scaling.SILENCE.total_seconds():
            running = replace(running, silent=unheard)

    def decide(failures: window_runs.Failures | None = None) -> scaling.Decision:
        return scaling.decide(
            lane,
            running=running,
            load=load,
            called_for_before=memory.called_for,
            failures=failures,
        )

    decision = decide()
    if decision.request:
        decision = decide(window_runs.recent_failures(instance, lane, now))
    return decision, replace(memory, decision=decision.text, called_for=decision.called_for)


def _load(
    lane: Lane, status: ContourStatus, memory: Memory, now: float
) -> tuple[scaling.Load, Memory]:
    backlog, done = scaling.backlog_of(lane, status), scaling.done_by(lane, status)
    known = memory.backlog is not None and now > memory.at
    more = max(0, done - memory.done)
    load = scaling.Load(
        backlog=backlog,
        age=scaling.age_of(lane, status),
        moved=not known or more > 0 or backlog < (memory.backlog or 0) or not backlog,
        rate=more / (now - memory.at) if known else None,
    )
    return load, replace(memory, backlog=backlog, done=done, at=now)


def _close_ghosts(
    instance: dg.DagsterInstance, windows: Sequence[window_runs.LiveWindow], memory: Memory
) -> Sequence[str]:
    """End, in Dagster's books, runs whose process was gone at the last tick already. A run that ends by
    itself tells so before its process does. Returns those that are gone.
    """
    gone = [window.run_id for window in windows if window.gone]
    for run_id in gone:
        run = instance.get_run_by_id(run_id) if run_id in memory.gone else None
        if run is not None and run.status in window_runs.LIVE:
            instance.report_run_failed(
                run, "The run's process is gone; its work is free for others, and nothing is lost."
            )
    return gone


def _result(
    lane: Lane,
    decision: scaling.Decision,
    memory: Memory,
    asset_events: Sequence[dg.AssetCheckEvaluation] = (),
) -> dg.SensorResult:
    lengths = [
        lane.extra_window if number < decision.extra else lane.window
        for number in range(decision.request)
    ]
    requests = [_request(lane, length, decision.text) for length in lengths]
    return dg.SensorResult(
        run_requests=requests or None,
        skip_reason=None if requests else decision.text,
        asset_events=list(asset_events),
        cursor=memory.write(),
    )


def _request(lane: Lane, length: timedelta, why: str) -> dg.RunRequest:
    config = {"ops": {lane.op: {"config": {"window_seconds": length.total_seconds()}}}}
    # A tick that requests runs has no text but its cursor, so the reason goes with the run as well.
    tags = {**lane.tags, **lane.time_tags(length), REASON_TAG: why}
    return dg.RunRequest(run_config=config, tags=tags)
