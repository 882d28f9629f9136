"""Making a table equal again, by ordinary versioned events of the contours that are right.

Nothing is written into the others: what is sent goes through queue and topics, is audited there as any
change, and is skipped where something newer stands. It keeps no state: stopped in the middle, it is run
again, compares afresh, and finds less to do. At the end the repaired keys are compared once more.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import psycopg

from replication_pipeline.domain.comparison import Comparison, Difference
from replication_pipeline.domain.errors import RefusedError
from replication_pipeline.domain.repair import TOLD, Action, Left, decide
from replication_pipeline.domain.version import pack
from replication_pipeline.engine.stopping import StopToken
from replication_pipeline.postgres.compare_contours import contour_ids, open_contours, sides_of
from replication_pipeline.postgres.compare_search import Progress
from replication_pipeline.postgres.comparison import (
    MOST_DIFFERENCES,
    Options,
    compare_keys,
    compare_table,
)
from replication_pipeline.postgres.resending import Done, Outcome, carry_out
from replication_pipeline.settings import Settings

AT_ONCE: Final = 500
COUNTERS: Final = (
    "its counters are sums of what each contour adds: set the row by an ordinary UPDATE"
)
TOLD_AT_MOST: Final = 100
OUTCOMES: dict[Outcome, str] = {
    "done": "sent",
    "changed": "not sent: the row changed meanwhile",
    "busy": "not sent: a long transaction writes the table; run it again after that",
    "refused": "refused by the database",
    "stopped": "not sent: stopped before",
}

Connections = Mapping[str, psycopg.Connection[Any]]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to repair, and how. ``seen``: differences found before; else the table is compared.

    Without ``apply`` nothing is written.
    """

    table: str
    others: Sequence[str]
    winner: str | None = None
    seen: Sequence[Difference] | None = None
    apply: bool = False
    most: int = MOST_DIFFERENCES
    patience: timedelta | None = None
    where: str | None = None


@dataclass(frozen=True, slots=True)
class Repair:
    """``found`` was different; ``actions`` are to be taken about it, and ``left`` stays. ``done`` and
    ``verdict`` are there if it was applied: what became of each action, and the keys compared again
    (not if it was stopped).
    """

    ids: Mapping[str, int]
    found: Comparison
    actions: tuple[Action, ...]
    left: tuple[Left, ...]
    done: tuple[Done, ...] = ()
    verdict: Comparison | None = None

    @property
    def equal(self) -> bool:
        """Whether nothing differs, or nothing any more."""
        if not self.found.settled or not self.found.complete or self.left:
            return False
        if self.verdict is None:
            return not self.actions
        return self.verdict.equal and all(each.outcome == "done" for each in self.done)


def repair_table(
    settings: Settings,
    wanted: Wanted,
    *,
    progress: Progress = lambda _done, _total: None,
    stop: StopToken | None = None,
) -> Repair:
    """Compare, decide, and, if it is to be applied, carry it out and compare again."""
    stop, table = stop or StopToken(), wanted.table
    with open_contours(settings, others=wanted.others) as connections:
        ids = contour_ids(connections)
        if wanted.seen is None:
            options = Options(where=wanted.where, most=wanted.most, patience=wanted.patience)
            found = compare_table(
                connections, table, settings, options, progress=progress, stop=stop
            )
        else:
            keys = {each.key: each.parts for each in wanted.seen}
            found = compare_keys(
                connections, table, settings, keys, patience=wanted.patience, stop=stop
            )
        actions, left = _decided(connections, ids, found, settings, wanted)
        plan = Repair(ids, found, tuple(actions), tuple(left))
        if not wanted.apply or not actions:
            return plan
        with open_contours(settings, others=wanted.others, writes=True) as writing:
            done = _carried_out(writing, table, settings, actions, progress=progress, stop=stop)
        keys = {each.difference.key: each.difference.parts for each in actions}
        verdict = None
        if not stop:
            verdict = compare_keys(connections, table, settings, keys, patience=wanted.patience)
        return Repair(ids, found, tuple(actions), tuple(left), tuple(done), verdict)


def summary(told: Repair) -> list[str]:
    """What each contour does, and what stays, in numbers."""
    lines = []
    if told.done:
        outcomes = Counter((d.action.contour, d.action.kind, d.outcome) for d in told.done)
        for (contour, kind, outcome), count in sorted(outcomes.items()):
            lines.append(f"contour {contour} {TOLD[kind]}: {count:,} {OUTCOMES[outcome]}")
        lines += [f"{d.action.difference.key}: {d.detail}" for d in told.done if d.detail][
            :TOLD_AT_MOST
        ]
    else:
        kinds = Counter((action.contour, action.kind) for action in told.actions)
        for (contour, kind), count in sorted(kinds.items()):
            lines.append(f"contour {contour} {TOLD[kind]}: {count:,}")
    lines += [f"left alone: {n:,}, {why}" for why, n in Counter(x.why for x in told.left).items()]
    return lines


def _decided(
    connections: Connections,
    ids: Mapping[str, int],
    found: Comparison,
    settings: Settings,
    wanted: Wanted,
) -> tuple[list[Action], list[Left]]:
    sides, _ = sides_of(connections, found.table, settings)
    ahead = max(side.now() for side in sides) + settings.consumer.max_clock_skew.total_seconds()
    latest = pack(round(ahead * 1e6), max(ids.values()))
    counters = any(side.shape.counters for side in sides)
    before = {each.key: each for each in wanted.seen or ()}
    actions, left = [], []
    for difference in found.differences:
        if difference.key in before and not _as_before(before[difference.key], difference):
            left.append(Left(difference, "changed since the file was written"))
            continue
        decision = decide(difference, ids, winner=wanted.winner, latest=latest)
        match decision:
            case Action() if decision.kind == "raise" and counters:
                left.append(Left(difference, COUNTERS))
            case Action():
                actions.append(decision)
            case Left():
                left.append(decision)
    return actions, left


def _as_before(before: Difference, now: Difference) -> bool:
    """Versions as they were, in the contours that both know."""
    return all(
        before.seen[c].version == now.seen[c].version
        and (now.seen[c].version is not None or before.seen[c].buried == now.seen[c].buried)
        for c in before.seen.keys() & now.seen.keys()
    )


def _carried_out(
    connections: Connections,
    table: str,
    settings: Settings,
    actions: Sequence[Action],
    *,
    progress: Progress,
    stop: StopToken,
) -> list[Done]:
    """In batches of one contour and kind. Roles have to be members of replication_consumer."""
    sides, _ = sides_of(connections, table, settings)
    by_name = {side.contour: side for side in sides}
    for contour in sorted({action.contour for action in actions}):
        ((may, role),) = by_name[contour].ask("may_repair")
        if not may:
            raise RefusedError(
                f"contour {contour}: role {role} may not repair table {table}; nothing was written",
                remedy=f"in that database: grant replication_consumer to {role}",
            )
    parts: defaultdict[tuple[str, str], list[Action]] = defaultdict(list)
    for action in actions:
        parts[action.contour, action.kind].append(action)
    done: list[Done] = []
    for (contour, _), chosen in parts.items():
        by_name[contour].read_by_index(True)
        for n in range(0, len(chosen), AT_ONCE):
            batch = chosen[n : n + AT_ONCE]
            if stop:
                done += [Done(action, "stopped") for action in batch]
            else:
                done += carry_out(by_name[contour], batch)
            progress(len(done), len(actions))
    return done
