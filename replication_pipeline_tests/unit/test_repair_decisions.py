"""Who is right about a key, case by case."""

from __future__ import annotations

import pytest

from replication_pipeline.domain.comparison import Difference, Seen
from replication_pipeline.domain.repair import Action, Left, decide

pytestmark = pytest.mark.unit

IDS = {"a": 1, "b": 2, "c": 3}
NONE = Seen()


def row(version: int, content: int = 0, buried: int | None = None) -> Seen:
    return Seen(version, content, buried)


def dead(version: int) -> Seen:
    return Seen(None, None, version)


CASES: dict[str, tuple[tuple[Seen, Seen, Seen], tuple[str, str, int, int | None]]] = {
    "newest row": ((row(5), row(9), row(9)), ("send", "b", 9, None)),
    "missing rows": ((NONE, row(9), NONE), ("send", "b", 9, None)),
    "older tombstone": ((dead(7), row(9), row(9)), ("send", "b", 9, None)),
    "newest delete": ((row(5), dead(9), dead(9)), ("send_delete", "b", 9, None)),
    "equal versions": ((row(9, 1), row(9, 2), row(9, 2)), ("raise", "a", 9, 9)),
    "from before": ((NONE, row(0), NONE), ("raise", "b", 0, 0)),
    "from before, unlike": ((row(0, 1), row(0, 2), row(0, 1)), ("raise", "a", 0, 0)),
    "as old as a tombstone": ((dead(9), row(9), row(9)), ("raise", "b", 9, 9)),
    "below its own tombstone": ((dead(9), dead(9), row(5, 0, 9)), ("delete", "c", 5, None)),
    "alone below its own": ((NONE, NONE, row(5, 0, 9)), ("delete", "c", 5, None)),
    "alive below the delete that another sends": (
        (dead(9), row(5, 0, 7), row(5)),
        ("send_delete", "a", 9, None),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_by_version(case: str) -> None:
    seen, (kind, contour, expected, above) = CASES[case]
    key = Difference("k", ("k",), dict(zip("abc", seen, strict=True)))
    assert decide(key, IDS, winner=None, latest=99) == Action(kind, contour, key, expected, above)  # type: ignore[arg-type]


def test_by_name() -> None:
    key = Difference("k", ("k",), {"b": row(9), "a": row(5, 1, 12), "c": NONE})
    assert decide(key, IDS, winner="a", latest=99) == Action("raise", "a", key, 5, above=12)
    assert decide(key, IDS, winner="c", latest=99) == Action("delete", "b", key, 9)


def test_a_version_ahead_of_all_clocks_is_left_alone() -> None:
    key = Difference("k", ("k",), {"a": row(5), "b": row(100)})
    left = decide(key, IDS, winner="a", latest=99)
    assert isinstance(left, Left)
    assert "contour b lies ahead" in left.why
