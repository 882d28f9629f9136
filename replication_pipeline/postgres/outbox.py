"""The queue, as a publisher's lane uses it: a turn of claims, settled one by one, and one commit.

Locks: first shard rows, then queue rows, both FOR UPDATE SKIP LOCKED, both until commit. A shard has
one holder at a time, so a key's events are claimed in the order of their ids, whatever the number of
publishers. Whoever holds the locks owns the work; between turns only the floors of ``LowWater`` are
remembered, which spare the claims dead index entries.

The first claim of a turn takes the shards; the next ones go on behind it in the same transaction, so
that rows can be claimed and encoded while Kafka still has to acknowledge those before.

Marks are committed without waiting for the disk: a mark that a crash of the server takes back means
that its event is published once more, like after any other fault.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import accumulate
from operator import attrgetter
from typing import Any, Final

import psycopg
from psycopg.rows import RowMaker
from psycopg.types.string import ByteaBinaryLoader

from replication_pipeline.domain.errors import TransientError
from replication_pipeline.domain.model import (
    WHOLE,
    BatchResult,
    Claim,
    ClaimedEvent,
    DeliveryFailure,
    Part,
)
from replication_pipeline.engine.failpoints import armed, failpoint
from replication_pipeline.postgres import queries
from replication_pipeline.postgres.broken_turns import BrokenTurns
from replication_pipeline.postgres.connection import pin_plans
from replication_pipeline.postgres.event_heads import head_of_removed, read_heads
from replication_pipeline.postgres.failures import translating
from replication_pipeline.postgres.histograms import Histograms
from replication_pipeline.postgres.low_water import LowWater
from replication_pipeline.postgres.session import Session
from replication_pipeline.postgres.shards import SHARDS
from replication_pipeline.postgres.short_turns import HEADS, MOST_MARKS, ShortTurns
from replication_pipeline.settings import MOST_LANES, Settings

HEARTBEAT_EVERY: Final = 5.0  # seconds; `replication.status` calls a worker dead after 30
LOOK_AROUND_EVERY: Final = 1.0  # seconds between looks at the other publishers and at held rows
PATIENCE: Final = 1.0  # seconds that such looks may be late, so that they come when nothing waits
LOOKING_SHARE: Final = 0.05  # of the time, at most, may go into looking at held rows
CLAIM_BYTES: Final = 8 * 2**20  # of a batch's events; one event at least
LARGE: Final = 8192  # bytes as stored, above which an event is read by itself
SQL: Final = queries.load("outbox")
# Without sorting, the partitions of the queue are merged by their indexes.
PINNED: Final = ("enable_seqscan", "enable_hashjoin", "enable_mergejoin", "enable_sort")


@dataclass(slots=True)
class PostgresOutbox:
    """A publisher's way to the queue. One connection, one turn and one call at a time.

    ``lane``: 0 is the publisher's first, which tells that it lives and adds up what all have counted.
    """

    settings: Settings
    instance: str
    lane: int = 0
    _session: Session = field(init=False)
    _low_water: LowWater = field(init=False)
    _rotation: int = field(default=0)
    _share: int = field(default=SHARDS)
    _heads: dict[str, str] = field(default_factory=dict)
    _heads_as_json: str = field(default="{}")
    _clock: float = field(
        default=0.0
    )  # what the server's clock is ahead of this machine's, seconds
    _counting: int = field(init=False)  # which row of ``worker_counts`` is this lane's now
    _next_heartbeat: float = field(default=0.0)
    _next_look: float = field(default=0.0)
    _next_due: float = field(default=0.0)
    _due: bool = field(default=False)  # rows are held whose time has come
    # Shards of this turn, those first that the last claim left out, and above which id they are to be
    # claimed; and what was claimed above it.
    _reached: dict[int, int] = field(default_factory=dict)
    _in_hand: list[int] = field(default_factory=list)
    _seen: str = ""  # what was committed when this turn began, as a snapshot
    _raised: bool = False  # whether ``_reached`` is above what may still be committed
    _unmarked: Sequence[ClaimedEvent] = ()  # Kafka has them, and the next message marks them
    _short: ShortTurns | None = None
    _broken: BrokenTurns = field(default_factory=BrokenTurns)
    _histograms: Histograms = field(default_factory=Histograms)
    # Of this turn: when by the server's clock a batch was in Kafka, and when its events were captured.
    _sent: list[tuple[int, Mapping[str, list[int]]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._counting = self.lane
        self._low_water = LowWater(SQL, tuple(range(SHARDS)))
        # Looks at the queue are statements by themselves; a turn begins its transaction.
        self._session = Session(
            self.settings, application_name="replicator_publisher", autocommit=True
        )

    def claim(self, limit: int, part: Part = WHOLE) -> Claim | None:
        """Lock up to ``limit`` rows: of the lane's part of this publisher's share of the shards, or
        within a turn of those it has. ``None`` when there are none; the turn, if there is one, stays
        open.
        """
        with self._translating("claiming events"):
            connection = self._connection()
            if self._reached:
                return self.request(limit)()
            self._look_after(connection, PATIENCE)
            if not self._anything_to_do(connection):
                self._look_after(connection, 0.0)  # nobody waits for this meanwhile
                return None
            claim = self._claim_first(connection, limit, part)
            if claim is None:
                self._reached = {}
                connection.commit()  # what was released stays so
            failpoint("claimed")
            return claim

    def to_overtake(self) -> list[ClaimedEvent]:
        """What was published of keys that broken turns had sent something of, to be sent once more. If
        there is any, its shards are locked until ``overtaken``.
        """
        if not self._broken:
            return []
        with self._translating("reading what is to be sent again"):
            connection = self._connection()
            self._learn_heads(connection)
            connection.execute("begin")
            cursor = connection.cursor(binary=True, row_factory=_claimed)
            events = self._broken.published_later(connection, cursor, self._heads_as_json)
            if not events:
                self.overtaken()
            return events

    def overtaken(self) -> None:
        """They are in Kafka."""
        with self._translating("committing a batch"):
            self._connection().commit()
            self._broken.overtaken()

    def request(self, limit: int) -> Callable[[], Claim | None]:
        """Within a turn, a claim in two steps: the server's part now, the rest when the result is
        called, which may be while the next statement runs.
        """
        with self._translating("claiming events"):
            connection = self._of_the_turn()
            self._mark_now(connection)
            shards = list(self._reached)
            asked = self._asking(limit, len(shards))
            cursor = connection.cursor(binary=True, row_factory=_claimed)
            cursor.execute(
                SQL["claim"],
                {
                    "shards": shards,
                    "floors": list(self._reached.values()),
                    "in_hand": self._in_hand,
                    "seen": self._seen if self._raised else None,
                    "limit": limit,
                    "each": asked.each,
                    "large": LARGE,
                    "heads": self._heads_as_json,
                    "sent": int(asked.at * 1000),
                },
                prepare=True,
            )
            return lambda: self._fetch(connection, cursor, asked)

    def settle(
        self,
        published: Sequence[ClaimedEvent],
        refused: Sequence[DeliveryFailure] = (),
        fenced: Sequence[ClaimedEvent] = (),
    ) -> int:
        """Mark what Kafka has, hold what it refused and what must wait behind that. Returns how many
        events are parked by this.
        """
        with self._translating("marking published events"):
            connection = self._of_the_turn()
            self._mark_now(connection)
            if self._short is None or len(published) > MOST_MARKS:
                self._mark(connection, "mark_published", published)
            else:  # with the next message
                self._unmarked = published
            self._mark(connection, "hold_fenced", fenced)
            failpoint("marked")
            self._note(published)
            if not refused:
                return 0
            publisher = self.settings.publisher
            cursor = connection.execute(
                SQL["hold_refused"],
                {
                    "shards": [failure.event.shard for failure in refused],
                    "ids": [failure.event.id for failure in refused],
                    "errors": [f"{f.code}: {f.message}" for f in refused],
                    "first": publisher.retry_backoff.total_seconds(),
                    "longest": publisher.max_retry_backoff.total_seconds(),
                    "max_attempts": publisher.max_attempts,
                },
            )
            return sum(row[0] for row in cursor)

    def commit(self, results: Sequence[BatchResult]) -> None:
        """Count what the turn's batches did, and end it."""
        with self._translating("committing a batch"):
            connection = self._of_the_turn()
            self._reached = {}
            batches = [result for result in results if result.count]
            if self._short is not None:
                unmarked, self._unmarked = self._unmarked, ()
                self._short.finish(_places(unmarked), self._counting, batches)
                self._broken.end()
                self._observe(batches)
                return
            if batches:
                connection.execute(
                    SQL["count_published"],
                    {
                        "instance": self.instance,
                        "part": self._counting,
                        "batches": len(batches),
                        "processed": sum(result.processed for result in batches),
                        "failed": sum(result.failed for result in batches),
                        "bytes": sum(result.bytes for result in batches),
                    },
                    prepare=True,
                )
            failpoint("counted")
            connection.commit()
            self._broken.end()
            self._observe(batches)
            failpoint("committed")

    def anything_held(self) -> bool:
        """Whether refused events wait for their next attempt, or any in a shard that the last claim
        did not get: another publisher's, or beyond this one's share.
        """
        with self._translating("looking at held events"):
            connection = self._connection()
            row = connection.execute(SQL["anything_held"]).fetchone()
            return bool(row and row[0]) or self._anything_to_do(connection)

    def abandon(self, *, sent: bool = False) -> None:
        """Drop the connection: the server rolls back, every claimed row is free again. What was
        ``sent`` of them is in Kafka now, or won't come there.
        """
        if sent:
            self._broken.lost()
        self._broken.end()
        self._reached, self._unmarked = {}, ()
        self._session.drop()

    def close(self) -> None:
        """Disconnect; the first lane marks the worker as ended before."""
        if self._session.is_open and (self.lane == 0 or self._histograms.overdue()):
            with contextlib.suppress(psycopg.Error):
                connection, _ = self._session.connection()
                connection.rollback()
                self._beat(connection)
        if self.lane:
            self._session.drop()
        else:
            self._session.close(self.instance)

    def _connection(self) -> psycopg.Connection:
        connection, new = self._session.connection()
        if new:
            self._reached, self._unmarked = {}, ()
            self._sent.clear()
            self._next_heartbeat = self._next_look = self._next_due = 0.0
            self._low_water = LowWater(SQL, tuple(range(SHARDS)))
            # Text goes from PostgreSQL to librdkafka as bytes, never decoded on the way.
            connection.adapters.register_loader("text", ByteaBinaryLoader)
            # The queue is empty at one moment and deep at the next: always by its index, and
            # planned once.
            pin_plans(connection, *PINNED)
            connection.execute("set plan_cache_mode = force_generic_plan")
            connection.execute("set synchronous_commit = off")
            # Points to die at lie between the steps.
            self._short = None if armed() else ShortTurns.of(connection, self.instance, LARGE)
        return connection

    def _of_the_turn(self) -> psycopg.Connection:
        connection, new = self._session.connection()
        if new or not self._reached:  # the claim's locks went with the connection that held them
            raise TransientError(
                f"contour {self.settings.contour.name}: the connection that held the claim is gone",
                kind="PostgreSQL: connection failed",
            )
        return connection

    def _look_after(self, connection: psycopg.Connection, patience: float) -> None:
        """What is done now and then, if it is overdue by ``patience`` seconds."""
        now = time.monotonic() - patience
        if now >= self._next_heartbeat:
            self._next_heartbeat = time.monotonic() + HEARTBEAT_EVERY
            self._beat(connection)
            connection.execute(SQL["refresh_captures"])
            self._learn_heads(connection)
        if now >= self._next_look:
            self._next_look = time.monotonic() + LOOK_AROUND_EVERY
            alive, clock = connection.execute(SQL["publishers_alive"]).fetchone() or (1, 0.0)
            self._share = -(-SHARDS // max(1, alive))
            self._clock = clock - time.time()
        if now >= self._next_due:
            began = time.monotonic()
            row = connection.execute(SQL["anything_due"], prepare=True).fetchone()
            self._due = bool(row and row[0])
            ended = time.monotonic()
            self._next_due = ended + max(LOOK_AROUND_EVERY, (ended - began) / LOOKING_SHARE)
        self._low_water.refresh(connection, patience)

    def _beat(self, connection: psycopg.Connection) -> None:
        self._counting += MOST_LANES  # rows of no other lane
        if self.lane == 0:
            connection.execute(SQL["heartbeat"], {"instance": self.instance})
        # Publishing is worth more than how long it took. What follows tells of a lost connection.
        with contextlib.suppress(psycopg.Error):
            self._histograms.write(connection)

    def _note(self, published: Sequence[ClaimedEvent]) -> None:
        captured: defaultdict[str, list[int]] = defaultdict(list)
        for event in published:
            captured[event.table].append(event.created)
        self._sent.append((round((time.time() + self._clock) * 1_000_000), captured))

    def _observe(self, batches: Sequence[BatchResult]) -> None:
        """The turn is committed."""
        for at, captured in self._sent:
            for table, moments in captured.items():
                self._histograms.since("publish_latency", table, moments, at)
        self._sent.clear()
        for batch in batches:
            self._histograms.took("publish_batch", batch.duration)

    def _anything_to_do(self, connection: psycopg.Connection) -> bool:
        if self._due:
            return True
        parameters = self._low_water.parameters()
        row = connection.execute(SQL["anything_waiting"], parameters, prepare=True).fetchone()
        return bool(row and row[0])

    def _claim_first(self, connection: psycopg.Connection, limit: int, part: Part) -> Claim | None:
        """Begin a turn: at once where little is expected, else in steps."""
        self._rotation = (self._rotation + 1) % SHARDS  # another shard goes first each time
        self._broken.begin(self._clock)
        if self._short is None or self._due or limit > self.settings.publisher.batch_size:
            self._lock_shards(connection, part)
            failpoint("shards_locked")
            return self.request(limit)() if self._reached else None
        share = part.of_share(self._share)
        asked = self._asking(limit, share)
        floors = [self._low_water.floors[shard] for shard in range(SHARDS)]
        shards, self._seen, rows = self._short.begin(
            floors,
            rotation=self._rotation,
            share=share,
            limit=limit,
            each=asked.each,
            sent=int(asked.at * 1000),
        )
        self._reached = {shard: floors[shard] for shard in shards}
        self._in_hand, self._raised = [], False
        return self._take(connection, rows, asked)

    def _asking(self, limit: int, shards: int) -> _Asked:
        return _Asked(
            limit=limit,
            each=max(self.settings.publisher.batch_size, -(-limit // shards)),
            at=time.time() + self._clock,
            # An idle claim is ended by the server after twice this time; see `connect`.
            send_by=time.monotonic() + self.settings.kafka.delivery_timeout.total_seconds(),
        )

    def _lock_shards(self, connection: psycopg.Connection, part: Part) -> None:
        with connection.pipeline():  # one round trip
            connection.execute("begin")
            rows = connection.execute(
                SQL["lock_shards"],
                {"rotation": self._rotation, "share": part.of_share(self._share)},
                prepare=True,
            )
        seen: dict[int, str] = dict(rows.fetchall())
        self._reached = {shard: self._low_water.floors[shard] for shard in seen}
        self._seen = min(seen.values(), default="")  # one for all
        self._in_hand, self._raised = [], False
        if self._due and self._reached:
            connection.execute(SQL["release_due"], {"shards": list(self._reached)})
            self._due = False
            self._next_due = 0.0  # the other shards may have some as well

    def _fetch(
        self, connection: psycopg.Connection, cursor: psycopg.Cursor[ClaimedEvent], asked: _Asked
    ) -> Claim | None:
        with self._translating("reading claimed events"):
            return self._take(connection, cursor.fetchall(), asked)

    def _take(
        self, connection: psycopg.Connection, rows: list[ClaimedEvent], asked: _Asked
    ) -> Claim | None:
        if not rows:
            return None
        oldest = min(map(attrgetter("created"), rows))
        of_shards = Counter(map(attrgetter("shard"), rows))
        kept, cut = within(rows)
        full = cut or len(rows) >= asked.limit or max(of_shards.values()) >= asked.each
        # On backlog above what was claimed; lower ids that are committed from now on come next turn,
        # and so does what follows them. Else lower ids may be committed at any moment.
        if full:
            reached = {event.shard: event.id for event in kept}
            left_out = {s: floor for s, floor in self._reached.items() if s not in reached}
            self._reached, self._raised = left_out | reached, True
        self._in_hand = [] if full else [event.id for event in kept]
        events = [
            event if event.value else self._read(connection, event, int(asked.at * 1000))
            for event in kept
            if not event.fenced
        ]
        self._broken.claimed(events)
        return Claim(
            events=events,
            fenced=[event for event in kept if event.fenced],
            oldest_age=timedelta(seconds=max(0.0, asked.at - oldest / 1_000_000)),
            full=full,
            send_by=asked.send_by,
        )

    def _read(self, connection: psycopg.Connection, event: ClaimedEvent, sent: int) -> ClaimedEvent:
        """A large event's value, or that of a table that was set up a moment ago."""
        if event.table not in self._heads:
            self._learn_heads(connection)
        head = self._heads.get(event.table) or head_of_removed(
            connection, self.settings.contour.name, event.table
        )
        cursor = connection.cursor(binary=True)
        cursor.execute(
            SQL["read"], {"slot": event.slot, "ctid": event.place, "head": head, "sent": sent}
        )
        row = cursor.fetchone()
        if row is None or row[0] is None:
            raise TransientError(
                f"contour {self.settings.contour.name}: event {event.id} of table {event.table} "
                "has gone from the queue since it was claimed"
            )
        return event._replace(value=row[0])

    def _mark(
        self, connection: psycopg.Connection, query: str, events: Sequence[ClaimedEvent]
    ) -> None:
        for slot, ctids in _places(events).items():
            cursor = connection.execute(
                SQL[query], {"slot": slot, "ctids": '{"' + '","'.join(ctids) + '"}'}, prepare=True
            )
            if cursor.rowcount != len(ctids):
                raise TransientError(
                    f"contour {self.settings.contour.name}: {len(ctids) - cursor.rowcount} of "
                    f"{len(ctids)} claimed events were changed by somebody else meanwhile"
                )

    def _mark_now(self, connection: psycopg.Connection) -> None:
        unmarked, self._unmarked = self._unmarked, ()
        self._mark(connection, "mark_published", unmarked)

    def _learn_heads(self, connection: psycopg.Connection) -> None:
        self._heads = read_heads(connection, self.settings.contour.name)
        self._heads_as_json = json.dumps(self._heads)
        connection.execute("select set_config(%s, %s, false)", (HEADS, self._heads_as_json))

    def _translating(self, doing: str) -> Any:
        return translating(f"contour {self.settings.contour.name}: {doing}")


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a claim may bring: ``limit`` rows, ``each`` of a shard. ``at``: by the server's clock."""

    limit: int
    each: int
    at: float
    send_by: float


def within(rows: list[ClaimedEvent]) -> tuple[list[ClaimedEvent], bool]:
    """``rows`` in the order of ids, as far as they are ``CLAIM_BYTES`` together but one at least, and
    whether any are left out.
    """
    rows.sort(key=attrgetter("id"))
    sizes = accumulate(event.size for event in rows)
    kept = max(1, sum(1 for size in sizes if size <= CLAIM_BYTES))
    return rows[:kept], kept < len(rows)


def _places(events: Sequence[ClaimedEvent]) -> Mapping[int, Sequence[str]]:
    """Where the queue keeps them, by slot."""
    places: defaultdict[int, list[str]] = defaultdict(list)
    for event in events:
        places[event.slot].append(event.place)
    return places


def _claimed(_: object) -> RowMaker[ClaimedEvent]:
    return ClaimedEvent._make
