"""What applications do in scenario ``soak``, and who watches for it: a writer and a reader a contour.

Both contours write the same table, each commits single-row transactions at a steady pace. Of ten, one
inserts a row, one deletes the writer's oldest one and eight update a row at random, every tenth of them
one of the other contour's. So there are always as many rows. What is inserted is watched for in the
other contour; every event is written, published and applied alike.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from multiprocessing.synchronize import Event
from typing import Any, Final

import psycopg
from psycopg import Connection

from bench import users
from bench.pacing import LAST_ARRIVAL, Moments
from bench.workloads import both_have

BAND: Final = 10**12  # ids between the first rows of one contour and of the next
KEPT_SECONDS: Final = 80  # of all that a contour writes: as many rows it has
SPARED: Final = (
    0.25  # part of them at either end that nobody updates, as it may be under way or going
)
LOOK: Final = 0.01  # seconds between looks for new rows
UPDATE: Final = "update users set balance = balance + 1, updated_at = now() where id = %s"
DELETE: Final = "delete from users where id = %s"
NEW: Final = "select id from users where id > %s and id < %s"


@dataclass(frozen=True, slots=True)
class Load:
    """What one contour writes, ``rate`` transactions a second."""

    dsn: str
    number: int
    """0 or 1."""
    rate: float

    @property
    def rows(self) -> int:
        return round(self.rate * KEPT_SECONDS)

    def first(self, contour: int) -> int:
        """The first id of a contour."""
        return contour * BAND + 1

    def statement(self, position: int, chance: random.Random) -> tuple[str, int]:
        """The ``position``-th transaction, from 0 on, and the id of its row."""
        turn, kind = divmod(position, 10)
        oldest = self.first(self.number) + turn
        if kind == 0:
            return users.insert(oldest + self.rows, oldest + self.rows), oldest + self.rows
        if kind == 1:
            return DELETE, oldest
        whose = 1 - self.number if chance.random() < 0.1 else self.number  # noqa: PLR2004
        spared = round(self.rows * SPARED)
        return UPDATE, self.first(whose) + turn + chance.randrange(spared, self.rows - spared)


@dataclass(frozen=True, slots=True)
class Wrote:
    transactions: int
    inserted: Moments
    late: list[float]
    """Seconds behind its pace, of each insert."""
    last: int
    """Id of the last row inserted."""


def fill(a: Connection[Any], b: Connection[Any], rate: float) -> None:
    """The rows that both begin with; ``rate`` is each contour's."""
    for number in range(2):
        load = Load("", number, rate)
        both_have(a, b, load.rows, first=load.first(number))


def write(pipe: Pipe, load: Load, over: Event) -> None:
    """Says that it is ready, waits for the word, writes until it is ``over``, sends ``Wrote``."""
    chance = random.Random(load.number)  # noqa: S311
    inserted: Moments = {}
    late: list[float] = []
    with psycopg.connect(load.dsn, autocommit=True) as connection:
        pipe.send("ready")
        pipe.recv()
        began, position, last = time.monotonic(), 0, load.first(load.number) + load.rows - 1
        while not over.is_set():
            due = began + position / load.rate
            pause = due - time.monotonic()
            if pause > 0:
                time.sleep(pause)
            statement, row = load.statement(position, chance)
            insert = statement not in {UPDATE, DELETE}
            if insert:
                late.append(time.monotonic() - due)
            connection.execute(statement.encode(), None if insert else [row])
            if insert:
                inserted[row], last = time.time(), row
            position += 1
    pipe.send(Wrote(position, inserted, late, last))


def read(pipe: Pipe, dsn: str, written: Load) -> None:
    """Looks for the rows of ``written`` in another contour; told the last id, it sends ``Moments``
    when that has come, or nothing has come for half a minute.
    """
    arrived: Moments = {}
    first = written.first(written.number)
    seen, end, last = first + written.rows - 1, first + BAND, None  # every row up to ``seen``
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("set enable_seqscan = off")
        connection.execute("set enable_bitmapscan = off")
        pipe.send("ready")
        heard = time.monotonic()
        while last is None or (seen < last and time.monotonic() < heard + LAST_ARRIVAL):
            rows = connection.execute(NEW, [seen, end], prepare=True).fetchall()
            at = time.time()
            new = [number for (number,) in rows if number not in arrived]
            arrived |= dict.fromkeys(new, at)
            while seen + 1 in arrived:
                seen += 1
            if last is None and pipe.poll():
                last, heard = pipe.recv(), time.monotonic()
            if new:
                heard = time.monotonic()
            time.sleep(LOOK)
    pipe.send(arrived)
