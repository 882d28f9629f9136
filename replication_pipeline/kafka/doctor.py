"""What is wrong in Kafka: topics that are missing, keep or take too little, or have too few copies.

Pure verdicts on what ``inspection`` has read. Remedies are commands of Kafka's own tools, to be run by
whoever owns the cluster; ``…`` stands for ``--bootstrap-server`` and what it takes to log in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from replication_pipeline.domain.findings import Check, Finding, fine, mend, notice
from replication_pipeline.domain.names import heartbeat_topic, topic_for
from replication_pipeline.domain.network import is_local
from replication_pipeline.kafka.inspection import Cluster, TopicFacts, inspect
from replication_pipeline.settings import Settings

MOST_BYTES: Final = 1_000_000_000  # librdkafka's own limit
SAFE_COPIES: Final = 3
REQUEST_LIMIT: Final = "socket.request.max.bytes"
MILLISECOND: Final = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Subject:
    """``longest``: by table, bytes of the longest row of a sample, and how many rows that was."""

    settings: Settings
    cluster: Cluster
    longest: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def topics(self) -> Iterator[tuple[str, str, TopicFacts]]:
        """Table, topic and facts of the topics that exist."""
        for table in self.settings.tables:
            topic = topic_for(table, prefix=self.settings.kafka.topic_prefix)
            facts = self.cluster.topics.get(topic)
            if facts is not None:
                yield table, topic, facts


def examine_kafka(
    settings: Settings, longest: Mapping[str, tuple[int, int]] | None = None
) -> list[Finding]:
    """All findings; ``TransientError`` when no broker answers."""
    prefix = settings.kafka.topic_prefix
    topics = [
        *(topic_for(t, prefix=prefix) for t in settings.tables),
        heartbeat_topic(prefix=prefix),
    ]
    subject = Subject(settings, inspect(settings, topics), longest or {})
    return [finding for check in CHECKS for finding in check.findings(subject)]


def _brokers(subject: Subject) -> Iterator[Finding]:
    number = subject.cluster.brokers
    known = (subject.cluster.broker or {}).get("inter.broker.protocol.version")
    version = f", protocol {known}" if known else ""
    local = all(is_local(_host(s)) for s in subject.settings.kafka.bootstrap_servers.split(","))
    if number < SAFE_COPIES and not local:
        yield notice(
            f"{number} broker{'s' * (number > 1)}{version}: what one keeps alone is lost with its "
            "disk",
            "run three brokers, and topics with three copies",
        )
    if any(facts is not None and not facts.has_id for facts in subject.cluster.topics.values()):
        yield notice(
            "the brokers are older than Kafka 2.8: a topic that was deleted and made anew is not "
            "always noticed",
            "upgrade the brokers",
        )
    if number >= SAFE_COPIES or local:
        yield fine(f"{number} broker{'s' * (number > 1)} answer{'s' * (number == 1)}{version}")


def _topics(subject: Subject) -> Iterator[Finding]:
    prefix = subject.settings.kafka.topic_prefix
    for table in subject.settings.tables:
        topic = topic_for(table, prefix=prefix)
        if subject.cluster.topics.get(topic) is None:
            yield mend(
                f"topic {topic} does not exist: events of {table} are refused, and tried again",
                f"replication-pipeline setup-table {table}",
            )
    beats = heartbeat_topic(prefix=prefix)
    if subject.settings.monitoring.heartbeat_interval and subject.cluster.topics.get(beats) is None:
        yield mend(
            f"topic {beats} does not exist: deletes are never forgotten, and silence is not "
            "noticed",
            "replication-pipeline setup-table",
        )


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
                f"{_tool('topics')} --alter --topic {topic} --partitions {wanted}; readers of "
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
                _alter(topic, f"min.insync.replicas={max(1, facts.copies - 1)}"),
            )
        elif facts.copies >= SAFE_COPIES and least < facts.copies - 1:
            yield mend(
                f"{topic}: min.insync.replicas is {least} of {facts.copies}: an acknowledged "
                "event may be lost with one broker",
                _alter(topic, f"min.insync.replicas={facts.copies - 1}"),
            )
        elif least == facts.copies > 1:
            yield notice(
                f"{topic}: min.insync.replicas is {least} of {facts.copies}: publishing stops "
                "when one broker is away",
                _alter(topic, f"min.insync.replicas={facts.copies - 1}"),
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
                f"{topic} keeps events for {_days(kept)}, the configuration says {_days(wanted)}: "
                "a contour that is away for longer halts",
                _alter(topic, f"retention.ms={round(wanted / MILLISECOND)}"),
            )
        for key, known in (
            ("processed_events", cleanup.processed_events),
            ("tombstones", cleanup.tombstones),
        ):
            if known < kept and known >= wanted:
                yield notice(
                    f"{topic} keeps events for {_days(kept)}, longer than cleanup.{key} "
                    f"({_days(known)}): what is read again after that is judged by versions alone",
                    f"set cleanup.{key} to more than that, or "
                    + _alter(topic, f"retention.ms={round(wanted / MILLISECOND)}"),
                )
        if size is not None and size >= 0:
            yield notice(
                f"{topic} keeps {size:,} bytes a partition: events may go before their time",
                _alter(topic, "retention.bytes=-1"),
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
                _alter(topic, f"max.message.bytes={wanted}"),
            )
        if longest > min(most or wanted, wanted):
            yield mend(
                f"{table} has a row of {longest:,} bytes (of {read:,} sampled): its events are "
                "parked",
                "raise kafka.max_message_bytes in every contour, then "
                + _alter(topic, f"max.message.bytes={longest * 2}"),
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
                _alter(topic, "cleanup.policy=delete"),
            )


def _heartbeats(subject: Subject) -> Iterator[Finding]:
    topic = heartbeat_topic(prefix=subject.settings.kafka.topic_prefix)
    facts = subject.cluster.topics.get(topic)
    if facts is None:
        return
    if facts.partitions != 1:
        yield mend(
            f"{topic} has {facts.partitions} partitions: contours may read its records in "
            "different orders",
            f"stop all windows, delete {topic}, then replication-pipeline setup-table",
        )
    stamp = (facts.settings or {}).get("message.timestamp.type", "LogAppendTime")
    if stamp != "LogAppendTime":
        yield mend(
            f"{topic} is not stamped by the broker's clock: contours judge silence by different "
            "clocks",
            _alter(topic, "message.timestamp.type=LogAppendTime"),
        )
    kept = facts.number("retention.ms")
    fence = subject.settings.monitoring.fence_after
    if kept is not None and kept >= 0 and kept * MILLISECOND < fence:
        yield mend(
            f"{topic} keeps records for {_days(kept * MILLISECOND)}, less than "
            f"monitoring.fence_after ({_days(fence)}): a contour may miss that it was fenced",
            _alter(topic, f"retention.ms={round(fence * 2 / MILLISECOND)}"),
        )


def _rights(subject: Subject) -> Iterator[Finding]:
    for topic, facts in subject.cluster.topics.items():
        if facts is None:
            continue
        if facts.lacking:
            yield mend(
                f"this client may not {' and '.join(sorted(facts.lacking))} {topic}",
                f"{_tool('acls')} --add --allow-principal User:… --operation "
                f"{' --operation '.join(sorted(facts.lacking))} --topic {topic}",
            )
        elif facts.settings is None:
            yield notice(
                f"this client may not see the settings of {topic}: retention and limits are not "
                "known",
                f"{_tool('acls')} --add --allow-principal User:… --operation DescribeConfigs "
                f"--topic {topic}",
            )


def _tls(subject: Subject) -> Iterator[Finding]:
    kafka = subject.settings.kafka
    away = [s for s in kafka.bootstrap_servers.split(",") if not is_local(_host(s))]
    if kafka.security_protocol in ("ssl", "sasl_ssl"):
        yield fine("the connection to Kafka is encrypted")
    elif away:
        password = " and the password" if kafka.sasl_mechanism == "PLAIN" else ""
        yield notice(
            f"rows{password} travel to {away[0].strip()} in the clear",
            "set kafka.security_protocol: sasl_ssl (or ssl) and kafka.ssl_ca_location",
        )


def _host(server: str) -> str:
    return server.strip().rsplit(":", 1)[0]


def _days(kept: timedelta) -> str:
    if kept == timedelta.max:
        return "ever"
    hours = kept / timedelta(hours=1)
    return f"{hours / 24:g}d" if hours >= 24 else f"{hours:.3g}h"  # noqa: PLR2004  a day


def _tool(name: str) -> str:
    return f"kafka-{name}.sh …"


def _alter(topic: str, setting: str) -> str:
    return f"{_tool('configs')} --alter --topic {topic} --add-config {setting}"


KafkaCheck = Check[Subject]
CHECKS: Final = (
    KafkaCheck("brokers", "kafka", _brokers, ""),
    KafkaCheck("topics", "kafka", _topics, "every table has its topic"),
    KafkaCheck("partitions", "kafka", _partitions, "as the configuration says, each with a leader"),
    KafkaCheck("copies", "kafka", _copies, "every event has the copies it should have"),
    KafkaCheck("min.insync.replicas", "kafka", _acknowledged, "an acknowledged event is safe"),
    KafkaCheck("topic retention", "kafka", _retention, "events are kept as long as configured"),
    KafkaCheck("event sizes", "kafka", _sizes, "the longest sampled rows fit everywhere"),
    KafkaCheck("cleanup.policy", "kafka", _cleanup, "topics keep every event for its time"),
    KafkaCheck("heartbeat topic", "kafka", _heartbeats, "one partition, stamped by the broker"),
    KafkaCheck("kafka rights", "kafka", _rights, "topics may be read and written"),
    KafkaCheck("kafka tls", "kafka", _tls, "the connection does not leave the machine"),
)
