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
from dataclasses import asdict, dataclass, field

import dagster as dg

from replication_pipeline.defs import checks, scaling
from replication_pipeline.defs.lanes import REASON_TAG, Lane, apply_lane, publish_lane
from replication_pipeline.defs.resources import PostgresResource
from replication_pipeline.domain.errors import TransientError

# Dagster's loop ticks every 5 s and no faster; asking for 5 would beat against that loop and give
# ticks after 5 or 10 s.
MINIMUM_INTERVAL = 1


@dataclass(frozen=True, slots=True)
class Memory:
    """What a tick leaves to the next: windows called for, and verdicts stored."""

    called_for: int = 0
    verdicts: checks.Stored = field(default_factory=dict)

    @classmethod
    def read(cls, cursor: str | None) -> Memory:
        """From the cursor; empty when there is none, or another version wrote it."""
        try:
            saved = json.loads(cursor or "")
            return cls(
                called_for=int(saved["called_for"]),
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
    decision = _decide(context.instance, lane, look, memory, now)
    due, verdicts = checks.due(
        checks.findings(look, settings.monitoring),
        memory.verdicts,
        now=now,
        every=settings.monitoring.check_interval,
    )
    return _result(
        lane,
        decision,
        asset_events=[checks.evaluation(finding, lane.contour) for finding in due],
        verdicts=verdicts,
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
    return _result(lane, _decide(context.instance, lane, look, memory, time.time()))


def _decide(
    instance: dg.DagsterInstance, lane: Lane, look: checks.Look, memory: Memory, now: float
) -> scaling.Decision:
    backlog = None if isinstance(look, TransientError) else scaling.backlog_of(lane, look)
    running = sum(window.counts() for window in scaling.live_windows(instance, lane, now))

    def decide(failures: scaling.Failures | None = None) -> scaling.Decision:
        return scaling.decide(
            lane,
            running=running,
            backlog=backlog,
            called_for_before=memory.called_for,
            failures=failures,
        )

    decision = decide()
    if decision.request:
        decision = decide(scaling.recent_failures(instance, lane, now))
    return decision


def _result(
    lane: Lane,
    decision: scaling.Decision,
    *,
    asset_events: Sequence[dg.AssetCheckEvaluation] = (),
    verdicts: checks.Stored | None = None,
) -> dg.SensorResult:
    requests = [
        # A tick that requests runs has no text of its own, so the reason goes with the run.
        dg.RunRequest(tags={**lane.tags, REASON_TAG: decision.text})
        for _ in range(decision.request)
    ]
    return dg.SensorResult(
        run_requests=requests or None,
        skip_reason=None if requests else decision.text,
        asset_events=list(asset_events),
        cursor=Memory(decision.called_for, verdicts or {}).write(),
    )
