"""Which rows of a table differ, as they are read: suspects, most of which are only under way.

Each side computes the evidence of ranges of keys, some 16,000 rows each, in a thread of its own and in
statements that take milliseconds. A range that differs is cut into sixteen, until it is small enough to
read its rows: so little is read twice, and what has arrived meanwhile is no longer seen. The first and
the last range are open, and each is cut where the side lies that has most rows in it, so nothing is
outside. Memory: the evidence of ``MOST_BLOCKS`` ranges, and the rows of one small one.

Where the contours order keys differently (texts under other collations) a range would hold other rows
in each. Blocks are hashes of keys then, read by whole scans, ``ROWS_AT_ONCE`` rows at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, TypeVar

from replication_pipeline.domain.comparison import Seen
from replication_pipeline.domain.errors import FatalError
from replication_pipeline.engine.stopping import StopToken
from replication_pipeline.postgres.compare_side import Evidence, Row, Side
from replication_pipeline.postgres.compare_sql import Key, Range

BLOCK: Final = 16_384  # rows
MOST_BLOCKS: Final = 4096
CUTS: Final = 16
LEAF: Final = 1024  # rows that are read one by one
PAGES_A_BLOCK: Final = 10  # of the sample
ROWS_A_PAGE: Final = 50  # where nothing is known of a table
ROWS_AT_ONCE: Final = 200_000

T = TypeVar("T")
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Suspect:
    """A key, and what each contour had of it when it was read."""

    key: str
    parts: Key
    seen: Mapping[str, Seen]


@dataclass
class Search:
    """Over ``sides``, whose number the pool has threads for. ``rows`` are known once it has begun."""

    sides: Sequence[Side]
    pool: ThreadPoolExecutor
    stop: StopToken
    progress: Progress
    rows: dict[str, int] = field(default_factory=dict)
    _done: int = 0

    @property
    def ordered_alike(self) -> bool:
        """Whether a range of keys means the same rows everywhere."""
        return len({tuple(side.shape.orders) for side in self.sides}) == 1

    def suspects(self) -> Iterator[Suspect]:
        """Keys that are not the same everywhere, as they are found."""
        alike = self.ordered_alike
        for side in self.sides:
            side.read_by_index(alike)
        yield from self._by_ranges() if alike else self._by_hashes()

    def each(self, ask: Callable[[Side], T]) -> list[T]:
        """The same of all sides at once, in their order."""
        if self.stop:
            raise FatalError(
                "stopped before all was compared", remedy="run it again; nothing was changed"
            )
        return list(self.pool.map(ask, self.sides))

    def _by_ranges(self) -> Iterator[Suspect]:
        largest = max(self.sides, key=lambda side: (side.shape.estimated, side.shape.pages))
        pages = largest.shape.pages
        blocks = (largest.shape.estimated or pages * ROWS_A_PAGE) // BLOCK
        blocks = min(max(blocks, 1), MOST_BLOCKS)
        percent = min(100.0, 100.0 * PAGES_A_BLOCK * blocks / max(pages, 1))
        ranges = between(Range(), largest.sampled(percent, blocks) if blocks > 1 else [])
        evidence = self.each(lambda side: self._evidence(side, ranges, len(ranges)))
        for side, found in zip(self.sides, evidence, strict=True):
            self.rows[side.contour] = sum(count for count, _ in found)
        for number, within in enumerate(ranges):
            here = [found[number] for found in evidence]
            if len(set(here)) > 1:
                yield from self._within(within, here)

    def _evidence(self, side: Side, ranges: Sequence[Range], total: int = 0) -> list[Evidence]:
        found = []
        for within in ranges:
            if self.stop:
                break  # `each` tells
            found.append(side.block(within))
            if total:
                self._done += 1
                self.progress(self._done, total * len(self.sides))
        return found + [(0, 0)] * (len(ranges) - len(found))

    def _within(self, within: Range, evidence: Sequence[Evidence]) -> Iterator[Suspect]:
        rows, largest = max((found[0], n) for n, found in enumerate(evidence))
        cuts = self.sides[largest].cuts(within, max(rows // CUTS, LEAF // 2)) if rows > LEAF else []
        if not cuts:
            yield from self._rows(self.each(lambda side: side.rows(within)))
            return
        parts = between(within, cuts)
        found = self.each(lambda side: self._evidence(side, parts))
        for number, part in enumerate(parts):
            here = [each[number] for each in found]
            if len(set(here)) > 1:
                yield from self._within(part, here)

    def _rows(self, read: Sequence[Mapping[str, Row]]) -> Iterator[Suspect]:
        parts = {key: row.parts for rows in read for key, row in rows.items()}
        for key, its in parts.items():
            seen = {}
            for side, rows in zip(self.sides, read, strict=True):
                row = rows.get(key)
                seen[side.contour] = Seen(row.version, row.content) if row else Seen()
            if len({each.row for each in seen.values()}) > 1:
                yield Suspect(key, its, seen)

    def _by_hashes(self) -> Iterator[Suspect]:
        estimated = max(
            side.shape.estimated or side.shape.pages * ROWS_A_PAGE for side in self.sides
        )
        mask = (1 << max(10, min(16, (estimated // LEAF).bit_length()))) - 1
        evidence = self.each(lambda side: side.hashed_blocks(mask))
        for side, found in zip(self.sides, evidence, strict=True):
            self.rows[side.contour] = sum(count for count, _ in found.values())
        self.progress(1, 1)
        chosen: list[int] = []
        read = 0
        for block in sorted(set().union(*evidence)):
            here = [found.get(block, (0, 0)) for found in evidence]
            if len(set(here)) > 1:
                rows = max(count for count, _ in here)
                if chosen and read + rows > ROWS_AT_ONCE:
                    yield from self._hashed(mask, tuple(chosen))
                    chosen, read = [], 0
                chosen.append(block)
                read += rows
        if chosen:
            yield from self._hashed(mask, tuple(chosen))

    def _hashed(self, mask: int, blocks: Sequence[int]) -> Iterator[Suspect]:
        yield from self._rows(self.each(lambda side: side.hashed_rows(mask, blocks)))


def between(whole: Range, cuts: Sequence[Key]) -> list[Range]:
    """``whole`` in parts that end at each of ``cuts``."""
    lows = [whole.low, *cuts]
    highs = [*cuts, whole.high]
    return [Range(low, high) for low, high in zip(lows, highs, strict=True)]
