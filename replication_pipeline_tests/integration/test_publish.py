"""Queue → Kafka: everything committed arrives, in key order, and is marked only once Kafka has it."""

from __future__ import annotations

import json
import re
import uuid
from datetime import timedelta
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError

from replication_pipeline.domain.model import BatchResult, ClaimedEvent
from replication_pipeline.domain.names import topic_for
from replication_pipeline.embedded import EmbeddedKafka
from replication_pipeline.kafka.producer import producer_options
from replication_pipeline.kafka.topics import ensure_topics
from replication_pipeline.postgres import installer
from replication_pipeline.postgres.connection import connect, pin_plans
from replication_pipeline.postgres.outbox import PINNED, SQL, PostgresOutbox
from replication_pipeline.postgres.parked import retry_parked
from replication_pipeline.postgres.shards import SHARDS
from replication_pipeline_tests.conftest import USERS, Contour, MakeContours
from replication_pipeline_tests.integration.costs import costs_no_more, wal_bytes
from replication_pipeline_tests.integration.outbox import due, events, publisher, settle
from replication_pipeline_tests.publishing import sessions, until, with_settings

pytestmark = pytest.mark.integration


def events_of(contour: Contour, table: str = "users") -> list[tuple[int, bytes, dict[str, Any]]]:
    """Every message of a table's topic as ``(partition, key, value)``, in order per partition."""
    consumer = Consumer(
        {
            "bootstrap.servers": contour.settings.kafka.bootstrap_servers,
            "group.id": uuid.uuid4().hex,
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
        }
    )
    consumer.subscribe([topic_for(table, prefix=contour.settings.kafka.topic_prefix)])
    found: list[tuple[int, bytes, dict[str, Any]]] = []
    ended: set[int] = set()
    while len(ended) < contour.settings.kafka.partitions:
        message = consumer.poll(20)
        assert message is not None, "the topic could not be read to its end"
        if error := message.error():
            assert error.code() == KafkaError._PARTITION_EOF, error
            ended.add(message.partition() or 0)
            continue
        value, key = message.value(), message.key()
        assert isinstance(value, bytes)
        assert isinstance(key, bytes)
        found.append((message.partition() or 0, key, json.loads(value)))
    consumer.close()
    return found


def test_each_operation_arrives_as_a_debezium_event(
    users: list[Contour], kafka: EmbeddedKafka
) -> None:
    contour = users[0]
    contour.run("insert into users (id, balance) values (42, 1.50)")
    contour.run("update users set name = 'x'")
    contour.run("delete from users")
    totals = contour.publish()
    assert (totals.processed, totals.failed, totals.end) == (3, 0, "drained")
    messages = events_of(contour)
    assert {key for _, key, _ in messages} == {b'{"id":42}'}
    inserted, updated, deleted = (value for _, _, value in messages)
    assert [inserted["op"], updated["op"], deleted["op"]] == ["c", "u", "d"]
    assert [inserted["before"], updated["before"], deleted["before"]] == [
        None,
        {"id": 42},
        {"id": 42},
    ]
    assert (inserted["after"]["balance"], updated["after"]["name"], deleted["after"]) == (
        "1.50",
        "x",
        None,
    )
    assert set(inserted) == {"before", "after", "source", "op", "ts_ms"}
    source = updated["source"]
    assert source["base_version"] == inserted["source"]["row_version"]
    assert int(source["row_version"]) == contour.value(
        "select version from replication_queue where operation = 'UPDATE'"
    )
    expected = {
        "connector": "replication_pipeline",
        "name": "a",
        "contour": "a",
        "schema": "public",
        "table": "users",
        "db": contour.app.info.dbname,
    }
    assert {name: source[name] for name in expected} == expected
    assert isinstance(source["txId"], int)
    assert uuid.UUID(source["event_id"]).version == 8


def test_the_stock_tools_show_topics_and_events(users: list[Contour], kafka: EmbeddedKafka) -> None:
    contour = users[0]
    contour.run("insert into users (id, name) values (1, 'readable')")
    contour.publish()
    topic = topic_for("users", prefix=contour.settings.kafka.topic_prefix)
    assert topic in kafka.tool("kafka-topics", "--list").split()
    shown = kafka.tool(
        "kafka-console-consumer", "--topic", topic, "--from-beginning", "--max-messages", "1",
        "--timeout-ms", "20000",
    )  # fmt: skip
    assert '"name":"readable"' in shown


def test_a_bulk_insert_of_1000_rows_arrives_whole(
    users: list[Contour], kafka: EmbeddedKafka
) -> None:
    contour = users[0]
    contour.run("insert into users (id) select generate_series(1, 1000)")
    assert contour.publish().processed == 1000
    assert sorted(value["after"]["id"] for _, _, value in events_of(contour)) == list(
        range(1, 1001)
    )
    assert contour.value("select count(*) from replication_queue where not published") == 0
    assert contour.value("select bool_and(published_at >= created_at) from replication_queue")


def outbox_shards(outbox: PostgresOutbox) -> set[int]:
    """The shards that its turn holds."""
    return set(outbox._reached)


def test_shards_are_shared_and_locked(users: list[Contour]) -> None:
    """What one publisher has claimed, and its keys' later events, no other can claim."""
    contour = users[0]
    contour.run("insert into users (id) select generate_series(1, 200)")
    first, second = (PostgresOutbox(contour.settings, f"p{n}") for n in (1, 2))
    try:
        mine = first.claim(1000)
        assert mine is not None
        assert len(outbox_shards(first)) == SHARDS
        assert len(mine.events) == 200
        contour.run("update users set name = 'later'")
        assert second.claim(1000) is None
        first.abandon()
        until(lambda: sessions(contour) == 1, "the server to roll back")
        theirs = second.claim(1000)
        assert theirs is not None
        assert len(outbox_shards(second)) == SHARDS // 2  # two publishers are known by now
    finally:
        first.close()
        second.close()


@pytest.mark.parametrize("behind", [False, True])
def test_a_deep_shard_does_not_starve_the_others(users: list[Contour], *, behind: bool) -> None:
    """Not even one whose floor stays ``behind`` the others', as it has a parked row."""
    contour = users[0]
    contour.run("insert into users (id) select generate_series(1, 4000)")
    outbox = PostgresOutbox(contour.settings, "fair")
    try:
        if behind:
            assert outbox.anything_held()  # it is connected
            oldest = "select shard, min(id) - 1 from replication_queue group by 1"
            outbox._low_water.floors |= {**dict(contour.run(oldest)), 7: 0}
            outbox._low_water._next_refresh = float("inf")
        claimed = set()
        for _ in range(SHARDS):
            claim = outbox.claim(20)
            assert claim is not None
            claimed |= {event.id for event in claim.events}
            settle(outbox, claim)
        shards = contour.value(
            "select count(distinct shard) from replication_queue where id = any(%s)", list(claimed)
        )
        assert shards == SHARDS
    finally:
        outbox.close()


def test_an_event_too_large_for_kafka_is_parked_and_fences_only_its_key(
    make_contours: MakeContours, kafka: EmbeddedKafka
) -> None:
    contour, _ = make_contours(USERS, ["users"])
    contour.settings = with_settings(
        contour.settings,
        kafka={"max_message_bytes": 20_000},
        publisher={"retry_backoff": timedelta(milliseconds=50)},
    )
    contour.run(
        "insert into users (id, name) values "
        "(1, (select string_agg(md5(g::text), '') from generate_series(1, 2000) g)), (2, 'fine')"
    )
    contour.run("update users set name = 'later' where id = 1")
    totals = contour.publish()
    assert (totals.processed, totals.parked) == (1, 1)
    rows = contour.run(
        "select record_key, published, parked_at is not null, attempts, last_error "
        "from replication_queue order by id"
    )
    assert [row[:4] for row in rows] == [
        ('{"id":1}', False, True, 5),
        ('{"id":2}', True, False, 0),
        ('{"id":1}', False, False, 0),
    ]
    assert "MSG_SIZE_TOO_LARGE" in rows[0][4]
    assert contour.value("select parked_publish from replication.status") == 1


def test_events_of_a_missing_topic_are_held_and_the_others_flow(
    make_contours: MakeContours, kafka: EmbeddedKafka
) -> None:
    contour, _ = make_contours(f"{USERS}; create table orders (id bigint primary key)", ["users"])
    with connect(contour.settings, application_name="test") as connection:
        installer.setup_table(connection, contour.settings, "orders")
    contour.settings = with_settings(
        contour.settings, publisher={"retry_backoff": timedelta(milliseconds=100)}
    )
    contour.run("insert into orders select generate_series(1, 50)")
    contour.run("insert into users (id) select generate_series(1, 50)")
    contour.run("delete from orders where id = 1")
    totals = contour.publish()
    assert (totals.processed, totals.failed, totals.parked) == (50, 250, 50)
    assert contour.run(
        "select table_name, operation, published, attempts, parked_at is not null, held, count(*) "
        "from replication_queue group by 1, 2, 3, 4, 5, 6 order by 1, 2, 3, 4, 5, 6"
    ) == [
        ("orders", "DELETE", False, 0, False, True, 1),
        ("orders", "INSERT", False, 5, True, True, 50),
        ("users", "INSERT", True, 0, False, False, 50),
    ]
    error = contour.value("select distinct last_error from replication_queue where attempts = 5")
    assert "UNKNOWN_TOPIC" in error
    ensure_topics(contour.settings, ["orders"])
    with connect(contour.settings, application_name="test") as connection:
        assert retry_parked(connection, "publish") == 50
    assert contour.publish().processed == 51
    of_key = [value["op"] for _, key, value in events_of(contour, "orders") if key == b'{"id":1}']
    assert of_key == ["c", "d"]


def test_counters_are_kept_in_the_database(users: list[Contour], kafka: EmbeddedKafka) -> None:
    contour = users[0]
    for number in range(3):
        contour.run("insert into users (id) values (%s)", number)
        contour.publish()
    assert contour.value("select processed_total from replication.status") == 3
    assert contour.value("select count(*) from replication.workers") == 3
    assert contour.value("select publishers from replication.status") == 0


@pytest.mark.costs
def test_idle_claims_write_nothing(users: list[Contour]) -> None:
    contour = users[0]
    outbox = PostgresOutbox(contour.settings, "idle")
    try:
        assert outbox.claim(10) is None
        connection, _ = outbox._session.connection()

        before = wal_bytes(connection)
        for _ in range(50):
            assert outbox.claim(10) is None
        costs_no_more("publish_idle_wal", wal_bytes(connection) - before)
    finally:
        outbox.close()


def test_a_claim_takes_from_all_shards_alike(users: list[Contour]) -> None:
    """So that no shard waits for others to be empty."""
    contour = users[0]
    contour.run("insert into users (id) select generate_series(1, 800)")
    with publisher(with_settings(contour.settings, publisher={"batch_size": 20})) as outbox:
        claim = outbox.claim(320)
        assert claim is not None
        assert claim.full
        of_shards = [event.shard for event in claim.events]
        assert [of_shards.count(shard) for shard in range(SHARDS)] == [20] * SHARDS
        settle(outbox, claim)


def test_a_shard_that_is_alone_is_taken_to_its_end(users: list[Contour]) -> None:
    contour = users[0]
    contour.run("insert into users (id, balance) values (1, 0)")
    for _ in range(49):
        contour.run("update users set balance = balance + 1")
    with publisher(with_settings(contour.settings, publisher={"batch_size": 20})) as outbox:
        sizes: list[tuple[int, bool]] = []
        while claim := outbox.claim(320):
            outbox.settle(claim.events)
            sizes.append((len(claim.events), claim.full))
        assert sizes == [(20, True), (20, True), (10, False)]
        outbox.commit([])


@pytest.mark.parametrize("limit", [20, 320], ids=["at once", "in steps"])
def test_an_event_that_is_committed_late_is_not_overtaken_within_a_turn(
    make_contours: MakeContours, limit: int
) -> None:
    """A turn goes on above what it has claimed, and an event below may be committed meanwhile, and the
    next one of its key above.
    """
    contour = make_contours(USERS, ["users"], count=1, publisher={"batch_size": 20})[0]
    late = contour.session()
    late.execute("insert into users (id) values (1)")  # has its event's id now
    contour.run("insert into users (id) select generate_series(2, 3000)")
    found: list[ClaimedEvent] = []
    with publisher(contour.settings) as outbox:
        first = outbox.claim(limit)
        assert first is not None
        assert first.full
        outbox.settle(first.events)
        late.commit()
        contour.run("update users set name = 'later' where id = 1")
        while claim := outbox.claim(5000):
            found += claim.events
            outbox.settle(claim.events)
            if not claim.full:
                break
        outbox.commit([BatchResult(role="publisher", count=len(found))])
        due(outbox)
        found += events(outbox)
    assert len(first.events) + len(found) == 3001
    ids = [event.id for event in found if event.key == b'{"id":1}']
    assert len(ids) == 2
    assert ids == sorted(ids), "the later event of the key came first"


@pytest.mark.parametrize("analyzed", [False, True])
def test_the_claim_uses_its_index_at_depth(users: list[Contour], *, analyzed: bool) -> None:
    """Every partition is read by (shard, id), whatever the statistics say."""
    contour = users[0]
    contour.run("insert into users (id) select generate_series(1, 20000)")
    if analyzed:
        contour.run("analyze replication_queue")
    shards = list(range(SHARDS))
    with connect(contour.settings, application_name="test") as connection:
        pin_plans(connection, *PINNED)
        (plan,) = connection.execute(
            "explain (format json) " + SQL["claim"],
            {
                "shards": shards,
                "floors": [0] * SHARDS,
                "limit": 500,
                "each": 500,
                "large": 8192,
                "in_hand": [],
                "seen": None,
                "heads": "{}",
                "sent": 0,
            },
        ).fetchone() or (None,)
    text = json.dumps(plan)
    for slot in range(4):
        assert f"replication_queue_{slot}_shard_held_id_idx" in text
    assert not re.search(r"Seq Scan[^}]*replication_queue", text)
    assert "Merge Append" in text


def test_nothing_unsafe_in_the_producer_options(users: list[Contour]) -> None:
    options = producer_options(users[0].settings)
    assert options["enable.idempotence"] is True
    assert options["acks"] == "all"
    assert options["allow.auto.create.topics"] is False
    assert options["delivery.timeout.ms"] < 60_000
