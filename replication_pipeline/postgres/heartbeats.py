"""The database's part of the heartbeats: its own beats and rounds, and the registry of all contours.

Beats: one row, ``replication.heartbeat``, which a publisher changes when it finds it due and unlocked.
Reading: the position on the topic is compared and set first, and the registry follows in the same
transaction, so that any number of appliers read it once. What each record means is decided by
``domain.contours``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Final

import psycopg
from psycopg.types.json import Jsonb

from replication_pipeline.domain.collection import made_anew
from replication_pipeline.domain.contours import (
    Contour,
    Registry,
    counts,
    follow,
    standing_after,
)
from replication_pipeline.domain.errors import RefusedError
from replication_pipeline.domain.heartbeat import (
    Admission,
    Beat,
    Forgetting,
    Identity,
    Round,
    offsets,
)
from replication_pipeline.engine.heartbeat import Pulse, Settled, Stamped, Standing
from replication_pipeline.postgres import queries
from replication_pipeline.postgres.connection import pin_plans
from replication_pipeline.postgres.failures import translating
from replication_pipeline.postgres.session import Session
from replication_pipeline.settings import Settings

SQL: Final = queries.load("heartbeat")


@dataclass(slots=True)
class PostgresHeart:
    """A connection of its own, so that a batch never waits for a beat."""

    settings: Settings
    _session: Session = field(init=False)
    _published: int = field(default=0)  # no row up to here is left to publish

    def __post_init__(self) -> None:
        self._session = Session(
            self.settings, application_name="replicator_heartbeat", autocommit=True
        )

    def standing(self) -> Standing:
        """This database as its registry has it."""
        with self._connected("reading its standing") as connection:
            return read_standing(connection)

    # --- sending ---------------------------------------------------------------------------------

    def beat(self, interval: timedelta) -> Pulse | None:
        """Number a beat, if one is due and no other publisher is at it. It is on the disk before it is
        sent: nobody can know of a beat that this database does not.
        """
        with self._connected("a heartbeat") as connection:
            row = connection.execute(SQL["beat"], {"interval": interval}).fetchone()
            return Pulse(*row) if row else None

    def settled(self) -> Settled | None:
        """The round that was begun, once all is published that was written before."""
        with self._connected("a heartbeat") as connection:
            connection.execute(SQL["settle_round"])
            row = connection.execute(SQL["ready_round"], {"floor": self._published}).fetchone()
            if row is None:
                return None
            self._published, taken_at, applied = row
            tables = {name for (name,) in connection.execute(SQL["captured_tables"])}
            return Settled(taken_at, offsets(applied), sorted(tables | set(self.settings.tables)))

    def end_round(self, sequence: int) -> None:
        """The round went out with this beat."""
        with self._connected("a heartbeat") as connection:
            connection.execute(SQL["end_round"], {"sequence": sequence})

    # --- reading ---------------------------------------------------------------------------------

    def follow(
        self, expected: int | None, records: Sequence[Stamped], *, gap: bool
    ) -> Registry | None:
        """Bring the registry up to ``records``. ``None``: another applier was faster."""
        with self._connected("reading heartbeats") as connection, connection.transaction():
            connection.execute(SQL["lock_log"])
            standing = read_standing(connection)
            if standing.next_offset != expected:
                return None
            before = read_registry(connection)
            if gap:
                # The topic is kept for longer than anybody may be silent.
                before = _fenced(before, standing.me)
            registry, trouble = before, standing.trouble
            rounds = _Rounds(connection, self.settings.monitoring.fence_after.total_seconds())
            for offset, time, record in records:
                if record is None:
                    continue
                registry = follow(registry, record, time)
                trouble = standing_after(trouble, registry, record, standing.me, standing.sequence)
                match record:
                    case Beat(round=Round() as round_) if counts(registry, record):
                        rounds.keep(record.identity.contour, round_, offset, time)
                    case Admission():
                        rounds.drop(record.identity.contour)
                    case Forgetting():
                        rounds.drop(record.contour)
            rounds.thin(records[-1].time)
            connection.execute(
                SQL["advance"],
                {
                    "expected": expected,
                    "next": records[-1].offset + 1,
                    "log_time": registry.log_time,
                    "log_seconds": registry.log_seconds,
                    "trouble": trouble,
                },
            )
            self._keep(connection, registry, standing.me)
            return registry

    def _keep(self, connection: psycopg.Connection, registry: Registry, me: Identity) -> None:
        for name, contour in registry.contours.items():
            connection.execute(
                SQL["keep_contour"],
                {
                    "name": name,
                    "id": contour.identity.id,
                    "incarnation": contour.identity.incarnation,
                    "state": contour.state,
                    "sequence": contour.sequence,
                    "last_beat": contour.last_beat,
                    "last_heard": contour.last_heard,
                    "fenced_at": contour.fenced_at,
                    "ahead": list(contour.ahead),
                    "clock_ahead": contour.clock_ahead,
                },
            )
        mine = registry.contours.get(me.contour)
        if mine is not None and mine.state != "active":
            connection.execute(SQL["drop_floors"])

    # --- an operator's word ----------------------------------------------------------------------

    def admission(self, contour: str) -> Admission:
        """Of this database, or of another contour as it was last heard of."""
        with self._connected("admitting a contour") as connection, connection.transaction():
            standing = read_standing(connection)
            known = read_registry(connection).contours.get(contour)
            if contour == standing.me.contour:
                seen = max(standing.sequence, known.sequence if known else 0)
                row = connection.execute(SQL["own_sequence"], {"seen": seen}).fetchone()
                assert row is not None
                return Admission(standing.me, row[0])
            return Admission(_known(known, contour).identity, _known(known, contour).sequence)

    def forgetting(self, contour: str) -> Forgetting:
        """Of another contour. This one would only lock itself out."""
        with self._connected("forgetting a contour") as connection:
            if contour == read_standing(connection).me.contour:
                raise RefusedError(
                    f"contour {contour} is this database's own",
                    remedy="run the command in a contour that stays",
                )
            _known(read_registry(connection).contours.get(contour), contour)
            return Forgetting(contour)

    def close(self) -> None:
        """Disconnect."""
        self._session.drop()

    @contextlib.contextmanager
    def _connected(self, doing: str) -> Iterator[psycopg.Connection]:
        try:
            with translating(f"contour {self.settings.contour.name}: {doing}"):
                connection, new = self._session.connection()
                if new:
                    self._published = 0
                    pin_plans(connection, "enable_seqscan", "enable_hashjoin", "enable_mergejoin")
                    connection.execute("set synchronous_commit = on")
                yield connection
        except RefusedError:
            raise
        except BaseException:
            self._session.drop()
            raise


def read_standing(connection: psycopg.Connection[Any]) -> Standing:
    row = connection.execute(SQL["standing"]).fetchone()
    assert row is not None  # `connect` has looked for it
    name, id_, incarnation, sequence, next_offset, trouble, state = row
    return Standing(Identity(name, id_, incarnation), sequence, next_offset, trouble, state)


def read_registry(connection: psycopg.Connection[Any]) -> Registry:
    """All contours that were ever heard of, but those forgotten long ago."""
    contours = {
        row[0]: Contour(
            Identity(row[0], row[1], row[2]), row[3], row[4], row[5], row[6], row[7], tuple(row[8])
        )
        for row in connection.execute(SQL["contours"])
    }
    position = connection.execute(SQL["log_position"]).fetchone()
    assert position is not None
    return Registry(contours, position[1], position[0])


@dataclass(slots=True)
class _Rounds:
    """The rounds that are kept, while some records are read."""

    connection: psycopg.Connection[Any]
    longest_lag: float  # seconds
    _newest: dict[str, Round | None] = field(default_factory=dict)

    def keep(self, contour: str, round_: Round, offset: int, time: float) -> None:
        if contour not in self._newest:
            row = self.connection.execute(SQL["newest_round"], {"contour": contour}).fetchone()
            self._newest[contour] = row and Round(row[0], offsets(row[1]), offsets(row[2]))
        before = self._newest[contour]
        if before is not None and made_anew(before, round_):
            self.drop(None)  # positions in a log that is gone say nothing
        self._newest[contour] = round_
        self.connection.execute(
            SQL["keep_round"],
            {
                "contour": contour,
                "offset": offset,
                "beat_at": time,
                "taken_at": round_.taken_at,
                "applied": Jsonb(round_.applied),
                "ends": Jsonb(round_.ends),
            },
        )

    def drop(self, contour: str | None) -> None:
        """Those of one contour, or of all."""
        self._newest.clear()
        self.connection.execute(SQL["drop_rounds"], {"contour": contour})

    def thin(self, time: float) -> None:
        for contour in self._newest:
            self.connection.execute(
                SQL["thin_rounds"], {"contour": contour, "beat_at": time, "keep": self.longest_lag}
            )


def _fenced(registry: Registry, me: Identity) -> Registry:
    mine = registry.contours.get(me.contour)
    if mine is None or mine.state != "active":
        return registry
    fenced = replace(mine, state="fenced", fenced_at=registry.log_time)
    return replace(registry, contours={**registry.contours, me.contour: fenced})


def _known(contour: Contour | None, name: str) -> Contour:
    if contour is None:
        raise RefusedError(
            f"contour {name} was never heard of here",
            remedy="replication-pipeline contours list shows those that were",
        )
    return contour
