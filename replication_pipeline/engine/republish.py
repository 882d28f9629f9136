"""Sending events again that are published, beside publishers that go on.

A consumer that was rebuilt from a topic's later part lacks what was sent before. Republishing reads the
queue and changes nothing in it; events keep their ids and versions, so our own appliers skip what they
have.

Who reads a topic as upserts keeps the *last* occurrence of each key, so old events must not come to
stand behind newer ones. Hence:

* a chosen event is followed by all later published events of its key (the choice is *closed over
  keys*), also by those that publishers have sent meanwhile;
* all that is sent of a key is sent while its shard is locked, so nothing newer gets in between;
* a key is finished before the next stop: whenever this ends in order, the last occurrences ascend.

Keys go in the order of their first events, in windows, and a window's shards one after the other, so
that parents and children stay close, and publishers have every shard but one, and all between two.
Only an end in the middle of a shard's keys (kill -9, or a stop while Kafka is away) leaves older events
last; going on from the position that was reached mends it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Literal, NamedTuple, Protocol, TypeVar

from tenacity import Retrying

from replication_pipeline.domain.errors import FatalError, TransientError
from replication_pipeline.domain.model import ClaimedEvent
from replication_pipeline.engine.ports import EventProducer
from replication_pipeline.engine.retrying import retrying
from replication_pipeline.engine.stopping import StopToken

WINDOW_ROWS: Final = 8_000  # of all shards, about
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Selection:
    """Which published events: those for which all that is given holds. ``None``: any.

    ``since`` and ``until`` are about when an event was published; ``keys`` are JSON objects.
    ``from_id``: only keys whose first chosen event has this id or a greater one.
    """

    since: datetime | None = None
    until: datetime | None = None
    tables: tuple[str, ...] | None = None
    keys: tuple[str, ...] | None = None
    from_id: int = 0


class TablePlan(NamedTuple):
    """What is to be sent of one table; ``bytes`` as stored."""

    table: str
    events: int
    keys: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be sent. ``oldest``: the first event that is still there, when the range begins
    before it. ``until``: the end of the range, or else when it was read.
    """

    tables: tuple[TablePlan, ...]
    oldest: datetime | None
    until: datetime

    @property
    def events(self) -> int:
        return sum(table.events for table in self.tables)


class KeyRange(NamedTuple):
    """Keys by the ids of their first events, both ends included, and the shards that they are in."""

    first: int
    last: int
    shards: Sequence[int]


class Page(NamedTuple):
    """Events of a shard's keys in the order of ids; ``gone``: how many retention has taken."""

    events: Sequence[ClaimedEvent]
    gone: int
    last_id: int


class Archive(Protocol):
    """The published part of the queue. Every method may raise ``TransientError``."""

    def plan(self, selection: Selection) -> Plan:
        """Find out what is to be sent. What is published from then on is found by ``hold``."""

    def is_lost(self) -> bool:
        """Whether the plan has gone with a connection."""

    def window(self, start: int, rows: int) -> KeyRange | None:
        """The next keys from ``start`` on."""

    def hold(self, keys: KeyRange, shard: int) -> int:
        """Keep publishers from ``shard``. How many events they have added to the plan's keys."""

    def page(self, keys: KeyRange, shard: int, after: int) -> Page | None:
        """The next events behind the id ``after``, while the shard is held."""

    def release(self) -> None:
        """Let publishers have the shard again."""

    def abandon(self) -> None:
        """Release after a failure. Never raises."""


class Watcher(Protocol):
    """Told of progress; ``total`` grows with what is published meanwhile."""

    def progress(self, sent: int, total: int) -> None: ...

    def retrying(self, error: TransientError, attempt: int, pause: timedelta) -> None: ...


@dataclass(slots=True)
class Totals:
    """What was sent, and how it ended. Sent twice because of an outage counts twice.

    ``torn``: the end came in the middle of a shard's keys. ``position``: where to go on.
    """

    sent: int = 0
    bytes: int = 0
    gone: int = 0
    added: int = 0
    retries: int = 0
    per_table: Counter[str] = field(default_factory=Counter)
    elapsed: timedelta = timedelta()
    end: Literal["done", "stopped"] = "done"
    torn: bool = False
    position: int = 0


@dataclass(slots=True)
class Republish:
    """One run: ``plan``, then ``run``. ``rate`` is in events per second."""

    archive: Archive
    producer: EventProducer
    selection: Selection
    watcher: Watcher
    stop: StopToken
    rate: float | None = None
    totals: Totals = field(default_factory=Totals)
    _planned: int = field(default=0)
    _finished: int = field(default=0)
    _attempts: Retrying = field(init=False)

    def __post_init__(self) -> None:
        self._attempts = retrying(
            self.stop,
            over=lambda: bool(self.stop),
            abandon=self.archive.abandon,
            told=self._told,
        )

    def plan(self) -> Plan:
        """Choose the events. ``TransientError`` when the server is away."""
        plan = self.archive.plan(self.selection)
        self._planned = plan.events
        self.totals.position = self.selection.from_id
        return plan

    def run(self) -> Totals:
        """Send what was planned; outages are waited out. ``FatalError`` when Kafka refuses an event."""
        started = time.monotonic()
        totals = self.totals
        while (keys := self._insist(self._window)) is not None:
            for shard in keys.shards:
                if self.stop or self._insist(self._send, keys, shard) is None:
                    break
                self._throttle(started)
            else:
                totals.position = keys.last + 1
                continue
            break
        totals.end = "stopped" if self.stop else "done"
        totals.elapsed = timedelta(seconds=time.monotonic() - started)
        return totals

    def _window(self) -> KeyRange | None:
        if self.stop:
            return None
        rows = WINDOW_ROWS if self.rate is None else min(WINDOW_ROWS, max(16, int(self.rate)))
        return self.archive.window(self.totals.position, rows)

    def _send(self, keys: KeyRange, shard: int) -> int:
        """A shard's keys of one window, each to its end."""
        added = self.archive.hold(keys, shard)
        sent = self._send_pages(keys, shard)
        self.archive.release()
        self.totals.torn = False
        self.totals.added += added
        self._planned += added
        self._finished += sent
        self.watcher.progress(self._finished, self._planned)
        return sent

    def _send_pages(self, keys: KeyRange, shard: int) -> int:
        totals, after, finished = self.totals, 0, 0
        while (page := self.archive.page(keys, shard, after)) is not None:
            totals.torn = True
            deliveries = self.producer.send(page.events, self.stop).wait(self.stop)
            if deliveries.refused:
                failure = deliveries.refused[0]
                raise FatalError(
                    f"Kafka refused event {failure.event.id} of table {failure.event.table}: "
                    f"{failure.code}: {failure.message}; the keys before id {totals.position} "
                    "are sent",
                    remedy="mend the topic, then go on with "
                    f"--from-id {totals.position} and the same choice",
                )
            totals.sent += len(page.events)
            totals.bytes += sum(len(event.value) for event in page.events)
            totals.per_table.update(event.table for event in page.events)
            totals.gone += page.gone
            finished += len(page.events) + page.gone
            after = page.last_id
        return finished

    def _insist(self, step: Callable[..., T], *given: object) -> T | None:
        """Do ``step`` until it succeeds. ``None``: asked to stop while a server is away."""
        try:
            result: T = self._attempts(self._try, step, *given)
        except TransientError:
            return None
        return result

    def _try(self, step: Callable[..., T], *given: object) -> T:
        if self.archive.is_lost():
            self._plan_again()
        return step(*given)

    def _told(self, error: TransientError, attempt: int, pause: timedelta) -> None:
        self.totals.retries += 1
        self.watcher.retrying(error, attempt, pause)

    def _plan_again(self) -> None:
        """From the position on; a window whose keys were sent in part is sent again whole."""
        chosen = self.selection
        plan = self.archive.plan(
            Selection(chosen.since, chosen.until, chosen.tables, chosen.keys, self.totals.position)
        )
        self._planned = self._finished + plan.events

    def _throttle(self, started: float) -> None:
        """Wait, with nothing held, until the rate allows for more."""
        if self.rate is not None:
            due = started + self.totals.sent / self.rate
            self.stop.wait(timedelta(seconds=max(0.0, due - time.monotonic())))
