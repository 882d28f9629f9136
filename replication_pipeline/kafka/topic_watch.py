"""Whether topics still are those that were read here before.

A topic that was deleted and made anew has the same name and another id (KIP-516). Its offsets mean
other events, so a stored position must never be used in it. Ids are compared whenever positions are
taken up, and every ``EVERY`` seconds in between, without waiting for the answer. What may have been
read of the new topic until then does no harm, as events are applied by version; its beginning is read
once an operator has accepted it.

Brokers that know no ids (before 2.8) are not checked.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final, Protocol

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, TopicDescription  # type: ignore[attr-defined]

from replication_pipeline.domain.errors import TransientError
from replication_pipeline.domain.names import Topic
from replication_pipeline.domain.positions import LogRange, explain, halt
from replication_pipeline.kafka.client import Admin, not_allowed

EVERY: Final = 30.0  # seconds
PATIENCE: Final = 5.0  # seconds for an answer
NO_ID: Final = "AAAAAAAAAAAAAAAAAAAAAA"
Answers = Mapping[str, "Future[TopicDescription]"]


class TopicStore(Protocol):
    """Where the ids are kept: the inbox."""

    def learn_topics(self, ids: Mapping[Topic, str]) -> dict[Topic, str]:
        """The ids under which these topics are read here; of those never seen, ``ids`` are kept."""


@dataclass(slots=True)
class TopicWatch:
    """Compares the ids of a contour's ``topics``, which map to their tables."""

    contour: str
    topics: Mapping[Topic, str]
    admin: Admin
    store: TopicStore
    _known: dict[Topic, str] = field(default_factory=dict)
    _asked: Answers | None = field(default=None)
    _due: float = field(default=0.0)

    def compare(self) -> None:
        """Ask Kafka, and wait. ``FatalError``: a topic was made anew."""
        with self.admin.asking() as client:
            asked = ask(client, list(self.topics))
            self._due, self._asked = time.monotonic() + EVERY, None
            ids, _ = self._ids(asked)
        self._refuse_others(ids)

    def glance(self) -> None:
        """Compare now and then, when the answer has come. ``TransientError``: a topic is missing."""
        if self._asked is None:
            if time.monotonic() >= self._due:
                self._due = time.monotonic() + EVERY
                with self.admin.asking() as client:
                    self._asked = ask(client, list(self.topics))
            return
        if not all(answer.done() for answer in self._asked.values()):
            return
        asked, self._asked = self._asked, None
        with self.admin.asking():
            ids, missing = self._ids(asked)
        if ids.items() - self._known.items():
            self._refuse_others(ids)
        if missing:
            raise TransientError(
                f"contour {self.contour}: Kafka has no topic {', '.join(missing)}; the others are "
                "read on",
                kind="Kafka: no such topic",
            )

    def _ids(self, asked: Answers) -> tuple[dict[Topic, str], list[str]]:
        ids, missing = {}, []
        for name, answer in asked.items():
            description = described(self.contour, name, answer)
            if description is None:
                missing.append(name)
            elif (topic_id := str(description.topic_id)) != NO_ID:
                ids[Topic(name)] = topic_id
        return ids, missing

    def _refuse_others(self, ids: Mapping[Topic, str]) -> None:
        self._known = self.store.learn_topics(ids)
        for topic, topic_id in ids.items():
            if self._known[topic] != topic_id:
                why = explain("made_anew", None, LogRange(0, 0))
                raise halt(self.contour, topic, self.topics[topic], why)


def ask(admin: AdminClient, topics: Sequence[str]) -> Answers:
    """Ask Kafka to describe ``topics``; the client must live as long as the answers are waited for."""
    return admin.describe_topics(TopicCollection(list(topics)), request_timeout=PATIENCE)


def described(
    contour: str, topic: str, answer: Future[TopicDescription]
) -> TopicDescription | None:
    """Kafka's answer; ``None``: there is no such topic."""
    try:
        return answer.result(PATIENCE * 2)
    except TimeoutError:
        raise TransientError(
            f"contour {contour}: Kafka did not describe {topic} in time", kind="Kafka: away"
        ) from None
    except KafkaException as error:
        cause: KafkaError = error.args[0]
        if cause.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC):
            return None
        if cause.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            raise not_allowed(contour, topic) from None
        raise TransientError(
            f"contour {contour}: Kafka did not describe {topic}: {cause.name()}: {cause.str()}",
            kind="Kafka: away",
        ) from None
