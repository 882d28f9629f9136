"""Several contours and a network that delivers in any order, more than once, from a seed.

Real capture and real apply; only Kafka is left out, so that the order is the test's to choose.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from replication_pipeline.domain.model import Consumed, Message, PartitionAdvance
from replication_pipeline.domain.names import Topic, topic_for
from replication_pipeline.postgres.inbox import PostgresInbox
from replication_pipeline.postgres.outbox import PostgresOutbox
from replication_pipeline_tests.conftest import Contour
from replication_pipeline_tests.integration.outbox import due, events

ROUNDS = 100  # far more than any history here needs to come to rest


@dataclass
class Receiver:
    """One contour, and what is still on its way to it."""

    contour: Contour
    inbox: PostgresInbox
    outbox: PostgresOutbox
    waiting: list[bytes] = field(default_factory=list)
    _offsets: dict[Topic, int] = field(default_factory=dict)

    def apply(self, values: Sequence[bytes]) -> None:
        """Apply events as one batch, each by the topic of its table."""
        messages: list[Message] = []
        before = dict(self._offsets)
        for value in values:
            source = json.loads(value)["source"]
            schema = "" if source["schema"] == "public" else f"{source['schema']}."
            topic = topic_for(
                schema + source["table"], prefix=self.contour.settings.kafka.topic_prefix
            )
            offset = self._offsets.get(topic, 0)
            messages.append(Message(topic, 0, offset, value))
            self._offsets[topic] = offset + 1
        self.inbox.apply(
            Consumed(
                tuple(messages),
                tuple(
                    PartitionAdvance(topic, 0, before.get(topic, 0), end, end)
                    for topic, end in self._offsets.items()
                    if end != before.get(topic, 0)
                ),
            )
        )


@dataclass
class Wire:
    """The network between ``receivers``."""

    receivers: list[Receiver]
    chance: random.Random

    def publish(self) -> int:
        """Put everything that is queued on its way to all other contours."""
        count = 0
        for sender in self.receivers:
            due(sender.outbox)
            for event in events(sender.outbox):
                count += 1
                for receiver in self.receivers:
                    if receiver is not sender:
                        receiver.waiting.append(event.value)
        return count

    def deliver(self, receiver: Receiver, most: int = 1_000_000) -> None:
        """Some of what waits, shuffled; parked events get their chance after it."""
        self.chance.shuffle(receiver.waiting)
        values, receiver.waiting = receiver.waiting[:most], receiver.waiting[most:]
        if values:
            receiver.apply(values)
        receiver.inbox.retry_parked(1000, eagerly=True)

    def run_dry(self) -> None:
        """Deliver, a few events at a time, until nothing is under way and nothing changes."""
        for _ in range(ROUNDS):
            moved = self.publish()
            receivers = [r for r in self.receivers if r.waiting]
            if not moved and not receivers and not self._still_parked():
                return
            for receiver in self.chance.sample(self.receivers, len(self.receivers)):
                self.deliver(receiver, self.chance.randint(1, 4))
        raise AssertionError(f"no rest after {ROUNDS} rounds: {self._still_parked()}")

    def _still_parked(self) -> list[tuple[object, ...]]:
        return [
            (r.contour.name, *row)
            for r in self.receivers
            for row in r.contour.run(
                "select table_name, record_key, reason, detail from replication.parked_events"
            )
        ]


@contextmanager
def wire_between(contours: Sequence[Contour], seed: int) -> Iterator[Wire]:
    """A network of all ``contours``."""
    receivers = [
        Receiver(c, PostgresInbox(c.settings, "applier"), PostgresOutbox(c.settings, "publisher"))
        for c in contours
    ]
    try:
        yield Wire(receivers, random.Random(seed))
    finally:
        for receiver in receivers:
            receiver.inbox.close()
            receiver.outbox.close()
