"""How many windows the sensors request, on Dagster's real storage with real run records."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

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
from replication_pipeline.defs.scaling import Load, Running, decide
from replication_pipeline.defs.window_runs import (
    HANDOVER,
    Failures,
    LiveWindow,
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
    op="publish_batches",
    window=WINDOW,
    extra_window=timedelta(minutes=2),
    margin=timedelta(minutes=5),
    minimum=1,
    maximum=4,
    per_window=5_000,
    late=timedelta(seconds=10),
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
    done: int = 0
    age: float = 1.0
    workers: int = 9

    def status(self) -> ContourStatus:
        return ContourStatus(
            contour="a",
            unpublished=self.unpublished,
            oldest_unpublished_seconds=self.age if self.unpublished else 0.0,
            parked_publish=self.parked,
            held_publish=0,
            parked_apply=0,
            publishers=self.workers,
            appliers=self.workers,
            apply_lag_events=self.lag,
            processed_total=self.done,
            failed_total=0,
            applied_total=self.done,
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
    load = None if backlog is None else Load(backlog)
    decision = decide(LANE, running=Running(young=running), load=load, called_for_before=before)
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
    assert pauses == [0, 0, 5, 10, 20, 40, 60, 60]
    waiting = decide(
        LANE, running=Running(), load=Load(0), failures=Failures(3, timedelta(seconds=4))
    )
    assert waiting.request == 0
    assert "the last 3 windows failed, next try in 6 s" in waiting.text
    again = decide(
        LANE, running=Running(), load=Load(0), failures=Failures(3, timedelta(seconds=20))
    )
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
        assert re.fullmatch(
            r"1 publish window runs(, 1 of them yet to start)?, 1 wanted "
            r"\(12 unpublished, the oldest for 1 s(, none done since the last look)?\)",
            str(result.skip_reason.skip_message),
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
    run(instance, dg.DagsterRunStatus.STARTED, age=700, window="3600s")
    assert count(requested(instance, settings, Waiting())) == 0


def test_a_lasting_backlog_calls_for_more_windows_up_to_the_most(
    instance: dg.DagsterInstance, settings: Settings
) -> None:
    run(instance, dg.DagsterRunStatus.STARTED)
    waiting = Waiting(unpublished=12_000)
    first = requested(instance, settings, waiting)
    assert count(first) == 0, "it may drain before a new process is up"
    waiting = Waiting(unpublished=12_000, done=900)
    second = requested(instance, settings, waiting, cursor=first.cursor)
    assert count(second) == 2
    run(instance, dg.DagsterRunStatus.QUEUED)
    run(instance, dg.DagsterRunStatus.QUEUED)
    waiting = Waiting(unpublished=12_000, done=1_800)
    third = requested(instance, settings, waiting, cursor=second.cursor)
    assert count(third) == 0
    waiting = Waiting(unpublished=10**6, done=2_700)
    fourth = requested(instance, settings, waiting, cursor=third.cursor)
    assert count(fourth) == 0
    waiting = Waiting(unpublished=10**6, done=3_600)
    fifth = requested(instance, settings, waiting, cursor=fourth.cursor)
    assert count(fifth) == 1


def ticks(
    instance: dg.DagsterInstance, settings: Settings, *looks: Waiting, **more: Any
) -> dg.SensorResult:
    """The last of some ticks."""
    result = requested(instance, settings, looks[0], **more)
    for look in looks[1:]:
        result = requested(instance, settings, look, cursor=result.cursor, **more)
    return result


def test_windows_beyond_the_least_number_are_short_and_the_others_whole(
    instance: dg.DagsterInstance, settings: Settings
) -> None:
    result = ticks(instance, settings, *(Waiting(unpublished=12_000, done=n) for n in range(2)))
    lengths = [request.tags["window"] for request in result.run_requests or []]
    assert lengths == ["120s", "120s", "600s"]
    for request in result.run_requests or []:
        config = request.run_config["ops"]["publish_batches"]["config"]
        assert f"{config['window_seconds']:g}s" == request.tags["window"]
    dagster_limits = [int(r.tags["dagster/max_runtime"]) for r in result.run_requests or []]
    assert dagster_limits == [420, 420, 900]


def test_extra_windows_are_renewed_while_the_backlog_lasts_and_go_with_it(
    instance: dg.DagsterInstance, settings: Settings
) -> None:
    run(instance, dg.DagsterRunStatus.STARTED, age=5)
    run(instance, dg.DagsterRunStatus.STARTED, age=85, window="120s")
    still = [Waiting(unpublished=9_000, done=n) for n in range(2)]
    assert count(ticks(instance, settings, *still)) == 1
    half = [Waiting(unpublished=2_000, done=n) for n in range(2)]
    assert count(ticks(instance, settings, *half)) == 0


def test_a_window_is_kept_until_the_backlog_is_half_of_what_called_for_it(
    instance: dg.DagsterInstance, settings: Settings
) -> None:
    """Else it would go and come again at each wave."""
    for backlog, wanted in ((5_001, 2), (2_600, 2), (2_500, 1)):
        instance.wipe()
        run(instance, dg.DagsterRunStatus.STARTED)
        run(instance, dg.DagsterRunStatus.STARTED)
        looks = [Waiting(unpublished=backlog, done=n) for n in range(2)]
        result = ticks(instance, settings, *looks)
        assert f"2 publish windows run, {wanted} wanted" in str(result.skip_reason)


def test_while_nothing_moves_more_windows_would_not_help(
    instance: dg.DagsterInstance, settings: Settings
) -> None:
    run(instance, dg.DagsterRunStatus.STARTED)
    stuck = [Waiting(unpublished=50_000 + n, done=7) for n in range(4)]
    result = ticks(instance, settings, *stuck)
    assert count(result) == 1, "the one that runs may be what stands still"
    run(instance, dg.DagsterRunStatus.STARTED)
    result = ticks(instance, settings, *stuck)
    assert count(result) == 0
    assert "none done since the last look" in str(result.skip_reason)


def test_events_that_wait_for_long_call_for_one_more_window(
    instance: dg.DagsterInstance, settings: Settings
) -> None:
    run(instance, dg.DagsterRunStatus.STARTED)
    late = [Waiting(unpublished=3, age=11.0, done=n) for n in range(2)]
    assert count(ticks(instance, settings, late[0])) == 0
    assert count(ticks(instance, settings, *late)) == 1
    queued = run(instance, dg.DagsterRunStatus.QUEUED)
    assert count(ticks(instance, settings, *late)) == 0
    instance.delete_run(queued)
    run(instance, dg.DagsterRunStatus.STARTED)
    assert "2 wanted" in str(ticks(instance, settings, *late).skip_reason)
    better = [Waiting(unpublished=3, age=6.0, done=n) for n in range(2)]
    assert "2 wanted" in str(ticks(instance, settings, *better).skip_reason)
    well = [Waiting(unpublished=3, age=4.0, done=n) for n in range(2)]
    assert "1 wanted" in str(ticks(instance, settings, *well).skip_reason)
    parked = [Waiting(unpublished=3, parked=1, age=9_999.0, done=n) for n in range(2)]
    assert "1 wanted" in str(ticks(instance, settings, *parked).skip_reason)
    instance.wipe()
    run(instance, dg.DagsterRunStatus.QUEUED)
    assert count(ticks(instance, settings, *late)) == 0, "the first one is yet to start"


@pytest.mark.parametrize(
    "status",
    [
        dg.DagsterRunStatus.QUEUED,
        dg.DagsterRunStatus.NOT_STARTED,
        dg.DagsterRunStatus.STARTING,
    ],
)
def test_a_slow_queue_of_runs_is_not_filled_with_more(
    instance: dg.DagsterInstance, settings: Settings, status: dg.DagsterRunStatus
) -> None:
    cursor, total = None, 0
    for number in range(20):
        look = Waiting(unpublished=10_000 * (number + 1), age=5.0 * number, done=number)
        result = requested(instance, settings, look, cursor=cursor)
        cursor = result.cursor
        for _ in range(count(result)):
            run(instance, status)
            total += 1
    assert total == settings.publisher.max_publishers
    assert f"{total} of them yet to start" in str(result.skip_reason)


def test_a_run_that_never_gets_going_is_replaced_unless_it_is_queued(
    instance: dg.DagsterInstance, settings: Settings
) -> None:
    run(instance, dg.DagsterRunStatus.STARTING)
    now = time.time()
    assert [w.counts() for w in live_windows(instance, LANE, now + 55)] == [True]
    assert [w.counts() for w in live_windows(instance, LANE, now + 65)] == [False]
    instance.wipe()
    run(instance, dg.DagsterRunStatus.QUEUED)
    assert [w.counts() for w in live_windows(instance, LANE, now + 3_600)] == [True]


def test_parked_events_call_for_no_window(instance: dg.DagsterInstance, settings: Settings) -> None:
    run(instance, dg.DagsterRunStatus.STARTED)
    assert count(requested(instance, settings, Waiting(unpublished=50_000, parked=49_999))) == 0


def test_apply_scales_on_lag(instance: dg.DagsterInstance, settings: Settings) -> None:
    run(instance, dg.DagsterRunStatus.STARTED, lane=apply_lane(settings))
    first = requested(instance, settings, Waiting(lag=15_000), sensors.apply_sensor)
    assert count(first) == 0
    waiting = Waiting(lag=15_000, done=10)
    second = requested(instance, settings, waiting, sensors.apply_sensor, cursor=first.cursor)
    assert count(second) == 1


@pytest.mark.parametrize("cursor", ["", "not JSON", "{}", '{"called_for": 9}', "[]", "null"])
def test_a_strange_cursor_is_an_empty_one(cursor: str) -> None:
    assert sensors.Memory.read(cursor) == sensors.Memory()


def test_every_tick_tells_its_decision(instance: dg.DagsterInstance, settings: Settings) -> None:
    requesting = requested(instance, settings, Waiting())
    assert count(requesting) == 1
    words = "0 publish windows run, 1 wanted (0 unpublished)"
    assert str(requesting.cursor).startswith(f'{{"decision": "{words}"')
    memory = sensors.Memory.read(requesting.cursor)
    assert sensors.Memory.read(memory.write()) == memory


def test_requests_carry_tags_and_their_reason(
    instance: dg.DagsterInstance, settings: Settings
) -> None:
    (request,) = requested(instance, settings, Waiting()).run_requests or []
    assert request.run_key is None, "a key once used suppresses its request for ever"
    assert request.tags == {
        "contour": "a",
        "role": "publisher",
        "lane": "a/publish",
        "window": "600s",
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
    assert recent_failures(instance, LANE, time.time() + 21).pause_left() == timedelta()
    run(instance, dg.DagsterRunStatus.SUCCESS)
    assert recent_failures(instance, LANE, time.time()) == Failures()


def test_a_single_window_that_failed_or_was_killed_is_replaced_at_once(
    instance: dg.DagsterInstance, settings: Settings
) -> None:
    run(instance, dg.DagsterRunStatus.FAILURE)
    assert count(requested(instance, settings, Waiting())) == 1


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


def test_a_run_whose_process_is_gone_is_ended_in_dagsters_books(
    instance: dg.DagsterInstance, settings: Settings
) -> None:
    host, pid, started = str(processes.mark()).split("/")
    here = run(instance, dg.DagsterRunStatus.STARTED, process=f"{host}/{pid}/{int(started) + 1}")
    elsewhere = run(instance, dg.DagsterRunStatus.STARTED, process=f"elsewhere/{pid}/1")

    def status(run_id: str) -> str:
        found = instance.get_run_by_id(run_id)
        assert found is not None
        return found.status.value

    first = requested(instance, settings, Waiting())
    assert status(here) == "STARTED", "it may be about to tell its end"
    requested(instance, settings, Waiting(), cursor=first.cursor)
    assert (status(here), status(elsewhere)) == ("FAILURE", "STARTED")


def test_a_window_that_postgresql_does_not_hear_of_does_not_count(
    instance: dg.DagsterInstance, settings: Settings
) -> None:
    """Its host is gone, or its process is frozen: nobody could tell Dagster."""
    run(instance, dg.DagsterRunStatus.STARTED, age=200)

    def after(seconds: float, workers: int) -> dg.SensorResult:
        first = requested(instance, settings, Waiting(workers=0))
        assert count(first) == 0, "it may just not have been heard of yet, after an outage"
        earlier = sensors.Memory.read(first.cursor)
        assert earlier.silent_since is not None
        earlier = replace(earlier, silent_since=earlier.silent_since - seconds)
        return requested(instance, settings, Waiting(workers=workers), cursor=earlier.write())

    assert count(after(10, workers=0)) == 0
    (request,) = after(16, workers=0).run_requests or []
    assert "of which the database has not heard" in request.tags["requested_because"]
    assert request.tags["window"] == "600s"
    assert count(after(16, workers=1)) == 0
    cursor = after(16, workers=0).cursor
    outage = requested(instance, settings, Away(), cursor=cursor)
    assert count(outage) == 0, "nobody can be heard without the database"
    assert sensors.Memory.read(outage.cursor).silent_since is None
    run(instance, dg.DagsterRunStatus.STARTED, age=5)
    assert count(after(16, workers=1)) == 0, "the new one is there already"


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
