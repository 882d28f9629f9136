"""How a table differs between two contours, and what to run where.

Columns that one contour lacks, or has with another type, park the events of rows that don't fit until
the table is altered there; so each difference comes with the ALTER TABLE that ends it. Which of two
types is the wider one is told where every value of one fits into the other; else an operator chooses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from replication_pipeline.domain.findings import Finding, mend, notice

INTEGERS: Final = ("smallint", "integer", "bigint")
_TEXT: Final = re.compile(r"character varying\((\d+)\)")
_PLAIN: Final = re.compile(r"[a-z_][a-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Column:
    type: str
    required: bool
    filled: bool  # has a default


@dataclass(frozen=True, slots=True)
class SetUp:
    """A table in one contour; ``options`` are those that must be the same everywhere."""

    relation: str
    keys: tuple[str, ...]
    options: Mapping[str, Any]
    columns: Mapping[str, Column]

    @classmethod
    def of(
        cls, relation: Any, keys: Any, *, displace: Any, merge: Any, deltas: Any, columns: Any
    ) -> SetUp:
        """From the catalog's rows."""
        return cls(
            str(relation),
            tuple(keys),
            {"displace": displace, "merge": merge, "delta_columns": sorted(deltas or ())},
            {name: Column(type_, required, filled) for name, type_, required, filled in columns},
        )


def drift(table: str, one: tuple[str, SetUp], other: tuple[str, SetUp]) -> Iterator[Finding]:
    """Every difference between the contours ``one`` and ``other``, each with its name."""
    (here, mine), (there, theirs) = one, other
    for (contour, known), (lacking, lacks) in ((one, other), (other, one)):
        for name, column in known.columns.items():
            if name not in lacks.columns:
                statement = (
                    f"alter table {lacks.relation} add column {_quoted(name)} {column.type};"
                )
                yield mend(
                    f"{table}: column {name} ({column.type}) of {contour} is missing in "
                    f"{lacking}: rows that have a value in it are parked there",
                    f"in {lacking}: {statement}",
                )
                if column.required and not column.filled:
                    yield mend(
                        f"{table}: column {name} is NOT NULL without a default in {contour}: rows "
                        f"written in {lacking} don't fit",
                        f"in {contour}: alter table {known.relation} alter column {_quoted(name)} "
                        "drop not null;",
                    )
    for name in (n for n in mine.columns if n in theirs.columns):
        yield from _of_column(table, name, one, other)
    if mine.keys != theirs.keys:
        yield mend(
            f"{table}: the key is ({', '.join(mine.keys)}) in {here} and "
            f"({', '.join(theirs.keys)}) in {there}",
            "give the table the same primary key in both",
        )
    for option, value in mine.options.items():
        if theirs.options[option] != value:
            yield mend(
                f"{table}: {option} is {_plain(value)} in {here} and "
                f"{_plain(theirs.options[option])} in {there}",
                f"the same under tables: {table}: in both, then replication-pipeline setup-table "
                f"{table}",
            )


def _of_column(
    table: str, name: str, one: tuple[str, SetUp], other: tuple[str, SetUp]
) -> Iterator[Finding]:
    (here, mine), (there, theirs) = one, other
    a, b = mine.columns[name], theirs.columns[name]
    if a.type != b.type:
        choices = [
            f"in {contour}: alter table {side.relation} alter column {_quoted(name)} type {wanted};"
            for contour, side, wanted in (
                (there, theirs, wider(a.type, b.type) and a.type),
                (here, mine, wider(b.type, a.type) and b.type),
            )
            if wanted
        ]
        yield mend(
            f"{table}: column {name} is {a.type} in {here} and {b.type} in {there}",
            " ".join(choices) or f"alter column {_quoted(name)} to the same type in both",
        )
    if a.required != b.required:
        strict, lax = (one, other) if a.required else (other, one)
        yield notice(
            f"{table}: column {name} is NOT NULL in {strict[0]} only: a row of {lax[0]} without "
            "it is parked",
            f"in {lax[0]}: alter table {lax[1].relation} alter column {_quoted(name)} set not "
            "null;",
        )


def wider(one: str, other: str) -> bool:
    """Whether every value of ``other`` fits into ``one``."""
    if one in INTEGERS and other in INTEGERS:
        return INTEGERS.index(one) > INTEGERS.index(other)
    if one in ("text", "character varying"):
        return _TEXT.fullmatch(other) is not None
    lengths = [_TEXT.fullmatch(text) for text in (one, other)]
    return all(lengths) and int(lengths[0][1]) > int(lengths[1][1])  # type: ignore[index]


def _quoted(name: str) -> str:
    return name if _PLAIN.fullmatch(name) else '"' + name.replace('"', '""') + '"'


def _plain(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"({', '.join(value)})"
    return str(value).lower()
