"""One simulated contour: tables, tombstones, queue, offsets, and transactions that are still open."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from replication_pipeline_tests.simulation.rules import Event, Row, Rules

PARENTS: Final = (0, 1, 2)
PARENT_OF: Final = {3: 0, 4: 0, 5: 1}  # child key → parent key
CHILDREN_OF: Final = {0: (3, 4), 1: (5,)}
KEYS: Final = (*PARENTS, *PARENT_OF)


class Backup(NamedTuple):
    """What a restore brings back: all that is stored in the database."""

    rows: dict[int, Row]
    buried: dict[int, int]
    unsettled: set[int]
    queue: list[Event]
    sent: int
    offsets: list[int]
    parked: set[Event]


class Blocked(Exception):  # noqa: N818  a wait, not an error
    """A local transaction holds what is needed; nothing was changed."""


@dataclass(slots=True)
class Site:
    """``open`` holds writes that nobody sees yet, by key: what PostgreSQL keeps behind row locks."""

    id: int
    rules: Rules
    offsets: list[int]
    skew: int = 0
    earliest: int = 1  # what the clock shows at least
    rows: dict[int, Row] = field(default_factory=dict)
    buried: dict[int, int] = field(default_factory=dict)
    unsettled: set[int] = field(default_factory=set)
    queue: list[Event] = field(default_factory=list)
    sent: int = 0  # the newest version in the log, for the mutant that claims by high-water mark
    parked: set[Event] = field(default_factory=set)
    open: dict[int, Event] = field(default_factory=dict)
    highest: dict[int, int] = field(default_factory=dict)

    def clock(self, time: int) -> int:
        return max(self.earliest, time + self.skew)

    # --- local writers ---------------------------------------------------------------------------

    def insert(self, key: int, row: tuple[int, int], clock: int, *, commit: bool) -> bool:
        parent = PARENT_OF.get(key)
        if key in self.rows or key in self.open:
            return False
        if parent is not None and (parent not in self.rows or self._leaving(parent)):
            return False
        version = self.rules.stamp(clock, None, self.buried.get(key), self.id)
        self._write(Event(key, "c", version, None, self.id, Row(version, *row)), commit=commit)
        return True

    def update(
        self, key: int, left: int | None, right: int | None, clock: int, *, commit: bool
    ) -> bool:
        old = self.rows.get(key)
        if old is None or key in self.open:
            return False
        version = self.rules.stamp(clock, old.version, None, self.id)
        row = Row(
            version, old.left if left is None else left, old.right if right is None else right
        )
        self._write(Event(key, "u", version, old.version, self.id, row), commit=commit)
        return True

    def delete(self, key: int, clock: int, *, commit: bool = True) -> bool:
        """With its children, as ON DELETE CASCADE does; then it commits at once."""
        children = [child for child in CHILDREN_OF.get(key, ()) if child in self.rows]
        if key not in self.rows or not self.open.keys().isdisjoint(
            (key, *CHILDREN_OF.get(key, ()))
        ):
            return False
        for child in children:
            self._delete_one(child, clock, captured=self.rules.captures_cascades)
        self._delete_one(key, clock, commit=commit or bool(children))
        return True

    def move(self, key: int, to: int, clock: int) -> bool:
        """The row gets another key, of the same table."""
        old = self.rows.get(key)
        parent = PARENT_OF.get(to)
        if old is None or to in self.rows or key in self.open or to in self.open:
            return False
        if (key in PARENT_OF) != (to in PARENT_OF):
            return False
        if self._has_children(key) or self._child_on_its_way(key):
            return False
        if parent is not None and (parent not in self.rows or self._leaving(parent)):
            return False
        self._delete_one(key, clock, captured=self.rules.captures_moves_as_two)
        version = self.rules.stamp(clock, old.version, self.buried.get(to), self.id)
        row = Row(version, old.left, old.right)
        self._write(Event(to, "c", version, None, self.id, row), commit=True)
        return True

    def commit(self, key: int) -> None:
        self._commit(self.open.pop(key))

    def _delete_one(
        self, key: int, clock: int, *, commit: bool = True, captured: bool = True
    ) -> None:
        old = self.rows[key]
        version = self.rules.stamp(clock, old.version, None, self.id)
        if captured:
            self._write(Event(key, "d", version, old.version, self.id, None), commit=commit)
        else:
            del self.rows[key]

    def _write(self, event: Event, *, commit: bool) -> None:
        if commit:
            self._commit(event)
        else:
            self.open[event.key] = event

    def _commit(self, event: Event) -> None:
        if event.row is not None:
            self.rows[event.key] = event.row
        else:
            del self.rows[event.key]
            self.buried[event.key] = self.rules.bury(self.buried.get(event.key), event.version)
        self.queue.append(event)

    # --- the applier -----------------------------------------------------------------------------

    def apply(self, batch: Iterable[Event], *, own: bool = False) -> int:
        """One transaction. How many events were news. Raises ``Blocked`` before it changes anything."""
        rules, rows, buried = self.rules, self.rows, self.buried
        foreign = batch if own else [event for event in batch if event.contour != self.id]
        news: dict[int, Event] = {}
        for event in rules.newest(foreign).values():
            key = event.key
            row = rows.get(key)
            if self.open:
                self._wait_for_writers(event)
            standing = None if row is None else row.version
            if rules.decide(event.version, standing, buried.get(key)) == "apply":
                news[key] = event
        waiting = self._orphans(news)
        unseen = [key for key in news if key not in rows]
        for key, event in news.items():
            if event.row is not None:
                rows[key] = rules.merge(rows.get(key), event.row)
        waiting |= self._referenced(news)
        for key, event in news.items():
            if event.op == "d":
                buried[key] = rules.bury(buried.get(key), event.version)
                if key in unseen:
                    self.unsettled.add(key)
                else:
                    self.unsettled.discard(key)
                rows.pop(key, None)
        if rules.parks_what_waits:
            self.parked |= waiting
        if rules.captures_applied_rows:
            self.queue += [event._replace(contour=self.id) for event in news.values()]
        return len(news)

    def retry_parked(self) -> None:
        """Events whose obstacle is gone are applied or found to be old; the others wait on."""
        waiting, self.parked = self.parked, set()
        try:
            self.apply(sorted(waiting, key=lambda e: e.version), own=True)
        except Blocked:
            self.parked = waiting

    def settle(self) -> None:
        """Deletes of rows that nobody could see are looked at again, when no writer is on its way."""
        for key in [k for k in self.unsettled if k not in self.open]:
            row = self.rows.get(key)
            if row is not None and not self.rules.survives(row.version, self.buried[key]):
                if self._has_children(key) or self._child_on_its_way(key):
                    continue
                del self.rows[key]
            self.unsettled.discard(key)

    def _wait_for_writers(self, event: Event) -> None:
        mine = self.open.get(event.key)
        # A row that is not committed yet can't be locked, and a delete needs nothing else.
        if mine is not None and not (mine.op == "c" and event.op == "d"):
            raise Blocked
        if event.op == "d":
            if self._child_on_its_way(event.key):
                raise Blocked
        elif event.key in PARENT_OF and self._leaving(PARENT_OF[event.key]):
            raise Blocked

    def _orphans(self, news: dict[int, Event]) -> set[Event]:
        """Take rows without their parent out of ``news``. Parents have none, so once is enough."""
        found = set()
        for key in [k for k in news if k in PARENT_OF]:
            event, parent = news[key], PARENT_OF[key]
            coming = parent in news and news[parent].op != "d"
            missing = parent not in self.rows and not coming
            if self.rules.waits_for(event.op, parent_missing=missing, has_children=False):
                found.add(news.pop(key))
        return found

    def _referenced(self, news: dict[int, Event]) -> set[Event]:
        """Take parents' deletes out of ``news`` that have children which stay."""
        found = set()
        for key in [k for k in news if k in CHILDREN_OF]:
            event = news[key]
            staying = any(
                child in self.rows and (child not in news or news[child].op != "d")
                for child in CHILDREN_OF[key]
            )
            if self.rules.waits_for(event.op, parent_missing=False, has_children=staying):
                found.add(news.pop(key))
        return found

    # --- foreign keys, and what holds locks ------------------------------------------------------

    def _has_children(self, key: int) -> bool:
        return any(child in self.rows for child in CHILDREN_OF.get(key, ()))

    def _child_on_its_way(self, key: int) -> bool:
        return any(child in self.open for child in CHILDREN_OF.get(key, ()))

    def _leaving(self, key: int) -> bool:
        return key in self.open and self.open[key].op == "d"

    # --- backups ---------------------------------------------------------------------------------

    def backup(self) -> Backup:
        return Backup(
            dict(self.rows), dict(self.buried), set(self.unsettled), list(self.queue), self.sent,
            list(self.offsets), set(self.parked),
        )  # fmt: skip

    def restore(self, backup: Backup) -> None:
        """Open transactions are gone, and so is everything since."""
        self.rows, self.buried = dict(backup.rows), dict(backup.buried)
        self.unsettled, self.queue = set(backup.unsettled), list(backup.queue)
        self.sent, self.parked = backup.sent, set(backup.parked)
        self.offsets = list(backup.offsets)
        self.open.clear()
        self.highest.clear()
