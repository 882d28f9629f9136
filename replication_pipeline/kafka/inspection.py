"""What ``doctor`` asks Kafka: brokers, and each topic's partitions, copies, settings and rights.

It asks and changes nothing. Settings that this client may not see are absent, and said to be.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final

from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclOperation,
    AdminClient,
    ConfigResource,
    TopicDescription,
)

from replication_pipeline.domain.errors import TransientError
from replication_pipeline.kafka.client import admin_client
from replication_pipeline.kafka.topic_watch import NO_ID, PATIENCE, described
from replication_pipeline.settings import Settings

NEEDED: Final = frozenset({"READ", "WRITE"})


@dataclass(frozen=True, slots=True)
class TopicFacts:
    """``copies`` and ``in_sync`` are those of the partition that has fewest. ``lacking``: operations
    that this client may not do. ``settings`` is ``None`` where it may not see them.
    """

    has_id: bool
    partitions: int
    copies: int
    in_sync: int
    leaderless: int
    lacking: frozenset[str]
    settings: Mapping[str, str] | None

    def number(self, setting: str) -> int | None:
        """A setting that is a number."""
        text = (self.settings or {}).get(setting)
        return None if text is None else int(text)


@dataclass(frozen=True, slots=True)
class Cluster:
    """``topics``: ``None`` for one that does not exist. ``broker``: settings of one of the brokers."""

    brokers: int
    topics: Mapping[str, TopicFacts | None] = field(default_factory=dict)
    broker: Mapping[str, str] | None = None


def inspect(settings: Settings, topics: Iterable[str]) -> Cluster:
    """The cluster and ``topics``. ``TransientError`` when no broker answers."""
    admin, contour, wanted = admin_client(settings), settings.contour.name, list(topics)
    try:
        nodes = admin.describe_cluster(request_timeout=PATIENCE).result(PATIENCE * 2).nodes
    except (KafkaException, TimeoutError) as error:
        told = error.args[0].str() if isinstance(error, KafkaException) else "no answer in time"
        raise TransientError(
            f"contour {contour}: Kafka does not answer: {told}",
            remedy="check kafka.bootstrap_servers and that a broker runs",
        ) from None
    asked = admin.describe_topics(
        TopicCollection(wanted), include_authorized_operations=True, request_timeout=PATIENCE
    )
    found = {topic: described(contour, topic, asked[topic]) for topic in wanted}
    resources = [
        ConfigResource(ConfigResource.Type.TOPIC, t) for t, there in found.items() if there
    ]
    broker = ConfigResource(ConfigResource.Type.BROKER, str(nodes[0].id)) if nodes else None
    told_topics = _settings(admin, resources)
    told_broker = _settings(admin, [broker]) if broker else {}
    return Cluster(
        len(nodes),
        {t: _facts(there, told_topics.get(t)) if there else None for t, there in found.items()},
        next(iter(told_broker.values()), None),
    )


def _settings(
    admin: AdminClient, resources: list[ConfigResource]
) -> dict[str, dict[str, str] | None]:
    """By the resource's name; ``None`` where Kafka refused to tell."""
    if not resources:
        return {}
    answers: Mapping[Any, Future[Any]] = admin.describe_configs(resources, request_timeout=PATIENCE)
    found: dict[str, dict[str, str] | None] = {}
    for resource, answer in answers.items():
        try:
            entries = answer.result(PATIENCE * 2)
        except (KafkaException, TimeoutError):
            found[resource.name] = None
        else:
            found[resource.name] = {
                name: entry.value for name, entry in entries.items() if entry.value is not None
            }
    return found


def _facts(topic: TopicDescription, settings: Mapping[str, str] | None) -> TopicFacts:
    allowed = topic.authorized_operations
    names = {operation.name for operation in allowed or ()}
    unknown = allowed is None or AclOperation.ALL.name in names
    return TopicFacts(
        has_id=str(topic.topic_id) != NO_ID,
        partitions=len(topic.partitions),
        copies=min(len(p.replicas) for p in topic.partitions),
        in_sync=min(len(p.isr) for p in topic.partitions),
        leaderless=sum(p.leader is None or p.leader.id < 0 for p in topic.partitions),
        lacking=frozenset() if unknown else NEEDED - names,
        settings=settings,
    )
