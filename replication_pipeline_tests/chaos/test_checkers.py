"""Every checker sees what it is there for, and nothing in a history that is as it should be."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from replication_pipeline_tests.chaos.checkers import CHECKERS, judge
from replication_pipeline_tests.chaos.evidence import Evidence, Name, Queued, Row, Sent, State
from replication_pipeline_tests.chaos.workload import Operation

pytestmark = pytest.mark.unit

KEY: Name = ("register", '{"id":1}')
GONE: Name = ("register", '{"id":2}')
INSERT = Queued(KEY, 10, "INSERT", "a0-1-0", "e1")
UPDATE = Queued(KEY, 20, "UPDATE", "b0-1-0", "e2")
BORN = Queued(GONE, 11, "INSERT", "a0-2-0", "e3")
DIED = Queued(GONE, 12, "DELETE", None, "e4")
ROW = Row(20, "digest", "b0-1-0")


def sent(event: Queued, contour: str, offset: int) -> Sent:
    return Sent(event.name, contour, event.version, event.event_id, 0, offset)


def healthy() -> Evidence:
    """Contour a inserts two rows and deletes one, contour b updates the other."""
    rows, tombstones = {KEY: ROW}, {GONE: (12, False)}
    return Evidence(
        contours={
            "a": State(rows=rows, tombstones=tombstones, queue=[INSERT, BORN, DIED]),
            "b": State(rows=rows, tombstones=tombstones, queue=[UPDATE], parked=Counter("m")),
        },
        log=[sent(INSERT, "a", 0), sent(BORN, "a", 1), sent(INSERT, "a", 2), sent(DIED, "a", 3),
             sent(UPDATE, "b", 4)],
        operations=[
            Operation("a", "a0-1", {"a0-1-0": 1}, "committed"),
            Operation("a", "a0-2", {"a0-2-0": 1}, "unknown"),
            Operation("a", "a0-3", {"a0-3-0": 1}, "unknown"),
            Operation("a", "a0-4", {"a0-4-0": 5}, "rolled back"),
            Operation("b", "b0-1", {"b0-1-0": 1}, "committed"),
        ],
        poison={"b": Counter("m")},
        recoveries=[3.0, 59.0],
    )  # fmt: skip


def with_state(contour: str, **changes: Any) -> Evidence:
    found = healthy()
    contours = found.contours | {contour: replace(found.contours[contour], **changes)}
    return replace(found, contours=contours)


def with_sent(*log: Sent) -> Evidence:
    return replace(healthy(), log=list(log))


def with_operation(outcome: Any, rows: dict[str, int]) -> Evidence:
    return replace(healthy(), operations=[Operation("a", "a0-1", rows, outcome)])


def with_queued(*queue: Queued) -> Evidence:
    """The rows of contour b are gone, but for those of a rival that has the value as well."""
    rows = {e.name: Row(e.version, "digest", e.op, e.unique) for e in queue if e.name != KEY}
    return with_state("b", queue=list(queue), rows=rows)


OLDER_RIVAL = Queued(("register", '{"id":3}'), 5, "INSERT", "b0-2-0", "e5", "x@y.z")
LATE_ROW = Row(12, "digest", "a0-2-0")
ORDERED = [sent(INSERT, "a", 0), sent(UPDATE, "b", 4)]
BROKEN: dict[str, list[Evidence]] = {
    "C1": [with_state("b", rows={}), with_state("b", rows={KEY: ROW._replace(digest="other")})],
    "C2": [
        with_state("a", rows={}),
        with_state("a", rows={KEY: ROW._replace(version=10)}),
        with_state("a", rows={KEY: ROW._replace(op="a0-9-9")}),
        with_state("a", rows={KEY: ROW, GONE: LATE_ROW}),
        with_state("a", rows={KEY: ROW, ("child", "{}"): ROW}),
        with_queued(UPDATE._replace(unique="x@y.z")),
        with_queued(UPDATE._replace(unique="x@y.z"), OLDER_RIVAL),
    ],
    "C3": [with_state("a", queue=[INSERT, DIED, BORN])],
    "C4": [with_state("b", rows={KEY: ROW, GONE: LATE_ROW})],
    "C5": [
        with_sent(*ORDERED),
        with_sent(*healthy().log, sent(INSERT._replace(event_id="e9"), "a", 9)),
        with_operation("committed", {"a0-1-0": 2}),
        with_operation("committed", {"a0-8-0": 1}),
        with_operation("rolled back", {"a0-1-0": 1}),
        with_operation("unknown", {"a0-1-0": 1, "a0-1-1": 1}),
    ],
    "C6": [
        with_sent(sent(DIED, "a", 0), sent(BORN, "a", 1)),
        with_sent(sent(BORN, "a", 0), sent(DIED, "a", 1), sent(BORN, "a", 2)),
        with_sent(sent(BORN, "a", 0), sent(DIED, "a", 1)._replace(partition=1)),
    ],
    "C7": [
        with_state("a", applied_twice=[(KEY, 20, 2)]),
        with_state("b", changed_by_replay=1),
        with_state("b", replay_failed="decided again"),
    ],
    "C8": [with_state("a", orphans=[("child", "{}")])],
    "C9": [with_state("a", leftovers={"held events": 1, "idle transactions": 0})],
    "C10": [
        replace(healthy(), recoveries=[61.0]),
        replace(healthy(), recoveries=[math.inf]),
        replace(healthy(), deaths=["publish of a ended with status 1"]),
    ],
    "C11": [with_state("a", parked=Counter("m")), with_state("b", parked=Counter())],
}
CASES = [(name, evidence) for name, broken in BROKEN.items() for evidence in broken]


def test_nothing_is_wrong_with_a_good_history() -> None:
    assert judge(healthy()) == {name: [] for name in CHECKERS}


def test_a_row_may_give_way_to_a_newer_one_with_its_value() -> None:
    newer = OLDER_RIVAL._replace(version=30)
    queue = [UPDATE._replace(unique="x@y.z"), newer]
    rows = {newer.name: Row(newer.version, "digest", newer.op, newer.unique)}
    given = with_state("b", queue=queue, rows=rows)
    given = replace(given, contours=given.contours | {"a": replace(given.contours["a"], rows=rows)})
    assert judge(given)["C2 no update is lost"] == []


def test_every_checker_is_tested() -> None:
    assert [name.split()[0] for name in CHECKERS] == list(BROKEN)


@pytest.mark.parametrize(("checker", "evidence"), CASES, ids=[name for name, _ in CASES])
def test_a_checker_sees_what_it_is_there_for(checker: str, evidence: Evidence) -> None:
    told = {name.split()[0]: anomalies for name, anomalies in judge(evidence).items()}
    assert told[checker] != []
