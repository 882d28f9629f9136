"""One run: a random history of three contours from a seed, then healing, then the verdict.

Safety is checked after every step: no live row at or below a settled tombstone, no orphan, no version
of a key that falls. Liveness after the last: once nothing fails any more, everything becomes quiet
within a bounded number of rounds, all contours are equal, and equal to the newest event of each key
that was ever sent.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from replication_pipeline.domain import convergence
from replication_pipeline_tests.simulation.rules import Event, Row, Rules
from replication_pipeline_tests.simulation.site import (
    KEYS,
    PARENT_OF,
    Backup,
    Blocked,
    Site,
)

CONTOURS: Final = 3
PARTITIONS: Final = 3
STEPS: Final = 80
ROUNDS: Final = 40  # of healing; a chain of parent, child and delete takes a handful
ACTIONS: Final[dict[str, int]] = {
    "insert": 16, "update": 18, "delete": 9, "move": 4, "commit": 6, "publish": 16, "apply": 22,
    "retry": 3, "settle": 3, "clock": 4, "repeat": 2, "back up": 2, "restore": 1,
}  # fmt: skip
SKEWS: Final = (-40, -10, -2, -1, 0, 0, 1, 2, 10, 40)
CHANCES: Final = list(ACTIONS.values())
NAMES: Final = list(ACTIONS)

Tell = Callable[[str], None]
REAL: Final = Rules()


class BrokenError(AssertionError):
    """What must hold did not. The seed is all that is needed to see it again."""

    def __init__(self, seed: int, what: str) -> None:
        super().__init__(f"seed {seed}: {what}")
        self.seed = seed


class World:
    """``tell`` gets a line for each thing that happens."""

    def __init__(self, seed: int, rules: Rules = REAL, tell: Tell | None = None) -> None:
        self.seed, self.rules, self.tell = seed, rules, tell
        self.chance = random.Random(seed)
        self.time = 1_000
        self.log: list[list[Event]] = [[] for _ in range(PARTITIONS)]
        self.sites = [Site(number, rules, [0] * PARTITIONS) for number in range(1, CONTOURS + 1)]
        self.backups: dict[int, Backup] = {}
        self.restored = False
        # In half of the worlds a key has a partition, as in Kafka; in the others anything goes.
        self.scattered = self.chance.random() < 0.5
        self.skewed = self.chance.random() < 0.7

    def run(self) -> None:
        """Raises ``BrokenError``."""
        for number, action in enumerate(self.chance.choices(NAMES, CHANCES, k=STEPS)):
            self.time += number & 1  # so that many things happen at the same time
            site = self.sites[int(self.chance.random() * CONTOURS)]
            self._step(action, site)
            self._check(site)
        self._heal()
        self._judge()

    # --- one step --------------------------------------------------------------------------------

    def _step(self, action: str, site: Site) -> None:
        chance = self.chance
        match action:
            case "publish":
                self._publish(site, int(chance.random() * 6), crash=chance.random() < 0.15)
            case "apply":
                self._apply(site, int(chance.random() * 8) + 1, crash=chance.random() < 0.15)
            case "retry":
                site.retry_parked()
            case "settle":
                site.settle()
            case "clock":
                if self.skewed:
                    site.skew = chance.choice(SKEWS)
                    self._told(site, f"has its clock set to {site.skew:+}")
            case "repeat":
                self._repeat()
            case "back up":
                self.backups[site.id] = site.backup()
            case "restore":
                self._restore(site)
            case _:
                self._write(action, site, site.clock(self.time))

    def _write(self, action: str, site: Site, clock: int) -> None:
        """Some writes are left open, and keep what they hold until they are committed."""
        chance = self.chance
        key = KEYS[int(chance.random() * len(KEYS))]
        match action:
            case "insert":
                row = (self._value(), self._value())
                if site.insert(key, row, clock, commit=chance.random() < 0.75):
                    self._told(site, f"inserts {key}", key)
            case "update":
                left, right = self._value(), self._value()
                if chance.random() < 0.5:
                    done = site.update(key, left, None, clock, commit=chance.random() < 0.85)
                else:
                    done = site.update(key, None, right, clock, commit=chance.random() < 0.85)
                if done:
                    self._told(site, f"updates {key}", key)
            case "delete":
                if site.delete(key, clock, commit=chance.random() < 0.85):
                    self._told(site, f"deletes {key}", key)
            case "move":
                to = KEYS[int(chance.random() * len(KEYS))]
                if site.move(key, to, clock):
                    self._told(site, f"moves {key} to {to}", to)
            case _:
                for held in list(site.open):
                    site.commit(held)
                    self._told(site, f"commits {held}", held)

    def _value(self) -> int:
        return int(self.chance.random() * 1_000)

    def _publish(self, site: Site, count: int, *, crash: bool) -> None:
        queue = site.queue
        if not queue:
            return
        if self.scattered:  # whatever order several publishers and their retries make of it
            self.chance.shuffle(queue)
        batch = queue[: count + 1]
        if not self.rules.sends_what_committed_late:
            batch = [event for event in batch if event.version > site.sent]
        if self.rules.marks_after_sending or not crash:
            for event in batch:
                self._send(event)
            site.sent = max([site.sent, *(event.version for event in batch)])
        if not crash or not self.rules.marks_after_sending:
            del queue[: count + 1]
        self._told(site, f"sends {len(batch)}{' and crashes' if crash else ''}")

    def _send(self, event: Event) -> None:
        scatter = int(self.chance.random() * PARTITIONS) if self.scattered else event.key
        self.log[scatter % PARTITIONS].append(event)

    def _apply(self, site: Site, count: int, *, crash: bool = False) -> None:
        part = int(self.chance.random() * PARTITIONS)
        start = site.offsets[part]
        batch = self.log[part][start : start + count]
        if not batch:
            return
        if crash:  # between the writes and the commit
            if not self.rules.moves_offsets_with_rows:
                site.offsets[part] = start + len(batch)
            self._told(site, f"crashes while it applies {len(batch)}")
            return
        try:
            news = site.apply(batch)
        except Blocked:
            return
        site.offsets[part] = start + len(batch)
        if self.tell is not None:
            self._told(site, f"applies {news} of {len(batch)}: {_words(batch)}")
        if not self.rules.keeps_tombstones:
            site.buried = {key: site.buried[key] for key in site.unsettled}

    def _repeat(self) -> None:
        """The log gets an event again, at its end."""
        part = self.log[int(self.chance.random() * PARTITIONS)]
        if part:
            self._send(part[int(self.chance.random() * len(part))])

    def _restore(self, site: Site) -> None:
        """From the last backup. Before anybody writes again, the log is read from its beginning, own
        events included: they are what the backup lacks. From now on the clock stays ahead of them:
        an own delete may have to wait for a child, and its version would be free to be used again.
        """
        if site.id not in self.backups:
            return
        self.restored = True
        site.restore(self.backups[site.id])
        events = [event for part in self.log for event in part]
        if self.rules.replays_own_after_restore:
            site.apply([event for event in events if event.contour == site.id], own=True)
        site.apply(events)
        site.retry_parked()
        own = [event.version >> 10 for event in events if event.contour == site.id]
        site.earliest = max([site.earliest, *(clock + 1 for clock in own)])
        site.offsets = [len(part) for part in self.log]
        self._told(site, "is restored from its backup")

    # --- the end ---------------------------------------------------------------------------------

    def _heal(self) -> None:
        """Nothing fails any more. An operator does what parked deletes of parents ask for."""
        self._told(None, "all is healed")
        for site in self.sites:
            for key in list(site.open):
                site.commit(key)
        for _ in range(ROUNDS):
            for site in self.sites:
                self._publish(site, len(site.queue), crash=False)
            for site in self.sites:
                self._catch_up(site)
                self._check(site)
            if not any(s.queue or s.parked or s.unsettled for s in self.sites) and all(
                s.offsets == [len(part) for part in self.log] for s in self.sites
            ):
                return
        self._fail(f"not quiet after {ROUNDS} rounds")

    def _catch_up(self, site: Site) -> None:
        for number, part in enumerate(self.log):
            site.apply(part[site.offsets[number] :])
            site.offsets[number] = len(part)
        site.retry_parked()
        site.settle()
        self._operate(site)

    def _operate(self, site: Site) -> None:
        """What an operator does about events that wait for good: children go that keep a parent from
        being deleted, and a child is given up whose parent was lost with a backup before it was sent.
        """
        self.time += 1
        leaving = {event.key for event in site.parked if event.op == "d"} | site.unsettled
        for child, parent in PARENT_OF.items():
            if parent in leaving:
                site.delete(child, site.clock(self.time))
        if self.restored:
            living = self._expected()
            site.parked -= {e for e in site.parked if e.op != "d" and e.key not in living}

    def _judge(self) -> None:
        events = [event for part in self.log for event in part]
        if len({(e.key, e.version) for e in events}) < len(set(events)):
            self._fail("two writes of a key have one version")
        expected = self._expected()
        for site in self.sites:
            if site.rows != expected:
                self._fail(f"contour {site.id} has {site.rows}, the newest writes are {expected}")
            if site.apply(events, own=True):
                self._fail(f"contour {site.id} applies events a second time")

    def _expected(self) -> dict[int, Row]:
        """The newest event of each key that was ever sent, but for children of lost parents."""
        rows = {}
        for event in convergence.newest(e for part in self.log for e in part).values():
            if event.row is not None:
                rows[event.key] = event.row
        return {key: row for key, row in rows.items() if PARENT_OF.get(key, key) in rows}

    def _check(self, site: Site) -> None:
        rows, buried = site.rows, site.buried
        for key, row in rows.items():
            grave = buried.get(key, 0)
            if row.version <= grave and key not in site.unsettled:
                self._fail(f"contour {site.id}: {key} lives at or below its tombstone")
            if key in PARENT_OF and PARENT_OF[key] not in rows:
                self._fail(f"contour {site.id}: {key} is an orphan")
            known = site.highest.get(key, 0)
            if row.version < known and key not in site.unsettled:
                self._fail(f"contour {site.id}: the version of {key} falls")
            site.highest[key] = max(row.version, grave)

    def _fail(self, what: str) -> None:
        raise BrokenError(self.seed, what)

    # --- the story -------------------------------------------------------------------------------

    def _told(self, site: Site | None, what: str, key: int | None = None) -> None:
        if self.tell is None:
            return
        line = f"{self.time:5}  {'abc'[site.id - 1] + ' ' if site else ''}{what}"
        if site is not None and key is not None:
            event = site.open.get(key) or (site.queue[-1] if site.queue else None)
            if event is not None:
                line += (
                    f" → {_version(event.version)}{', not committed' if key in site.open else ''}"
                )
        self.tell(line)


def _words(batch: list[Event]) -> str:
    return ", ".join(f"{e.op}{e.key}@{_version(e.version)}" for e in batch)


def _version(version: int) -> str:
    """``1042a``: clock and contour."""
    return f"{version >> 10}{'?abc'[version & 3]}"


def run(seed: int, rules: Rules = REAL, tell: Tell | None = None) -> None:
    """One world. Raises ``BrokenError``."""
    World(seed, rules, tell).run()


def broken_in(seeds: range) -> list[str]:
    """What is wrong in the worlds with these seeds."""
    found = []
    for seed in seeds:
        try:
            run(seed)
        except BrokenError as error:
            found.append(str(error))
    return found
