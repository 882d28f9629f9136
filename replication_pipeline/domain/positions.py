"""Where a contour stands in a partition's log, and whether that can be gone on from.

A position that Kafka can't serve means that events are missing here: nothing is ever skipped by itself.
The operator makes good what is missing, and then accepts the log as it is.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from replication_pipeline.domain.errors import FatalError

Standing = Literal["ok", "unread", "cut_unread", "cut", "beyond", "made_anew"]
SOUND: Final[frozenset[Standing]] = frozenset({"ok", "unread"})


class LogRange(NamedTuple):
    """The first offset that Kafka still has, and the one that the next event will get."""

    start: int
    end: int


def standing(stored: int | None, log: LogRange, *, same_topic: bool = True) -> Standing:
    """What the next offset ``stored`` (``None``: never read) means in ``log``.

    ``same_topic``: whether the topic still is the one that was read before.
    """
    if not same_topic:
        return "made_anew"
    if stored is None:
        return "cut_unread" if log.start > 0 else "unread"
    if stored < log.start:
        return "cut"
    return "beyond" if stored > log.end else "ok"


def explain(found: Standing, stored: int | None, log: LogRange) -> str:
    """The same for people."""
    match found:
        case "ok":
            return f"{log.end - (stored or 0):,} behind"
        case "unread":
            return "not read yet"
        case "cut_unread":
            return f"never read here, and Kafka has removed its first {log.start:,} events"
        case "cut":
            return f"Kafka has removed {log.start - (stored or 0):,} events that were not read here"
        case "beyond":
            return f"the log ends at {log.end}, before the next event to be read here ({stored})"
        case "made_anew":
            return "the topic was deleted and made anew since it was read here"


def halt(contour: str, place: str, table: str, why: str) -> FatalError:
    """The error that ends an applier whose position can't be served; ``place`` is the topic."""
    return FatalError(
        f"contour {contour}: {place}: {why}",
        remedy="events are missing here. Have them sent again by the other contours "
        f"(replication-pipeline republish --table {table}), or load the table again; "
        f"then go on with what Kafka has: replication-pipeline offsets accept {table}",
    )
