"""What scenario ``apply`` applies: what two contours do before the first one's events come to ``b``.

Some rows both may have from the beginning, equal and captured by nobody. Then they change rows without
knowing of each other. Only what the first one has captured is published and applied; what ``b`` did is
what its events meet there.

``conflicts``: each event updates a row that both have. Of two tenths of these rows ``b`` has an older
update, which loses, and of two more a newer one, which wins: four events in ten are conflicts, and are
kept as such. ``deletes``: half the events delete a row that both have, half insert one, in turns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from psycopg import Connection

from bench import users
from bench.appliers.floor import floor, merging
from bench.subjects import AT_ONCE, FAMILY, SUBJECTS, Subject
from bench.workers import Worker

Name = Literal["one-table", "family", "conflicts", "deletes"]
Happen = Callable[[Connection[Any], Connection[Any], int], None]
"""Changes ``a`` and ``b`` so that ``a`` captures that many events."""
DELETED_AT_ONCE: Final = 500  # rows, before as many new ones come
BEFORE, AFTER = (0, 1), (2, 3)  # last digits of the rows that b updates before a does, and after
COPY: Final = """
copy (select * from users where id between {first} and {last}) to stdout (format binary)
"""
UPDATE: Final = """
update users set name = name || %s where id between %s and %s and id %% 10 = any(%s)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    scenario: str
    """The name of its results."""
    subject: Subject
    happen: Happen
    aim: int | None = None
    """Events a second of one applier."""
    floor: Worker = floor
    kept: Mapping[str, float] = field(default_factory=dict)
    """Rows that our appliers must leave in tables of theirs, by event."""


def only_in_a(subject: Subject) -> Happen:
    """Inserts alone, and ``b`` empty."""

    def happen(a: Connection[Any], b: Connection[Any], events: int) -> None:
        del b
        subject.fill(a, events)

    return happen


def concurrent_updates(a: Connection[Any], b: Connection[Any], events: int) -> None:
    both_have(a, b, events)
    update(b, events, "of b, before", digits=BEFORE)
    update(a, events, "of a")
    update(b, events, "of b, after", digits=AFTER)


def deletes_and_inserts(a: Connection[Any], b: Connection[Any], events: int) -> None:
    half = events // 2
    both_have(a, b, half)
    for first in range(1, half + 1, DELETED_AT_ONCE):
        last = min(first + DELETED_AT_ONCE - 1, half)
        a.execute("delete from users where id between %s and %s", [first, last])
        a.execute(users.insert(half + first, half + last))


def both_have(a: Connection[Any], b: Connection[Any], rows: int, first: int = 1) -> None:
    """The same rows with the same versions, captured in neither."""
    last = first + rows - 1
    for connection in (a, b):
        connection.execute("set session_replication_role = replica")
    for start in range(first, last + 1, AT_ONCE):
        a.execute(users.insert(start, min(start + AT_ONCE - 1, last)))
    with (
        a.cursor().copy(COPY.format(first=first, last=last)) as out,
        b.cursor().copy("copy users from stdin (format binary)") as into,
    ):
        for part in out:
            into.write(part)
    for connection in (a, b):
        connection.execute("reset session_replication_role")
        connection.execute("analyze users")


def update(
    connection: Connection[Any], rows: int, mark: str, *, digits: Sequence[int] = range(10)
) -> None:
    """Each row once whose id ends in one of ``digits``."""
    for first in range(1, rows + 1, AT_ONCE):
        connection.execute(UPDATE, [mark, first, first + AT_ONCE - 1, list(digits)])


WORKLOADS: Final[Mapping[Name, Workload]] = {
    "one-table": Workload(
        scenario="apply", subject=SUBJECTS[1], happen=only_in_a(SUBJECTS[1]), aim=60_000
    ),
    "family": Workload(
        scenario="apply-family",
        subject=SUBJECTS[len(FAMILY)],
        happen=only_in_a(SUBJECTS[len(FAMILY)]),
        aim=30_000,
    ),
    "conflicts": Workload(
        scenario="apply-conflicts",
        subject=SUBJECTS[1],
        happen=concurrent_updates,
        floor=merging,
        kept={"replication.replication_conflicts": 0.4},
    ),
    "deletes": Workload(
        scenario="apply-deletes",
        subject=SUBJECTS[1],
        happen=deletes_and_inserts,
        floor=merging,
        kept={"replication.replication_tombstones": 0.5},
    ),
}
