"""Events read into rows for COPY, and what is noticed on the way."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from replication_pipeline.domain.model import Message
from replication_pipeline.domain.names import Topic
from replication_pipeline.domain.origins import Origins
from replication_pipeline.domain.version import pack
from replication_pipeline.postgres.catalog import Column, Table
from replication_pipeline.postgres.staging import Incoming, Judge, Reader, Row

pytestmark = pytest.mark.unit

NOW = 1_700_000_000_000_000
VERSION = pack(NOW, 1)
JUDGE = Judge(me="b", here="b", fenced=frozenset({"c"}), newest_clock=NOW + 60_000_000)
FIELDS = (
    "seq", "event_id", "contour", "version", "base_version", "op", "record_key", "missing", "verdict",
    "reason", "detail",
)  # fmt: skip
COLUMNS = {
    "id": Column("id", "bigint", "bigint"),
    "name": Column("name", "text", "text"),
    "photo": Column("photo", "bytea", "bytea"),
    "tags": Column("tags", "text[]", "text[]", delimiter=","),
    "boxes": Column("boxes", "box[]", "box[]", delimiter=";"),
}


def reader(*columns: str, keys: tuple[str, ...] = ("id",)) -> Reader:
    return Reader.of(
        Table(
            "things",
            1,
            "public",
            "things",
            keys,
            1,
            "f",
            tuple(COLUMNS[c] for c in columns),
            (),
            (),
        )
    )


def event(values: Any, *, op: str = "c", **source: Any) -> bytes:
    told = {
        "event_id": "e",
        "contour": "a",
        "row_version": str(VERSION),
        "table": "things",
    } | source
    side = "before" if op == "d" else "after"
    return json.dumps({"op": op, side: values, "source": told}).encode()


@dataclass
class Read(Incoming):
    """With the rows themselves."""

    told: list[Row] = field(default_factory=list)


def read(of: Reader, *values: bytes, judge: Judge = JUDGE) -> Read:
    found = Read()
    messages = [Message(Topic("t"), 0, n, value) for n, value in enumerate(values)]
    found.told = list(of.read(messages, judge, found))
    assert found.rows == len(found.told)
    return found


def test_a_row_has_what_the_event_tells() -> None:
    found = read(
        reader("id", "name"),
        event({"id": 7, "name": "x"}, op="u", base_version=str(VERSION - 1024)),
    )
    (row,) = found.told
    assert dict(zip(FIELDS, row, strict=False)) == {
        "seq": 1,
        "event_id": "e",
        "contour": "a",
        "version": VERSION,
        "base_version": VERSION - 1024,
        "op": "u",
        "record_key": '{"id":7}',
        "missing": None,
        "verdict": "apply",
        "reason": None,
        "detail": "",
    }
    assert row[len(FIELDS) :] == ("7", "x")
    assert (found.own, found.changes, found.rivals) == (0, [VERSION], False)


def test_own_events_are_left_out_and_places_kept() -> None:
    found = read(reader("id"), event({"id": 1}, contour="b"), event({"id": 2}))
    assert found.own == 1
    assert [row[0] for row in found.told] == [2]
    again = read(
        reader("id"), event({"id": 1}, contour="b"), judge=Judge("", "b", frozenset(), NOW)
    )
    assert (again.own, again.rows) == (0, 1)


def test_keys_with_several_events_are_noticed() -> None:
    assert read(reader("id"), event({"id": 1}), event({"id": 1}, op="d")).rivals
    assert not read(reader("id"), event({"id": 1}), event({"id": 2})).rivals


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ({"name": None}, None),
        ({"name": "ü\t\\N\n"}, "ü\t\\N\n"),
        ({"name": True}, "true"),
        ({"name": 9007199254740993}, "9007199254740993"),
        ({"name": 1.5e-300}, "1.5e-300"),
        ({"name": {"a": [1]}}, '{"a":[1]}'),
        ({"photo": "3q2+7w=="}, "\\xdeadbeef"),
        ({"photo": None}, None),
        ({"tags": []}, "{}"),
        ({"tags": ["a,b", 'q"\\', None, "null"]}, '{"a,b","q\\"\\\\",NULL,"null"}'),
        ({"tags": [[1, 2], [3, None]]}, '{{"1","2"},{"3",NULL}}'),
        ({"tags": "[0:0]={x}"}, "[0:0]={x}"),
        ({"boxes": ["(1,1),(0,0)", "(2,2),(1,1)"]}, '{"(1,1),(0,0)";"(2,2),(1,1)"}'),
    ],
)
def test_values_are_written_as_postgresql_reads_them(value: Any, written: str | None) -> None:
    (column,) = value
    (row,) = read(reader("id", column), event({"id": 1} | value)).told
    assert row[-1] == written


@pytest.mark.parametrize(
    ("key", "canonical"),
    [
        (7, "7"),
        ('ä"\\\x1f\x7f\n', '"ä\\"\\\\\\u001f\x7f\\n"'),
        (True, "true"),
        (1e22, "10000000000000000000000"),
        (1.5e-7, "0.00000015"),
        ([1, None, "x"], '[1, null, "x"]'),
    ],
)
def test_keys_are_written_as_jsonb_prints_them(key: Any, canonical: str) -> None:
    (row,) = read(reader("id"), event({"id": key})).told
    assert row[6] == f'{{"id":{canonical}}}'


def test_a_key_of_several_columns_keeps_their_order() -> None:
    of = reader("id", "name", keys=("name", "id"))
    (row,) = read(of, event({"id": 1, "name": "x"}, op="d")).told
    assert row[6] == '{"name":"x","id":1}'


@pytest.mark.parametrize(
    ("values", "source", "told"),
    [
        ({"id": 1, "name": "x"}, {"contour": "c"}, (None, "park", "fenced_contour", "")),
        ({"id": 1, "name": "x", "z": 1, "y": 2}, {}, (None, "park", "unknown_column", "y, z")),
        ({"id": 1}, {}, ('{"name"}', "apply", None, "")),
        (
            {"id": 1, "name": "x"},
            {"row_version": str(pack(NOW + 60_000_001, 1))},
            (None, "park", "clock_skew", ""),
        ),
        (
            {"id": 1, "name": "x"},
            {"row_version": str(pack(NOW + 60_000_000, 1))},
            (None, "apply", None, ""),
        ),
    ],
)
def test_what_an_event_says_of_itself_is_judged(
    values: Any, source: Any, told: tuple[object, ...]
) -> None:
    (row,) = read(reader("id", "name"), event(values, **source)).told
    assert row[7:11] == told


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"op":"c"',
        b"\xff",
        event({"name": "no key"}),
        event([1]),
        event({"id": 1}, op="t"),
        event({"id": 1}, row_version="new"),
        event({"id": 1}, row_version="0"),
        event({"id": 1}, event_id=None),
        event({"id": {"a": 1}}),
    ],
)
def test_what_is_no_event_is_refused_without_its_values(value: bytes) -> None:
    found = read(reader("id", "name"), event({"id": 1}), value, event({"id": 2}))
    assert [row[0] for row in found.told] == [1, 3], "the others are read"
    ((seq, reason, detail),) = found.unfit
    assert (seq, reason) == (2, "malformed")
    assert "no key" not in detail


def test_a_binary_value_that_is_none_is_a_bad_value() -> None:
    found = read(reader("id", "photo"), event({"id": 1, "photo": "§"}))
    assert [unfit.reason for unfit in found.unfit] == ["bad_value"]
    assert not found.told


ORIGINS = Origins({"a": 1, "b": 2, "c": 3})


@pytest.mark.parametrize(
    ("contour", "number", "reason"),
    [
        ("a", 1, None),
        ("a", 2, "forged_origin"),  # this contour's number
        ("a", 7, "forged_origin"),
        ("b", 1, "forged_origin"),  # this contour's name
        ("d", 4, None),  # nobody knows either
        ("d", 1, "forged_origin"),  # somebody's number
        ("", 1, "malformed"),
        ("a b", 1, "malformed"),
        ("A", 1, "malformed"),
        ("x" * 32, 4, "malformed"),
        ("d\u0000", 4, "malformed"),
    ],
)
def test_a_version_belongs_to_the_contour_that_tells_it(
    contour: str, number: int, reason: str | None
) -> None:
    judge = replace(JUDGE, origins=ORIGINS)
    value = event({"id": 1}, contour=contour, row_version=str(pack(NOW, number)))
    found = read(reader("id"), value, judge=judge)
    assert [unfit.reason for unfit in found.unfit] == ([reason] if reason else [])
    assert len(found.told) + found.own == (0 if reason else 1)


def test_rows_of_a_snapshot_go_with_whosever_versions() -> None:
    judge = replace(JUDGE, origins=ORIGINS)
    of_others = str(pack(NOW, 3))
    sent = event({"id": 1}, op="r", row_version=of_others, snapshot="incremental")
    gone = event({"id": 2}, op="d", row_version=of_others, snapshot="incremental")
    assert len(read(reader("id"), sent, gone, judge=judge).told) == 2


def test_who_is_not_listed_is_held() -> None:
    judge = replace(JUDGE, origins=Origins({"a": 1, "b": 2}, closed=True))
    values = [event({"id": 1}), event({"id": 2}, contour="d", row_version=str(pack(NOW, 4)))]
    values += [event({"id": 3}, op="r", contour="d", snapshot="incremental")]
    found = read(reader("id"), *values, judge=judge)
    assert [unfit.reason for unfit in found.unfit] == ["unknown_contour"] * 2
    assert len(found.told) == 1
