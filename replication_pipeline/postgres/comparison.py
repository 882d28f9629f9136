"""Whether a table is equal in several contours, while all of them write it.

Ranges of keys say which rows differ as they are read (``compare_search``); most of what they find is
only under way. So a moment is noted on every contour, and once everything written anywhere before it
has arrived everywhere (``compare_settling``), those keys are read again. A row differs if it differs
still, and nobody has written it meanwhile.

Invariants: nothing is written but the verdict (``compare_kept``); no row value leaves a database unless
it is asked for; what was not looked at is told. It mends nothing: that is ``repair``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import islice
from typing import Any, Final

import psycopg

from replication_pipeline.domain.comparison import Comparison, Difference, Lag
from replication_pipeline.engine.stopping import StopToken
from replication_pipeline.postgres.compare_contours import sides_of
from replication_pipeline.postgres.compare_kept import keep
from replication_pipeline.postgres.compare_search import Progress, Search
from replication_pipeline.postgres.compare_settling import confirm, differs, read_now
from replication_pipeline.postgres.compare_sql import Key
from replication_pipeline.settings import Settings

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
            if options.where is not None:
                # A row for which it holds in one contour only is no less there in the others.
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
    comparison = Comparison(
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
    if options.where is None:
        keep(connections, comparison, settings)
    return comparison


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
