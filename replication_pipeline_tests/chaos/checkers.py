"""What must hold once all is quiet again. Each checker looks at one promise and tells what breaks it,
in a sentence each; nothing is good news.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from replication_pipeline_tests.chaos.evidence import Evidence, Name, Queued, Row

PATIENCE: Final = 60.0  # seconds in which contours must converge
LATE: Final = "it took"
Checker = Callable[[Evidence], Iterator[str]]


def c1_contours_are_equal(of: Evidence) -> Iterator[str]:
    first, *others = of.contours.items()
    for name, state in others:
        for key in sorted(first[1].rows.keys() | state.rows.keys()):
            one, other = first[1].rows.get(key), state.rows.get(key)
            if one != other:
                yield f"{_words(key)}: contour {first[0]} has {one}, contour {name} has {other}"


def c2_no_update_is_lost(of: Evidence) -> Iterator[str]:
    """Each row is the newest of all writes that any contour has committed. It may be missing if a newer
    row has its value of a unique index.
    """
    newest: dict[Name, Queued] = {}
    for state in of.contours.values():
        for event in state.queue:
            if event.name not in newest or event.version > newest[event.name].version:
                newest[event.name] = event
    for contour, state in of.contours.items():
        taken = {row.unique: row.version for row in state.rows.values()}
        for name in sorted(newest.keys() | state.rows.keys()):
            written, row = newest.get(name), state.rows.get(name)
            there = None if row is None else (row.version, row.op)
            if written is None:
                yield f"{_words(name)}: nobody wrote what contour {contour} has"
            elif there != _as_a_row(written) and not _gave_way(written, row, taken):
                yield f"{_words(name)}: newest is {written}, contour {contour} has {row}"


def c3_versions_ascend_in_a_contour(of: Evidence) -> Iterator[str]:
    """In the order in which a contour's writers took turns on a row."""
    for contour, state in of.contours.items():
        last: dict[Name, int] = {}
        for event in state.queue:
            if event.version <= last.get(event.name, 0):
                yield f"{_words(event.name)}: {event.version} came after a newer one in {contour}"
            last[event.name] = event.version


def c4_no_row_lives_below_its_tombstone(of: Evidence) -> Iterator[str]:
    for contour, state in of.contours.items():
        for name, (buried, _) in state.tombstones.items():
            row = state.rows.get(name)
            if row is not None and row.version <= buried:
                yield f"{_words(name)}: lives at {row.version}, buried at {buried}, in {contour}"


def c5_kafka_has_what_was_committed(of: Evidence) -> Iterator[str]:
    """All of it, and nothing else; and every writer was told the truth about its transaction."""
    queued = {e.event_id: (c, e) for c, state in of.contours.items() for e in state.queue}
    sent = {event.event_id for event in of.log}
    for event_id in queued.keys() - sent:
        contour, event = queued[event_id]
        yield f"{_words(event.name)}: version {event.version} of {contour} never came to Kafka"
    for event_id in sent - queued.keys():
        yield f"event {event_id} is in Kafka, but nobody committed it"
    # By keys: a foreign key's policy may write a row once more, as it is.
    keys: defaultdict[tuple[str, str | None], set[Name]] = defaultdict(set)
    for contour, event in queued.values():
        if event.operation in {"INSERT", "UPDATE"}:
            keys[contour, event.op].add(event.name)
    for operation in of.operations:
        contour, wrote = operation.contour, operation.rows
        found = {op: len(keys[contour, op]) for op in wrote}
        nothing = dict.fromkeys(wrote, 0)
        allowed = {
            "committed": [wrote],
            "rolled back": [nothing],
            "unknown": [nothing, wrote],
        }[operation.outcome]
        if found not in allowed:
            yield (
                f"transaction {operation.name} was {operation.outcome} and wrote {wrote}; "
                f"captured are {found}"
            )


def c6_a_key_ends_in_order(of: Evidence) -> Iterator[str]:
    """The last occurrences of a contour's events of a key ascend in their partition."""
    last: dict[tuple[Name, str, int], tuple[int, int]] = {}
    for event in of.log:
        last[event.name, event.contour, event.version] = (event.partition, event.offset)
    by_key: defaultdict[tuple[Name, str], list[tuple[int, tuple[int, int]]]] = defaultdict(list)
    for (name, contour, version), place in last.items():
        by_key[name, contour].append((version, place))
    for (name, contour), events in by_key.items():
        places = [place for _, place in sorted(events)]
        if len({partition for partition, _ in places}) > 1:
            yield f"{_words(name)}: events of {contour} are in several partitions"
        elif places != sorted(places):
            yield f"{_words(name)}: events of {contour} end out of order"


def c7_no_event_has_effect_twice(of: Evidence) -> Iterator[str]:
    for contour, state in of.contours.items():
        for name, version, count in state.applied_twice:
            yield f"{_words(name)}: version {version} was applied {count} times in {contour}"
        if state.changed_by_replay:
            yield f"{state.changed_by_replay} events were news to {contour} when all came again"
        if state.replay_failed:
            yield f"not all could come again to {contour}: {state.replay_failed}"


def c8_no_row_lacks_its_parent(of: Evidence) -> Iterator[str]:
    for contour, state in of.contours.items():
        for name in state.orphans:
            yield f"{_words(name)}: is an orphan in {contour}"


def c9_nothing_is_left_over(of: Evidence) -> Iterator[str]:
    for contour, state in of.contours.items():
        for what, count in state.leftovers.items():
            if count:
                yield f"{count} {what} in {contour}"


def c10_all_is_equal_soon(of: Evidence) -> Iterator[str]:
    """Within a minute after the last fault; and no worker gave up meanwhile."""
    for seconds in of.recoveries:
        if seconds == math.inf:
            yield "contours did not become quiet and equal"
        elif seconds > PATIENCE:
            yield f"{LATE} {seconds:.0f} s until all contours were quiet and equal"
    for death in of.deaths:
        yield f"a worker gave up: {death}"


def c11_parked_is_what_was_poisoned(of: Evidence) -> Iterator[str]:
    for contour, state in of.contours.items():
        expected = of.poison.get(contour, Counter())
        if state.parked != expected:
            yield f"{contour} has parked {dict(state.parked)}, poisoned were {dict(expected)}"


CHECKERS: Final[dict[str, Checker]] = {
    "C1 contours are equal": c1_contours_are_equal,
    "C2 no update is lost": c2_no_update_is_lost,
    "C3 versions ascend in a contour": c3_versions_ascend_in_a_contour,
    "C4 no row lives below its tombstone": c4_no_row_lives_below_its_tombstone,
    "C5 Kafka has what was committed, and nothing else": c5_kafka_has_what_was_committed,
    "C6 a key's events end in order": c6_a_key_ends_in_order,
    "C7 no event has effect twice": c7_no_event_has_effect_twice,
    "C8 no row lacks its parent": c8_no_row_lacks_its_parent,
    "C9 nothing is left over": c9_nothing_is_left_over,
    "C10 all is equal within a minute": c10_all_is_equal_soon,
    "C11 parked is what was poisoned": c11_parked_is_what_was_poisoned,
}

# What the report says of each.
MEANINGS: Final = {
    "C1": "each row, its version and all its values, in all of them",
    "C2": "each key ends with the newest of all committed writes, or as nothing, if that was a delete",
    "C3": "in the order in which its writers took turns on a row",
    "C4": "no key has a row at or below the version of its delete",
    "C5": "and each writer was told the truth about its commit; an answer that was lost means all of "
    "the transaction or nothing of it",
    "C6": "of a contour's events of a key, the last occurrences ascend by version, in one partition",
    "C7": "a trigger counts each version once in each contour; applying the log once more, without "
    "the ledger of known events, changes nothing (but for `displace`, where it is not done)",
    "C8": "for foreign keys with ON DELETE CASCADE, SET NULL and NO ACTION",
    "C9": "no unpublished, held or unsettled events, and no transaction left open",
    "C10": "after each round of faults; and no worker ended unasked",
    "C11": "the unreadable, unfit and far-future events that the harness had put in, nothing else",
}


def judge(of: Evidence) -> dict[str, list[str]]:
    """What each checker has to say."""
    return {name: list(checker(of)) for name, checker in CHECKERS.items()}


def _as_a_row(event: Queued) -> tuple[int, str | None] | None:
    return None if event.operation == "DELETE" else (event.version, event.op)


def _gave_way(event: Queued, row: Row | None, taken: Mapping[str | None, int]) -> bool:
    """Whether a newer row has the value, and the event's row therefore waits."""
    return row is None and event.unique is not None and taken.get(event.unique, 0) > event.version


def _words(name: Name) -> str:
    return f"{name[0]} {name[1]}"
