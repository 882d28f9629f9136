"""The cluster: brokers, rights, TLS, which topics there are, and the heartbeat topic."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from replication_pipeline.domain.findings import Finding, fine, mend, notice
from replication_pipeline.domain.names import heartbeat_topic, topic_for
from replication_pipeline.domain.network import host_of, is_local
from replication_pipeline.kafka.checks.subject import (
    MILLISECOND,
    SAFE_COPIES,
    KafkaCheck,
    Subject,
    alter,
    days,
    tool,
)


def _brokers(subject: Subject) -> Iterator[Finding]:
    number = subject.cluster.brokers
    known = (subject.cluster.broker or {}).get("inter.broker.protocol.version")
    version = f", protocol {known}" if known else ""
    local = all(is_local(host_of(s)) for s in subject.settings.kafka.bootstrap_servers.split(","))
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
            alter(topic, "message.timestamp.type=LogAppendTime"),
        )
    kept = facts.number("retention.ms")
    fence = subject.settings.monitoring.fence_after
    if kept is not None and kept >= 0 and kept * MILLISECOND < fence:
        yield mend(
            f"{topic} keeps records for {days(kept * MILLISECOND)}, less than "
            f"monitoring.fence_after ({days(fence)}): a contour may miss that it was fenced",
            alter(topic, f"retention.ms={round(fence * 2 / MILLISECOND)}"),
        )


def _rights(subject: Subject) -> Iterator[Finding]:
    for topic, facts in subject.cluster.topics.items():
        if facts is None:
            continue
        if facts.lacking:
            yield mend(
                f"this client may not {' and '.join(sorted(facts.lacking))} {topic}",
                f"{tool('acls')} --add --allow-principal User:… --operation "
                f"{' --operation '.join(sorted(facts.lacking))} --topic {topic}",
            )
        elif facts.settings is None:
            yield notice(
                f"this client may not see the settings of {topic}: retention and limits are not "
                "known",
                f"{tool('acls')} --add --allow-principal User:… --operation DescribeConfigs "
                f"--topic {topic}",
            )


def _tls(subject: Subject) -> Iterator[Finding]:
    kafka = subject.settings.kafka
    away = [s for s in kafka.bootstrap_servers.split(",") if not is_local(host_of(s))]
    if kafka.security_protocol in ("ssl", "sasl_ssl"):
        yield fine("the connection to Kafka is encrypted")
    elif away:
        password = " and the password" if kafka.sasl_mechanism == "PLAIN" else ""
        yield notice(
            f"rows{password} travel to {away[0].strip()} in the clear",
            "set kafka.security_protocol: sasl_ssl (or ssl) and kafka.ssl_ca_location",
        )


CHECKS: Final = (
    KafkaCheck("brokers", "kafka", _brokers, ""),
    KafkaCheck("topics", "kafka", _topics, "every table has its topic"),
    KafkaCheck("heartbeat topic", "kafka", _heartbeats, "one partition, stamped by the broker"),
    KafkaCheck("kafka rights", "kafka", _rights, "topics may be read and written"),
    KafkaCheck("kafka tls", "kafka", _tls, "the connection does not leave the machine"),
)
