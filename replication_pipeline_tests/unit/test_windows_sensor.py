"""How many windows the sensors request, on Dagster's real storage with real run records."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.test_utils import create_run_for_test
from dagster._time import get_current_datetime

from replication_pipeline import definitions
from replication_pipeline.defs import processes, sensors
from replication_pipeline.defs.lanes import Lane, apply_lane, publish_lane
from replication_pipeline.defs.resources import PostgresResource
from replication_pipeline.defs.scaling import (
    HANDOVER,
    Failures,
    LiveWindow,
    decide,
    live_windows,
    recent_failures,
)
from replication_pipeline.domain.errors import TransientError, WrongContourError
from replication_pipeline.domain.health import ContourStatus
from replication_pipeline.settings import Settings, load_settings

pytestmark = pytest.mark.unit

WINDOW = timedelta(minutes=10)
LANE = Lane(
    contour="a",
    job="publish",
    role="publisher",
    window=WINDOW,
    margin=timedelta(minutes=5),
    minimum=1,
    maximum=4,
    per_window=5_000,
)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in list(os.environ):
        if name.startswith("REPLICATION_"):
            monkeypatch.delenv(name)
    path = tmp_path / "a.yaml"
    path.write_text(
        "contour: {name: a, id: 1}\npostgres: {host: db.invalid}\n"
        "kafka: {bootstrap_servers: 'kafka.invalid:9092'}\ntables: [users]\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("REPLICATION_CONFIG", str(path))
    return load_settings()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


class Away(PostgresResource):
    """The database can't be reached."""

    def status(self) -> ContourStatus:
        raise TransientError("contour a: connection refused")


class Foreign(PostgresResource):
    """The database is another contour's."""

    def status(self) -> ContourStatus:
        raise WrongContourError("the database belongs to contour b", remedy="check postgres.dsn")


class Waiting(PostgresResource):
    """So many events wait."""

    unpublished: int = 0
    parked: int = 0
    lag: int = 0

    def status(self) -> ContourStatus:
        return ContourStatus(
            contour="a",
            unpublished=self.unpublished,
            oldest_unpublished_seconds=1.0 if self.unpublished else 0.0,
            parked_publish=self.parked,
            held_publish=0,
            parked_apply=0,
            publishers=0,
            appliers=0,
            apply_lag_events=self.lag,
            processed_total=0,
            failed_total=0,
            applied_total=0,
            skipped_total=0,
            conflicts_total=0,
        )


def run(
    instance: dg.DagsterInstance,
    status: dg.DagsterRunStatus,
    *,
    lane: Lane = LANE,
    age: float = 0.0,
    marked: bool = True,
    **tags: str,
) -> str:
    """A run record of ``lane``; a started one has run for ``age`` seconds, marked on another host."""
    if marked and status is dg.DagsterRunStatus.STARTED:
        tags = {"process": "elsewhere/1/1"} | tags
    repository = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("a"), "__repository__")
    record: dg.DagsterRun = create_run_for_test(
        instance,
        job_name=lane.job,
        remote_job_origin=RemoteJobOrigin(repository, lane.job),
        tags={**lane.tags, **tags},
        status=dg.DagsterRunStatus.NOT_STARTED,
    )
    if status in (dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTING):
        report(instance, record, status)
    elif status is not dg.DagsterRunStatus.NOT_STARTED:
        report(instance, record, dg.DagsterRunStatus.STARTED, ago=age)
        if status is not dg.DagsterRunStatus.STARTED:
            report(instance, record, status)
    return record.run_id


def report(
    instance: dg.DagsterInstance,
    record: dg.DagsterRun,
    status: dg.DagsterRunStatus,
    *,
    ago: float = 0.0,
) -> None:
    from dagster._core.events import PIPELINE_RUN_STATUS_TO_EVENT_TYPE, DagsterEvent

    instance.run_storage.handle_run_event(
        record.run_id,
        DagsterEvent(
            event_type_value=PIPELINE_RUN_STATUS_TO_EVENT_TYPE[status].value,
            job_name=record.job_name,
        ),
        get_current_datetime() - timedelta(seconds=ago),
    )


def requested(
    instance: dg.DagsterInstance,
    settings: Settings,
    postgres: PostgresResource,
    sensor: dg.SensorDefinition = sensors.publish_sensor,
    cursor: str | None = None,
) -> dg.SensorResult:
    context = dg.build_sensor_context(
        instance=instance,
        cursor=cursor,
        definitions=definitions.build(settings),
        resources={"postgres": postgres},
    )
    result = sensor(context)
    assert isinstance(result, dg.SensorResult)
    return result


def count(result: dg.SensorResult) -> int:
    return len(result.run_requests or [])


def verdicts(result: dg.SensorResult) -> dict[str, bool]:
    events = result.asset_events
    return {e.check_name: e.passed for e in events if isinstance(e, dg.AssetCheckEvaluation)}


# The decision alone


@pytest.mark.parametrize(
    ("running", "backlog", "before", "more", "text"),
    [
        (0, 0, 0, 1, "0 publish windows run, 1 wanted (0 unpublished)"),
        (1, 12, 1, 0, "1 publish window runs, 1 wanted (12 unpublished)"),
        (1, 12_000, 1, 0, "1 publish window runs, 1 wanted (12000 unpublished); 3 if it stays so"),
        (1, 12_000, 3, 2, "1 publish window runs, 3 wanted (12000 unpublished)"),
        (1, 12_000, 2, 1, "1 publish window runs, 2 wanted (12000 unpublished); 3 if it stays so"),
        (2, 7_000, 9, 0, "2 publish windows run, 2 wanted (7000 unpublished)"),
        (1, 10**9, 4, 3, "1 publish window runs, 4 wanted (1000000000 unpublished)"),
        (3, 0, 3, 0, "3 publish windows run, 1 wanted (0 unpublished)"),
        (0, None, 4, 1, "0 publish windows run, 1 wanted (the database can't be reached)"),
        (1, None, 4, 0, "1 publish window runs, 1 wanted (the database can't be reached)"),
    ],
)
def test_decision(running: int, backlog: int | None, before: int, more: int, text: str) -> None:
    decision = decide(LANE, running=running, backlog=backlog, called_for_before=before)
    assert (decision.request, decision.text) == (more, text)


@pytest.mark.parametrize(
    ("window", "counts"),
    [
        (LiveWindow(WINDOW, None), True),
        (LiveWindow(WINDOW, timedelta()), True),
        (LiveWindow(WINDOW, WINDOW - HANDOVER - timedelta(seconds=1)), True),
        (LiveWindow(WINDOW, WINDOW - HANDOVER), False),
        (LiveWindow(WINDOW, WINDOW + timedelta(minutes=1)), False),
        (LiveWindow(WINDOW, timedelta(seconds=1), gone=True), False),
        # a window shorter than the hand-over keeps half of its time
        (LiveWindow(timedelta(seconds=30), timedelta(seconds=14)), True),
        (LiveWindow(timedelta(seconds=30), timedelta(seconds=16)), False),
        # one batch a run: as long as it runs, but not for ever
        (LiveWindow(timedelta(), timedelta(seconds=20)), True),
        (LiveWindow(timedelta(), timedelta(minutes=2)), False),
    ],
)
def test_which_windows_count(window: LiveWindow, counts: bool) -> None:
    assert window.counts() is counts


def test_failing_windows_come_later_and_later() -> None:
    pauses = [Failures(number).pause_left().total_seconds() for number in range(8)]
    assert pauses == [0, 5, 10, 20, 40, 60, 60, 60]
    waiting = decide(LANE, running=0, backlog=0, failures=Failures(3, timedelta(seconds=8)))
    assert waiting.request == 0
    assert "the last 3 windows failed, next try in 12 s" in waiting.text
    again = decide(LANE, running=0, backlog=0, failures=Failures(3, timedelta(seconds=20)))
    assert again.request == 1


# On run records


def test_a_requested_run_counts_from_the_queue_on(
    instance: dg.DagsterInstance, settings: Settings
) -> None:
    assert count(requested(instance, settings, Waiting())) == 1
    for status in (
        dg.DagsterRunStatus.QUEUED,
        dg.DagsterRunStatus.NOT_STARTED,
        dg.DagsterRunStatus.STARTING,
        dg.DagsterRunStatus.STARTED,
    ):
        run_id = run(instance, status)
        result = requested(instance, settings, Waiting(unpublished=12))
        assert count(result) == 0, status
        assert isinstance(result.skip_reason, dg.SkipReason)
        assert result.skip_reason.skip_message == (
            "1 publish window runs, 1 wanted (12 unpublished)"
        )
        instance.delete_run(run_id)


def test_runs_that_leave_or_have_left_do_not_count(
    instance: dg.DagsterInstance, settings: Settings
) -> None:
    run(instance, dg.DagsterRunStatus.SUCCESS)
    run(instance, dg.DagsterRunStatus.CANCELING)
    run(instance, dg.DagsterRunStatus.CANCELED)
    assert count(requested(instance, settings, Waiting())) == 1


def test_runs_of_other_lanes_and_contours_do_not_count(
    instance: dg.DagsterInstance, settings: Settings
) -> None:
    run(instance, dg.DagsterRunStatus.STARTED, lane=apply_lane(settings))
    run(instance, dg.DagsterRunStatus.STARTED, contour="b")
    assert count(requested(instance, settings, Waiting())) == 1


def test_the_successor_is_requested_before_the_end_and_once(
    instance: dg.DagsterInstance, settings: Settings
) -> None:
    run(instance, dg.DagsterRunStatus.STARTED, age=555)
    assert count(requested(instance, settings, Waiting())) == 0
    instance.wipe()
    run(instance, dg.DagsterRunStatus.STARTED, age=563)
    assert count(requested(instance, settings, Waiting())) == 1
    run(instance, dg.DagsterRunStatus.QUEUED)
    assert count(requested(instance, settings, Waiting())) == 0


def test_a_run_that_died_before_its_first_line_is_replaced(
    instance: dg.DagsterInstance, settings: Settings
) -> None:
    run(instance, dg.DagsterRunStatus.STARTED, age=50, marked=False)
    assert count(requested(instance, settings, Waiting())) == 0
    instance.wipe()
    run(instance, dg.DagsterRunStatus.STARTED, age=70, marked=False)
    assert count(requested(instance, settings, Waiting())) == 1


def test_a_window_launched_by_hand_is_taken_at_its_own_length(
    instance: dg.DagsterInstance, settings: Settings
) -> None:
    run(instance, dg.DagsterRunStatus.STARTED, age=700, window_seconds="3600")
    assert count(requested(instance, settings, Waiting())) == 0


def test_a_lasting_backlog_calls_for_more_windows_up_to_the_most(
    instance: dg.DagsterInstance, settings: Settings
) -> None:
    run(instance, dg.DagsterRunStatus.STARTED)
    first = requested(instance, settings, Waiting(unpublished=12_000))
    assert count(first) == 0, "it may drain before a new process is up"
    second = requested(instance, settings, Waiting(unpublished=12_000), cursor=first.cursor)
    assert count(second) == 2
    run(instance, dg.DagsterRunStatus.QUEUED)
    run(instance, dg.DagsterRunStatus.QUEUED)
    third = requested(instance, settings, Waiting(unpublished=12_000), cursor=second.cursor)
    assert count(third) == 0
    fourth = requested(instance, settings, Waiting(unpublished=10**6), cursor=third.cursor)
    assert count(fourth) == 0
    fifth = requested(instance, settings, Waiting(unpublished=10**6), cursor=fourth.cursor)
    assert count(fifth) == 1


def test_parked_events_call_for_no_window(instance: dg.DagsterInstance, settings: Settings) -> None:
    run(instance, dg.DagsterRunStatus.STARTED)
    assert count(requested(instance, settings, Waiting(unpublished=50_000, parked=49_999))) == 0


def test_apply_scales_on_lag(instance: dg.DagsterInstance, settings: Settings) -> None:
    run(instance, dg.DagsterRunStatus.STARTED, lane=apply_lane(settings))
    first = requested(instance, settings, Waiting(lag=15_000), sensors.apply_sensor)
    assert count(first) == 0
    second = requested(
        instance, settings, Waiting(lag=15_000), sensors.apply_sensor, cursor=first.cursor
    )
    assert count(second) == 1


@pytest.mark.parametrize("cursor", ["", "not JSON", "{}", '{"called_for": 9}', "[]", "null"])
def test_a_strange_cursor_is_an_empty_one(cursor: str) -> None:
    assert sensors.Memory.read(cursor) == sensors.Memory()


def test_requests_carry_tags_and_their_reason(
    instance: dg.DagsterInstance, settings: Settings
) -> None:
    (request,) = requested(instance, settings, Waiting()).run_requests or []
    assert request.run_key is None, "a key once used suppresses its request for ever"
    assert request.tags == {
        "contour": "a",
        "role": "publisher",
        "lane": "a/publish",
        "window_seconds": "600",
        "dagster/max_runtime": "900",
        "dagster/max_retries": "0",
        "dagster/priority": "10",
        "requested_because": "0 publish windows run, 1 wanted (0 unpublished)",
    }


def test_without_the_database_the_least_number_is_kept(
    instance: dg.DagsterInstance, settings: Settings
) -> None:
    for sensor in (sensors.publish_sensor, sensors.apply_sensor):
        (request,) = requested(instance, settings, Away(), sensor).run_requests or []
        assert "the database can't be reached" in request.tags["requested_because"]


def test_a_foreign_database_fails_the_tick_and_starts_nothing(
    instance: dg.DagsterInstance, settings: Settings
) -> None:
    with pytest.raises(WrongContourError, match="contour b"):
        requested(instance, settings, Foreign())


def test_windows_that_fail_at_once_are_not_started_every_tick(
    instance: dg.DagsterInstance, settings: Settings
) -> None:
    for _ in range(4):
        run(instance, dg.DagsterRunStatus.FAILURE)
    result = requested(instance, settings, Waiting())
    assert count(result) == 0
    assert "the last 4 windows failed" in str(result.skip_reason)
    assert recent_failures(instance, LANE, time.time() + 41).pause_left() == timedelta()
    run(instance, dg.DagsterRunStatus.SUCCESS)
    assert recent_failures(instance, LANE, time.time()) == Failures()


def test_a_run_whose_process_is_gone_does_not_count(
    instance: dg.DagsterInstance, settings: Settings
) -> None:
    """What is left in Dagster's books after the host died."""
    alive = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    mine = processes.mark()
    assert mine is not None
    started = processes._started(alive.pid)
    mark = f"{socket.gethostname()}/{alive.pid}/{started}"
    run(instance, dg.DagsterRunStatus.STARTED, process=mark)
    try:
        assert count(requested(instance, settings, Waiting())) == 0
    finally:
        alive.communicate(b"\n", timeout=10)
    assert count(requested(instance, settings, Waiting())) == 1
    assert [window.gone for window in live_windows(instance, LANE, time.time())] == [True]


def test_only_a_process_that_was_here_can_be_gone() -> None:
    mine = processes.mark()
    assert mine is not None
    host, pid, started = mine.split("/")
    assert not processes.is_gone(mine)
    assert processes.is_gone(f"{host}/{pid}/{int(started) + 1}"), "the number was used again"
    assert not processes.is_gone(f"elsewhere.invalid/{pid}/1")
    assert not processes.is_gone(None)
    assert not processes.is_gone("anything")


def test_the_tick_stores_verdicts_without_a_run(
    instance: dg.DagsterInstance, settings: Settings
) -> None:
    run(instance, dg.DagsterRunStatus.STARTED)
    first = requested(instance, settings, Waiting())
    assert verdicts(first) == {"unpublished_count": True, "publish_lag": True}
    second = requested(instance, settings, Waiting(), cursor=first.cursor)
    assert verdicts(second) == {}
    away = requested(instance, settings, Away(), cursor=second.cursor)
    assert verdicts(away) == {"unpublished_count": False, "publish_lag": False}


def test_lanes_follow_the_configuration(settings: Settings) -> None:
    assert publish_lane(settings).per_window == settings.publisher.scale_up_backlog
    assert apply_lane(settings).per_window == settings.consumer.scale_up_lag
    assert apply_lane(settings).role == "applier"
