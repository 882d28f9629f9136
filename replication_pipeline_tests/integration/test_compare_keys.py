"""``compare`` finds each row that differs by ranges of keys, whatever the key is.

Without Kafka: that what is under way is waited for is the subject of test_comparison.py. Blocks are
tiny here, so that ranges are sampled, cut and read in a few thousand rows.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from replication_pipeline.domain.comparison import Comparison
from replication_pipeline.domain.errors import FatalError, RefusedError
from replication_pipeline.engine.stopping import StopToken
from replication_pipeline.postgres import compare_search, compare_settling
from replication_pipeline.postgres.compare_contours import open_contours
from replication_pipeline.postgres.comparison import Options, compare_table
from replication_pipeline.postgres.repair import Wanted, repair_table
from replication_pipeline_tests.conftest import Contour, MakeContours
from replication_pipeline_tests.integration.test_comparison import comparing

pytestmark = pytest.mark.integration

ROWS = 3000
# The key's columns, as functions of n, in another order of columns at b, where names are longer.
KEYS = {
    "big": ("id bigint", "n * 4294967296"),
    "composite": ("site text, no int, day date", "'s' || n % 7, n, date '2026-01-01' + n % 31"),
    "unicode": ("name text", "chr(200 + n % 9000) || '%s{}' || n"),
    "uuid": ("id uuid", "md5(n::text)::uuid"),
    "times": (
        "price numeric(10,2), at timestamptz",
        "n / 100.0, timestamptz '2026-01-01' + n * interval '1 s'",
    ),
    "padded": ("c char(12)", "'x' || n"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def tiny_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare_search, "BLOCK", 400)
    monkeypatch.setattr(compare_search, "LEAF", 20)
    monkeypatch.setattr(compare_settling, "settled", lambda *_: ())


def damaged(contours: list[Contour], columns: str, values: str) -> None:
    """The same rows in both, then four that differ: missing at either side, in a column, in version."""
    a, b = contours
    names = [part.split()[0] for part in columns.split(", ")]
    for contour in contours:
        contour.run("set session_replication_role = replica")
        contour.run(
            f"insert into things ({', '.join(names)}, note, replication_version) "
            f"select {values}, 'n' || n, n << 10 from generate_series(1, {ROWS}) n"
        )
        contour.run("analyze things")
    a.run("delete from things where note = 'n1'")
    b.run(f"delete from things where note = 'n{ROWS}'")
    b.run("update things set note = 'N1500' where note = 'n1500'")
    b.run("update things set replication_version = replication_version + 1 where note = 'n1501'")


def compare(contours: list[Contour], stop: StopToken | None = None, **options: Any) -> Comparison:
    settings = comparing(contours, "0s")
    with open_contours(settings) as connections:
        return compare_table(connections, "things", settings, Options(**options), stop=stop)


@pytest.mark.parametrize("kind", KEYS)
def test_all_kinds_of_keys(make_contours: MakeContours, kind: str) -> None:
    columns, values = KEYS[kind]
    names = ", ".join(part.split()[0] for part in columns.split(", "))
    contours = make_contours(
        f"create table things ({columns}, note text, more int default 7, "
        f"twice text generated always as (note || note) stored, primary key ({names}))",
        ["things"],
    )
    contours[1].run("alter table things drop column more, add column more bigint default 7")
    damaged(contours, columns, values)
    found = compare(contours)
    assert found.rows == {"a": ROWS - 1, "b": ROWS - 1}
    assert sorted((*(s.state for s in d.seen.values()), d.columns) for d in found.differences) == [
        ("missing", "row", ()), ("row", "missing", ()), ("row", "row", ()), ("row", "row", ("note",)),
    ]  # fmt: skip
    assert (found.complete, found.notes) == (True, ())

    told = compare(contours, where="note in ('N1500', 'n7') -- twice", values=True)
    (only,) = told.differences
    assert only.values == {"a": {"note": "n1500"}, "b": {"note": "N1500"}}
    assert not compare(contours, most=2).complete

    mended = repair_table(comparing(contours, "0s"), Wanted("things", ["b"], apply=True))
    assert {each.outcome for each in mended.done} == {"done"}
    sent = {(each.contour, each.difference.key) for each in mended.actions}
    for contour in contours:
        queued = [(op, key) for op, key, _ in contour.queue()]
        assert len(queued) == 2
        assert {*queued} == {("SNAPSHOT", key) for by, key in sent if by == contour.name}


def test_partitions_and_rows_outside_of_the_other_sides_keys(make_contours: MakeContours) -> None:
    _, b = contours = make_contours(
        "create table things (id bigint primary key, note text) partition by range (id); "
        "create table things_1 partition of things for values from (0) to (3000); "
        "create table things_2 partition of things default",
        ["things"],
    )
    for contour in contours:
        contour.run("set session_replication_role = replica")
        contour.run(
            "insert into things (id, replication_version) "
            "select n, 1 from generate_series(1000, 4999) n"
        )
    assert compare(contours).equal
    b.run(
        "insert into things (id, replication_version) select n, 1 from generate_series(-500, 999) n"
    )
    b.run(
        "insert into things (id, replication_version) select n, 1 from generate_series(5000, 5499) n"
    )
    found = compare(contours)
    keys = {int(d.parts[0]) for d in found.differences}
    assert keys == {*range(-500, 1000), *range(5000, 5500)}
    mended = repair_table(comparing(contours, "0s"), Wanted("things", ["b"], apply=True))
    assert {int(json.loads(key)["id"]) for _, key, _ in b.queue()} == keys
    assert len(b.queue()) == len(mended.done) == len(keys)
    capped = compare(contours, most=100)
    assert (len(capped.differences), capped.complete, capped.equal) == (100, False, False)
    stop = StopToken()
    stop.set("SIGINT")
    with pytest.raises(FatalError, match="stopped before all was compared"):
        compare(contours, stop=stop)


def test_where_texts_are_ordered_differently_it_says_so_and_compares_all_the_same(
    make_contours: MakeContours, monkeypatch: pytest.MonkeyPatch
) -> None:
    ddl = 'create table things (name text collate "C" primary key, note text)'
    contours = make_contours(ddl, ["things"])
    contours[1].run(
        'alter table things alter column name type text collate "und-x-icu"'
        if icu(contours[1])
        else 'alter table things alter column name type text collate "ucs_basic"'
    )
    damaged(contours, "name text", "chr((65 + n % 26 + 32 * (n % 2))::int) || n")
    monkeypatch.setattr(compare_search, "ROWS_AT_ONCE", 2)
    found = compare(contours)
    assert len(found.differences) == 4
    assert found.rows == {"a": ROWS - 1, "b": ROWS - 1}
    assert "keys are ordered differently" in found.notes[0]


def icu(contour: Contour) -> bool:
    return bool(
        contour.value("select exists (select from pg_collation where collname = 'und-x-icu')")
    )


def test_what_can_not_be_compared_is_refused_in_words(make_contours: MakeContours) -> None:
    _, b = contours = make_contours(
        "create table things (id int primary key, note text)", ["things"]
    )
    with pytest.raises(RefusedError, match=r"contour a: --where: column .nonsense. does not exist"):
        compare(contours, where="nonsense = 1")
    b.run("alter table things add column more int")
    assert compare(contours).notes == (
        "columns of contour b that others don't have, or don't send, are not compared: more",
    )
    b.run("select remove_table_from_replication('things')")
    b.run("alter table things drop constraint things_pkey, add primary key (note)")
    b.run("select setup_table_for_replication('things')")
    with pytest.raises(
        RefusedError, match=r"the primary key is \(id\) in contour a, and \(note\) in b"
    ):
        compare(contours)
