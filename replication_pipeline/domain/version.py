"""Row versions: a hybrid logical clock per row, packed into one signed 64-bit integer.

    version = microseconds since 1970 << 10 | contour id        (1 <= contour id <= 1023)

The database stamps them (``sql/schema/30_clock.sql``); this module only reads and checks them. The
order of the integers is the order of Last-Write-Wins: total, because no two contours share an id,
and never backwards for a row, because the clock part is ``max(now, predecessor + 1)``. The 53 bits
left for microseconds last until the year 2255. Idea: Kulkarni et al., "Logical Physical Clocks",
OPODIS 2014, reduced to one clock per row.
"""

from __future__ import annotations

CONTOUR_BITS = 10
MAX_CONTOUR_ID = (1 << CONTOUR_BITS) - 1
MAX_MICROSECONDS = (1 << (63 - CONTOUR_BITS)) - 1


def pack(microseconds: int, contour_id: int) -> int:
    """The version of a write at ``microseconds`` (since 1970, UTC) in contour ``contour_id``.

    Raises ``ValueError`` when either part is out of range.
    """
    if not 1 <= contour_id <= MAX_CONTOUR_ID:
        raise ValueError(f"contour id {contour_id} is not between 1 and {MAX_CONTOUR_ID}")
    if not 0 <= microseconds <= MAX_MICROSECONDS:
        raise ValueError(f"{microseconds} µs does not fit the version's clock part")
    return microseconds << CONTOUR_BITS | contour_id


def microseconds_of(version: int) -> int:
    """The clock part, in microseconds since 1970."""
    return version >> CONTOUR_BITS


def contour_id_of(version: int) -> int:
    """The id of the contour that made the write."""
    return version & MAX_CONTOUR_ID


def successor(version: int, *, now_microseconds: int, contour_id: int) -> int:
    """The version of a write that replaces ``version``: later than it, whatever the clock says."""
    return pack(max(now_microseconds, microseconds_of(version) + 1), contour_id)
