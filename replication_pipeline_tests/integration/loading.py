"""Snapshots under test: run in this process, with writers beside them."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg
from psycopg import errors

from replication_pipeline import runtime
from replication_pipeline.engine.snapshot import Progress, Totals, Wanted
from replication_pipeline.engine.stopping import StopToken
from replication_pipeline.observe import SnapshotLog
from replication_pipeline_tests.conftest import Contour
from replication_pipeline_tests.integration.place import Place
from replication_pipeline_tests.publishing import until, with_settings

ITEMS = "create table items (id bigint primary key, body text, note text)"


@dataclass
class Loading(SnapshotLog):
    """A snapshot in a thread, and what it has told."""

    contour: Contour
    wanted: Wanted
    restart: bool = False
    workers: int = 2
    rate: float | None = None
    max_queue: int = 1_000_000
    max_chunk: int = 2_000
    seen: Progress | None = None
    told: list[str] = field(default_factory=list)
    totals: Totals | None = None
    failure: BaseException | None = None
    stop: StopToken = field(default_factory=StopToken)

    def __post_init__(self) -> None:
        settings = with_settings(
            self.contour.settings,
            snapshot={"max_queue": self.max_queue, "max_chunk": self.max_chunk},
        )
        self.run, self.work = runtime.prepare_snapshot(
            settings,
            self.wanted,
            watcher=self,
            stop=self.stop,
            restart=self.restart,
            workers=self.workers,
            rate=self.rate,
        )
        self._thread = threading.Thread(target=self._run, daemon=True)

    def progress(self, progress: Progress, waits: str) -> None:
        self.seen = progress
        if waits:
            self.told.append(waits)

    def start(self) -> Loading:
        self._thread.start()
        return self

    def end(self) -> Totals:
        self._thread.join(60)
        assert not self._thread.is_alive(), (self.seen, self.told[-1:])
        if self.failure:
            raise self.failure
        assert self.totals is not None
        return self.totals

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def until_told(self, text: str) -> None:
        until(lambda: any(text in told for told in self.told), f"to be told of {text}")

    def _run(self) -> None:
        try:
            self.totals = self.work.run()
        except BaseException as error:  # noqa: BLE001  raised by `end`
            self.failure = error


def load(
    contour: Contour, table: str = "items", to: str | None = None, where: str | None = None
) -> Totals:
    """A whole snapshot."""
    totals = Loading(contour, Wanted(table, to, where)).start().end()
    assert totals.end == "done"
    return totals


def unseen(contour: Contour, statement: str) -> None:
    """Rows that no event tells of, as if they were there before."""
    contour.run("set session_replication_role = replica")
    contour.run(statement)
    contour.run("set session_replication_role = origin")


@contextmanager
def places(contours: Sequence[Contour]) -> Iterator[list[Place]]:
    made = [Place(contour) for contour in contours]
    try:
        yield made
    finally:
        for place in made:
            place.close()


def exchange(between: Sequence[Place]) -> None:
    """Publish and deliver everything."""
    sent = [(place, place.publish()) for place in between]
    for sender, carried in sent:
        for place in between:
            for start in range(0, len(carried), 1_000) if place is not sender else ():
                left = carried[start : start + 1_000]
                while left := place.deliver(left):
                    pass


Write = Callable[[psycopg.Connection, random.Random], None]


def change_items(keys: int) -> Write:
    """Inserts, updates and deletes of ``items``, several in a transaction."""

    def write(session: psycopg.Connection, chance: random.Random) -> None:
        with session.transaction():
            for _ in range(chance.randint(1, 4)):
                key, text = chance.randrange(keys), f"{chance.random()}"
                match chance.randrange(4):
                    case 0:
                        session.execute("delete from items where id = %s", (key,))
                    case 1:
                        session.execute(
                            "insert into items values (%s, %s) on conflict do nothing", (key, text)
                        )
                    case 2:
                        session.execute("select from items where id = %s for update", (key,))
                    case _:
                        session.execute(
                            "update items set body = %s where id between %s and %s + 2",
                            (text, key, key),
                        )

    return write


@dataclass
class Writers:
    written: int = 0
    stop: bool = False
    failures: list[BaseException] = field(default_factory=list)


@contextmanager
def writing(contours: Sequence[Contour], write: Write, each: int = 2) -> Iterator[Writers]:
    """``each`` writers at every contour while the block lasts. Their deadlocks are their own."""
    state = Writers()

    def work(contour: Contour, number: int) -> None:
        chance = random.Random(number)
        try:
            with psycopg.connect(contour.dsn, autocommit=True) as session:
                session.execute("set search_path = public, replication")
                while not state.stop:
                    with contextlib.suppress(errors.DeadlockDetected):
                        write(session, chance)
                        state.written += 1
                    time.sleep(0.001)  # leaves the other threads some time
        except BaseException as error:  # noqa: BLE001  told below
            state.failures.append(error)

    threads = [
        threading.Thread(target=work, args=(contour, number + 100 * n), daemon=True)
        for n, contour in enumerate(contours)
        for number in range(each)
    ]
    for thread in threads:
        thread.start()
    try:
        until(lambda: state.written > 20 or bool(state.failures), "the writers to write")
        yield state
    finally:
        state.stop = True
        for thread in threads:
            thread.join(20)
    assert not state.failures, state.failures
