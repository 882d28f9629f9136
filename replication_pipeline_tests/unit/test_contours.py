"""The registry of contours and the collection of tombstones, as pure functions; and a small world in
which contours write, lag, are cut off and collect, with the real decisions: it must always converge.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replication_pipeline.domain.collection import known_everywhere, made_anew
from replication_pipeline.domain.contours import (
    Registry,
    counts,
    follow,
    skew,
    standing_after,
)
from replication_pipeline.domain.heartbeat import (
    Admission,
    Beat,
    Forgetting,
    Identity,
    Record,
    Round,
    decode,
    encode,
    passed,
)

pytestmark = pytest.mark.unit

A, B, C = (
    Identity(name, number, str(UUID(int=number))) for number, name in enumerate("abc", start=1)
)
HORIZON = 80.0


def beat(of: Identity, sequence: int, at: float = 0.0, round_: Round | None = None) -> Beat:
    return Beat(of, sequence, round(at * 1e6), HORIZON, round_)


def read(*records: tuple[Record, float]) -> Registry:
    registry = Registry()
    for record, time in records:
        registry = follow(registry, record, time)
    return registry


def states(registry: Registry) -> dict[str, str]:
    return {name: contour.state for name, contour in registry.contours.items()}


def every(seconds: float, until: float, of: Identity = A) -> list[tuple[Record, float]]:
    times = [n * seconds for n in range(int(until / seconds) + 1)]
    return [(beat(of, n + 1), time) for n, time in enumerate(times)]


@pytest.mark.parametrize(
    "record",
    [
        beat(A, 7, 12.5),
        beat(A, 7, 12.5, Round(1, {"t": (1, 2)}, {"t": (3, 2), "u": ()})),
        Admission(B, 3),
        Forgetting("b"),
    ],
)
def test_records_are_read_as_they_were_written(record: Record) -> None:
    assert decode(encode(record)) == record


@pytest.mark.parametrize(
    "value", [None, b"", b"[]", b"{", b'{"kind":"later"}', b'{"kind":"beat"}', b"\xff"]
)
def test_what_is_no_record_is_passed_by(value: bytes | None) -> None:
    assert decode(value) is None


def test_a_contour_silent_beyond_the_horizon_is_fenced_and_stays_so() -> None:
    log = [(beat(B, 1), 0.0), *every(5, 80)]
    assert states(read(*log)) == {"a": "active", "b": "active"}
    log.append((beat(A, 99), 85.0))
    assert states(read(*log)) == {"a": "active", "b": "fenced"}
    log.append((beat(B, 2), 86.0))
    assert states(read(*log)) == {"a": "active", "b": "fenced"}
    log.append((Admission(B, 2), 87.0))
    assert states(read(*log)) == {"a": "active", "b": "active"}
    log += [(beat(A, 100), 95.0), (beat(B, 3), 100.0)]
    assert states(read(*log)) == {"a": "active", "b": "active"}


def test_a_contour_comes_to_the_same_verdict_on_itself() -> None:
    log = [(beat(B, 1), 0.0), *every(5, 100), (beat(B, 2), 101.0)]
    assert states(read(*log))["b"] == "fenced"


def test_an_outage_of_the_whole_log_fences_nobody() -> None:
    registry = read((beat(A, 1), 0.0), (beat(B, 1), 1.0), (beat(A, 2), 900.0), (beat(B, 2), 901.0))
    assert states(registry) == {"a": "active", "b": "active"}


def test_a_broker_whose_clock_is_behind_the_last_ones_ages_nobody() -> None:
    registry = read((beat(A, 1), 1000.0), (beat(B, 1), 0.0), (beat(A, 2), 1.0))
    assert states(registry) == {"a": "active", "b": "active"}
    assert registry.log_seconds == 1


def test_another_database_of_a_name_or_id_is_passed_by_and_told() -> None:
    second = replace(A, incarnation="other")
    namesake = replace(C, id=1)
    registry = read((beat(A, 1), 0.0), (beat(second, 1), 1.0), (beat(namesake, 1), 2.0))
    assert {c.identity for c in registry.contours.values()} == {A}
    for me in (second, namesake):
        assert standing_after(None, registry, beat(me, 1), me, 1) == "clash"
        assert standing_after("clash", registry, beat(A, 1), me, 1) == "clash"
    assert standing_after(None, registry, beat(second, 1), A, 1) is None
    registry = read((beat(A, 1), 0.0), (Forgetting("a"), 1.0), (beat(second, 1), 2.0))
    assert states(registry) == {"a": "active"}
    assert registry.contours["a"].identity == second
    admitted = follow(registry, Admission(namesake, 1), 3.0)
    assert states(admitted) == {"a": "forgotten", "c": "active"}


def test_a_database_that_hears_what_it_never_said_has_gone_back() -> None:
    registry = read((beat(A, 5), 0.0))
    assert standing_after(None, registry, beat(A, 5), A, 5) is None
    assert standing_after(None, registry, beat(A, 5), A, 4) == "gone_back"
    assert standing_after("gone_back", registry, beat(A, 4), A, 4) == "gone_back"
    assert standing_after("gone_back", registry, Admission(A, 6), A, 6) is None
    # The copy that is not meant learns it from the same record.
    assert standing_after(None, registry, Admission(A, 6), A, 5) == "gone_back"
    assert not counts(follow(registry, beat(A, 4), 1.0), beat(A, 4))


def test_a_forgotten_contour_that_returns_does_not_count() -> None:
    registry = read((beat(A, 1), 0.0), (Forgetting("a"), 1.0), (beat(A, 2), 2.0))
    assert states(registry) == {"a": "forgotten"}
    assert read((Forgetting("never heard of"), 0.0)) == Registry()


def test_clocks_are_told_apart_from_the_time_a_beat_takes() -> None:
    # b is 2 s ahead; its first beat took 3 s to arrive.
    registry = read(
        (beat(A, 1, at=0.0), 0.01),
        (beat(B, 1, at=2.0), 3.0),
        (beat(A, 2, at=10.0), 10.3),
        (beat(B, 2, at=12.0), 10.02),
    )
    assert skew(registry.contours.values()) == pytest.approx(1.99)
    assert skew(read((beat(A, 1), 0.0)).contours.values()) == 0
    assert skew([]) == 0


def known(
    rounds: dict[str, list[Round]], applied: tuple[int, ...], active: str = "ab"
) -> tuple[int | None, tuple[str, ...]]:
    found = known_everywhere(
        "t", me="a", active=active, rounds=rounds, applied={"t": applied}, margin=0
    )
    return found.before, found.waiting_for


def took(at: int, applied: tuple[int, ...], ends: tuple[int, ...]) -> Round:
    return Round(at, {"t": applied}, {"t": ends})


def test_a_delete_is_known_when_all_have_passed_it_and_are_read() -> None:
    mine = [took(10, (0, 0), (5, 5)), took(20, (5, 5), (9, 5))]
    assert known({"a": mine}, (0, 0)) == (None, ("b",))  # it never took a round
    behind = [took(1, (5, 4), (6, 6))]
    assert known({"a": mine, "b": behind}, (9, 9)) == (None, ("b",))
    first = [took(1, (5, 5), (6, 6))]
    assert known({"a": mine, "b": first}, (6, 5)) == (None, ("b",))  # not read here to its ends
    assert known({"a": mine, "b": first}, (6, 6)) == (10, ("b",))
    assert known({"a": mine, "b": [*first, took(2, (9, 5), (9, 9))]}, (9, 9)) == (20, ())


def test_only_those_that_have_the_table_are_waited_for() -> None:
    mine = [took(10, (), (5,))]
    elsewhere = [Round(1, {}, {"other": (1,)})]
    assert known({"a": mine, "b": elsewhere}, (5,)) == (10, ())
    assert known({"a": mine, "b": [took(1, (), ())]}, (5,)) == (None, ("b",))
    assert known({"a": mine}, (5,), active="a") == (10, ())
    assert known({}, (5,), active="a") == (None, ("a",))
    assert known({"a": mine}, (5,), active="") == (None, ("a",))  # fenced itself


def test_a_clock_that_was_set_back_and_a_topic_made_anew_cost_rounds() -> None:
    mine = [took(50, (), (5,)), took(20, (), (6,)), took(30, (), (7,))]
    theirs = [took(1, (6,), (6,))]
    assert known({"a": mine, "b": theirs}, (9,)) == (20, ("b",))
    beyond_the_end = [took(1, (100,), (6,))]
    assert known({"a": mine, "b": beyond_the_end}, (9,)) == (None, ("b",))
    assert made_anew(mine[2], mine[0])
    assert not made_anew(mine[0], mine[2])
    assert passed((), (0, 0))
    assert not passed((3,), (3, 1))


# --- a small world ---------------------------------------------------------------------------------

Collect = Callable[["Site", "World"], int | None]


@dataclass(frozen=True)
class Event:
    key: int
    version: tuple[int, int]
    deleted: bool


@dataclass
class Site:
    """A contour: what it has, what it still has to publish, and what it has read."""

    number: int
    clock: int  # ahead of the world's
    rows: dict[int, tuple[int, int]] = field(default_factory=dict)
    tombs: dict[int, tuple[tuple[int, int], int]] = field(default_factory=dict)
    forgotten: dict[int, tuple[int, int]] = field(default_factory=dict)
    queue: list[Event] = field(default_factory=list)
    drawn: int = 0  # events ever queued
    applied: int = 0
    heard: int = 0  # of the heartbeats
    pending: tuple[int, int, int] | None = None  # a round: taken at, applied, queued until then
    rounds: dict[str, list[Round]] = field(default_factory=dict)
    registry: Registry = field(default_factory=Registry)
    sent: int = 0

    @property
    def name(self) -> str:
        return "abc"[self.number]


@dataclass
class World:
    """Steps as numbers from Hypothesis; time goes on by one with each. ``collect`` decides."""

    collect: Collect
    hasty: bool = False  # rounds don't wait for what is to be published
    now: int = 1000
    log: list[Event] = field(default_factory=list)
    beats: list[tuple[Beat, int]] = field(default_factory=list)
    sites: list[Site] = field(default_factory=list)
    collected: int = 0
    revived: int = 0  # writes taken that a forgotten delete had replaced

    def step(self, site: Site, action: str, key: int) -> None:
        self.now += 1
        getattr(self, action)(site, key)

    def write(self, site: Site, key: int) -> None:
        self._write(site, key, deleted=False)

    def delete(self, site: Site, key: int) -> None:
        if key in site.rows:
            self._write(site, key, deleted=True)

    def publish(self, site: Site, _: int) -> None:
        self.log += site.queue[:3]
        del site.queue[:3]

    def apply(self, site: Site, _: int) -> None:
        for event in self.log[site.applied : site.applied + 5]:
            site.applied += 1
            if event.version[1] != site.number and event.version > self._newest(site, event.key):
                self.revived += event.version <= site.forgotten.get(event.key, (0, 0))
                self._store(site, event)

    def beat(self, site: Site, _: int) -> None:
        """Goes on with the round in hand, as far as publishing has got."""
        round_ = None
        if site.pending is None:
            site.pending = (self._clock(site), site.applied, site.drawn)
        elif self.hasty or site.drawn - len(site.queue) >= site.pending[2]:
            taken_at, applied, _drawn = site.pending
            round_ = Round(taken_at, {"t": (applied,)}, {"t": (len(self.log),)})
            site.pending = None
        site.sent += 1
        me = Identity(site.name, site.number + 1, "")
        self.beats.append((Beat(me, site.sent, 0, 1e9, round_), self.now))

    def hear(self, site: Site, _: int) -> None:
        for beat, time in self.beats[site.heard :]:
            site.heard += 1
            site.registry = follow(site.registry, beat, float(time))
            if beat.round:
                site.rounds.setdefault(beat.identity.contour, []).append(beat.round)

    def tidy(self, site: Site, _: int) -> None:
        before = self.collect(site, self)
        if before is not None:
            gone = [k for k, (v, at) in site.tombs.items() if at < before and v[0] < before]
            self.collected += len(gone)
            for key in gone:
                site.forgotten[key] = site.tombs.pop(key)[0]

    def finish(self) -> None:
        for site in self.sites:
            while site.queue:
                self.publish(site, 0)
        for site in self.sites:
            while site.applied < len(self.log):
                self.apply(site, 0)

    def _write(self, site: Site, key: int, *, deleted: bool) -> None:
        version = (max(self._clock(site), self._newest(site, key)[0] + 1), site.number)
        event = Event(key, version, deleted)
        self._store(site, event)
        site.queue.append(event)
        site.drawn += 1

    def _store(self, site: Site, event: Event) -> None:
        if event.deleted:
            site.rows.pop(event.key, None)
            site.tombs[event.key] = (event.version, self._clock(site))
        else:
            site.rows[event.key] = event.version

    def _newest(self, site: Site, key: int) -> tuple[int, int]:
        return max(site.rows.get(key, (0, 0)), site.tombs.get(key, ((0, 0), 0))[0])

    def _clock(self, site: Site) -> int:
        return self.now + site.clock


def by_watermarks(site: Site, world: World) -> int | None:
    return known_everywhere(
        "t",
        me=site.name,
        active=site.registry.active(),
        rounds=site.rounds,
        applied={"t": (site.applied,)},
        margin=0,
    ).before


def by_age(site: Site, world: World) -> int | None:
    return world._clock(site) - 5


def without_reading_theirs(site: Site, world: World) -> int | None:
    """As if knowing a delete were enough, whatever was written before."""
    return known_everywhere(
        "t",
        me=site.name,
        active=site.registry.active(),
        rounds=site.rounds,
        applied={"t": (10**9,)},
        margin=0,
    ).before


ACTIONS = ("write", "delete", "publish", "apply", "beat", "hear", "tidy")
STEPS = 400


def play(seed: int, collect: Collect, *, hasty: bool = False) -> World:
    """Each contour does each thing as often as chance has it, so that some are cut off for long.

    All beat once first, so that each is registered before anything is written; contours that nobody
    knows of are the floor's affair, not this rule's.
    """
    chance = random.Random(seed)
    world = World(collect, hasty)
    world.sites = [Site(number, chance.randint(-9, 9)) for number in range(3)]
    for site in world.sites:
        world.beat(site, 0)
    for site in world.sites:
        world.hear(site, 0)
    habits: list[list[float]] = []
    for number in range(STEPS):
        if number % 40 == 0:
            writing = [chance.choice((0.1, 0.5)) for _ in world.sites]
            habits = [
                [w, w, *(chance.choice((0.05, 2, 4, 4)) for _ in ACTIONS[2:])] for w in writing
            ]
        which = chance.randrange(3)
        (action,) = chance.choices(ACTIONS, habits[which])
        world.step(world.sites[which], action, chance.randrange(2))
    world.finish()
    return world


def converged(world: World) -> bool:
    return not world.revived and all(site.rows == world.sites[0].rows for site in world.sites)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32))
def test_nothing_is_forgotten_too_early(seed: int) -> None:
    assert converged(play(seed, by_watermarks))


def test_deletes_are_forgotten_in_the_end() -> None:
    world = play(1, by_watermarks)
    assert sum(play(seed, by_watermarks).collected for seed in range(50)) > 50
    for site in world.sites:
        world.delete(site, 0)
        world.delete(site, 1)
    for _ in range(3):
        world.finish()
        for action in ("beat", "beat", "beat", "hear"):
            for site in world.sites:
                world.step(site, action, 0)
    for site in world.sites:
        site.clock += 100  # all that was dated ahead is past
        world.tidy(site, 0)
    assert [site.tombs for site in world.sites] == [{}, {}, {}]


@pytest.mark.parametrize(
    ("mutant", "hasty"), [(by_age, False), (without_reading_theirs, False), (by_watermarks, True)]
)
def test_the_small_world_catches_what_forgets_too_early(mutant: Collect, hasty: bool) -> None:
    assert any(not converged(play(seed, mutant, hasty=hasty)) for seed in range(100, 3000))
