"""What stands on the heartbeat topic, which all contours write and read whole.

* A *beat* says that a contour is alive, what its clock shows, and now and then a *round*.
* A *round* is a promise about the log: whatever its contour wrote before it knew the events below
  ``applied`` stands below ``ends``. It is taken in two steps, which ``engine.heartbeat`` describes.
* An *admission* makes a contour, as the database with this incarnation, active again.
* A *forgetting* takes a contour that is gone for good out of account.

Offsets are compared, never clocks: ``{topic: (next offset of partition 0, of partition 1, …)}``. A
topic or partition that is not there counts as 0. The broker stamps each record, so there is one clock
for all of them; ``sent_at`` is there to measure the contour's own against it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from replication_pipeline.domain.names import MAX_TOPIC_LENGTH
from replication_pipeline.domain.origins import NAME
from replication_pipeline.domain.version import MAX_CONTOUR_ID

MOST_SECONDS: Final = 1e12
Offsets = Mapping[str, Sequence[int]]


@dataclass(frozen=True, slots=True)
class Identity:
    """One database. Another one of the same name or id is not the same contour."""

    contour: str
    id: int
    incarnation: str


@dataclass(frozen=True, slots=True)
class Round:
    """``taken_at``: when ``applied`` was read, by the clock of the contour's server, in µs."""

    taken_at: int
    applied: Offsets
    ends: Offsets


@dataclass(frozen=True, slots=True)
class Beat:
    """``sequence`` ascends within an incarnation; ``sent_at`` is in µs. ``fence_after``: the silence,
    in seconds, after which a contour is to be fenced: in the record, so that all decide the same.
    """

    identity: Identity
    sequence: int
    sent_at: int
    fence_after: float
    round: Round | None = None


@dataclass(frozen=True, slots=True)
class Admission:
    """From here on beats of this database count again, those above ``sequence``."""

    identity: Identity
    sequence: int


@dataclass(frozen=True, slots=True)
class Forgetting:
    contour: str


Record = Beat | Admission | Forgetting


def passed(known: Sequence[int], wanted: Sequence[int]) -> bool:
    """Whether ``known`` is at or beyond ``wanted`` on every partition."""
    return all(
        (known[partition] if partition < len(known) else 0) >= offset
        for partition, offset in enumerate(wanted)
    )


def encode(record: Record) -> bytes:
    """As JSON, with the kind of record first."""
    match record:
        case Forgetting():
            fields: dict[str, Any] = {"kind": "forget", "contour": record.contour}
        case Admission():
            fields = {"kind": "admit", **_of(record.identity), "sequence": record.sequence}
        case Beat():
            fields = {
                "kind": "beat",
                **_of(record.identity),
                "sequence": record.sequence,
                "sent_at": record.sent_at,
                "fence_after": record.fence_after,
            }
            if record.round is not None:
                fields["round"] = {
                    "taken_at": record.round.taken_at,
                    "applied": record.round.applied,
                    "ends": record.round.ends,
                }
    return json.dumps(fields, separators=(",", ":")).encode()


def decode(value: bytes | None) -> Record | None:
    """``None`` for what is no record, or one of a later release: it is passed by. So is one with values
    that no contour can have; whoever may write to the topic must not stop those who read it.
    """
    try:
        fields = json.loads(value or b"")
        match fields["kind"]:
            case "beat":
                told = fields.get("round")
                return Beat(
                    _identity(fields),
                    _number(fields["sequence"]),
                    _number(fields["sent_at"]),
                    _seconds(fields["fence_after"]),
                    None
                    if told is None
                    else Round(
                        _number(told["taken_at"]), offsets(told["applied"]), offsets(told["ends"])
                    ),
                )
            case "admit":
                return Admission(_identity(fields), _number(fields["sequence"]))
            case "forget":
                return Forgetting(_name(fields["contour"]))
            case _:
                return None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None


def offsets(told: Mapping[str, Sequence[Any]]) -> Offsets:
    """From JSON."""
    return {
        _topic(topic): tuple(_number(offset) for offset in each) for topic, each in told.items()
    }


def _of(identity: Identity) -> dict[str, Any]:
    return {
        "contour": identity.contour,
        "id": identity.id,
        "incarnation": identity.incarnation,
    }


def _identity(fields: Mapping[str, Any]) -> Identity:
    number = int(fields["id"])
    if not 1 <= number <= MAX_CONTOUR_ID:
        raise ValueError
    return Identity(_name(fields["contour"]), number, str(UUID(fields["incarnation"])))


def _name(told: object) -> str:
    if not isinstance(told, str) or NAME.fullmatch(told) is None:
        raise ValueError
    return told


def _topic(told: str) -> str:
    if not told.isprintable() or len(told) > MAX_TOPIC_LENGTH:
        raise ValueError
    return told


def _number(told: Any) -> int:
    """What fits PostgreSQL's bigint and is not negative."""
    number = int(told)
    if not 0 <= number < 1 << 63:
        raise ValueError
    return number


def _seconds(told: Any) -> float:
    seconds = float(told)
    if not 0 <= seconds < MOST_SECONDS:  # NaN is neither
        raise ValueError
    return seconds
