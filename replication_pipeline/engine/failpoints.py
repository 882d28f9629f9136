"""Points at which a test may kill the process, to show that nothing is lost there.

``REPLICATION_FAILPOINT=claimed`` kills it, as ``kill -9`` does, when it gets there; ``claimed:3`` at
the third time; ``claimed:3:SIGSTOP`` stops it there instead, until it gets SIGCONT. For tests only;
without the variable a point costs a comparison.
"""

from __future__ import annotations

import os
import signal
from typing import Final, Literal, get_args

PublishPoint = Literal[
    "shards_locked", "claimed", "sent", "acknowledged", "marked", "counted", "committed"
]
ApplyPoint = Literal[
    "polled",
    "offsets_advanced",
    "staged",
    "written",
    "deleted",
    "parked",
    "applied",
    "apply_committed",
    "parked_claimed",
    "parked_removed",
]
SnapshotPoint = Literal["part_taken", "chunk_queued", "deletes_queued"]
Point = PublishPoint | ApplyPoint | SnapshotPoint
POINTS: Final[tuple[PublishPoint, ...]] = get_args(PublishPoint)
APPLY_POINTS: Final[tuple[ApplyPoint, ...]] = get_args(ApplyPoint)
_NAME, _COUNT, _SIGNAL, *_ = [*os.environ.get("REPLICATION_FAILPOINT", "").split(":"), "", ""]
_left = int(_COUNT or 1)


def armed() -> bool:
    """Whether this process is to die or stop anywhere."""
    return bool(_NAME)


def failpoint(point: Point) -> None:
    """Die or stop here, if that is asked for."""
    global _left  # noqa: PLW0603  the process counts, whichever object passes by
    if point == _NAME:
        _left -= 1
        if _left == 0:
            signal.raise_signal(signal.Signals[_SIGNAL or "SIGKILL"])
