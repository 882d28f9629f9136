"""Signed events on a real broker: what a contour has signed is applied, all else is only kept."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from replication_pipeline.domain.heartbeat import Beat, Forgetting, Identity, encode
from replication_pipeline.domain.names import heartbeat_topic, topic_for
from replication_pipeline.domain.signatures import HEADER, Seal, Signer, Verifier
from replication_pipeline.embedded import EmbeddedKafka
from replication_pipeline.kafka.heartbeats import KafkaHeartbeats
from replication_pipeline.settings import SecuritySettings, Settings
from replication_pipeline_tests.conftest import Contour, MakeContours, same_rows

pytestmark = pytest.mark.integration

OLD, NEW, OTHER = ("k" * 32, "n" * 40, "o" * 32)
DDL = """
create table users (id int primary key, name text);
create table admins (id int primary key, name text);
"""


def trusting(
    contour: Contour, *keys: str, signs: str | None = None, required: bool = True
) -> Contour:
    """The contour, which accepts ``keys`` of contour a."""
    hmac: dict[str, Any] = {"accept": {"a": list(keys)}, "required": required, "key": signs}
    security = SecuritySettings.model_validate({"hmac": hmac})
    return replace(contour, settings=contour.settings.model_copy(update={"security": security}))


def records(
    settings: Settings, table: str = "users"
) -> list[tuple[bytes, bytes, dict[str, bytes]]]:
    """Key, value and headers of all that a topic has."""
    topic = topic_for(table, prefix=settings.kafka.topic_prefix)
    consumer = Consumer(
        {
            "bootstrap.servers": settings.kafka.bootstrap_servers,
            "group.id": "looks",
            "enable.partition.eof": True,
        }
    )
    try:
        consumer.assign([TopicPartition(topic, n, 0) for n in range(settings.kafka.partitions)])
        found, ends = [], 0
        while ends < settings.kafka.partitions:
            message = consumer.poll(20)
            assert message is not None
            if message.error() is not None:
                ends += 1
                continue
            found.append((message.key(), message.value(), dict(message.headers() or ())))
        return found  # type: ignore[return-value]
    finally:
        consumer.close()


def parked(contour: Contour) -> list[tuple[str, str]]:
    return contour.run("select reason, detail from replication.parked_events order by id")


@pytest.fixture
def pair(make_contours: MakeContours, kafka: EmbeddedKafka) -> list[Contour]:
    return make_contours(DDL, ["users", "admins"])


def test_what_was_signed_is_applied_and_nothing_else(
    pair: list[Contour], kafka: EmbeddedKafka
) -> None:
    a, b = trusting(pair[0], signs=OLD, required=False), trusting(pair[1], OLD)
    a.run("insert into users values (1, 'one'), (2, 'two')")
    a.publish()
    assert b.apply().applied == 2
    assert same_rows([a, b], "users")

    signed = {key: (value, headers) for key, value, headers in records(a.settings)}
    (value, headers), (_, others) = signed[b'{"id":1}'], signed[b'{"id":2}']
    newer = value.replace(b'"one"', b'"ONE"')
    topic, admins = (
        topic_for(t, prefix=a.settings.kafka.topic_prefix) for t in ("users", "admins")
    )
    key = b'{"id":1}'
    by_other = {HEADER: Signer(OTHER.encode()).sign(topic, key, newer)}
    attempts: list[tuple[str, bytes, bytes, Any, str]] = [
        (topic, key, newer, None, "it has no signature"),
        (topic, key, newer, headers, "its signature is by no key"),  # of another event
        (topic, key, value, others, "its signature is by no key"),  # of another row
        (topic, key, newer, by_other, "its signature is by no key"),
        (topic, b'{"id":7}', value, headers, "its signature is by no key"),  # under another key
        (admins, key, value, headers, "its signature is by no key"),  # for another table
        (topic, key, value, {HEADER: b"v9:" + b"0" * 64}, "its signature has a form"),
        (topic, key, value, {HEADER: b""}, "its signature has a form"),
        (topic, key, value, {HEADER: None}, "it has no signature"),
        (topic, key, value, [*headers.items(), *headers.items()], "it has no signature"),
        (
            topic,
            key,
            value.replace(b'"contour":"a"', b'"contour":"c"'),
            headers,
            "no key of contour c",
        ),
    ]
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers})
    for where, event_key, event, with_headers, _ in attempts:
        producer.produce(where, event, event_key, headers=with_headers)
    producer.produce(topic, b"garbage", key)
    producer.produce(
        topic, value, key, headers=list(headers.items())
    )  # sent again as it is: known, and harmless
    assert producer.flush(20) == 0
    totals = b.apply()
    assert (totals.applied, totals.parked) == (0, len(attempts) + 1)
    found = parked(b)
    assert sorted(reason for reason, _ in found) == ["bad_signature"] * len(attempts) + [
        "malformed"
    ]
    for *_, why in attempts:
        assert any(detail.startswith(why) for _, detail in found), why
    assert b.run("select name from users order by id") == [("one",), ("two",)]
    assert b.run("select from admins") == []


def test_keys_change_without_a_gap_and_a_key_that_comes_late_frees_its_events(
    pair: list[Contour], kafka: EmbeddedKafka
) -> None:
    a, b = pair
    trusting(a, signs=OLD, required=False).run("insert into users values (1, 'old')")
    trusting(a, signs=OLD, required=False).publish()
    a.run("insert into users values (2, 'new')")
    trusting(a, signs=NEW, required=False).publish()
    assert trusting(b, OLD).apply().applied == 1
    assert [reason for reason, _ in parked(b)] == ["bad_signature"]
    b.run("update replication.parked_events set retried_at = '-infinity'")
    trusting(b, OLD).apply()
    assert [reason for reason, _ in parked(b)] == ["bad_signature"], "tried, and still not believed"
    b.run("update replication.parked_events set retried_at = '-infinity', attempts = 1")
    trusting(b, OLD, NEW).apply()
    assert parked(b) == []
    assert same_rows([a, b], "users")


def test_signatures_are_looked_at_by_who_asks_for_them_only(
    pair: list[Contour], kafka: EmbeddedKafka
) -> None:
    a, b = pair
    a.run("insert into users values (1, 'unsigned')")
    a.publish()
    assert [headers for _, _, headers in records(a.settings)] == [{}]
    assert trusting(b, OLD, required=False).apply().applied == 1


def test_nobody_fences_a_contour_by_a_heartbeat_that_is_not_signed(
    pair: list[Contour], kafka: EmbeddedKafka
) -> None:
    a, b = trusting(pair[0], signs=OLD, required=False), trusting(pair[1], OLD)
    me = Identity("a", 1, "00000000-0000-0000-0000-000000000001")
    sending, reading = KafkaHeartbeats(a.settings), KafkaHeartbeats(b.settings)
    unsigned = KafkaHeartbeats(pair[0].settings)
    liar = KafkaHeartbeats(trusting(pair[0], signs=OTHER, required=False).settings)
    assert reading.topic == heartbeat_topic(prefix=b.settings.kafka.topic_prefix)
    try:
        beat = Beat(me, 1, time.time_ns() // 1_000, 60.0)
        sending.send(encode(beat))
        for forger in (unsigned, liar):
            forger.send(encode(replace(beat, sequence=99, fence_after=0.001)))
            forger.send(encode(Forgetting("b")))
        sending.send(encode(Forgetting("c")))
        read: list[object] = []
        position = None
        while len(read) < 6:
            stamped, _ = reading.read(position)
            read += [each.record for each in stamped]
            position = stamped[-1].offset + 1
        assert read == [beat, None, None, None, None, Forgetting("c")]
    finally:
        for each in (sending, reading, unsigned, liar):
            each.close()


def test_a_signature_binds_topic_key_and_value() -> None:
    signer, verifier = Signer(OLD.encode()), Verifier({"a": [NEW.encode(), OLD.encode()]})
    seal = Seal(b"key", signer.sign("topic", b"key", b"value"))
    assert verifier.objection("a", "topic", seal, b"value") is None
    assert verifier.objection("b", "topic", seal, b"value") is not None
    # What moves from one part to the next is another event.
    assert verifier.objection("a", "topick", Seal(b"ey", seal.signature), b"value") is not None
    assert verifier.objection("a", "topic", Seal(b"keyv", seal.signature), b"alue") is not None
    assert verifier.objection("a", "topic", Seal(None, seal.signature), b"keyvalue") is not None
    for shown in (repr(signer), str(verifier), f"{signer}{verifier}"):
        assert OLD not in shown
        assert NEW not in shown
