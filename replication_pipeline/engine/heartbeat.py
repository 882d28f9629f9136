"""Beats are sent beside publishing and read beside applying.

A round needs two looks. At the first one the database notes what this contour has applied, and a
horizon of transactions. Once all transactions older than that have ended, and whatever they had
queued is published, Kafka is asked for the ends of all topics: what was written here in ignorance
of the events below ``applied`` stands below those ends. Rounds take as long as they take; beats go
out in any case.

Who finds itself fenced, forgotten or doubled stops: the error says why and what to do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple, Protocol

from replication_pipeline.domain.contours import Registry, State, Trouble
from replication_pipeline.domain.errors import FatalError, TransientError
from replication_pipeline.domain.heartbeat import Beat, Identity, Offsets, Record, Round, encode


@dataclass(frozen=True, slots=True)
class Standing:
    """This database as its own registry has it. ``sequence``: of its last beat; ``next_offset``: how
    far the heartbeat topic is read; ``state``: ``None`` before its first beat has come home.
    """

    me: Identity
    sequence: int
    next_offset: int | None
    trouble: Trouble | None
    state: State | None


class Pulse(NamedTuple):
    """A beat that is due; ``clock`` is the contour's, in µs."""

    sequence: int
    clock: int


@dataclass(frozen=True, slots=True)
class Settled:
    """A round that lacks only the topics' ends; of these tables."""

    taken_at: int
    applied: Offsets
    tables: Sequence[str]


class Stamped(NamedTuple):
    """A record as it stands in the log; ``time``: the broker's, in seconds; ``None``: not readable."""

    offset: int
    time: float
    record: Record | None


class Heart(Protocol):
    """The database's part of sending."""

    def standing(self) -> Standing: ...

    def beat(self, interval: timedelta) -> Pulse | None:
        """``None``: not due, or another publisher's. Begins a round if there is none."""

    def settled(self) -> Settled | None:
        """The round, once all it waits for has come."""

    def end_round(self, sequence: int) -> None: ...


class Follower(Protocol):
    """The database's part of reading."""

    def standing(self) -> Standing: ...

    def follow(
        self, expected: int | None, records: Sequence[Stamped], *, gap: bool
    ) -> Registry | None:
        """Bring the registry up to ``records``, read from ``expected`` on; with a ``gap``, some before
        them are lost. ``None``: somebody else was faster.
        """


class HeartbeatTopic(Protocol):
    """Kafka's part."""

    def send(self, value: bytes) -> int:
        """The record's offset, once it is acknowledged."""

    def ends(self, tables: Sequence[str]) -> Offsets:
        """The ends of the tables' topics now."""

    def read(self, position: int | None) -> tuple[Sequence[Stamped], bool]:
        """Some records from ``position`` on, none at the end; and whether any before are lost."""


@dataclass(slots=True)
class Beating:
    """One step: a beat, if one is due."""

    heart: Heart
    topic: HeartbeatTopic
    interval: timedelta
    fence_after: timedelta

    def __call__(self) -> None:
        pulse = self.heart.beat(self.interval)
        if pulse is None:
            return
        beaten = time.monotonic()
        standing = self.heart.standing()
        refuse(standing)
        settled = self.heart.settled()
        told, trouble = None, None
        if settled is not None:
            try:
                told = Round(settled.taken_at, settled.applied, self.topic.ends(settled.tables))
            except TransientError as error:
                trouble = error  # alive all the same; the round stays open
        since = round((time.monotonic() - beaten) * 1e6)
        self.topic.send(
            encode(
                Beat(
                    standing.me,
                    pulse.sequence,
                    pulse.clock + since,
                    self.fence_after.total_seconds(),
                    told,
                )
            )
        )
        if told is not None:
            self.heart.end_round(pulse.sequence)
        if trouble is not None:
            raise trouble


@dataclass(slots=True)
class Listening:
    """One step: reads what has come. ``news`` is told of the registry before and after."""

    follower: Follower
    topic: HeartbeatTopic
    news: Callable[[Registry], None]

    def __call__(self) -> None:
        standing = self.follower.standing()
        while True:
            records, gap = self.topic.read(standing.next_offset)
            if not records:
                break
            registry = self.follower.follow(standing.next_offset, records, gap=gap)
            if registry is not None:
                self.news(registry)
            standing = self.follower.standing()
        refuse(standing)


def refuse(standing: Standing) -> None:
    """Raise ``FatalError`` when this database must neither publish nor apply."""
    name = standing.me.contour
    admit = f"replication-pipeline contours admit {name}"
    if standing.trouble == "clash":
        raise FatalError(
            f"contour {name} (id {standing.me.id}): another database takes part under this name or "
            "id already",
            remedy="give this one a name and an id of its own; if the other is gone for good, "
            f"load the tables and run: {admit}",
        )
    if standing.trouble == "gone_back":
        raise FatalError(
            f"contour {name}: Kafka has heartbeats of this database that it has never sent: it was "
            "restored from an older state, or is a copy of one that still runs",
            remedy="stop the copy; after a restore bring the tables up to date from another contour "
            f"and run: {admit}",
        )
    if standing.state == "fenced":
        raise FatalError(
            f"contour {name} is fenced: it was silent for so long that the others may have forgotten "
            "deletes which it has not seen; they park its events",
            remedy=f"load its tables again from another contour, then run: {admit}",
        )
    if standing.state == "forgotten":
        raise FatalError(
            f"contour {name} was taken out of account by an operator (contours forget)",
            remedy=f"load its tables again from another contour, then run: {admit}",
        )
