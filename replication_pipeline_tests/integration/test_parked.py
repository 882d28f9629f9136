"""Parked events in the hands of an operator: chosen, tried again, given up; nothing else moves."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from replication_pipeline.postgres.cleanup import clean_up
from replication_pipeline.postgres.connection import connect
from replication_pipeline.postgres.outbox import PostgresOutbox
from replication_pipeline.postgres.parked import (
    Side,
    discard_parked,
    list_parked,
    read_backing_off,
    read_image,
    retry_parked,
)
from replication_pipeline_tests.conftest import Contour
from replication_pipeline_tests.integration.history import Shared
from replication_pipeline_tests.integration.outbox import drain, events, publisher, settle

pytestmark = pytest.mark.integration

ITEMS = "create table items (id bigint primary key, note text)"
PARKED = (
    "update replication_queue set held = true, attempts = 5, last_error = %s, parked_at = now() "
    "where id = any(%s)"
)
BY_HAND = "MSG_SIZE_TOO_LARGE: Broker: Message size too large"


@contextmanager
def operator(contour: Contour) -> Iterator[psycopg.Connection[Any]]:
    with connect(contour.settings, application_name="test") as connection:
        yield connection


def park(contour: Contour, *ids: int, error: str = BY_HAND) -> None:
    """What a publisher does after the last attempt: the events behind are held by its next claim."""
    contour.run(PARKED, error, list(ids))


def ids_of(contour: Contour, key: int) -> list[int]:
    found = contour.run(
        "select id from replication_queue where record_key = %s order by id", f'{{"id":{key}}}'
    )
    return [id_ for (id_,) in found]


@pytest.fixture
def fenced(make: Shared) -> tuple[Contour, list[int]]:
    """Five events of item 1, the first of which is parked and the others held, and one of item 2."""
    contour = make(ITEMS, ["items"])
    contour.run("delete from replication.discarded_events")
    contour.run("delete from replication.parked_events")
    contour.run("insert into items values (1, 'first'), (2, 'other')")
    for number in range(4):
        contour.run("update items set note = %s where id = 1", f"note {number}")
    ids = ids_of(contour, 1)
    park(contour, ids[0])
    with publisher(contour.settings) as outbox:
        assert [key for _, key in drain(outbox)] == ['{"id":2}']
    return contour, ids


def discard(contour: Contour, *ids: int, side: Side = "publish") -> dict[str, int]:
    with operator(contour) as connection:
        return discard_parked(
            connection, side, ids, contour="a", because="a test", who=" (me@here)"
        )


def test_the_list_says_reason_detail_and_how_many_wait(fenced: tuple[Contour, list[int]]) -> None:
    contour, ids = fenced
    with operator(contour) as connection:
        (event,) = list_parked(connection)
        assert (event.side, event.id, event.table_name) == ("publish", ids[0], "items")
        assert (event.reason, event.detail, event.behind, event.attempts) == (
            "MSG_SIZE_TOO_LARGE",
            "Broker: Message size too large",
            4,
            5,
        )
        assert list_parked(connection, reason="msg_size_too_large", table="items") == [event]
        for other in ({"reason": "missing_parent"}, {"table": "users"}, {"ids": [ids[1]]}):
            assert list_parked(connection, **other) == []
        assert list_parked(connection, sides=["apply"]) == []
        assert read_backing_off(connection).behind == 4


def test_an_image_is_shown_as_it_would_be_sent(fenced: tuple[Contour, list[int]]) -> None:
    contour, _ = fenced
    with operator(contour) as connection:
        (event,) = list_parked(connection)
        whole = read_image(connection, event, contour="a", limit=2**31 - 1)
        assert whole is not None
        assert whole[1] == len(whole[0])
        assert json.loads(whole[0])["after"] == {"id": 1, "note": "first"}
        cut = read_image(connection, event, contour="a", limit=10)
        assert cut == (whole[0][:10], whole[1])


def test_discarding_keeps_the_event_whole_and_releases_what_waited(
    fenced: tuple[Contour, list[int]],
) -> None:
    contour, ids = fenced
    version = contour.value("select version from replication_queue where id = %s", ids[0])
    event_id = contour.value("select event_id from replication_queue where id = %s", ids[0])
    assert discard(contour, ids[0]) == {"items": 1}
    kept = contour.run(
        "select side, event_id, table_name, record_key, operation, version, parked_reason, "
        "parked_detail, attempts, discarded_by, because, parked_at < discarded_at "
        "from replication.discarded_events"
    )
    user = contour.value("select session_user::text")
    assert kept == [
        (
            "publish", event_id, "items", '{"id":1}', "INSERT", version, "MSG_SIZE_TOO_LARGE",
            "Broker: Message size too large", 5, f"{user} (me@here)", "a test", True,
        )
    ]  # fmt: skip
    event = json.loads(contour.value("select event from replication.discarded_events"))
    assert event["source"]["event_id"] == str(event_id)
    assert (event["op"], event["after"], event["source"]["contour"]) == (
        "c",
        {"id": 1, "note": "first"},
        "a",
    )
    with publisher(contour.settings) as outbox:
        assert [id_ for id_, _ in drain(outbox)] == ids[1:]
    assert contour.value("select count(*) from replication_queue where not published") == 0
    assert discard(contour, ids[0]) == {}, "it is gone"
    assert contour.value("select count(*) from replication.discarded_events") == 1


def test_only_parked_events_can_be_discarded(fenced: tuple[Contour, list[int]]) -> None:
    contour, ids = fenced
    contour.run("insert into items values (3)")
    everything = [id_ for (id_,) in contour.run("select id from replication_queue")]
    assert discard(contour, *everything) == {"items": 1}
    assert contour.value("select count(*) from replication_queue") == len(everything) - 1
    assert set(ids_of(contour, 1)) == set(ids[1:])


def test_retry_by_reason_and_table(fenced: tuple[Contour, list[int]]) -> None:
    contour, ids = fenced
    contour.run("insert into items values (3), (4)")
    (third,), (fourth,) = ids_of(contour, 3), ids_of(contour, 4)
    park(contour, third, error="UNKNOWN_TOPIC_OR_PART: no such topic")
    park(contour, fourth, error="something without a code")
    with operator(contour) as connection:
        assert {e.reason for e in list_parked(connection)} == {
            "MSG_SIZE_TOO_LARGE", "UNKNOWN_TOPIC_OR_PART", "refused",
        }  # fmt: skip
        assert retry_parked(connection, "publish", reason="UNKNOWN_TOPIC_OR_PART") == 1
        assert retry_parked(connection, "publish", table="elsewhere") == 0
        assert retry_parked(connection, "publish", reason="MSG_SIZE_TOO_LARGE", table="items") == 1
    with publisher(contour.settings) as outbox:
        assert [id_ for id_, _ in drain(outbox)] == [*ids, third]
    assert contour.run("select id from replication_queue where held") == [(fourth,)]


def test_an_event_without_its_image_is_discarded_with_its_key(make: Shared) -> None:
    contour = make(ITEMS, ["items"])
    contour.run("delete from replication.discarded_events")
    contour.run("insert into items values (1, 'vast'); update items set note = 'small'")
    first, second = ids_of(contour, 1)
    contour.run(
        "update replication_queue set payload = null, held = true, parked_at = now(), "
        "last_error = 'the row is too large to be written as an event' where id = %s",
        first,
    )
    with publisher(contour.settings) as outbox, operator(contour) as connection:
        assert drain(outbox) == []
        (event,) = list_parked(connection)
        assert (event.reason, event.retriable, event.behind) == ("too_large", False, 1)
        assert read_image(connection, event, contour="a", limit=100) is None
        assert retry_parked(connection, "publish") == 0, "there is nothing to send"
        assert discard(contour, first) == {"items": 1}
        assert contour.run(
            "select record_key, operation, event, parked_reason from replication.discarded_events"
        ) == [('{"id":1}', "INSERT", None, "too_large")]
        assert [id_ for id_, _ in drain(outbox)] == [second]


def test_what_stands_behind_two_parked_events_waits_for_both(make: Shared) -> None:
    """Only an event without its image can be parked behind another one."""
    contour = make(ITEMS, ["items"])
    contour.run("insert into items values (1)")
    for note in ("a", "b"):
        contour.run("update items set note = %s", note)
    first, second, third = ids_of(contour, 1)
    park(contour, first)
    park(contour, second)
    contour.run("update replication_queue set payload = null where id = %s", second)
    with publisher(contour.settings) as outbox:
        assert drain(outbox) == []
        assert discard(contour, first) == {"items": 1}
        assert drain(outbox) == []
        assert contour.value("select held from replication_queue where id = %s", third)
        assert discard(contour, second) == {"items": 1}
        assert [id_ for id_, _ in drain(outbox)] == [third]


def test_an_event_of_a_removed_table_can_be_discarded(fenced: tuple[Contour, list[int]]) -> None:
    contour, ids = fenced
    contour.run("select replication.remove_table_from_replication('items')")
    assert discard(contour, ids[0]) == {"items": 1}
    event = json.loads(contour.value("select event from replication.discarded_events"))
    assert event["source"]["table"] == "items"


def test_the_apply_side_discards_too(fenced: tuple[Contour, list[int]]) -> None:
    contour, _ = fenced
    bad, good = b"\xff\x1b[2J", b'{"after":null,"source":{},"op":"d","ts_ms":1795390971245}'
    for offset, event in enumerate((bad, good)):
        contour.run(
            "insert into replication.parked_events (topic, partition, kafka_offset, reason, event) "
            "values ('t', 0, %s, 'malformed', %s)",
            offset,
            event,
        )
    with operator(contour) as connection:
        found = list_parked(connection, sides=["apply"], reason="malformed")
        assert [e.behind for e in found] == [None, None]
        assert read_image(connection, found[0], contour="a", limit=3) == (bad[:3], len(bad))
        assert retry_parked(connection, "apply", reason="malformed") == 0
        assert discard(contour, *(e.id for e in found), side="apply") == {"?": 2}
        assert list_parked(connection, sides=["apply"]) == []
    assert contour.run(
        "select side, operation, event, because from replication.discarded_events order by id"
    ) == [("apply", None, bad, "a test"), ("apply", "DELETE", good, "a test")]


def test_workers_roles_may_discard_and_not_forget(fenced: tuple[Contour, list[int]]) -> None:
    contour, ids = fenced
    contour.run("set role replication_publisher")
    try:
        discard_parked(contour.app, "publish", ids[:1], contour="a", because="a test")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            contour.run("delete from replication.discarded_events")
        contour.run("set role replication_consumer")
        discard_parked(contour.app, "apply", [1], contour="a", because="a test")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            contour.run("update replication.discarded_events set because = 'no'")
    finally:
        contour.run("reset role")


def test_cleanup_touches_nothing_that_waits_or_was_discarded(
    fenced: tuple[Contour, list[int]],
) -> None:
    contour, ids = fenced
    contour.run("insert into items values (3)")
    park(contour, *ids_of(contour, 3))
    discard(contour, *ids_of(contour, 3))
    contour.run(
        "update replication_queue set created_at = now() - interval '1 year', "
        "published_at = case when published then now() - interval '1 year' end, "
        "parked_at = parked_at - interval '1 year'"
    )
    contour.run("update replication.discarded_events set discarded_at = now() - interval '9 years'")
    with operator(contour) as connection:
        assert clean_up(connection, contour.settings).published == 1
    left = contour.run("select id from replication_queue order by id")
    assert [id_ for (id_,) in left] == ids
    assert contour.value("select count(*) from replication.discarded_events") == 1


def test_events_in_back_off_are_told(fenced: tuple[Contour, list[int]]) -> None:
    contour, _ = fenced
    contour.run("insert into items values (3)")
    with publisher(contour.settings) as outbox, operator(contour) as connection:
        claim = outbox.claim(10)
        assert claim is not None
        settle(outbox, claim, *(event.id for event in claim.events))
        backing_off = read_backing_off(connection)
        assert backing_off.count == 1
        assert 0 <= (backing_off.next_attempt or 0) <= 1
        (event,) = list_parked(connection, backing_off=True)
        assert (event.record_key, event.attempts, event.parked_at) == ('{"id":3}', 1, None)
        assert (event.reason, event.detail) == ("TEST", "no")
        assert len(list_parked(connection)) == 1


def test_retries_and_discards_beside_publishers_lose_nothing_and_keep_the_order(
    make: Shared,
) -> None:
    """Every event ends published or discarded, once, and a key's published ones in their order."""
    contour = make(ITEMS, ["items"])
    contour.run("delete from replication.discarded_events")
    keys, rounds = 12, 40
    contour.run("insert into items select generate_series(1, %s)", keys)
    done = threading.Event()
    sent: dict[str, list[int]] = defaultdict(list)
    failed: list[BaseException] = []

    def guarded(work: Any) -> threading.Thread:
        def run() -> None:
            try:
                work()
            except BaseException as error:
                failed.append(error)
                done.set()
                raise

        return threading.Thread(target=run)

    def publish(name: str) -> None:
        """Refuses each ninth event for good."""
        outbox = PostgresOutbox(contour.settings.model_copy(update={"publisher": once}), name)
        while not done.is_set():
            outbox._low_water._next_refresh = 0.0
            if claim := outbox.claim(7):
                refused = {event.id for event in claim.events if event.id % 9 == 0}
                held: set[bytes] = set()
                for event in claim.events:
                    if event.id in refused:
                        held.add(event.key)
                    elif event.key not in held:
                        sent[event.key.decode()].append(event.id)
                settle(outbox, claim, *refused)
            else:
                done.wait(0.002)
        outbox.close()

    def operate() -> None:
        """Retries half of what is parked once, and discards the rest."""
        retried: set[int] = set()
        with operator(contour) as connection:
            while not done.is_set():
                for event in list_parked(connection):
                    if event.id % 2 and event.id not in retried:
                        retried.add(event.id)
                        assert retry_parked(connection, "publish", ids=[event.id]) == 1
                    else:
                        discard_parked(connection, "publish", [event.id], contour="a", because="x")
                done.wait(0.002)

    once = contour.settings.publisher.model_copy(update={"max_attempts": 1})
    workers = [guarded(lambda: publish("p1")), guarded(lambda: publish("p2")), guarded(operate)]
    for worker in workers:
        worker.start()
    try:
        for number in range(rounds):
            contour.run("update items set note = %s", str(number))
        pause = threading.Event()
        for _ in range(600):
            if done.is_set() or not contour.value(
                "select count(*) from replication_queue where not published"
            ):
                break
            pause.wait(0.05)
    finally:
        done.set()
        for worker in workers:
            worker.join(30)
    assert not failed
    assert contour.value("select count(*) from replication_queue where not published") == 0
    published = contour.value("select count(*) from replication_queue")
    discarded = contour.value("select count(*) from replication.discarded_events")
    assert published + discarded == keys * (1 + rounds)
    assert discarded > 20
    assert sum(map(len, sent.values())) == published
    assert all(ids == sorted(ids) for ids in sent.values())


def test_a_discard_waits_for_the_publisher_that_holds_the_key(
    fenced: tuple[Contour, list[int]],
) -> None:
    contour, ids = fenced
    contour.run("insert into items values (9)")
    with publisher(contour.settings) as outbox:
        claim = outbox.claim(10)
        assert claim is not None
        worker = threading.Thread(target=discard, args=(contour, ids[0]))
        worker.start()
        waits = (
            "select count(*) from pg_stat_activity "
            "where wait_event_type = 'Lock' and query like '%publish_shards%'"
        )
        pause = threading.Event()
        while not contour.value(waits):
            pause.wait(0.01)
        assert contour.value("select count(*) from replication.discarded_events") == 0
        settle(outbox, claim)
        worker.join(10)
        assert contour.value("select count(*) from replication.discarded_events") == 1
        assert [event.id for event in events(outbox)] == ids[1:]
