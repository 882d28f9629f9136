"""Whether a table is equal in several contours, while all of them write it.

Ranges of keys say which rows differ as they are read (``compare_search``); most of what they find is
only under way. So a moment is noted on every contour, and once everything written anywhere before it
has arrived everywhere (``compare_settling``), those keys are read again. A row differs if it differs
still, and nobody has written it meanwhile.

Invariants: nothing is written; no row value leaves a database unless it is asked for; what was not
looked at is told. It mends nothing: that is ``repair``.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import islice
from typing import Any, Final

import psycopg

from replication_pipeline.domain.comparison import Comparison, Difference, Lag, Seen
from replication_pipeline.domain.errors import RefusedError
from replication_pipeline.domain.names import topic_for
from replication_pipeline.engine.stopping import StopToken
from replication_pipeline.postgres import queries
from replication_pipeline.postgres.compare_search import Progress, Search, Suspect
from replication_pipeline.postgres.compare_settling import settled
from replication_pipeline.postgres.compare_side import SQL, Key, Range, Shape, Side
from replication_pipeline.postgres.connection import connect
from replication_pipeline.postgres.failures import translating, translating_refusals
from replication_pipeline.settings import Settings

LONGEST_STATEMENT: Final = "1h"
AT_ONCE: Final = 20_000  # suspects that are waited for together
MOST_DIFFERENCES: Final = 10_000
UNLIKE: Final = (
    "keys are ordered differently in the contours (collations, or the order of an enum's labels), so "
    "blocks are hashes of keys, and whole tables are read to find rows"
)


@dataclass(frozen=True, slots=True)
class Options:
    """``patience``: instead of ``compare.patience``. ``where``: a condition on rows ``t``."""

    where: str | None = None
    most: int = MOST_DIFFERENCES
    patience: timedelta | None = None
    values: bool = False


@contextmanager
def open_contours(
    settings: Settings, *, others: Sequence[str] | None = None, writes: bool = False
) -> Iterator[dict[str, psycopg.Connection[Any]]]:
    """This contour's database and those of ``compare.contours``, or of some of them.

    ``TransientError`` when one is away, ``RefusedError`` when one is another contour.
    """
    chosen = settings.compare.contours
    if others is not None:
        chosen = {name: chosen[name] for name in others}
    with ExitStack() as opened:
        connections = {}
        for name, postgres in {settings.contour.name: settings.postgres, **chosen}.items():
            there = settings.model_copy(
                update={
                    "postgres": postgres,
                    "contour": settings.contour.model_copy(update={"name": name}),
                }
            )
            connection = opened.enter_context(
                closing(connect(there, application_name="replicator_compare", check=False))
            )
            with translating(f"contour {name}: comparing"):
                row = connection.execute(queries.load("workers")["identity"]).fetchone()
                options = {} if writes else {"default_transaction_read_only": "on"}
                for setting, value in (
                    options | {"statement_timeout": LONGEST_STATEMENT, "jit": "off"}
                ).items():
                    connection.execute("select set_config(%s, %s, false)", [setting, value])
            if row is None or row[0] != name:
                raise RefusedError(
                    f"compare.contours.{name} is the database of "
                    f"{'contour ' + row[0] if row else 'no contour'}",
                    remedy="give each contour's own database its name there",
                )
            connections[name] = connection
        yield connections


def contour_ids(connections: Mapping[str, psycopg.Connection[Any]]) -> dict[str, int]:
    """Each contour's number, which its versions carry."""
    ids: dict[str, int] = {}
    for contour, connection in connections.items():
        with translating(f"contour {contour}: comparing"):
            ((_, ids[contour], *_),) = connection.execute(
                queries.load("workers")["identity"]
            ).fetchall()
    return ids


def compare_table(
    connections: Mapping[str, psycopg.Connection[Any]],
    table: str,
    settings: Settings,
    options: Options | None = None,
    *,
    progress: Progress = lambda _done, _total: None,
    stop: StopToken | None = None,
) -> Comparison:
    """``table`` in all of ``connections``. Waits for ``compare.patience`` at most, each time that it
    has found some 20,000 rows to wait for.
    """
    options, stop, begun = options or Options(), stop or StopToken(), time.monotonic()
    sides, notes = sides_of(connections, table, settings, where=options.where)
    patience = settings.compare.patience if options.patience is None else options.patience
    found: list[Difference] = []
    moving = unsettled = 0
    lags: tuple[Lag, ...] = ()
    complete = True
    with ThreadPoolExecutor(len(sides)) as pool:
        search = Search(sides, pool, stop, progress)
        if not search.ordered_alike:
            notes = (*notes, UNLIKE)
        suspects = search.suspects()
        while not lags and (chosen := list(islice(suspects, AT_ONCE))):
            if len(found) >= options.most:
                complete = False
                break
            if (
                options.where is not None
            ):  # a row that it holds for in one contour only is no less there
                chosen = read_now(search, {suspect.key: suspect.parts for suspect in chosen})
            confirmed, open_, lags = confirm(search, chosen, patience)
            found += confirmed
            if lags:
                unsettled = open_
                complete = next(suspects, None) is None
            else:
                moving += open_
        if len(found) > options.most:
            complete = False
        found = described(search, found[: options.most], values=options.values)
    return Comparison(
        table,
        search.rows,
        tuple(found),
        complete=complete,
        lags=lags,
        unsettled=unsettled,
        moving=moving,
        notes=notes,
        seconds=time.monotonic() - begun,
    )


def compare_keys(
    connections: Mapping[str, psycopg.Connection[Any]],
    table: str,
    settings: Settings,
    keys: Mapping[str, Key],
    *,
    patience: timedelta | None = None,
    stop: StopToken | None = None,
) -> Comparison:
    """The same of some keys alone."""
    stop, begun = stop or StopToken(), time.monotonic()
    sides, notes = sides_of(connections, table, settings)
    with ThreadPoolExecutor(len(sides)) as pool:
        search = Search(sides, pool, stop, lambda _done, _total: None)
        for side in sides:
            side.read_by_index(True)
        read = read_now(search, keys)
        suspects = [suspect for suspect in read if differs(suspect.seen)]
        confirmed: list[Difference] = []
        open_ = 0
        lags: tuple[Lag, ...] = ()
        if suspects:
            waits = settings.compare.patience if patience is None else patience
            confirmed, open_, lags = confirm(search, suspects, waits)
        confirmed = described(search, confirmed, values=False)
    rows = {
        contour: sum(each.seen[contour].version is not None for each in read)
        for contour in connections
    }
    return Comparison(
        table,
        rows,
        tuple(confirmed),
        lags=lags,
        unsettled=open_ if lags else 0,
        moving=0 if lags else open_,
        notes=notes,
        seconds=time.monotonic() - begun,
    )


def read_now(search: Search, keys: Mapping[str, Key]) -> list[Suspect]:
    """What each contour has of some keys."""
    read = search.each(lambda side: side.states(keys))
    return [
        Suspect(
            key,
            parts,
            {side.contour: now[key] for side, now in zip(search.sides, read, strict=True)},
        )
        for key, parts in keys.items()
    ]


def confirm(
    search: Search, suspects: Sequence[Suspect], patience: timedelta
) -> tuple[list[Difference], int, tuple[Lag, ...]]:
    """Those that are different still once all has arrived; of how many that can't be said, because they
    were written meanwhile or contours lag; and who lags.
    """
    lags = settled(search.sides, patience, search.stop)
    now = read_now(search, {suspect.key: suspect.parts for suspect in suspects})
    found, open_ = [], 0
    for before, suspect in zip(suspects, now, strict=True):
        if not differs(suspect.seen):
            continue
        if not lags and unwritten(before.seen, suspect.seen):
            found.append(Difference(suspect.key, suspect.parts, suspect.seen))
        else:
            open_ += 1
    return found, open_, lags


def differs(seen: Mapping[str, Seen]) -> bool:
    """Whether a key is not the same everywhere."""
    return len({each.row for each in seen.values()}) > 1


def unwritten(before: Mapping[str, Seen], after: Mapping[str, Seen]) -> bool:
    """Whether every contour has what it had."""
    return all(before[contour].row == seen.row for contour, seen in after.items())


def described(search: Search, found: list[Difference], *, values: bool) -> list[Difference]:
    """With the columns that differ, and why an event waits somewhere."""
    if not found:
        return found
    keys = {difference.key: difference.parts for difference in found}
    contours = [side.contour for side in search.sides]
    hashes = dict(
        zip(contours, search.each(lambda s: s.of_columns(keys, values=False)), strict=True)
    )
    parked = dict(zip(contours, search.each(lambda s: s.parked(keys)), strict=True))
    texts = (
        dict(zip(contours, search.each(lambda s: s.of_columns(keys, values=True)), strict=True))
        if values
        else {}
    )
    names = search.sides[0].columns
    return [_described(difference, names, hashes, texts, parked) for difference in found]


def _described(
    difference: Difference,
    names: Sequence[str],
    hashes: Mapping[str, Mapping[str, list[str | None]]],
    texts: Mapping[str, Mapping[str, list[str | None]]],
    parked: Mapping[str, Mapping[str, str]],
) -> Difference:
    key = difference.key
    rows = [each[key] for each in hashes.values() if key in each]
    columns = tuple(name for n, name in enumerate(names) if len({row[n] for row in rows}) > 1)
    shown = [n for n, name in enumerate(names) if name in columns or len(rows) == 1]
    return replace(
        difference,
        columns=columns,
        values={
            c: {names[n]: each[key][n] for n in shown} for c, each in texts.items() if key in each
        },
        parked={contour: waits[key] for contour, waits in parked.items() if key in waits},
    )


def sides_of(
    connections: Mapping[str, psycopg.Connection[Any]],
    table: str,
    settings: Settings,
    *,
    where: str | None = None,
) -> tuple[list[Side], tuple[str, ...]]:
    """The table in each contour, and what is to be told of it. Refused where it can't be compared."""
    shapes: dict[str, Shape] = {}
    for contour, connection in connections.items():
        with translating(f"contour {contour}: comparing table {table}"):
            row = connection.execute(SQL["shape"], {"table": table}).fetchone()
        if row is None:
            raise RefusedError(
                f"table {table} is not set up in contour {contour}",
                remedy=f"replication-pipeline setup-table {table}",
            )
        shapes[contour] = Shape(*row)
    first, *others = shapes.items()
    for contour, shape in others:
        if tuple(shape.keys) != tuple(first[1].keys):
            raise RefusedError(
                f"table {table}: the primary key is ({', '.join(first[1].keys)}) in contour "
                f"{first[0]}, and ({', '.join(shape.keys)}) in {contour}",
                remedy="give it the same primary key everywhere",
            )
    common = sorted(set.intersection(*(set(shape.columns) for shape in shapes.values())))
    notes = tuple(
        f"columns of contour {contour} that others don't have, or don't send, are not compared: "
        f"{', '.join(extra)}"
        for contour, shape in shapes.items()
        if (extra := sorted(set(shape.columns) - set(common)))
    )
    topic = topic_for(table, prefix=settings.kafka.topic_prefix)
    sides = [
        Side(contour, connections[contour], table, shape, common, topic, where)
        for contour, shape in shapes.items()
    ]
    _refuse_bad_condition(sides if where is not None else ())
    return sides, notes


def _refuse_bad_condition(sides: Iterable[Side]) -> None:
    """Told before anything is read."""
    for side in sides:
        try:
            with translating_refusals(f"contour {side.contour}: --where"):
                side.connection.execute(side.statement("explain", Range()), side.bound(None))
        except RefusedError as error:
            remedy = error.remedy or "it is SQL on the columns of row t, as behind WHERE"
            raise RefusedError(error.message, remedy=remedy) from None
