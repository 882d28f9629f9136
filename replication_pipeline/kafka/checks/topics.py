"""Each table's topic: whether it keeps enough, takes enough, and is safe enough."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Final

from replication_pipeline.domain.findings import Finding, mend, notice
from replication_pipeline.domain.names import heartbeat_topic
from replication_pipeline.kafka.checks.subject import (
    MILLISECOND,
    SAFE_COPIES,
    KafkaCheck,
    Subject,
    alter,
    days,
    tool,
)

MOST_BYTES: Final = 1_000_000_000  # librdkafka's own limit
REQUEST_LIMIT: Final = "socket.request.max.bytes"


def _partitions(subject: Subject) -> Iterator[Finding]:
    kafka = subject.settings.kafka
    for table, topic, facts in subject.topics():
        wanted = subject.settings.tables[table].partitions or kafka.partitions
        if facts.leaderless:
            yield mend(
                f"{facts.leaderless} of {facts.partitions} partitions of {topic} have no leader: "
                "their events wait",
                "bring the brokers that hold them back",
            )
        if facts.partitions < wanted:
            yield notice(
                f"{topic} has {facts.partitions} partitions, the configuration says {wanted}",
                f"{tool('topics')} --alter --topic {topic} --partitions {wanted}; readers of "
                "your own see keys out of order for a while",
            )
        elif facts.partitions > wanted:
            yield notice(
                f"{topic} has {facts.partitions} partitions, the configuration says {wanted}",
                f"set partitions: {facts.partitions} for {table}: a topic can't have fewer again",
            )


def _copies(subject: Subject) -> Iterator[Finding]:
    kafka, brokers = subject.settings.kafka, subject.cluster.brokers
    for _, topic, facts in subject.topics():
        wanted = min(max(kafka.replication_factor, 2), brokers)
        if facts.copies < wanted:
            yield mend(
                f"{topic} has {facts.copies} of {wanted} copies: its events are lost with a "
                "broker's disk",
                "kafka-reassign-partitions.sh with a list of more replicas",
            )
        elif facts.in_sync < facts.copies:
            yield notice(
                f"{topic}: {facts.in_sync} of {facts.copies} copies are up to date",
                "look at the brokers; they catch up by themselves",
            )
    beats = heartbeat_topic(prefix=kafka.topic_prefix)
    facts_of_beats = subject.cluster.topics.get(beats)
    if facts_of_beats is not None and facts_of_beats.copies < min(
        kafka.replication_factor, brokers
    ):
        yield mend(
            f"{beats} has {facts_of_beats.copies} of {kafka.replication_factor} copies",
            "kafka-reassign-partitions.sh with a list of more replicas",
        )


def _acknowledged(subject: Subject) -> Iterator[Finding]:
    for _, topic, facts in subject.topics():
        least = facts.number("min.insync.replicas")
        if least is None:
            continue
        if least > facts.copies:
            yield mend(
                f"{topic}: min.insync.replicas is {least}, and there are {facts.copies} copies: "
                "nothing can be published",
                alter(topic, f"min.insync.replicas={max(1, facts.copies - 1)}"),
            )
        elif facts.copies >= SAFE_COPIES and least < facts.copies - 1:
            yield mend(
                f"{topic}: min.insync.replicas is {least} of {facts.copies}: an acknowledged "
                "event may be lost with one broker",
                alter(topic, f"min.insync.replicas={facts.copies - 1}"),
            )
        elif least == facts.copies > 1:
            yield notice(
                f"{topic}: min.insync.replicas is {least} of {facts.copies}: publishing stops "
                "when one broker is away",
                alter(topic, f"min.insync.replicas={facts.copies - 1}"),
            )


def _retention(subject: Subject) -> Iterator[Finding]:
    cleanup, wanted = subject.settings.cleanup, subject.settings.kafka.retention
    for _, topic, facts in subject.topics():
        milliseconds, size = facts.number("retention.ms"), facts.number("retention.bytes")
        if milliseconds is None:
            continue
        kept = timedelta.max if milliseconds < 0 else milliseconds * MILLISECOND
        if kept < wanted:
            yield mend(
                f"{topic} keeps events for {days(kept)}, the configuration says {days(wanted)}: "
                "a contour that is away for longer halts",
                alter(topic, f"retention.ms={round(wanted / MILLISECOND)}"),
            )
        for key, known in (
            ("processed_events", cleanup.processed_events),
            ("tombstones", cleanup.tombstones),
        ):
            if known < kept and known >= wanted:
                yield notice(
                    f"{topic} keeps events for {days(kept)}, longer than cleanup.{key} "
                    f"({days(known)}): what is read again after that is judged by versions alone",
                    f"set cleanup.{key} to more than that, or "
                    + alter(topic, f"retention.ms={round(wanted / MILLISECOND)}"),
                )
        if size is not None and size >= 0:
            yield notice(
                f"{topic} keeps {size:,} bytes a partition: events may go before their time",
                alter(topic, "retention.bytes=-1"),
            )


def _sizes(subject: Subject) -> Iterator[Finding]:
    wanted = subject.settings.kafka.max_message_bytes
    for table, topic, facts in subject.topics():
        most = facts.number("max.message.bytes")
        longest, read = subject.longest.get(table, (0, 0))
        if most is not None and most < wanted:
            yield mend(
                f"{topic} takes events of {most:,} bytes, kafka.max_message_bytes says "
                f"{wanted:,}: larger ones are parked",
                alter(topic, f"max.message.bytes={wanted}"),
            )
        if longest > min(most or wanted, wanted):
            yield mend(
                f"{table} has a row of {longest:,} bytes (of {read:,} sampled): its events are "
                "parked",
                "raise kafka.max_message_bytes in every contour, then "
                + alter(topic, f"max.message.bytes={longest * 2}"),
            )
    limit = (subject.cluster.broker or {}).get(REQUEST_LIMIT)
    if limit is not None and int(limit) < wanted:
        yield mend(
            f"brokers take requests of {int(limit):,} bytes ({REQUEST_LIMIT}), less than "
            f"kafka.max_message_bytes ({wanted:,})",
            f"raise {REQUEST_LIMIT} on every broker, or lower kafka.max_message_bytes",
        )
    if wanted > MOST_BYTES:
        yield mend(
            f"kafka.max_message_bytes ({wanted:,}) is more than the client can send",
            f"set it to {MOST_BYTES:,} or less",
        )


def _cleanup(subject: Subject) -> Iterator[Finding]:
    for _, topic, facts in subject.topics():
        policy = (facts.settings or {}).get("cleanup.policy", "delete")
        if policy != "delete":
            yield mend(
                f"{topic} has cleanup.policy={policy}: events that some contour has not read yet "
                "may go",
                alter(topic, "cleanup.policy=delete"),
            )


CHECKS: Final = (
    KafkaCheck("partitions", "kafka", _partitions, "as the configuration says, each with a leader"),
    KafkaCheck("copies", "kafka", _copies, "every event has the copies it should have"),
    KafkaCheck("min.insync.replicas", "kafka", _acknowledged, "an acknowledged event is safe"),
    KafkaCheck("topic retention", "kafka", _retention, "events are kept as long as configured"),
    KafkaCheck("event sizes", "kafka", _sizes, "the longest sampled rows fit everywhere"),
    KafkaCheck("cleanup.policy", "kafka", _cleanup, "topics keep every event for its time"),
)
