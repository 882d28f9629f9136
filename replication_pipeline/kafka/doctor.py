"""Looking for what is wrong in Kafka: it is asked once, and the checks judge what it has told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from replication_pipeline.domain.findings import Finding
from replication_pipeline.domain.names import heartbeat_topic, topic_for
from replication_pipeline.kafka.checks import cluster, topics
from replication_pipeline.kafka.checks.subject import Subject
from replication_pipeline.kafka.inspection import inspect
from replication_pipeline.settings import Settings

CHECKS: Final = (*cluster.CHECKS, *topics.CHECKS)


def examine_kafka(
    settings: Settings, longest: Mapping[str, tuple[int, int]] | None = None
) -> list[Finding]:
    """All findings; ``TransientError`` when no broker answers."""
    prefix = settings.kafka.topic_prefix
    wanted = [
        *(topic_for(t, prefix=prefix) for t in settings.tables),
        heartbeat_topic(prefix=prefix),
    ]
    subject = Subject(settings, inspect(settings, wanted), longest or {})
    return [finding for check in CHECKS for finding in check.findings(subject)]
