"""What the checks judge, and how their remedies are written.

Remedies are commands of Kafka's own tools, to be run by whoever owns the cluster; ``…`` stands for
``--bootstrap-server`` and what it takes to log in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from replication_pipeline.domain.findings import Check
from replication_pipeline.domain.names import topic_for
from replication_pipeline.kafka.inspection import Cluster, TopicFacts
from replication_pipeline.settings import Settings

SAFE_COPIES: Final = 3
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


def days(kept: timedelta) -> str:
    """A duration as the configuration has it."""
    if kept == timedelta.max:
        return "ever"
    hours = kept / timedelta(hours=1)
    return f"{hours / 24:g}d" if hours >= 24 else f"{hours:.3g}h"  # noqa: PLR2004  a day


def tool(name: str) -> str:
    """One of Kafka's own commands."""
    return f"kafka-{name}.sh …"


def alter(topic: str, setting: str) -> str:
    """Changes one setting of a topic."""
    return f"{tool('configs')} --alter --topic {topic} --add-config {setting}"


KafkaCheck = Check[Subject]
