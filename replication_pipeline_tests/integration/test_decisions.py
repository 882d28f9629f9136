"""PostgreSQL decides as ``domain.convergence`` says: every small case, through the real applier and
the real triggers.

The simulator runs those functions, contours run SQL; this is what ties the two together. Each grid
goes through in one batch, with a key for each case. What a delete of a referenced row leads to is a
matter of policies and has tests of its own.
"""

from __future__ import annotations

import itertools
import json
import time
import uuid
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

import pytest

from replication_pipeline.domain import convergence
from replication_pipeline.domain.convergence import Op
from replication_pipeline.domain.model import BatchResult, Consumed, Message, PartitionAdvance
from replication_pipeline.domain.names import Topic, topic_for
from replication_pipeline.domain.version import pack
from replication_pipeline.embedded.process import wait_until
from replication_pipeline.postgres.inbox import PostgresInbox
from replication_pipeline_tests.conftest import Contour, MakeContours

pytestmark = pytest.mark.integration

OWN, FROM, THIRD = 1, 2, 3  # ids of contours a, b and c
NAMES: Final = {OWN: "a", FROM: "b", THIRD: "c"}
TABLES: Final = """
create table item (id bigint primary key, value text);
create table child (id bigint primary key, item_id bigint references item)
"""


class Event(NamedTuple):
    """What the rules see of an event; ``value`` tells its row from others."""

    key: int
    op: Op
    version: int
    base: int | None
    contour: int
    value: str

    def wire(self) -> bytes:
        row = {"id": self.key, "value": self.value}
        source = {
            "contour": NAMES[self.contour],
            "event_id": str(uuid.uuid4()),
            "row_version": str(self.version),
            "base_version": None if self.base is None else str(self.base),
        }
        gone = self.op == "d"
        before = {"id": self.key} if self.op in {"u", "d"} else None
        event = {"before": before, "after": None if gone else row, "source": source, "op": self.op}
        return json.dumps(event).encode()


class Here:
    """Contour a, and the applier that is asked."""

    def __init__(self, contour: Contour) -> None:
        self.contour = contour
        self.inbox = PostgresInbox(contour.settings, "decides")
        self.offsets: dict[Topic, int] = {}

    def apply(self, **values: Iterable[bytes]) -> BatchResult:
        """One batch, events by table."""
        messages: list[Message] = []
        advances = []
        for table, events in values.items():
            topic = Topic(topic_for(table, prefix=self.contour.settings.kafka.topic_prefix))
            start = self.offsets.get(topic, 0)
            mine = [Message(topic, 0, start + n, value) for n, value in enumerate(events)]
            end = self.offsets[topic] = start + len(mine)
            advances.append(PartitionAdvance(topic, 0, start, end, end))
            messages += mine
        return self.inbox.apply(Consumed(tuple(messages), tuple(advances)))

    def put(self, rows: dict[int, int], buried: dict[int, int]) -> None:
        """Rows and tombstones with these versions, by key, as an applier leaves them."""
        with self.contour.app.transaction():
            self.contour.run("set local session_replication_role = replica")
            cursor = self.contour.app.cursor()
            cursor.executemany(
                "insert into item (id, value, replication_version) values (%s, 'here', %s)",
                list(rows.items()),
            )
            cursor.executemany(
                "insert into replication.replication_tombstones (table_name, record_key, version) "
                "values ('item', format('{\"id\":%%s}', %s::bigint), %s)",
                list(buried.items()),
            )

    def rows(self) -> dict[int, tuple[str, int]]:
        found = self.contour.run("select id, value, replication_version from item")
        return {key: (value, version) for key, value, version in found}

    def tombstones(self) -> dict[int, tuple[int, bool]]:
        found = self.contour.run(
            "select record_key, version, unsettled from replication.replication_tombstones"
        )
        return {json.loads(key)["id"]: (version, unsettled) for key, version, unsettled in found}

    def conflicts(self) -> dict[int, tuple[str, int | None]]:
        found = self.contour.run(
            "select record_key, winner, incoming_base from replication.replication_conflicts"
        )
        return {json.loads(key)["id"]: (winner, base) for key, winner, base in found}


@pytest.fixture
def here(make_contours: MakeContours) -> Iterator[Here]:
    (contour,) = make_contours(TABLES, ["item", "child"], count=1)
    place = Here(contour)
    yield place
    place.inbox.close()


def now() -> int:
    return time.time_ns() // 1_000


def around(moment: int) -> list[int | None]:
    """Nothing, and versions just before, at and just after ``moment``, of each contour."""
    versions = [pack(moment + step, contour) for step in (-1, 0, 1) for contour in NAMES]
    return [None, *versions]


def test_every_event_against_every_row_and_tombstone(here: Here) -> None:
    then = now() - 1_000_000
    bases = [None, pack(then - 5, FROM), pack(then - 1, OWN), pack(then - 1, THIRD)]
    ops: tuple[Op, ...] = ("c", "u", "d", "r")
    cases = list(itertools.product(ops, around(then), around(then), bases))
    events = [
        Event(key, op, pack(then, FROM), base, FROM, "new")
        for key, (op, _, _, base) in enumerate(cases)
    ]
    stood = {key: standing for key, (_, standing, _, _) in enumerate(cases) if standing}
    graves = {key: buried for key, (_, _, buried, _) in enumerate(cases) if buried}
    here.put(stood, graves)
    result = here.apply(item=[event.wire() for event in events])

    rows = {key: ("here", version) for key, version in stood.items()}
    tombstones = {key: (version, False) for key, version in graves.items()}
    conflicts: dict[int, tuple[str, int | None]] = {}
    applied = 0
    for key, event in enumerate(events):
        standing, buried = stood.get(key), graves.get(key)
        verdict = convergence.decide(event.version, standing, buried)
        if convergence.conflicts(event, standing, buried):
            conflicts[key] = ("incoming" if verdict == "apply" else "current", event.base)
        if verdict == "apply":
            applied += 1
            if event.op == "d":
                rows.pop(key, None)
                tombstones[key] = (convergence.bury(buried, event.version), standing is None)
            else:
                rows[key] = ("new", event.version)
    assert (result.applied, result.skipped) == (applied, len(cases) - applied)
    assert here.rows() == rows
    assert here.tombstones() == tombstones
    assert here.conflicts() == conflicts
    assert 0 < applied < len(cases)
    assert 0 < len(conflicts) < len(cases)


def test_every_batch_of_three_events_of_a_key(here: Here) -> None:
    """The newest counts."""
    then = now() - 1_000_000
    bases = itertools.cycle([pack(then - 3, OWN), None, pack(then - 1, OWN), pack(then - 2, OWN)])
    kinds: list[tuple[Op, int, int]] = [
        (op, step, contour) for op in ("u", "d") for step in (0, 1) for contour in (FROM, THIRD)
    ]
    batches = [
        [
            Event(key, op, pack(then + step, contour), next(bases), contour, f"event {n}")
            for n, (op, step, contour) in enumerate(batch)
        ]
        for key, batch in enumerate(itertools.product(kinds, repeat=3))
    ]
    standing = pack(then - 1, OWN)
    here.put(dict.fromkeys(range(len(batches)), standing), {})
    # Not one key after the other: the first event of each, then the second, then the third.
    here.apply(item=[event.wire() for event in itertools.chain(*zip(*batches, strict=True))])

    rows: dict[int, tuple[str, int]] = {}
    for key, batch in enumerate(batches):
        chosen = convergence.newest(batch)[key]
        if chosen.op != "d":
            rows[key] = (chosen.value, chosen.version)
    assert here.rows() == rows
    assert 0 < len(rows) < len(batches)


def test_events_of_the_future_are_held(here: Here) -> None:
    skew = here.contour.settings.consumer.max_clock_skew.total_seconds()
    clock = now()
    events = [
        Event(n, "c", pack(clock + round((skew + ahead) * 1_000_000), FROM), None, FROM, "new")
        for n, ahead in enumerate((-skew, -10, 10, 1_000_000))
    ]
    here.apply(item=[event.wire() for event in events])
    held = {
        event.key
        for event in events
        if convergence.too_far_ahead(event.version, clock=now(), max_skew=round(skew * 1_000_000))
    }
    found = here.contour.run("select record_key, reason from replication.parked_events")
    assert {(json.loads(key)["id"], reason) for key, reason in found} == {
        (key, "clock_skew") for key in held
    }
    assert here.rows().keys() == {0, 1, 2, 3} - held


@pytest.mark.parametrize("with_parent", ["no", "before", "in the batch"])
def test_a_child_waits_for_its_parent(here: Here, with_parent: str) -> None:
    then = now() - 1_000_000
    parent = Event(1, "c", pack(then, FROM), None, FROM, "parent")
    child = json.loads(Event(1, "c", pack(then, FROM), None, FROM, "").wire())
    child["after"] = {"id": 1, "item_id": 1}
    batch: dict[str, list[bytes]] = {"child": [json.dumps(child).encode()]}
    if with_parent == "before":
        here.apply(item=[parent.wire()])
    elif with_parent == "in the batch":
        batch["item"] = [parent.wire()]
    result = here.apply(**batch)
    expected = convergence.waits_for("c", parent_missing=with_parent == "no", has_children=False)
    reasons = [r for (r,) in here.contour.run("select reason from replication.parked_events")]
    assert reasons == ([expected] if expected else [])
    assert result.parked == len(reasons)


def test_a_row_that_came_in_unseen_goes_unless_it_is_newer(here: Here) -> None:
    then = now() - 1_000_000
    buried = pack(then, FROM)
    rows = {key: version for key, version in enumerate(around(then)) if version}
    here.put(rows, dict.fromkeys(rows, buried))
    here.contour.run("update replication.replication_tombstones set unsettled = true")

    def settled() -> bool:
        here.inbox.retry_parked(10, eagerly=False)
        return not any(unsettled for _, unsettled in here.tombstones().values())

    wait_until(settled, timeout=20, what="the deletes to settle")
    assert {key: version for key, (_, version) in here.rows().items()} == {
        key: version for key, version in rows.items() if convergence.survives(version, buried)
    }


def test_a_delete_settles_on_a_newer_row_with_children(here: Here) -> None:
    """The row stays in any case, so its children are nobody's concern."""
    then = now() - 1_000_000
    here.put({1: pack(then, OWN)}, {1: pack(then - 1, FROM)})
    here.contour.run("update replication.replication_tombstones set unsettled = true")
    here.contour.run("insert into child values (1, 1)")
    for _ in range(5):
        here.inbox.retry_parked(10, eagerly=False)
    assert here.tombstones() == {1: (pack(then - 1, FROM), False)}


# --- versions of local writes --------------------------------------------------------------------

AHEAD: Final = 3_600_000_000  # µs that a former version is ahead of the clock, or behind it


def expected_version(before: int, after: int, former: int | None, buried: int | None) -> range:
    """What the rule gives for some clock between the two."""
    return range(
        convergence.stamp(before, former, buried, OWN),
        convergence.stamp(after, former, buried, OWN) + 1,
    )


def test_versions_of_local_writes_follow_the_rule(here: Here) -> None:
    clock = now()
    moments: list[int | None] = [None, pack(clock - AHEAD, FROM), pack(clock + AHEAD, THIRD)]
    ways = ("insert", "update", "delete", "move")
    cases = [
        (way, former, buried)
        for way, former, buried in itertools.product(ways, moments, moments)
        if (former is None) == (way == "insert") and (buried is None or way in {"insert", "move"})
    ]
    # The row is at key; where it moves is key + 100, and there its tombstone lies.
    there = {key: key + 100 if way == "move" else key for key, (way, _, _) in enumerate(cases)}
    here.put(
        {key: former for key, (_, former, _) in enumerate(cases) if former},
        {there[key]: buried for key, (_, _, buried) in enumerate(cases) if buried},
    )
    statements = {
        "insert": "insert into item (id, value) values (%s, 'written')",
        "update": "update item set value = 'written' where id = %s",
        "delete": "delete from item where id = %s",
        "move": "update item set id = id + 100 where id = %s",
    }
    for key, (way, former, buried) in enumerate(cases):
        with here.contour.app.transaction():
            here.contour.run("select 1")  # the time of the write counts, not the transaction's
            before = now()
            here.contour.run(statements[way], key)
            after = now()
        events: dict[int, tuple[str, int]] = {
            json.loads(k)["id"]: (operation, version)
            for k, operation, version in here.contour.run(
                "select record_key, operation, version from replication.replication_queue "
                "where (record_key::json ->> 'id')::bigint in (%s, %s)",
                key, there[key],
            )
        }  # fmt: skip
        operation, version = events[there[key]]
        case: Any = (way, former, buried, version)
        assert operation == ("INSERT" if way == "move" else way.upper()), case
        assert version in expected_version(before, after, former, buried), case
        if way == "move":
            operation, deleted = events[key]
            assert operation == "DELETE", case
            assert deleted in expected_version(before, after, former, None), case
        if way == "delete":
            assert here.tombstones()[key] == (convergence.bury(buried, version), False)
        else:
            assert here.rows()[there[key]][1] == version


def test_event_ids_do_not_come_again_after_a_restore(here: Here) -> None:
    """The queue's numbers do, and appliers leave out an id that they have seen."""
    contour = here.contour
    ids: list[str] = []
    for _ in range(2):
        contour.run("select setval('replication.replication_queue_id_seq', 1)")
        contour.run("insert into item values (1, 'new')")
        contour.run("update item set value = 'other'")
        contour.run("delete from item")
        ids += [
            id_
            for (id_,) in contour.run(
                "delete from replication.replication_queue returning event_id::text"
            )
        ]
    assert len(ids) == 6
    assert len(set(ids)) == 6
