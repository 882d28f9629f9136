"""Sequences that can give one value, and differences of tables with what ends them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from replication_pipeline.domain.drift import Column, SetUp, drift, wider
from replication_pipeline.domain.network import is_local
from replication_pipeline.domain.sequences import KeySequence, apart, collide, moved, step_for
from replication_pipeline.kafka.doctor import CHECKS as KAFKA_CHECKS
from replication_pipeline.postgres.checks.role import MEMBERSHIP
from replication_pipeline.postgres.doctor import CHECKS
from replication_pipeline.postgres.queries import sql_directory

pytestmark = pytest.mark.unit

ONE = KeySequence("a", 1, "t", "id", "t_id_seq", 1, 1, 1, 2**31 - 1, None, seen=True)


def values(sequence: KeySequence) -> set[int]:
    """All that it has given, and the next thousand."""
    given = range(sequence.start, sequence.next, sequence.increment)
    coming = range(sequence.next, sequence.maximum + 1, sequence.increment)[:1000]
    return {*given, *coming}


@pytest.mark.parametrize("first", [(1, 1), (1, 10), (2, 10), (5, 10), (501, 3), (10, 5)])
@pytest.mark.parametrize("second", [(1, 1), (2, 10), (12, 20), (7, 3), (3, 6)])
@pytest.mark.parametrize("last", [None, 0, 50])
def test_sequences_collide_if_they_have_a_value_in_common(
    first: tuple[int, int], second: tuple[int, int], last: int | None
) -> None:
    one = replace(ONE, start=first[0], increment=first[1])
    if last is not None:
        one = replace(one, last=one.start + last * one.increment)
    other = replace(ONE, start=second[0], increment=second[1], contour="b")
    assert collide(one, other) == collide(other, one) == bool(values(one) & values(other))


def test_ranges_keep_apart() -> None:
    low, high = replace(ONE, maximum=1000), replace(ONE, start=1001)
    assert not collide(low, high)
    assert collide(low, replace(high, start=900))


@pytest.mark.parametrize("highest", [0, 1, 7, 1_000, 123_456])
def test_moved_sequences_are_apart_and_above_everything(highest: int) -> None:
    step = step_for([1, 2, 9])
    assert step == 10
    assert (step_for([10]), step_for([1023])) == (100, 1024)
    moves = []
    for id_ in (1, 2, 9):
        first = moved(replace(ONE, contour_id=id_), step, highest)
        assert first > highest
        moves.append(replace(ONE, contour_id=id_, start=first, increment=step))
    assert all(apart(sequence, step) for sequence in moves)
    assert not any(collide(a, b) for a in moves for b in moves if a is not b)


def test_the_wider_type_is_known() -> None:
    assert wider("bigint", "integer")
    assert wider("text", "character varying(10)")
    assert wider("character varying(20)", "character varying(10)")
    assert not wider("integer", "bigint")
    assert not wider("integer", "text")
    assert not wider("character varying(10)", "character varying(20)")
    assert not wider("integer", "integer")


def test_each_difference_says_where_it_ends() -> None:
    def table(**columns: Column) -> SetUp:
        return SetUp("t", ("id",), {"merge": "row"}, columns)

    number, wide = Column("integer", True, True), Column("bigint", True, True)
    assert not list(drift("t", ("a", table(id=number)), ("b", table(id=number))))
    (found,) = drift("t", ("a", table(id=number)), ("b", table(id=wide)))
    assert found.remedy == "in a: alter table t alter column id type bigint;"
    (found,) = drift("t", ("a", table(id=number)), ("b", table(id=Column("date", True, True))))
    assert "to the same type in both" in found.remedy
    required = Column("date", True, False)
    missing, strict = drift(
        "t",
        ("a", table(id=number)),
        ("b", SetUp("t", ("id",), {"merge": "row"}, {"id": number, "Due on": required})),
    )
    assert missing.remedy == 'in a: alter table t add column "Due on" date;'
    assert strict.remedy == 'in b: alter table t alter column "Due on" drop not null;'
    keys, option = drift(
        "t",
        ("a", table(id=number)),
        ("b", SetUp("t", ("id", "at"), {"merge": "columns"}, {"id": number})),
    )
    assert "(id, at) in b" in keys.message
    assert "merge is row in a and columns in b" in option.message


def test_what_is_local() -> None:
    assert all(map(is_local, ("", "/var/run", "localhost", "127.0.0.1", "::1", "[::1]")))
    assert not any(map(is_local, ("db.example", "10.0.0.1")))


def test_every_check_is_documented() -> None:
    text = (sql_directory().parent / "docs" / "doctor.md").read_text(encoding="utf-8")
    documented = [line.split("`")[1] for line in text.splitlines() if line.startswith("| `")]
    names = [MEMBERSHIP.name, *(c.name for c in CHECKS), *(c.name for c in KAFKA_CHECKS)]
    assert documented == [*names, "positions"]
