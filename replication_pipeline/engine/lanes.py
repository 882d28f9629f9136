"""One publisher, several lanes: more of them while there is a backlog, one without.

A lane is a publish cycle with a connection and a producer of its own. Lanes keep apart by the locks
of the shards, as publishers do, and take equal parts of this publisher's share of them. The first
lane is the window's own: it looks for work and decides. Another one is woken whenever a turn's time
is over before its work is, one each time; it repeats turns in a thread of its own until one leaves
nothing, rests, and is closed when nobody has needed it for ``REST``.

What the others did is told on the window's thread, with the first lane's next turn. Their errors are
raised there: the window treats them as its own, waits or ends. An error ends its lane and frees what
it had claimed; while there is a backlog another one is opened ``AFTER_FAILURE``.

Two lanes never work on the same shard, so all that a turn promises holds for any number of them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Final

from replication_pipeline.domain.errors import TransientError
from replication_pipeline.domain.model import WHOLE, BatchResult, Part
from replication_pipeline.engine.publish import PublishCycle

REST: Final = 10.0  # seconds without work after which a lane is closed
AFTER_FAILURE: Final = 5.0  # seconds until a lane that failed is opened again
LOOK: Final = 0.02  # seconds between looks of the first lane while only others have work

OpenLane = Callable[[int], AbstractContextManager[PublishCycle]]
"""Opens what the lane of that number needs. Called and closed in the lane's thread."""
Told = Sequence[BatchResult] | BaseException


@dataclass(slots=True)
class Lanes:
    """A cycle of up to ``most`` lanes: the first one's turn, and what the others did meanwhile."""

    first: PublishCycle
    open: OpenLane
    most: int
    _others: list[_Lane] = field(default_factory=list)
    _told: SimpleQueue[Told] = field(default_factory=SimpleQueue)
    _results: list[BatchResult] = field(default_factory=list)  # of others, not yet counted
    _failures: list[BaseException] = field(default_factory=list)  # of others, not yet raised
    _not_before: float = field(default=0.0)  # when a lane may be opened

    def __call__(self) -> Sequence[BatchResult]:
        """Run one turn of the first lane. No results: no lane had anything to do."""
        self._listen()
        if self._failures:
            raise self._failures.pop(0)
        results = self.first(self._share_out())
        if self.first.backlog and not self.first.stop:
            self._wake_one()
        self._listen(LOOK if not results and self._working() else 0.0)
        return [*results, *self._take_results()]

    def caught_up(self) -> bool:
        """Whether no event is left. What another lane has in hand the first one sees as another's."""
        return self.first.caught_up()

    def abandon(self) -> None:
        """Each lane has dropped by itself what it could not finish."""

    def finish(self) -> Sequence[BatchResult]:
        """Let the other lanes end their turns and close. Returns what has not been counted yet."""
        for lane in self._others:
            lane.leave()
        for lane in self._others:
            lane.join()
        self._listen()
        return self._take_results()

    def close(self) -> None:
        """End the threads. Raises what a lane has failed with in the end, if it was no outage."""
        for lane in self._others:
            lane.leave()  # those that were not waited for
        self.first.close()
        for failure in self._failures:
            if not isinstance(failure, TransientError):
                raise failure

    def _working(self) -> list[_Lane]:
        return [lane for lane in self._others if lane.working]

    def _share_out(self) -> Part:
        """The first lane's part of the shards; the others are told theirs."""
        working = self._working()
        for number, lane in enumerate(working, start=1):
            lane.part = Part(number, len(working) + 1)
        return Part(0, len(working) + 1)

    def _wake_one(self) -> None:
        self._others = [lane for lane in self._others if not lane.ended]
        resting = [lane for lane in self._others if not lane.working]
        if not resting:
            if len(self._others) + 1 >= self.most or time.monotonic() < self._not_before:
                return
            used = {lane.number for lane in self._others}
            number = next(n for n in range(1, self.most) if n not in used)
            resting = [_Lane(number, self.open, self._told)]
            self._others += resting
        resting[0].wake()
        self._share_out()

    def _listen(self, patience: float = 0.0) -> None:
        """Take what the others have told; wait so many seconds for the first of it."""
        with suppress(Empty):
            told = self._told.get(timeout=patience) if patience else self._told.get_nowait()
            while True:
                if isinstance(told, BaseException):
                    self._failures.append(told)
                    self._not_before = time.monotonic() + AFTER_FAILURE
                else:
                    self._results += told
                told = self._told.get_nowait()

    def _take_results(self) -> Sequence[BatchResult]:
        results, self._results = self._results, []
        return results


class _Lane:
    """A further lane: its thread, and what it has been asked to do."""

    def __init__(self, number: int, open_: OpenLane, told: SimpleQueue[Told]) -> None:
        self.number = number
        self.part = WHOLE
        self.ended = False
        self._busy = False
        self._open, self._told = open_, told
        self._leaving = False
        self._asked: SimpleQueue[bool] = SimpleQueue()  # whether to work; else to leave
        self._thread = threading.Thread(target=self._run, name=f"lane-{number}", daemon=True)
        self._thread.start()

    @property
    def working(self) -> bool:
        """Whether a turn runs or is about to; what has been done before is told by then."""
        return self._busy and not self.ended

    def wake(self) -> None:
        """There is work. Lost on a lane that is closing at this moment."""
        self._busy = True
        self._asked.put(True)

    def leave(self) -> None:
        """Close after the turn in hand."""
        self._leaving = True
        self._asked.put(False)

    def join(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        try:
            with self._open(self.number) as cycle:
                while self._rest():
                    self._work(cycle)
        except BaseException as error:  # noqa: BLE001  raised by the window's thread
            self._told.put(error)
        finally:
            self.ended = True

    def _rest(self) -> bool:
        try:
            return self._asked.get(timeout=REST)
        except Empty:
            return False

    def _work(self, cycle: PublishCycle) -> None:
        while not self._leaving and not cycle.stop:
            results = cycle(self.part)
            if results:
                self._told.put(results)
            if not cycle.backlog:
                break
        self._busy = False
