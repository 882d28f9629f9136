"""A flood of what can't be applied: kept up to a limit, then its topic waits in Kafka, and no other."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from confluent_kafka import Producer

from replication_pipeline.domain.errors import FatalError
from replication_pipeline.domain.names import topic_for
from replication_pipeline.embedded import EmbeddedKafka
from replication_pipeline.kafka import consumer
from replication_pipeline_tests.applying import applying
from replication_pipeline_tests.conftest import Contour, MakeContours
from replication_pipeline_tests.publishing import until, with_settings

pytestmark = pytest.mark.integration

DDL = """
create table parents (id int primary key);
create table children (id int primary key, parent int references parents);
"""


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A topic is tried again after half a second."""
    monkeypatch.setattr(consumer, "HOLD", 0.5)


def limited(contour: Contour, events: int, size: int = 10**9) -> Contour:
    most = {"max_parked_events": events, "max_parked_bytes": size}
    most |= {"batch_size": 10, "max_batch_size": 10}
    return replace(contour, settings=with_settings(contour.settings, consumer=most))


def flood(contour: Contour, kafka: EmbeddedKafka, table: str, count: int) -> None:
    topic = topic_for(table, prefix=contour.settings.kafka.topic_prefix)
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers})
    for number in range(count):
        producer.produce(topic, b"garbage %d" % number, b"key")  # one partition
    assert producer.flush(20) == 0


def parked(contour: Contour) -> int:
    return int(contour.value("select count(*) from replication.parked_events"))


def test_a_flood_stops_its_topic_and_no_other_until_there_is_room(
    make_contours: MakeContours, kafka: EmbeddedKafka
) -> None:
    a, b = make_contours(DDL, ["parents", "children"])
    b = limited(b, 50)
    flood(b, kafka, "children", 40)
    b.apply()
    assert parked(b) == 40
    flood(b, kafka, "children", 60)
    a.run("insert into parents select generate_series(1, 20)")
    a.run("insert into children values (1, 1)")
    a.publish()
    with applying(b.settings) as (applier,):
        until(lambda: bool(applier.errors), "the applier to say that it parks no more")
        until(lambda: b.value("select count(*) from parents") == 20, "the other topic to go on")
        assert "max_parked_events (50)" in applier.errors[0]
        assert topic_for("children", prefix=b.settings.kafka.topic_prefix) in applier.errors[0]
        assert "parents" not in applier.errors[0]
        assert parked(b) <= 50
        # Somebody looks at it, and gives room: it goes on by itself, and nothing is missing.
        while parked(b) or not b.value("select count(*) from children"):
            b.run("delete from replication.parked_events")
            until(
                lambda: parked(b) > 0 or b.value("select count(*) from children") == 1,
                "the rest of the flood to come",
            )
    assert b.run("select id, parent from children") == [(1, 1)]


def test_who_wants_to_catch_up_is_told_that_it_can_not(
    make_contours: MakeContours, kafka: EmbeddedKafka
) -> None:
    """By bytes; and nothing of the batch that was too much is done, nor its offset moved."""
    _, b = make_contours(DDL, ["parents", "children"])
    b = limited(b, 1_000, 50)
    flood(b, kafka, "parents", 300)
    with pytest.raises(FatalError) as halted:
        b.apply()
    assert "max_parked_bytes (50)" in halted.value.message
    assert "parked list" in str(halted.value.remedy)
    assert parked(b) == 0
    assert b.run("select next_offset from replication.consumer_offsets where next_offset > 0") == []
    free = limited(b, 1_000, 1_000_000)
    assert free.apply().parked == 300


def test_children_that_wait_leave_room_for_their_parents(
    make_contours: MakeContours, kafka: EmbeddedKafka
) -> None:
    """What fills the space may be what waits for another topic: that one must come through."""
    a, b = make_contours(DDL, ["parents", "children"])
    b = limited(b, 30)
    a.run("insert into parents select generate_series(1, 100)")
    a.run("insert into children select g, g from generate_series(1, 100) g")
    # Children first: parents are published when the children already wait.
    a.run("update replication.replication_queue set held = true where table_name = 'parents'")
    a.publish()
    with applying(b.settings) as (applier,):
        until(lambda: bool(applier.errors), "the space to be used up")
        assert parked(b) <= 30
        a.run("update replication.replication_queue set held = false where table_name = 'parents'")
        a.publish()
        until(lambda: b.value("select count(*) from children") == 100, "all children to arrive")
    assert parked(b) == 0


def test_the_limit_comes_near_with_a_warning(
    make_contours: MakeContours, kafka: EmbeddedKafka, capsys: pytest.CaptureFixture[str]
) -> None:
    _, b = make_contours(DDL, ["parents", "children"])
    b = limited(b, 50)
    flood(b, kafka, "parents", 45)
    b.apply()
    told = capsys.readouterr()
    assert "parked events come near their limit" in told.out + told.err
    assert parked(b) == 45
    assert "garbage" not in json.dumps(told.out + told.err)
