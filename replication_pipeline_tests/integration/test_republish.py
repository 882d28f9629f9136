"""Published events sent again: those asked for, in key order, and the queue stays as it was."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from replication_pipeline import runtime
from replication_pipeline.domain.errors import FatalError, TransientError
from replication_pipeline.embedded import EmbeddedKafka
from replication_pipeline.engine import republish
from replication_pipeline.engine.republish import Republish, Selection, Totals
from replication_pipeline.engine.stopping import StopToken
from replication_pipeline.observe import RepublishLog
from replication_pipeline.postgres import republish as archive
from replication_pipeline_tests.conftest import (
    LONGEST,
    USERS,
    Contour,
    MakeContours,
    same_rows,
    settle,
)
from replication_pipeline_tests.integration.test_publish import events_of
from replication_pipeline_tests.publishing import with_settings

pytestmark = pytest.mark.integration

Event = tuple[int, bytes, dict[str, Any]]


@contextmanager
def opened(
    contour: Contour, watcher: RepublishLog | None = None, **options: Any
) -> Iterator[Republish]:
    choice = {name: options.pop(name) for name in [*options] if name not in ("rate", "stop")}
    options.setdefault("stop", StopToken())
    with runtime.open_republish(
        contour.settings, Selection(**choice), watcher=watcher or RepublishLog(), **options
    ) as run:
        yield run


def send_again(contour: Contour, **options: Any) -> Totals:
    with opened(contour, **options) as run:
        run.plan()
        return run.run()


def queue_of(contour: Contour) -> list[tuple[Any, ...]]:
    return contour.run("select q::text, xmin::text from replication_queue q order by id")


def versions(events: list[Event]) -> dict[bytes, list[int]]:
    found: dict[bytes, list[int]] = {}
    for _, key, value in events:
        found.setdefault(key, []).append(int(value["source"]["row_version"]))
    return found


def last_occurrences_ascend(events: list[Event]) -> bool:
    """Of each key; whoever reads the topic as upserts ends with the newest, and passes no older one."""
    for found in versions(events).values():
        last = {version: place for place, version in enumerate(found)}
        if sorted(last, key=last.__getitem__) != sorted(last):
            return False
    return True


def age(contour: Contour, hours: int, where: str) -> None:
    contour.run(
        f"update replication_queue set published_at = published_at - interval '{hours} h' where {where}"
    )


def ago(hours: float) -> datetime:
    return datetime.now(UTC) - timedelta(hours=hours)


def test_what_is_sent_again_is_the_same_but_for_its_time(
    users: list[Contour], kafka: EmbeddedKafka
) -> None:
    contour = users[0]
    contour.run(
        "insert into users (id, name) values (1, 'x'), (2, 'ü'); delete from users where id = 2"
    )
    contour.publish()
    before = queue_of(contour)
    status = contour.run("select processed_total, unpublished from replication.status")
    first = events_of(contour)
    totals = send_again(contour)
    assert (totals.sent, totals.end, totals.per_table) == (3, "done", {"users": 3})
    assert queue_of(contour) == before
    assert contour.run("select processed_total, unpublished from replication.status") == status
    every = events_of(contour)
    assert len(every) == 6
    for partition, key, value in first:
        ((_, _, again),) = [
            e for e in every if e[2]["source"] == value["source"] and e not in first
        ]
        assert again.pop("ts_ms") >= value.pop("ts_ms")
        assert again == value
        assert (partition, key) in [(p, k) for p, k, v in every if v["source"] == again["source"]]


def test_ranges_tables_and_keys(make_contours: MakeContours, kafka: EmbeddedKafka) -> None:
    contour, _ = make_contours(
        f"{USERS}; create table shop (id bigint, part text, primary key (id, part))",
        ["users", "shop"],
    )
    contour.run("insert into users (id) select generate_series(1, 40)")
    contour.run("insert into shop select g, 'x' from generate_series(1, 10) g")
    contour.run("update users set name = 'later' where id <= 10")
    contour.run("insert into users (id) values (99)")
    contour.publish()
    contour.run("update users set name = 'waits'")
    age(contour, 3, "table_name = 'users' and operation = 'INSERT' and record_key <> '{\"id\":99}'")
    cases: list[tuple[dict[str, Any], dict[str, int]]] = [
        ({}, {"users": 51, "shop": 10}),
        ({"tables": ("shop",)}, {"shop": 10}),
        ({"tables": ("shop", "nowhere")}, {"shop": 10}),
        ({"since": ago(1)}, {"users": 11, "shop": 10}),
        ({"since": ago(4)}, {"users": 51, "shop": 10}),
        # Closed over keys: the later events of ten users follow, though they are out of the range.
        ({"until": ago(1)}, {"users": 50}),
        ({"keys": ('{ "id": 3 }',)}, {"users": 2}),
        ({"keys": ('{"part":"x","id":3}', '{"id":11}')}, {"users": 1, "shop": 1}),
        ({"keys": ('{"id":1}',), "since": ago(1)}, {"users": 1}),
        ({"since": ago(0)}, {}),
    ]
    for choice, expected in cases:
        with opened(contour, **choice) as run:
            plan = run.plan()
            assert {t.table: t.events for t in plan.tables} == expected, choice
    assert send_again(contour, tables=("shop",)).sent == 10
    assert len(events_of(contour, "shop")) == 20
    assert len(events_of(contour, "users")) == 51


def test_a_range_that_begins_before_the_oldest_event_is_told(
    users: list[Contour], kafka: EmbeddedKafka
) -> None:
    contour = users[0]
    contour.run("insert into users (id) values (1), (2)")
    contour.publish()
    age(contour, 3, "id = (select min(id) from replication_queue)")
    with opened(contour, since=ago(2)) as run:
        assert run.plan().oldest is None
    with opened(contour, since=ago(9)) as run:
        oldest = run.plan().oldest
    assert oldest is not None
    assert abs(oldest - ago(3)) < timedelta(minutes=3)


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(republish, "WINDOW_ROWS", 60)
    monkeypatch.setattr(archive, "PAGE_ROWS", 25)


@pytest.mark.usefixtures("small_pages")
def test_beside_publishers_and_writers_the_last_occurrences_ascend(
    users: list[Contour], kafka: EmbeddedKafka
) -> None:
    a, b = users
    a.run("insert into users (id, balance) select g, 0 from generate_series(1, 60) g")
    for _ in range(5):
        a.run("update users set balance = balance + 1")
    a.publish()
    stop = StopToken()
    workers = [
        threading.Thread(
            target=runtime.publish, args=(a.settings,), kwargs={"stop": stop, "length": LONGEST}
        )
        for _ in range(2)
    ]
    writer_app = a.session(autocommit=True)

    def write() -> None:
        number = 0
        while not stop:
            number += 1
            writer_app.execute(
                "update public.users set balance = balance + 1 where id %% 7 = %s", (number % 7,)
            )
            writer_app.execute("delete from public.users where id = %s", (60 - number % 20,))
            writer_app.execute(
                "insert into public.users (id, balance) values (%s, 0)", (60 - number % 20,)
            )
            stop.wait(timedelta(milliseconds=10))

    workers.append(threading.Thread(target=write))
    for worker in workers:
        worker.start()
    try:
        totals = [send_again(a) for _ in range(2)]
    finally:
        stop.set()
        for worker in workers:
            worker.join(30)
    assert [t.end for t in totals] == ["done", "done"]
    assert totals[0].added > 0, "nothing was published meanwhile"
    assert sum(t.retries for t in totals) == 0
    a.publish()
    every = events_of(a)
    assert len(every) == a.value("select count(*) from replication_queue") + sum(
        t.sent for t in totals
    )
    assert last_occurrences_ascend(every)
    newest = dict(a.run("select record_key, max(version) from replication_queue group by 1"))
    assert {k.decode(): v[-1] for k, v in versions(every).items()} == newest
    b.apply()
    assert same_rows([a, b], "users")


def test_what_is_published_after_the_plan_follows(
    users: list[Contour], kafka: EmbeddedKafka
) -> None:
    contour = users[0]
    contour.run("insert into users (id) values (1), (2)")
    contour.publish()
    with opened(contour, keys=('{"id":1}',)) as run:
        assert run.plan().events == 1
        contour.run("update users set name = 'newer'")
        contour.publish()
        totals = run.run()
    assert (totals.sent, totals.added) == (2, 1)
    every = events_of(contour)
    assert len(every) == 6
    assert last_occurrences_ascend(every)


def test_a_contour_made_anew_is_fed_again(
    make_contours: MakeContours, kafka: EmbeddedKafka
) -> None:
    """Contour c begins at the topics' ends; what was sent before reaches it by sending it again."""
    orders = "create table orders (id bigint primary key, user_id bigint references users)"
    a, b, c = make_contours(f"{USERS}; {orders}", ["users", "orders"], count=3)
    a.run("insert into users (id, name) select g, 'a' from generate_series(1, 300) g")
    a.run("insert into orders select g, g from generate_series(1, 300) g")
    b.run("insert into users (id, name) select g, 'b' from generate_series(1001, 1100) g")
    settle([a, b])
    b.run("update users set name = 'b later' where id < 50")
    a.run("delete from orders where id > 250; delete from users where id > 250 and id < 1000")
    settle([a, b])
    c.run(
        "insert into replication.consumer_offsets (topic, partition, next_offset) "
        "select topic, partition, next_offset from jsonb_to_recordset(%s::jsonb) "
        "as o(topic text, partition int, next_offset bigint)",
        a.value(
            "select json_agg(json_build_object('topic', topic, 'partition', partition, "
            "'next_offset', next_offset))::text from replication.consumer_offsets"
        ),
    )
    c.apply()
    assert c.value("select count(*) from users") == 0
    assert send_again(a).end == send_again(b).end == "done"
    for _ in range(3):
        for contour in (a, b, c):
            contour.apply()
    assert c.value("select count(*) from users") == 350
    for table in ("users", "orders"):
        assert same_rows([a, b, c], table)
    assert c.value("select count(*) from replication.parked_events") == 0
    assert a.value("select count(*) from replication_queue where not published") == 0


class Stopping(RepublishLog):
    def __init__(self, stop: StopToken, after: int) -> None:
        self.stop, self.after = stop, after

    def progress(self, sent: int, total: int) -> None:
        if sent >= self.after:
            self.stop.set()


@pytest.mark.usefixtures("small_pages")
def test_a_stop_ends_between_keys_and_can_be_gone_on_from(
    users: list[Contour], kafka: EmbeddedKafka
) -> None:
    contour = users[0]
    contour.run("insert into users (id) select generate_series(1, 100)")
    contour.run("update users set name = 'x'")
    contour.publish()
    stop = StopToken()
    totals = send_again(contour, watcher=Stopping(stop, 70), stop=stop)
    assert (totals.end, totals.torn) == ("stopped", False)
    assert 70 <= totals.sent < 200
    every = events_of(contour)
    assert len(every) == 200 + totals.sent
    assert last_occurrences_ascend(every)
    rest = send_again(contour, from_id=totals.position)
    assert rest.end == "done"
    assert 200 <= totals.sent + rest.sent < 200 + 70
    every = events_of(contour)
    assert all(len(found) >= 4 for found in versions(every).values())
    assert last_occurrences_ascend(every)


@pytest.mark.usefixtures("small_pages")
def test_a_lost_connection_is_made_anew(users: list[Contour], kafka: EmbeddedKafka) -> None:
    contour = users[0]
    contour.run("insert into users (id) select generate_series(1, 200)")
    contour.run("update users set name = 'x'")
    contour.publish()

    class Cutting(RepublishLog):
        cut = False

        def progress(self, sent: int, total: int) -> None:
            if sent > 100 and not self.cut:
                self.cut = contour.value(
                    "select count(pg_terminate_backend(pid)) = 1 from pg_stat_activity "
                    "where application_name = 'replicator_republisher' "
                    "and datname = current_database()"
                )

    watcher = Cutting()
    totals = send_again(contour, watcher=watcher)
    assert watcher.cut
    assert (totals.end, totals.retries) == ("done", 1)
    every = events_of(contour)
    assert all(len(found) >= 4 for found in versions(every).values())
    assert last_occurrences_ascend(every)


def test_an_outage_of_kafka_is_waited_out(users: list[Contour], kafka: EmbeddedKafka) -> None:
    contour = users[0]
    contour.settings = with_settings(
        contour.settings, kafka={"delivery_timeout": timedelta(seconds=2)}
    )
    contour.run("insert into users (id) select generate_series(1, 200)")
    contour.publish()
    failed = threading.Event()

    class Watch(RepublishLog):
        def retrying(self, error: TransientError, attempt: int, pause: timedelta) -> None:
            assert "Kafka is away" in error.message
            failed.set()

    done: list[Totals] = []
    with opened(contour, Watch()) as run:
        run.plan()
        kafka.kill()
        worker = threading.Thread(target=lambda: done.append(run.run()))
        try:
            worker.start()
            assert failed.wait(30)
            free = (
                "select count(*) from "
                "(select from replication.publish_shards for update skip locked) s"
            )
            pause = threading.Event()
            while contour.value(free) < 16:
                pause.wait(0.02)
        finally:
            kafka.start()
        worker.join(60)
    assert done[0].end == "done"
    assert all(len(found) >= 2 for found in versions(events_of(contour)).values())


def test_what_retention_takes_meanwhile_is_counted(
    users: list[Contour], kafka: EmbeddedKafka
) -> None:
    contour = users[0]
    contour.run("insert into users (id) select generate_series(1, 20)")
    contour.publish()
    with opened(contour) as run:
        run.plan()
        contour.run("delete from replication_queue where id % 2 = 0")
        totals = run.run()
    assert (totals.sent, totals.gone, totals.end) == (10, 10, "done")


def test_a_refusal_ends_it_and_says_where(
    make_contours: MakeContours, kafka: EmbeddedKafka
) -> None:
    contour, _ = make_contours(USERS, ["users"])
    contour.run("insert into users (id) values (1)")
    contour.publish()
    contour.settings = with_settings(contour.settings, kafka={"topic_prefix": "nowhere."})
    with pytest.raises(
        FatalError, match=r"refused event .* of table users: .*UNKNOWN_TOPIC"
    ) as told:
        send_again(contour)
    assert "--from-id" in (told.value.remedy or "")


def test_a_rate_bounds_the_speed(users: list[Contour], kafka: EmbeddedKafka) -> None:
    contour = users[0]
    contour.run("insert into users (id) select generate_series(1, 120)")
    contour.publish()
    totals = send_again(contour, rate=100.0)
    assert totals.sent == 120
    assert 0.8 < totals.elapsed.total_seconds() < 4
