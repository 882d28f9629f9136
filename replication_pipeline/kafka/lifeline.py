"""Whether a client still has a way to Kafka, and parting from one that has none.

A broker that has just started may answer that the cluster has no brokers. librdkafka (2.10 to 2.16 at
least, confluentinc/librdkafka#5301) then forgets the one that it knows, never connects to any again,
and tells nobody: a reader looks idle for ever. Its statistics show it. In an outage there is always a
broker that is being tried; here there is none, or only some that were never tried.

Whoever finds its line cut makes a new client. The old one may never come to an end, so nobody waits
for it for long.
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from confluent_kafka import Consumer, KafkaException

from replication_pipeline.domain.errors import TransientError

TOLD_EVERY: Final = 5.0  # seconds
LONGEST_START: Final = 10.0  # seconds until a new client tries its first broker
ENOUGH: Final = 2  # reports in a row, as brokers may be replaced between one and the next
LONGEST_GOODBYE: Final = 5.0  # seconds


class _Broker(msgspec.Struct):
    source: str
    state: str
    stateage: int  # µs


class _Statistics(msgspec.Struct):
    brokers: dict[str, _Broker] = {}


DECODER: Final = msgspec.json.Decoder(_Statistics)


@dataclass(slots=True)
class Lifeline:
    """Of one client, whose ``options`` it has to get, and that has to be polled."""

    _reports: int = field(default=0)  # without any broker

    @property
    def options(self) -> dict[str, Any]:
        return {"statistics.interval.ms": round(TOLD_EVERY * 1000), "stats_cb": self.hear}

    @property
    def cut(self) -> bool:
        """Whether the client does not try to reach any broker any more."""
        return self._reports >= ENOUGH

    def hear(self, statistics: str) -> None:
        """A report of librdkafka's."""
        brokers = DECODER.decode(statistics).brokers.values()
        tried = any(map(_is_tried, brokers))
        self._reports = 0 if tried else self._reports + 1


def _is_tried(broker: _Broker) -> bool:
    # The others stand for the coordinator, which is reached through one of these.
    if broker.source not in ("learned", "configured"):
        return False
    return broker.state != "INIT" or broker.stateage < LONGEST_START * 1_000_000


def lost(contour: str) -> TransientError:
    """Told when a client is replaced."""
    return TransientError(
        f"contour {contour}: the Kafka client has lost all brokers and tries none any more; "
        "another one takes its place"
    )


def part(consumer: Consumer, *, patience: float = LONGEST_GOODBYE) -> None:
    """Leave the group and close, for ``patience`` seconds at most; the rest ends with the process."""

    def close() -> None:
        with contextlib.suppress(KafkaException, RuntimeError):
            consumer.close()

    thread = threading.Thread(target=close, name="kafka-goodbye", daemon=True)
    thread.start()
    thread.join(patience)
