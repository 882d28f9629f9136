"""Bugs that replicators are known to have had, and the mutants that stand for each here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

SUSPECTS: Final[Mapping[str, tuple[str, ...]]] = {
    "the transaction's time as version": ("versions from the transaction's beginning",),
    "no tie-break between contours": ("no tie-break", "no contour in the version"),
    "no tombstones": (
        "no tombstones when deciding",
        "decided without tombstones",
        "deletes leave no tombstone",
    ),
    "a clock that is set back turns versions back": (
        "wall clock, no max rule",
        "an update looks at the clock alone",
        "a delete looks at the clock alone",
    ),
    "version + 1 runs into the contour's bits": ("version + 1, in the contour's bits",),
    "checked, then written": (
        "checked, then written, without locks",
        "rows are not locked before the decision",
        "no sweep of rows deleted meanwhile",
    ),
    "no compare and set of offsets": ("offsets are set without comparing",),
    "offsets move before the rows are there": (
        "offsets move before the rows",
        "offsets move in a transaction of their own",
    ),
    "a high-water mark decides what is sent": (
        "a high-water mark decides what is sent",
        "a high-water mark decides what is claimed",
    ),
    "marked before it is acknowledged": (
        "marked as sent before sending",
        "marked before Kafka has acknowledged",
    ),
    "failed deliveries are dropped": ("a refused event counts as delivered",),
    "a session's mark not to capture outlives its transaction": (
        "a pooler's session is taken for the applier's own",
        "capture leaves triggers off behind itself",
    ),
    "images by to_jsonb": ("images by to_jsonb",),
    "own events are lost after a restore": (
        "own events stay lost after a restore",
        "replay leaves out own events",
    ),
    "ids of events come again after a restore": ("event ids from the queue's numbers alone",),
    "tombstones are collected by age": ("tombstones are collected by age",),
    "a key move is one event": ("a key move is one event",),
    "cascades are not captured": ("cascades are not captured",),
    "an insert draws its version before it waits for a delete": (
        "inserts below their tombstones",
        "inserts are not lifted above their tombstones",
    ),
}
