"""One contour at work on a repair: it sends rows and deletes of its own once more.

Whoever sends a row locks it, looks whether it is still what was compared, and only then draws the
event's id, so the last event of a key stays its newest. No row lock is waited for while others are
held. A delete has no row to lock: the table is locked, in SHARE mode, for the milliseconds of a look.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal, assert_never

from replication_pipeline.domain.errors import RefusedError, TransientError
from replication_pipeline.domain.repair import Action
from replication_pipeline.postgres.compare_side import Side
from replication_pipeline.postgres.compare_sql import arrays
from replication_pipeline.postgres.failures import translating, translating_refusals

Outcome = Literal["done", "changed", "busy", "refused", "stopped"]
TRIES: Final = 20
TABLE_LOCK: Final = "300ms"  # writers wait behind whoever waits for the table
PAUSE: Final = 0.2  # seconds


@dataclass(frozen=True, slots=True)
class Done:
    """What became of an action; ``detail`` of one that was refused."""

    action: Action
    outcome: Outcome
    detail: str = ""


def carry_out(side: Side, batch: Sequence[Action]) -> list[Done]:
    """Actions of one kind and of this side's contour."""
    kind = batch[0].kind
    match kind:
        case "send" | "raise":
            return _send(side, batch)
        case "send_delete":
            return _send_deletes(side, batch)
        case "delete":
            return [_delete(side, action) for action in batch]
        case _:
            assert_never(kind)


def _send(side: Side, batch: Sequence[Action]) -> list[Done]:
    """First all rows that nobody holds; then each that somebody did, alone, when it is let go."""
    done, held = _send_locked(side, batch, "lock")
    for action in held:
        try:
            its, gone = _send_locked(side, [action], "lock_one")
        except TransientError:  # whoever writes it takes longer than a lock may be waited for
            its, gone = [], [action]
        done += its + [Done(each, "changed") for each in gone]
    return done


def _send_locked(side: Side, batch: Sequence[Action], lock: str) -> tuple[list[Done], list[Action]]:
    keys = {action.difference.key: action.difference.parts for action in batch}
    with _transaction(side):
        rows = {n - 1: rest for n, *rest in side.ask(lock, **arrays(keys))}
        fit = [n for n, (_, _, version) in rows.items() if version == batch[n].expected]
        if fit:
            side.ask(
                "resend",
                table_id=side.shape.table_id,
                leaves=[rows[n][0] for n in fit],
                places=[rows[n][1] for n in fit],
                above=[batch[n].above for n in fit],
            )
    done = [Done(batch[n], "done" if n in fit else "changed") for n in rows]
    return done, [action for n, action in enumerate(batch) if n not in rows]


def _send_deletes(side: Side, batch: Sequence[Action]) -> list[Done]:
    keys = {action.difference.key: action.difference.parts for action in batch}
    versions = {action.difference.key: action.expected for action in batch}
    pause = threading.Event()
    for _ in range(TRIES):
        try:
            with _transaction(side):
                side.connection.execute("select set_config('lock_timeout', %s, true)", [TABLE_LOCK])
                side.ask("share_table")
                now = side.states(keys)
                fit = [k for k in keys if now[k].version is None and now[k].buried == versions[k]]
                sent = side.ask(
                    "resend_deletes",
                    table_id=side.shape.table_id,
                    keys=fit,
                    versions=[versions[k] for k in fit],
                )
        except TransientError:
            pause.wait(PAUSE)
            continue
        found = {key for (key,) in sent}
        return [Done(a, "done" if a.difference.key in found else "changed") for a in batch]
    return [Done(action, "busy") for action in batch]


def _delete(side: Side, action: Action) -> Done:
    """One at a time: it may cascade, or be refused by a foreign key."""
    given = arrays({action.difference.key: action.difference.parts}) | {"version": action.expected}
    try:
        with translating_refusals(f"contour {side.contour}"):
            cursor = side.connection.execute(side.statement("delete"), side.bound(None) | given)
    except (RefusedError, TransientError) as error:
        return Done(action, "refused", error.message)
    return Done(action, "done" if cursor.rowcount else "changed")


@contextmanager
def _transaction(side: Side) -> Iterator[None]:
    with translating(f"contour {side.contour}: repairing table {side.table}"):
        with side.connection.transaction():
            yield
