"""What contours that merge columns must come to, told from all events alone: the rules once more."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

from replication_pipeline_tests.conftest import Contour
from replication_pipeline_tests.integration.wire import Receiver, Wire

KEY = "id"
DELTAS = ("stock", "worth")
DDL = """
create table items (
  id bigint primary key, name text, note text, tags text[],
  stock integer not null default 0, worth numeric(12, 2) not null default 0)
"""
OPTIONS = {"items": {"delta_columns": list(DELTAS)}}
STATES = """
select t.id, replication.merge_known(
         to_jsonb(t) - 'replication_version', t.replication_version, m, null, array['id'],
         array['stock', 'worth']) - 'deleted'
  from items t left join replication.merge_states m
    on m.table_name = 'items' and m.record_key = '{"id":' || t.id || '}'
 order by t.id
"""
Row = dict[str, Any]


def rows(contour: Contour) -> dict[int, Row]:
    """Each row with its version."""
    return dict(
        contour.run(
            "select id, to_jsonb(i) || jsonb_build_object('worth', worth::text) from items i"
        )
    )


def expected(values: Iterable[bytes]) -> dict[int, Row]:
    """Each row that lives, from all events there were."""
    by_key: dict[int, list[Any]] = defaultdict(list)
    for value in values:
        event = json.loads(value)
        by_key[(event["after"] or event["before"])[KEY]].append(event)
    found = {key: _fold(events) for key, events in by_key.items()}
    return {key: row for key, row in found.items() if row is not None}


def _fold(events: Sequence[Any]) -> Row | None:
    version, deleted = 0, 0
    registers: dict[str, tuple[int, Any]] = {}
    totals: dict[str, dict[tuple[int, int], tuple[int, Decimal]]] = {d: {} for d in DELTAS}
    for event in events:
        at, merge = int(event["source"]["row_version"]), event["source"].get("merge")
        if event["op"] == "d":
            deleted = max(deleted, at)
            continue
        version = max(version, at)
        if merge is None and event["op"] == "u":
            deleted = max(deleted, at - 1)
        if merge:
            deleted = max(deleted, int(merge.get("deleted", 0)))
        row = event["after"]
        told = merge if merge and "versions" in merge else None
        for column in row.keys() - {KEY, *DELTAS}:
            written = int(told["versions"].get(column, 0)) if told else at
            registers[column] = max(
                registers.get(column, (-1, None)), (written, row[column]), key=lambda r: r[0]
            )
        for column in DELTAS:
            parts = told["totals"][column] if told else {f"{at}.{at & 1023}": (row[column], at)}
            for part, (total, when) in parts.items():
                life, contour = map(int, part.split("."))
                known = totals[column].get((life, contour), (-1, Decimal()))
                totals[column][life, contour] = max(known, (int(when), Decimal(str(total))))
    if version <= deleted:
        return None
    result: Row = {KEY: _key(events), "replication_version": version}
    result |= {column: value for column, (_, value) in registers.items()}
    for column, lives in totals.items():
        begun = {life for life, _ in lives if life > deleted} | {max(life for life, _ in lives)}
        total = sum((value for (life, _), (_, value) in lives.items() if life in begun), Decimal())
        result[column] = int(total) if column == "stock" else f"{total:.2f}"
    return result


def _key(events: Sequence[Any]) -> Any:
    return (events[0]["after"] or events[0]["before"])[KEY]


def history(contours: Iterable[Contour]) -> list[bytes]:
    """All events that the contours have queued, as they go to Kafka."""
    return [
        value.encode()
        for contour in contours
        for (value,) in contour.run(
            "select replication.event_value(q.operation, q.record_key, q.before, q.payload, "
            '\'{"event_contour":"%s","contour":"%s","schema":"public","table":"items"\', '
            "q.txid, q.created_at, q.event_id, q.version, q.base_version, q.shape, q.merge, "
            "q.snapshot_to, 0) "
            "from replication_queue q order by id".replace("%s", contour.name)
        )
    ]


def replay(wire: Wire, values: Sequence[bytes]) -> None:
    """All of them once more, in any order; nobody remembers having seen them."""
    for receiver in wire.receivers:
        receiver.contour.run("delete from replication.processed_events")
        receiver.waiting += values
    while any(receiver.waiting for receiver in wire.receivers):
        for receiver in wire.receivers:
            wire.deliver(receiver, wire.chance.randint(1, 12))


def assert_equal(wire: Wire, values: Sequence[bytes] = ()) -> None:
    """All contours are equal, merge states included, and as ``values`` say."""
    contours = [receiver.contour for receiver in wire.receivers]
    first = rows(contours[0])
    for contour in contours[1:]:
        found = rows(contour)
        differing = {
            k: (first.get(k), found.get(k)) for k in first | found if first.get(k) != found.get(k)
        }
        assert not differing, f"{contours[0].name} and {contour.name}"
    assert first == expected(values or history(contours))
    states = [dict(contour.run(STATES)) for contour in contours]
    assert states[1:] == states[:-1]


def receiver_of(wire: Wire, name: str) -> Receiver:
    return next(receiver for receiver in wire.receivers if receiver.contour.name == name)
