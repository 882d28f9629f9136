"""The asset pages of a contour tell the truth, and *Materialize* and the forms mend what they show."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa

from replication_pipeline.defs.assets import (
    applied_key,
    parked_key,
    queue_key,
    table_key,
    topic_key,
)
from replication_pipeline.defs.console import Memory
from replication_pipeline.defs.hours import HOUR, key_of
from replication_pipeline.domain.names import topic_for
from replication_pipeline.embedded import EmbeddedKafka, EmbeddedPostgres
from replication_pipeline.kafka.topics import ensure_topics
from replication_pipeline.postgres import installer
from replication_pipeline.postgres.connection import connect
from replication_pipeline_tests.applying import applying
from replication_pipeline_tests.conftest import USERS, Contour, MakeContours
from replication_pipeline_tests.integration.console import Console, instance_on
from replication_pipeline_tests.publishing import log_of, publishing, until

pytestmark = pytest.mark.integration

NOW = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
THEN = NOW - 5 * HOUR
SINCE = (NOW - timedelta(days=1)).replace(hour=0)
PARKED = (
    "update replication_queue set held = true, attempts = 5, parked_at = created_at, "
    "last_error = 'MSG_SIZE_TOO_LARGE: Broker: Message size too large' where record_key = %s"
)


@pytest.fixture(scope="module")
def instance(
    postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dg.DagsterInstance]:
    with instance_on(postgres, tmp_path_factory.mktemp("dagster")) as made:
        yield made


@pytest.fixture
def console(
    users: list[Contour], kafka: EmbeddedKafka, instance: dg.DagsterInstance, tmp_path: Path
) -> Iterator[Console]:
    made = Console.of(users[0], instance, tmp_path, SINCE)
    yield made
    for key in (queue_key("a"), parked_key("a")):
        instance.wipe_assets([key])
    for reason in instance.get_dynamic_partitions("a_parked_events"):
        instance.delete_dynamic_partition("a_parked_events", reason)


def capture(contour: Contour, number: int, hour: datetime) -> None:
    """One row, captured in that hour."""
    contour.run("insert into users (id) values (%s)", number)
    contour.run(
        "update replication_queue set created_at = %s where record_key = %s",
        hour + timedelta(minutes=10),
        key(number),
    )


def key(number: int) -> str:
    return f'{{"id":{number}}}'


def unpublished(contour: Contour) -> list[str]:
    return [
        name
        for (name,) in contour.run(
            "select record_key from replication_queue where not published order by id"
        )
    ]


def said(result: dg.ExecuteInProcessResult) -> str:
    """Why the step failed, as the run page shows it."""
    ((failure,),) = [[e for e in result.all_events if e.is_step_failure]]
    told = failure.step_failure_data.user_failure_data
    assert told is not None, failure.step_failure_data.error_display_string
    return told.description or ""


def shown(result: dg.ExecuteInProcessResult, name: str) -> str:
    """A table of the run's failure or of its op's output."""
    for event in result.all_events:
        data = event.event_specific_data
        found = getattr(getattr(data, "user_failure_data", data), "metadata", None) or {}
        if name in found:
            return str(found[name].value)
    raise AssertionError(f"{name} is not shown")


def test_the_shipped_instance_stores_everything_in_postgres(instance: dg.DagsterInstance) -> None:
    """From SQLAlchemy 2.1 on the bare scheme means psycopg 3, and no event can be stored then."""
    for storage in (instance.event_log_storage, instance.run_storage, instance.schedule_storage):
        assert type(storage).__module__.startswith("dagster_postgres."), storage
        url = getattr(storage, "postgres_url", "")
        assert sa.make_url(url).drivername == "postgresql+psycopg2"
    stored = dg.AssetMaterialization("guard")
    instance.report_runless_asset_event(stored)
    assert instance.fetch_materializations(dg.AssetKey("guard"), limit=1).records


def test_materializing_an_hour_sends_what_is_parked_in_it_beside_running_windows(
    users: list[Contour], console: Console
) -> None:
    contour = users[0]
    capture(contour, 1, THEN)
    capture(contour, 2, THEN)
    capture(contour, 3, THEN + 2 * HOUR)
    contour.run(PARKED, key(1))
    contour.run("update users set name = 'behind' where id = 1")
    contour.run(PARKED, key(3))
    with publishing(contour.settings):
        result = console.backfill(THEN, THEN + HOUR)
    assert result.success
    assert unpublished(contour) == [key(3)], "another hour's event is left alone"
    ids = [(e["after"]["id"], e["op"]) for e in log_of(contour)]
    assert sorted(ids) == [(1, "c"), (1, "u"), (2, "c")]
    hours = {key_of(THEN): "MATERIALIZED", key_of(THEN + HOUR): "MATERIALIZED"}
    assert console.colours(queue_key("a")) == hours
    told = console.latest(queue_key("a"))["hours"]
    assert re.search(
        rf"\| {key_of(THEN)} \| [12] \| 1 \| 0 \| 0 \|", told
    )  # a window sent the other
    assert f"| {key_of(THEN + HOUR)} | 0 | 0 | 0 | 0 |" in told


def test_an_hour_that_can_not_be_sent_is_red_and_says_why(
    make_contours: MakeContours,
    kafka: EmbeddedKafka,
    instance: dg.DagsterInstance,
    tmp_path: Path,
) -> None:
    contour, _ = make_contours(f"{USERS}; create table orders (id bigint primary key)", ["users"])
    with connect(contour.settings, application_name="test") as connection:
        installer.setup_table(connection, contour.settings, "orders")
    contour.settings.tables["orders"] = contour.settings.tables["users"]
    once = {"retry_backoff": "10ms", "max_attempts": 2}
    console = Console.of(contour, instance, tmp_path, SINCE, publisher=once)
    capture(contour, 1, THEN)
    contour.run("insert into orders values (7)")
    contour.run("update replication_queue set created_at = %s where table_name = 'orders'", THEN)
    result = console.backfill(THEN, wait_seconds=20)
    assert not result.success
    assert said(result).startswith("1 event of this hour is not published: 1 ")
    assert "make the topic (replication-pipeline setup-table), then retry" in said(result)
    assert "orders" in shown(result, "what_is_left")
    assert console.latest(queue_key("a"))["unpublished_now"] == 1, "on the partition's page"
    assert console.colours(queue_key("a")) == {key_of(THEN): "FAILED"}
    assert console.backfill(THEN, tables=["users"]).success is False, "orders are not asked for"
    ensure_topics(contour.settings, ["orders"])
    assert console.backfill(THEN).success
    assert console.colours(queue_key("a")) == {key_of(THEN): "MATERIALIZED"}
    instance.wipe_assets([queue_key("a")])


def test_published_events_of_an_hour_are_sent_again_by_table_when_asked(
    users: list[Contour], console: Console
) -> None:
    contour = users[0]
    capture(contour, 1, NOW)
    contour.publish()
    # Published in the same hour, whatever the clock says now.
    contour.run("update replication_queue set published_at = created_at")
    assert console.backfill(NOW).success
    assert len(log_of(contour)) == 1
    assert console.backfill(NOW, republish=True, tables=["no_such"]).success
    assert len(log_of(contour)) == 1
    assert console.backfill(NOW, republish=True, tables=["users"]).success
    assert len(log_of(contour)) == 2
    assert console.instance.fetch_observations(queue_key("a"), limit=2).records


def test_hours_turn_red_while_events_stall_and_green_when_they_are_out(
    users: list[Contour], console: Console
) -> None:
    contour, hour = users[0], queue_key("a")
    capture(contour, 1, THEN)
    capture(contour, 2, SINCE - timedelta(days=9))
    contour.run("insert into users (id) values (3)")  # has only just come
    first = console.tick()
    assert [run.success for run in first.runs] == [False, False]
    colours = console.colours(hour)
    assert colours.pop(key_of(THEN)) == colours.pop(key_of(SINCE)) == "FAILED"
    assert set(colours.values()) == {"MATERIALIZED"}
    assert key_of(datetime.now(UTC).replace(minute=0)) not in colours, (
        "the hour that runs is neither"
    )
    again = console.tick(first.cursor)
    assert again.runs == [], "what is red is told once"
    assert not [e for e in again.data.asset_events if e.asset_key == hour]
    contour.publish()
    mended = console.tick(again.cursor)
    assert mended.runs == []
    assert console.colours(hour)[key_of(THEN)] == "MATERIALIZED"
    assert console.colours(hour)[key_of(SINCE)] == "MATERIALIZED"
    assert Memory.read(mended.cursor).red == {}


def test_reasons_of_parked_events_come_and_go_and_are_retried(
    users: list[Contour], console: Console
) -> None:
    contour, reason = users[0], "publish MSG_SIZE_TOO_LARGE"
    capture(contour, 1, THEN)
    contour.run(PARKED, key(1))
    tick = console.tick()
    assert console.instance.get_dynamic_partitions("a_parked_events") == [reason]
    assert console.colours(parked_key("a")) == {reason: "FAILED"}
    assert {request.tags["verdict"] for request in tick.data.run_requests} == {"stalled", "parked"}
    assert "raise kafka.max_message_bytes" in said(tick.runs[-1])
    assert unpublished(contour) == [key(1)], "looking changes nothing"
    assert console.parked(reason).success
    assert unpublished(contour) == []
    console.tick(tick.cursor)
    assert console.instance.get_dynamic_partitions("a_parked_events") == []


def test_discarding_wants_a_reason_and_keeps_the_event(
    users: list[Contour], console: Console
) -> None:
    contour, reason = users[0], "publish MSG_SIZE_TOO_LARGE"
    for number in (1, 2):
        capture(contour, number, THEN)
        contour.run(PARKED, key(number))
    first, _ = (id_ for (id_,) in contour.run("select id from replication_queue order by id"))
    console.instance.add_dynamic_partitions("a_parked_events", [reason])
    refused = console.parked(reason, action="DISCARD")
    assert "because is empty" in said(refused)
    one = console.parked(reason, action="DISCARD", because="a test", ids=[first])
    assert said(one).startswith("1 event parked: publish MSG_SIZE_TOO_LARGE")
    assert "| publish | MSG\\_SIZE\\_TOO\\_LARGE | users | 1 | 0 |" in shown(one, "counts")
    assert contour.run(
        "select record_key, because, discarded_by like '%%(Dagster run ' || %s || ')' "
        "from replication.discarded_events",
        one.run_id,
    ) == [(key(1), "a test", True)]
    assert unpublished(contour) == [key(2)]


def test_the_apply_side_is_retried_by_appliers(
    make_contours: MakeContours,
    kafka: EmbeddedKafka,
    instance: dg.DagsterInstance,
    tmp_path: Path,
) -> None:
    """The run makes them due and waits for the verdict; a child without a parent stays, and is told."""
    ddl = (
        "create table parents (id bigint primary key); "
        "create table children (id bigint primary key, parent_id bigint references parents)"
    )
    a, b = make_contours(ddl, ["parents", "children"])
    console, reason = Console.of(b, instance, tmp_path, SINCE), "apply missing_parent"
    a.run("alter table parents disable trigger user; insert into parents values (1)")
    a.run("insert into children values (5, 1)")
    a.publish()
    with applying(b.settings):
        until(lambda: b.value("select count(*) from replication.parked_events") == 1, "parking")
        b.run("update replication.parked_events set parked_at = now() - interval '1 hour'")
        console.tick()
        assert instance.get_dynamic_partitions("b_parked_events") == [reason]
        refused = console.parked(reason)
        assert said(refused).startswith(f"1 event parked: {reason}\n→ tried by itself")
        b.run("alter table parents disable trigger user; insert into parents values (1)")
        assert console.parked(reason).success
    assert b.value("select count(*) from children") == 1
    assert console.colours(parked_key("b")) == {reason: "MATERIALIZED"}


def test_the_numbers_of_all_assets_are_stored_now_and_then(
    users: list[Contour], console: Console
) -> None:
    a, b = users
    a.run("insert into users (id) select generate_series(1, 20)")
    a.run("analyze users")
    a.publish()
    b.apply()
    a.apply()
    a.run("insert into users (id) values (21)")
    first = console.tick()
    assert console.latest(table_key("a", "users"))["rows_estimated"] == 20
    assert console.latest(table_key("a", "users"))["unpublished"] == 1
    topic = topic_for("users", prefix=a.settings.kafka.topic_prefix)
    assert console.latest(topic_key(topic))["events_ever"] == 20
    assert console.latest(applied_key("a", "users"))["lag_events"] == 0
    assert console.latest(queue_key("a"))["unpublished"] == 1
    soon = console.tick(first.cursor)
    assert soon.data.asset_events == [], "not on every tick"


def test_jobs_from_their_forms(users: list[Contour], console: Console) -> None:
    a, _ = users
    a.run("insert into users (id) select generate_series(1, 5)")
    a.publish()
    dry = console.run("republish", "republish_events", since="1h", dry_run=True)
    assert dry.success
    assert "| users | 5 | 5 | 0 |" in shown(dry, "by_table")
    assert len(log_of(a)) == 5
    sent = console.run("republish", "republish_events", record_keys=[key(2)])
    assert "| users | 1 | 1 | 1 |" in shown(sent, "by_table")
    assert len(log_of(a)) == 6
    nothing = console.run("republish", "republish_events", since="yesterday")
    assert "since yesterday is no time" in said(nothing)
    a.run("delete from users; truncate replication_queue, replication.replication_tombstones")
    replayed = console.run("replay", "replay_events", from_offset=0)
    assert replayed.success
    assert a.value("select count(*) from users") == 5
    assert "| applied | 5 |" in shown(replayed, "replayed")
    loaded = console.run("snapshot", "load_table", table="users", where="id > 2", to="b")
    assert loaded.success
    assert "| rows | 3 |" in shown(loaded, "queued")
    assert "| 1 | users | b | 3 |" in shown(loaded, "past_snapshots")
    refused = console.run("snapshot", "load_table", table="nothing")
    assert "table nothing is not set up" in said(refused)
    traced = console.run("trace", "trace_row", table="users", record_key="2")
    assert traced.success
    assert "| a | row: " in shown(traced, "now")
    assert "its own write" in shown(traced, "what_became_of_each_event")
    unknown = console.run("trace", "trace_row", table="users", record_key="77")
    assert "was never seen" in said(unknown)
    assert "which row?" in said(console.run("trace", "trace_row", table="users", record_key=""))
    a.publish()
    a.run("update replication_queue set published_at = now() - interval '2 hours' where published")
    kept = console.run("cleanup", "clean_up_contour", published="3h")
    assert "| published queue rows | 3:00:00 | 0 |" in shown(kept, "removed")
    cleaned = console.run("cleanup", "clean_up_contour", published="1h")
    assert "| published queue rows | 1:00:00 | 3 |" in shown(cleaned, "removed")
    assert a.value("select count(*) from replication_queue where published") == 0
    assert "is no length of time" in said(
        console.run("cleanup", "clean_up_contour", published="soon")
    )
    well = console.run("doctor", "examine_contour")
    assert well.success
    assert "✓" in shown(well, "findings")
    a.run("alter table users disable trigger all")
    ill = console.run("doctor", "examine_contour")
    assert "to mend" in said(ill)
    assert "✗" in shown(ill, "findings")
