"""``trace`` tells one row's story: where its events are, and what each contour made of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import make_conninfo

from replication_pipeline.domain.names import topic_for
from replication_pipeline.embedded import EmbeddedKafka
from replication_pipeline.kafka.search import search
from replication_pipeline_tests.conftest import Contour, MakeContours, settle
from replication_pipeline_tests.integration.commands import call_with

pytestmark = pytest.mark.integration

DDL = """
create table items (id bigint primary key, name text, amount int);
create table places (country text, number int, name text, primary key (country, number))
"""


@pytest.fixture
def pair(make_contours: MakeContours, kafka: EmbeddedKafka) -> list[Contour]:
    return make_contours(DDL, ["items", "places"])


def tell(pair: Sequence[Contour], path: Path, *words: object, **sections: Any) -> tuple[int, str]:
    a, b = pair
    beside = {"compare": {"contours": {b.name: {"dsn": b.dsn}}}} | sections
    result = call_with(a, path, "trace", *words, **beside)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return result.exception.exit_code, str(result.exception)  # type: ignore[attr-defined]
    return result.exit_code, result.stdout


def story(pair: Sequence[Contour], path: Path, *words: object, **sections: Any) -> dict[str, Any]:
    _, text = tell(pair, path, *words, "--json", **sections)
    found: dict[str, Any] = json.loads(text)
    return found


def test_the_story_of_a_row_in_the_order_of_time(pair: list[Contour], tmp_path: Path) -> None:
    a, b = pair
    a.run("insert into items values (1, 'secret', 1)")
    waiting = story(pair, tmp_path, "items", 1)
    assert [(e["operation"], e["state"], e["kafka"]) for e in waiting["events"]] == [
        ("INSERT", "waiting", [])
    ]
    assert waiting["events"][0]["contours"]["b"] == "has not reached it: not found in Kafka"
    a.publish()
    unread = story(pair, tmp_path, "items", '{"id": 1}')
    assert unread["events"][0]["contours"] == {"a": "its own write", "b": "not read yet"}
    (place,) = unread["events"][0]["kafka"]
    b.apply()
    # Both write; b's is the newer one.
    a.run("update items set name = 'a' where id = 1")
    b.run("update items set name = 'b' where id = 1")
    settle(pair, rounds=1)
    # b has no place for a column, so a's third write is parked there.
    a.run("alter table items add column extra int; update items set extra = 7 where id = 1")
    a.publish()
    b.apply()
    told = story(pair, tmp_path, "items", 1)
    insert, lost, won, parked = told["events"]
    assert insert["kafka"] == [place]
    assert [e["contour"] for e in told["events"]] == ["a", "a", "b", "a"]
    assert lost["contours"]["b"].startswith("conflict (update_update): lost to b's write of ")
    assert won["contours"]["a"].startswith("conflict (update_update): won over a's write of ")
    assert parked["contours"]["b"].startswith("parked: unknown_column (extra")
    assert parked["base_version"] == won["version"]
    assert [now["version"] for now in told["now"]] == [parked["version"], won["version"]]
    whats = [(m["where"], m["what"].split()[0]) for m in told["timeline"]]
    assert whats[:4] == [("a", "INSERT"), ("Kafka", "INSERT"), ("a", "marked"), ("b", "applied;")]
    assert whats[-1] == ("b", "parked:")
    assert insert["contours"]["b"].startswith("applied; a later write there replaced it")
    assert sorted(told["timeline"], key=lambda m: m["at"][:22]) == told["timeline"]
    status, text = tell(pair, tmp_path, "items", 1)
    assert status == 0
    assert "still open" in text
    assert f"offset {place['offset']}" in text
    assert "secret" not in text
    assert '"name": "secret"' in tell(pair, tmp_path, "items", 1, "--values")[1].replace(
        '":"', '": "'
    )
    # After the migration of b the event comes in by itself; then the row goes.
    b.run("alter table items add column extra int")
    b.run("update replication.parked_events set retried_at = '-infinity'")
    b.apply()
    a.run("delete from items where id = 1")
    a.publish()
    b.apply()
    gone = story(pair, tmp_path, "items", 1)
    assert gone["events"][-1]["contours"]["b"] == "applied: the row is deleted"
    assert {now["deleted_by"] for now in gone["now"]} == {gone["events"][-1]["version"]}
    # What retention has left is enough.
    for contour in pair:
        contour.run("truncate replication_queue, replication.processed_events")
    left = story(pair, tmp_path, "items", 1)
    assert [e["kafka"] for e in left["events"]] == [e["kafka"] for e in gone["events"]]
    assert {e["state"] for e in left["events"]} == {None}
    assert left["events"][0]["contours"]["b"].startswith(
        "read, so long ago that its id is no longer"
    )


def test_keys_of_any_shape(pair: list[Contour], tmp_path: Path) -> None:
    a, b = pair
    a.run("insert into places values ('a \"b\" é', 7, 'x')")
    a.publish()
    b.apply()
    key = json.dumps({"number": 7, "country": 'a "b" é'})
    told = story(pair, tmp_path, "places", key)
    assert told["key"] == '{"country":"a \\"b\\" é","number":7}'
    assert told["events"][0]["contours"]["b"] == "applied: it is the row as it stands"
    shape = """'{"country": <text>, "number": <integer>}'"""
    for wrong in ("7", '{"number": 7}', '{"number": 7, "country": null}', "[1]", '{"a": 1}'):
        status, text = tell(pair, tmp_path, "places", wrong)
        assert status == 2
        assert shape in text, wrong
    for wrong in ("seven", '{"number": 7}', '{"id": "seven"}', "null", ""):
        status, text = tell(pair, tmp_path, "items", wrong)
        assert (status, "the bare value, or '{\"id\": <bigint>}'" in text) == (2, True), wrong
    status, text = tell(pair, tmp_path, "nothing", 1)
    assert status == 2
    assert "table nothing is not set up in contour a" in text


def test_what_can_not_be_seen_is_told(pair: list[Contour], tmp_path: Path) -> None:
    a, _ = pair
    status, text = tell(pair, tmp_path, "items", 404)
    assert status == 1
    assert "was never seen" in text
    a.run("insert into items values (1)")
    a.publish()
    away = {"compare": {"contours": {"b": {"host": "127.0.0.1", "port": 1}}}}
    status, text = tell(pair, tmp_path, "items", 1, "--kafka-seconds", 0, **away)
    assert status == 0
    assert "! not asked: b: " in text
    gone = {"kafka": {"bootstrap_servers": "127.0.0.1:1"}}
    told = story(pair, tmp_path, "items", 1, **gone)
    assert list(told["unreached"]) == ["Kafka"]
    assert told["events"][0]["state"] == "published"
    other = {"kafka": {"bootstrap_servers": a.settings.kafka.bootstrap_servers}}
    assert "Kafka has no topic items_changes" in tell(pair, tmp_path, "items", 1, **other)[1]


def test_an_auditor_there_is_enough(pair: list[Contour], tmp_path: Path) -> None:
    """Who is asked in other contours may read the table, and is a member of replication_monitor."""
    a, b = pair
    a.run("insert into items values (1, 'x', 1)")
    a.publish()
    b.apply()
    b.run("drop role if exists tracer")
    b.run("create role tracer login in role replication_monitor; grant select on items to tracer")
    try:
        dsn = make_conninfo(b.dsn, user="tracer")
        told = story(pair, tmp_path, "items", 1, compare={"contours": {"b": {"dsn": dsn}}})
        assert told["unreached"] == {}
        assert told["events"][0]["contours"]["b"] == "applied: it is the row as it stands"
        said = call_with(a, tmp_path, "doctor", compare={"contours": {"b": {"dsn": dsn}}})
        assert said.exit_code == 0, said.stdout
        assert "not known" not in said.stdout
        told = story(
            pair,
            tmp_path,
            "places",
            '{"country":"x","number":1}',
            compare={"contours": {"b": {"dsn": dsn}}},
        )
        assert "permission denied for table places" in told["unreached"]["b"]
    finally:
        b.run("drop owned by tracer; drop role tracer")


def test_the_search_is_bounded(pair: list[Contour]) -> None:
    a, _ = pair
    a.run("insert into items select n from generate_series(1, 3000) n")
    a.publish()
    topic = topic_for("items", prefix=a.settings.kafka.topic_prefix)

    def found(key: int, since: datetime | None = None, seconds: float = 20.0) -> tuple[int, int]:
        result = search(a.settings, topic, f'{{"id":{key}}}', since=since, seconds=seconds)
        assert all(record.partition == result.partition for record in result.records)
        return len(result.records), result.left

    assert [found(key) for key in range(1, 12)] == [(1, 0)] * 11, "each in its key's partition"
    assert found(5, datetime.now(UTC) + timedelta(hours=1)) == (0, 0)
    count, left = found(5, seconds=0.000001)
    assert (count, left > 500) == (0, True)
    assert found(99_999) == (0, 0)
