"""Tables, rows and statements that Hypothesis makes up arrive as they were written.

The usual run is short and always the same. ``TYPES_EXAMPLES=500 pytest …`` looks further: other
examples each time, and failing ones made small.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from psycopg import sql

from replication_pipeline.embedded import EmbeddedKafka
from replication_pipeline_tests.conftest import Contour, MakeContours
from replication_pipeline_tests.types_zoo import (
    DELIMITERS,
    USER_TYPES_DDL,
    array_literal,
    assert_equal,
    zoo,
)

EXAMPLES = int(os.environ.get("TYPES_EXAMPLES", "0"))
pytestmark = [pytest.mark.integration, *([pytest.mark.timeout(0)] if EXAMPLES else [])]
PROFILE = settings(
    max_examples=EXAMPLES or 4,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    # Each try takes a second or two on real servers: shrinking is for whoever asked for more.
    phases=[Phase.explicit, Phase.generate, *([Phase.shrink] if EXAMPLES else [])],
    suppress_health_check=list(HealthCheck),
)

# Names that mean something to SQL, to plpgsql, or to the statements that the product generates.
NAMES = (
    *("n", "o", "t", "c", "s", "r", "b", "f", "p", "e", "k", "l", "q", "m", "i", "w", "x"),
    *("version", "payload", "before", "op", "record", "record_key", "key", "seq", "verdict"),
    *("new_rows", "old_rows", "new", "old", "tg_op", "excluded", "ctid_", "c1", "c2", "stage"),
    *("seed", "txid", "shape", "lowest", "bar", "lifting", "careful", "fresh", "incoming"),
    *("__row", "__key", "__payload", "__version", "__base", "__operation", "__k1", "__n", "__id"),
    *("select", "user", "table", "order", "null", "default", "values", "limit", "id", "ID"),
    *('"', "'", "\\", "%", "%s", "%(missing)s", "{table}", "{}", "{0}", " ", "a b", "\n", "\t"),
    *("$1", "($1 ||", ", $2\n", "$capture$", "$sql$", "--", "/*", ":x", "a.b", "[0]", ",", "?"),
    *("Ключ", "é" * 31, "x" * 63, "👩" * 15, "\ufeff", "\uffff", "\x01\x7f", "\u2028"),
)
RESERVED = {"replication_version", "tableoid", "ctid", "xmin", "xmax", "cmin", "cmax"}
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
COLUMN_NAMES = st.one_of(
    st.sampled_from(NAMES),
    TEXT.filter(lambda name: 0 < len(name.encode()) <= 63 and name not in RESERVED),
)

# --- values: hard ones from the zoo, and any other of the type ------------------------------------


def _integers(bits: int, *, signed: bool = True) -> st.SearchStrategy[str]:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return st.integers(low, high).map(str)


def _floats(width: int) -> st.SearchStrategy[str]:
    return st.floats(width=32 if width == 32 else 64).map(repr)


DIGITS = st.text("0123456789", min_size=1, max_size=40)
NUMERICS = st.builds("{}{}.{}".format, st.sampled_from(["", "-"]), DIGITS, DIGITS)
DATES = st.builds("{}{}".format, st.dates(), st.sampled_from(["", "", " BC"])).filter(
    # Not before the first day there is; leap years before Christ are others.
    lambda date: not date.endswith(" BC") or (date < "4713" and "-02-29" not in date)
)
TIMES = st.times().map(str)
TIMESTAMPS = st.builds(
    lambda date, time: f"{date.removesuffix(' BC')} {time}{' BC' * date.endswith(' BC')}",
    DATES,
    TIMES,
)
OFFSETS = st.builds(
    "{}{:02}:{:02}".format, st.sampled_from("+-"), st.integers(0, 15), st.integers(0, 59)
)
JSON = st.builds(
    lambda value, ascii_only, indent: json.dumps(value, ensure_ascii=ascii_only, indent=indent),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
        | TEXT,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
        max_leaves=8,
    ),
    st.booleans(),
    st.sampled_from([None, 1]),
)  # fmt: skip
ANY: dict[str, st.SearchStrategy[str]] = {
    "int2": _integers(16),
    "int4": _integers(32),
    "int8": _integers(64),
    "oid": _integers(32, signed=False),
    "xid8": _integers(64, signed=False),
    "float4": _floats(32),
    "float8": _floats(64),
    "nothing": _floats(64),
    "numeric": NUMERICS,
    "text": TEXT,
    "varchar": TEXT,
    "bpchar": TEXT,
    "document": JSON,
    "json": JSON,
    "jsonb": JSON,
    "bytea": st.binary(max_size=100).map(lambda value: "\\x" + value.hex()),
    "date": DATES,
    "time": TIMES,
    "timetz": st.builds("{}{}".format, TIMES, OFFSETS),
    "timestamp": TIMESTAMPS,
    "interval": st.builds(
        "{} mons {} days {} us".format,
        st.integers(-(2**31), 2**31 - 1), st.integers(-(2**31), 2**31 - 1),
        st.integers(-(10**15), 10**15),
    ),
    '"bit"': st.text("01", max_size=30),
    "varbit": st.text("01", max_size=30),
    "uuid": st.uuids().map(str),
    "inet": st.ip_addresses().map(str),
    "point": st.builds("({!r},{!r})".format, st.floats(), st.floats()),
    "int4range": st.builds(
        lambda bounds, ends: f"{ends[0]}{min(bounds)},{max(bounds)}{ends[1]}",
        st.tuples(st.integers(-(2**31), 2**31 - 2), st.integers(-(2**31), 2**31 - 2)),
        st.sampled_from(["[)", "()", "(]", "[]"]),
    ),
}  # fmt: skip
ZOO = {
    name: tuple(value for value in values if len(value) < 10_000)
    for name, values in zoo().items()
    if name not in {"xml", "xml[]"}  # not every server can hold any
}


def _values(type_name: str) -> st.SearchStrategy[str]:
    hard = st.sampled_from(ZOO[type_name])
    if type_name in ANY:
        return hard | ANY[type_name]
    element = type_name.removesuffix("[]")
    if element in ANY and element != type_name:
        return hard | _arrays(element)
    return hard


def _arrays(element: str) -> st.SearchStrategy[str]:
    delimiter = DELIMITERS.get(element, ",")
    one = st.none() | _values(element)
    flat = st.lists(one, max_size=5).map(lambda values: array_literal(values, delimiter))
    bounded = st.builds(
        lambda first, values: (
            f"[{first}:{first + len(values) - 1}]=" + array_literal(values, delimiter)
        ),
        st.integers(-3, 3), st.lists(one, min_size=1, max_size=3),
    )  # fmt: skip
    square = st.lists(
        st.tuples(one, one).map(lambda row: array_literal(row, delimiter)), min_size=1, max_size=3
    ).map(lambda rows: "{" + delimiter.join(rows) + "}")
    return flat | bounded | square


SMALL_TEXT = TEXT | st.sampled_from(["", " ", '"', "\\", "null", "1", "é👩", "\x01\x1f", "{}"])
KEYS: dict[str, st.SearchStrategy[str]] = {
    name: _values(name)
    for name in (
        *("bool", "int2", "int4", "int8", "uuid", "date", "time", "timestamp", "timestamptz"),
        *("oid", "inet", "cidr", "macaddr", "macaddr8", "pg_lsn", "numeric(12,2)", "char(5)"),
        *("mood", "price", "code"),
    )
} | {"text": SMALL_TEXT, "varchar": SMALL_TEXT}

# --- tables and statements ------------------------------------------------------------------------


@dataclass(frozen=True)
class Column:
    name: str
    type: str


@dataclass(frozen=True)
class Statement:
    """``text`` is filled in for the table; ``names`` are columns that it sets."""

    text: str
    names: tuple[str, ...]
    values: tuple[str | int | None, ...]


@dataclass(frozen=True)
class Table:
    """``work`` is a series of transactions."""

    name: str
    keys: tuple[Column, ...]
    others: tuple[Column, ...]
    work: tuple[tuple[Statement, ...], ...] = ()

    @property
    def key(self) -> list[str]:
        return [column.name for column in self.keys]

    def ddl(self) -> str:
        # The key stands last: its columns are neither the first ones nor in the table's order.
        columns = (*self.others, *reversed(self.keys))
        return (
            sql.SQL("create table {} ({}, primary key ({}));")
            .format(
                sql.Identifier(self.name),
                _list(
                    sql.SQL("{} {}").format(sql.Identifier(c.name), sql.SQL(c.type))
                    for c in columns
                ),
                _list(map(sql.Identifier, self.key)),
            )
            .as_string()
        )

    def run(self, contour: Contour, statement: Statement) -> None:
        settable = [c.name for c in self.others] or self.key
        text = sql.SQL(statement.text).format(
            table=_quoted(self.name),
            names=_list(map(_quoted, statement.names)),
            keys=_list(map(_quoted, self.key)),
            row=_list([sql.SQL("%s")] * len(statement.names)),
            assignments=_list(sql.SQL("{} = %s").format(_quoted(n)) for n in statement.names),
            excluded=_list(sql.SQL("{0} = excluded.{0}").format(_quoted(n)) for n in settable),
        )
        contour.run(text.as_string(), *statement.values)


def _quoted(name: str) -> sql.Identifier:
    # psycopg looks for placeholders in names as well.
    return sql.Identifier(name.replace("%", "%%"))


def _list(parts: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL(", ").join(parts)


INSERT = "insert into {table} ({names}) values ({row})"
UPSERT = INSERT + " on conflict ({keys}) do update set {excluded}"
SOME = " where ctid = any(array(select ctid from {table} order by {keys} offset %s limit %s))"
UPDATE = "update {table} set {assignments}" + SOME
DELETE = "delete from {table}" + SOME


@st.composite
def tables(draw: st.DrawFn) -> Table:
    keys = draw(st.lists(st.sampled_from(sorted(KEYS)), min_size=1, max_size=3))
    # Types with endless values more often than the many with a few.
    types = st.sampled_from(sorted(ANY)) | st.sampled_from(sorted(ZOO))
    others = draw(st.lists(types, min_size=4, max_size=10))
    count = len(keys) + len(others)
    names = draw(st.lists(COLUMN_NAMES, min_size=count, max_size=count, unique=True))
    columns = [Column(*pair) for pair in zip(names, keys + others, strict=True)]
    table = Table(
        name=draw(st.sampled_from(["t", 'odd "%s" {name}', "new_rows", "select", "Ключ"])),
        keys=tuple(columns[: len(keys)]),
        others=tuple(columns[len(keys) :]),
    )
    statement = _statements(table)
    rows = st.lists(_inserts(table), min_size=2, max_size=5).map(tuple)
    work = st.lists(st.lists(statement, min_size=1, max_size=3).map(tuple), min_size=2, max_size=6)
    return replace(table, work=(*((row,) for row in draw(rows)), *draw(work)))


def _inserts(table: Table, text: str = INSERT) -> st.SearchStrategy[Statement]:
    names = tuple(column.name for column in (*table.keys, *table.others))
    keys = (KEYS[column.type] for column in table.keys)
    others = (st.none() | _values(column.type) for column in table.others)
    return st.builds(Statement, st.just(text), st.just(names), st.tuples(*keys, *others))


def _update(name: str, value: str | None, place: tuple[int, int]) -> Statement:
    return Statement(UPDATE, (name,), (value, *place))


def _statements(table: Table) -> st.SearchStrategy[Statement]:
    place = st.tuples(st.integers(0, 4), st.integers(1, 3))  # which rows, in the order of keys
    one_place = st.tuples(st.integers(0, 4), st.just(1))
    values = {c.name: st.none() | _values(c.type) for c in table.others}
    updates = [st.builds(_update, st.just(n), value, place) for n, value in values.items()]
    moves = [st.builds(_update, st.just(c.name), KEYS[c.type], one_place) for c in table.keys]
    deletes = st.builds(Statement, st.just(DELETE), st.just(()), place)
    return st.one_of(
        _inserts(table), _inserts(table, UPSERT), st.one_of(*updates), st.one_of(*moves), deletes
    )


@PROFILE
@given(made=st.lists(tables(), min_size=2, max_size=4, unique_by=lambda table: table.name))
def test_any_tables_and_statements_end_equal(
    make_contours: MakeContours, kafka: EmbeddedKafka, made: list[Table]
) -> None:
    ddl = USER_TYPES_DDL + "".join(table.ddl() for table in made)
    a, b = make_contours(ddl, [table.name for table in made])
    for half in (False, True):  # the second half meets rows that are in b already
        for table in made:
            middle = len(table.work) // 2
            for transaction in table.work[middle:] if half else table.work[:middle]:
                # A key that is taken is the application's mistake; all else would be ours.
                with suppress(psycopg.errors.UniqueViolation), a.app.transaction():
                    for statement in transaction:
                        table.run(a, statement)
        a.publish()
        b.apply()
        for table in made:
            assert_equal(a, b, table.name, table.key)


def test_columns_and_keys_may_be_called_anything(
    make_contours: MakeContours, kafka: EmbeddedKafka
) -> None:
    names = [name for name in NAMES if name not in RESERVED]
    made = [
        Table(f"t{start}", tuple(Column(name, "text") for name in names[start : start + 32]),
              tuple(Column(name, "text") for name in names if name not in names[start : start + 32]))
        for start in range(0, len(names), 32)
    ]  # fmt: skip
    a, b = make_contours("".join(t.ddl() for t in made), [t.name for t in made])
    for table in made:
        columns = tuple(c.name for c in (*table.keys, *table.others))
        for row in ("x", "y", "z"):
            table.run(a, Statement(INSERT, columns, tuple(f"{row} {name}" for name in columns)))
        table.run(a, Statement(UPSERT, columns, tuple(f"x {name}" for name in columns)))
        table.run(a, Statement(UPDATE, columns, (*(f"X {name}" for name in columns), 0, 1)))
        table.run(a, Statement(DELETE, (), (1, 1)))
    a.publish()
    b.apply()
    for table in made:
        assert a.value(f"select count(*) from {table.name}") == 2
        assert_equal(a, b, table.name, table.key)
