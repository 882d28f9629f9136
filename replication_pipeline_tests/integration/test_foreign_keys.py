"""A row is deleted in one contour while another writes a child of it: every contour ends the same, by
the constraint's own ON DELETE action or the policy that is configured, and no orphan is ever committed.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Mapping
from typing import Any

import psycopg
import pytest

from replication_pipeline.domain.names import topic_for
from replication_pipeline_tests.conftest import Contour, MakeContours, same_rows
from replication_pipeline_tests.integration.wire import wire_between

pytestmark = pytest.mark.integration

AT_ONCE: Mapping[str, Any] = {"consumer": {"foreign_key_patience": "0ms"}}

FAMILY = """
create table parents (id bigint primary key, name text);
create table children (
  id bigint primary key, name text,
  parent bigint constraint child_of references parents {action}
)
"""
ENDS: Mapping[str, tuple[list[tuple[object, ...]], list[tuple[object, ...]]]] = {
    # by action: what is left of the parent, and of its child
    "on delete cascade": ([], []),
    "on delete set null": ([], [(7, None)]),
    "": ([(1,)], [(7, 1)]),
    "on delete restrict": ([(1,)], [(7, 1)]),
    "deferrable initially deferred": ([(1,)], [(7, 1)]),
}


def delete_against_insert(contours: list[Contour], seed: int, families: int = 1) -> None:
    """`a` deletes the parent that `b` gives a child, neither knowing of the other."""
    a, b, *_ = contours
    suffixes = _suffixes(families)
    with wire_between(contours, seed) as wire:
        for n in suffixes:
            a.run(f"insert into parents{n} values (1, 'first'), (2, 'other')")
        wire.run_dry()
        for n in suffixes:
            a.run(f"delete from parents{n} where id = 1")
            b.run(f"insert into children{n} values (7, 'late', 1)")
        wire.run_dry()
    for n in suffixes:
        assert same_rows(contours, f"parents{n}")
        assert same_rows(contours, f"children{n}")


def _suffixes(families: int) -> list[str]:
    return ["", *map(str, range(1, families))]


@pytest.mark.parametrize("seed", range(2))
def test_the_constraints_own_action_decides(make_contours: MakeContours, seed: int) -> None:
    suffixes = _suffixes(len(ENDS))
    ddl = ";".join(
        FAMILY.format(action=action)
        .replace("parents", f"parents{n}")
        .replace("children", f"children{n}")
        for n, action in zip(suffixes, ENDS, strict=True)
    )
    tables = [f"{table}{n}" for n in suffixes for table in ("parents", "children")]
    contours = make_contours(ddl, tables, count=3, **AT_ONCE)
    delete_against_insert(contours, seed, len(ENDS))
    for contour in contours:
        for n, (action, (parents, children)) in zip(suffixes, ENDS.items(), strict=True):
            assert contour.run(f"select id from parents{n} where id = 1") == parents, action
            assert contour.run(f"select id, parent from children{n}") == children, action


@pytest.mark.parametrize(
    ("policy", "action", "ends"),
    [
        ("restore_parent", "on delete cascade", ([(1,)], [(7, 1)])),
        ("delete_children", "", ([], [])),
        ("set_null", "on delete restrict", ([], [(7, None)])),
    ],
)
def test_a_configured_policy_decides(
    make_contours: MakeContours,
    policy: str,
    action: str,
    ends: tuple[list[tuple[object, ...]], list[tuple[object, ...]]],
) -> None:
    contours = make_contours(
        FAMILY.format(action=action),
        {"parents": {}, "children": {"foreign_keys": {"child_of": policy}}},
        count=3,
        **AT_ONCE,
    )
    delete_against_insert(contours, seed=1)
    for contour in contours:
        assert contour.run("select id from parents where id = 1") == ends[0]
        assert contour.run("select id, parent from children") == ends[1]


def test_children_that_may_not_change_keep_their_parent(make_contours: MakeContours) -> None:
    contours = make_contours(
        FAMILY.format(action="on delete set null")
        + "; alter table children alter column parent set not null",
        ["parents", "children"],
        count=3,
        **AT_ONCE,
    )
    delete_against_insert(contours, seed=1)
    for contour in contours:
        assert contour.run("select id from parents where id = 1") == [(1,)]
        assert contour.run("select id, parent from children") == [(7, 1)]


def test_grandchildren_decide_as_well(make_contours: MakeContours) -> None:
    """A cascade that would stop further down does not begin."""
    contours = make_contours(
        FAMILY.format(action="on delete cascade")
        + "; create table toys (id bigint primary key, child bigint references children)",
        ["parents", "children", "toys"],
        count=3,
        **AT_ONCE,
    )
    a, b, _ = contours
    with wire_between(contours, seed=1) as wire:
        a.run("insert into parents values (1, 'first')")
        wire.run_dry()
        a.run("delete from parents")
        b.run("insert into children values (7, 'late', 1); insert into toys values (70, 7)")
        wire.run_dry()
    for contour in contours:
        assert contour.run("select id from parents") == [(1,)]
        assert contour.run("select id, child from toys") == [(70, 7)]


def test_a_policy_of_park_leaves_it_to_people(make_contours: MakeContours) -> None:
    contours = make_contours(
        FAMILY.format(action=""),
        {"parents": {}, "children": {"foreign_keys": {"child_of": "park"}}},
        **AT_ONCE,
    )
    a, b = contours
    with wire_between(contours, seed=1) as wire:
        a.run("insert into parents values (1, 'first')")
        wire.run_dry()
        a.run("delete from parents")
        b.run("insert into children values (7, 'late', 1)")
        wire.publish()
        for _ in range(3):
            for receiver in wire.receivers:
                wire.deliver(receiver)
        parked = "select reason, detail from replication.parked_events"
        assert a.run(parked) == [("missing_parent", "child_of")]
        assert b.run(parked) == [("referenced", "child_of")]
        b.run("delete from children")
        wire.run_dry()
        assert b.run("select id from parents") == []


def test_before_the_patience_is_over_nothing_is_decided(make_contours: MakeContours) -> None:
    """The children's own deletes are on their way: the delete of the parent is no conflict."""
    contours = make_contours(FAMILY.format(action=""), ["parents", "children"], count=2)
    a, b = contours
    with wire_between(contours, seed=1) as wire:
        a.run("insert into parents values (1, 'first'); insert into children values (7, 'x', 1)")
        wire.publish()
        wire.deliver(wire.receivers[1])
        a.run("delete from children; delete from parents")
        wire.publish()
        receiver = wire.receivers[1]
        receiver.waiting.sort(key=lambda value: b'"table":"children"' in value)
        parent, child = receiver.waiting
        receiver.apply([parent])
        receiver.inbox.retry_parked(1000, eagerly=True)
        receiver.apply([child])
        receiver.inbox.retry_parked(1000, eagerly=True)
    assert b.run("select id from parents") == b.run("select id from children") == []
    assert b.value("select count(*) from replication_queue") == 0


ROUND = """
insert into replication.contour_rounds (contour, log_offset, beat_at, taken_at, applied, ends)
values (%s, %s, now(), now(), '{}', jsonb_build_object(%s::text, %s::jsonb, %s::text, %s::jsonb))
"""
REGISTERED = """
insert into replication.contours (name, id, incarnation, state, sequence, last_beat, last_heard)
values (%s, 1, gen_random_uuid(), 'active', 1, now(), 0)
"""


@pytest.mark.parametrize(
    "told", ["no round", "one round", "not read", "without heartbeats", "read"]
)
def test_rounds_tell_when_no_delete_of_a_child_is_on_its_way(
    make_contours: MakeContours, told: str
) -> None:
    """However long that takes: the children's topic may be far behind."""
    contours = make_contours(FAMILY.format(action=""), ["parents", "children"], count=2, **AT_ONCE)
    a, b = contours
    prefix = b.settings.kafka.topic_prefix
    with wire_between(contours, seed=1) as wire:
        receiver = wire.receivers[1]
        a.run("insert into parents values (1, 'first'); insert into children values (7, 'x', 1)")
        wire.publish()
        wire.deliver(receiver)
        a.run("delete from children; delete from parents")
        wire.publish()
        receiver.waiting.sort(key=lambda value: b'"table":"children"' in value)
        parent, child = receiver.waiting
        b.run(REGISTERED, a.settings.contour.name)

        def round_(at: int, parents: int, children: int) -> None:
            topics = (topic_for("parents", prefix=prefix), f"[{parents}]")
            others = (topic_for("children", prefix=prefix), f"[{children}]")
            b.run(ROUND, a.settings.contour.name, at, *topics, *others)

        round_(1, 1, 1)  # before the deletes
        receiver.apply([parent])
        if told != "no round":
            round_(2, 2, 1)
        if told in ("not read", "read"):
            round_(3, 2, 2 if told == "not read" else 1)
        if told == "without heartbeats":
            b.run("delete from replication.contour_rounds")
        receiver.inbox.retry_parked(1000, eagerly=True)
        decided = b.value("select count(*) from replication_queue") == 1
        assert decided == (told in ("without heartbeats", "read"))
        receiver.apply([child])
        receiver.inbox.retry_parked(1000, eagerly=True)
    if not decided:
        assert b.run("select id from parents") == b.run("select id from children") == []


def test_a_row_that_came_in_unseen_is_decided_as_well(make_contours: MakeContours) -> None:
    """A delete arrives before the row it buries is committed, and then the row has a child."""
    contours = make_contours(FAMILY.format(action=""), ["parents", "children"], count=2, **AT_ONCE)
    a, b = contours
    local = b.session()
    local.execute("insert into parents values (1, 'unseen')")
    local.execute("insert into children values (7, 'x', 1)")
    with wire_between(contours, seed=1) as wire:
        a.run("insert into parents values (1); delete from parents")
        wire.publish()
        wire.deliver(wire.receivers[1])
        local.commit()
        wire.run_dry()
        wire.receivers[1].inbox.retry_parked(10, eagerly=False)
        wire.receivers[1].inbox.retry_parked(10, eagerly=False)
        wire.run_dry()
    for table in ("parents", "children"):
        assert same_rows(contours, table)
    assert a.run("select id, name from parents") == [(1, "unseen")]
    tombstones = "select count(*) from replication.replication_tombstones where unsettled"
    assert b.value(tombstones) == 0


TANGLE = """
create table parents (
  id bigint, part int, boss bigint, boss_part int, name text, primary key (id, part),
  foreign key (boss, boss_part) references parents {one}
);
create table children (
  id bigint primary key, parent bigint, part int, name text,
  foreign key (parent, part) references parents {two}
);
create table toys (
  id bigint primary key, child bigint not null references children {three}, name text
)
"""
TANGLE_TABLES = ["parents", "children", "toys"]
ACTIONS = ("", "on delete restrict", "on delete cascade", "on delete set null")
TANGLE_ORPHANS = (
    "select (select count(*) from parents c where boss is not null and not exists "
    "(select from parents p where (p.id, p.part) = (c.boss, c.boss_part))) + "
    "(select count(*) from children c where parent is not null and not exists "
    "(select from parents p where (p.id, p.part) = (c.parent, c.part))) + "
    "(select count(*) from toys t where not exists (select from children c where c.id = t.child))"
)


@pytest.mark.parametrize("seed", range(6))
def test_any_history_ends_equal_and_without_orphans(make_contours: MakeContours, seed: int) -> None:
    """Composite keys, a tree, three levels, all actions mixed; writes everywhere, delivery in any
    order.
    """
    chance = random.Random(seed)
    one, two, three = (chance.choice(ACTIONS) for _ in range(3))
    contours = make_contours(
        TANGLE.format(one=one, two=two, three=three), TANGLE_TABLES, count=3, **AT_ONCE
    )
    with wire_between(contours, seed) as wire:
        for _ in range(60):
            _write(chance.choice(contours), chance)
            if chance.random() < 0.4:
                wire.publish()
                wire.deliver(chance.choice(wire.receivers), chance.randint(1, 5))
                assert all(contour.value(TANGLE_ORPHANS) == 0 for contour in contours)
        wire.run_dry()
    for table in TANGLE_TABLES:
        assert same_rows(contours, table), (one, two, three)
    assert all(contour.value(TANGLE_ORPHANS) == 0 for contour in contours)


def _write(contour: Contour, chance: random.Random) -> None:
    """One change; what the contour's own constraints refuse is no change."""
    parent, boss, child = (chance.randrange(1, 5) for _ in range(3))
    name = chance.random()
    statements = (
        f"insert into parents values ({parent}, 1) on conflict do nothing",
        f"insert into parents values ({parent}, 1, {boss}, 1) on conflict do nothing",
        f"update parents set boss = {boss}, boss_part = 1 where id = {parent}",
        f"update parents set name = '{name}' where id = {parent}",
        f"delete from parents where id = {parent}",
        f"insert into children values ({child}, {parent}, 1) on conflict do nothing",
        f"update children set parent = {parent}, part = 1 where id = {child}",
        f"update children set name = '{name}' where id = {child}",
        f"delete from children where id = {child}",
        f"insert into toys values ({boss}, {child}) on conflict do nothing",
        f"update toys set child = {child} where id = {boss}",
        f"delete from toys where id = {boss}",
    )
    refused = psycopg.errors.ForeignKeyViolation, psycopg.errors.RestrictViolation
    with contextlib.suppress(*refused):
        contour.run(chance.choice(statements))


CODES = """
create table parents (id bigint primary key, code text unique);
create table children (
  id bigint primary key, code text references parents (code) on update cascade, name text
)
"""


def test_a_referenced_value_does_not_change_under_its_children(make_contours: MakeContours) -> None:
    """A foreign key may point at another column than the primary key: parent and children move
    together, whichever event arrives first.
    """
    contours = make_contours(CODES, ["parents", "children"], count=3, **AT_ONCE)
    a, b, _ = contours
    orphans = (
        "select count(*) from children c where not exists "
        "(select from parents p where p.code = c.code)"
    )
    with wire_between(contours, seed=3) as wire:
        a.run("insert into parents values (1, 'x'); insert into children values (7, 'x'), (8, 'x')")
        wire.run_dry()
        a.run("update parents set code = 'y'")
        wire.publish()
        while b_waiting := wire.receivers[1].waiting:
            receiver = wire.receivers[1]
            receiver.apply([b_waiting.pop()])
            receiver.inbox.retry_parked(1000, eagerly=True)
            assert b.value(orphans) == 0
        wire.run_dry()
    for table in ("parents", "children"):
        assert same_rows(contours, table)
    assert b.run("select distinct code from children") == [("y",)]
