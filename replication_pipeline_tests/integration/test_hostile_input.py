# ruff: noqa: E501  attacks stand one a line
"""Events that nobody of ours has written, through the real apply.

Whatever lies on a topic: the applier goes on, every event is applied or kept with its bytes and a reason,
those between bad ones are applied, and nothing that an event says is executed. First by name, then by
Hypothesis, which bends good events in every place and adds bytes of all kinds.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import timedelta
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from replication_pipeline.domain.heartbeat import Beat, Identity, decode, encode
from replication_pipeline.domain.model import Consumed, Message, PartitionAdvance
from replication_pipeline.domain.names import topic_for
from replication_pipeline.domain.version import pack
from replication_pipeline.engine.apply import ApplyCycle
from replication_pipeline.postgres.inbox import PostgresInbox
from replication_pipeline_tests.conftest import Contour
from replication_pipeline_tests.integration.place import Hand

pytestmark = pytest.mark.integration

EXAMPLES: Final = int(os.environ.get("HOSTILE_EXAMPLES", "60"))
ODD: Final = """it's; drop table items; -- "ünï" """.strip()
DDL: Final = f"""
create table items (id bigint primary key, name text, doc jsonb, bytes bytea, tags text[],
                    amount numeric(12, 2), at timestamptz, flag boolean);
create table "{ODD.replace('"', '""')}" (id int primary key, "x'); drop table items; --" text);
create table counters (id int primary key, name text, n bigint not null default 0);
create table canary (id int primary key, note text);
insert into canary values (1, 'untouched');
"""
TABLES: Final[dict[str, Any]] = {"items": {}, ODD: {}, "counters": {"delta_columns": ["n"]}}
CATALOG: Final = """
select (select array_agg(c.oid::text || c.relname order by c.oid) from pg_class c
         where c.relpersistence = 'p' and c.relnamespace in ('public'::regnamespace, 'replication'::regnamespace)),
       (select array_agg(p.oid::text || p.proname order by p.oid) from pg_proc p
         where p.pronamespace in ('public'::regnamespace, 'replication'::regnamespace)),
       (select array_agg(rolname::text order by oid) from pg_roles),
       (select array_agg(t.tgname::text || t.tgenabled::text order by t.oid) from pg_trigger t),
       (select array_agg(c::text) from canary c),
       (select array_agg(r::text order by table_id) from replication.replicated_tables r)
"""


class Target:
    """Contour b, number 2, which knows a (1) and c (3); with an applier that must live through it all."""

    def __init__(self, contour: Contour) -> None:
        self.contour = contour
        self.inbox = PostgresInbox(contour.settings, "target")
        self.hand = Hand()
        self.cycle = ApplyCycle(
            self.hand, self.inbox, 1_000, 1_000, timedelta(), timedelta(hours=1)
        )
        self.offset = 0
        self.catalog = contour.run(CATALOG)

    def close(self) -> None:
        self.cycle.close()
        self.inbox.close()

    def take(self, values: Sequence[bytes | None], table: str = "items") -> dict[int, str]:
        """One batch; the reasons of those that are parked, by place. All others are done."""
        topic = topic_for(table, prefix=self.contour.settings.kafka.topic_prefix)
        partition = list(TABLES).index(table)
        start = self.inbox.offsets([(topic, partition)]).get((topic, partition), 0)
        messages = tuple(Message(topic, partition, start + n, v) for n, v in enumerate(values))
        end = start + len(values)
        self.hand.batch = Consumed(messages, (PartitionAdvance(topic, partition, start, end, end),))
        results = self.cycle()
        assert sum(result.count for result in results) >= len(values)
        assert self.inbox.offsets([(topic, partition)]) == {(topic, partition): end}
        parked = {
            offset - start: (reason, bytes(event))
            for offset, reason, event in self.contour.run(
                "select kafka_offset, reason, event from replication.parked_events "
                "where topic = %s and partition = %s and kafka_offset >= %s",
                topic,
                partition,
                start,
            )
        }
        for place, (_, kept) in parked.items():
            assert kept == (values[place] or b""), "what is parked is kept as it came"
        return {place: reason for place, (reason, _) in parked.items()}

    def assert_nothing_was_executed(self) -> None:
        assert self.contour.run(CATALOG) == self.catalog


@pytest.fixture(scope="module")
def made(postgres: Any, templates: dict[str, str]) -> Iterator[Contour]:
    from replication_pipeline_tests.conftest import contour_maker

    with contour_maker(postgres, templates, None) as make:
        _, b = make(DDL, TABLES, security={})
        b.run(
            "insert into replication.contours (name, id, incarnation, state, sequence, last_beat, last_heard) "
            "values ('a', 1, gen_random_uuid(), 'active', 1, now(), 0), "
            "('c', 3, gen_random_uuid(), 'active', 1, now(), 0)"
        )
        yield b


@pytest.fixture
def target(made: Contour) -> Iterator[Target]:
    with closing(Target(made)) as target:
        yield target


def now() -> int:
    return time.time_ns() // 1_000


def event(values: Any, *, op: str = "c", **source: Any) -> dict[str, Any]:
    """A good one, of contour a."""
    told = {
        "event_id": str(uuid.uuid4()),
        "contour": "a",
        "schema": "public",
        "table": "items",
        "row_version": str(pack(now(), 1)),
        "base_version": None,
    } | source
    return {
        "before": values if op == "d" else None,
        "after": None if op == "d" else values,
        "source": told,
        "op": op,
        "ts_ms": now() // 1000,
    }


def item(key: int, **values: Any) -> dict[str, Any]:
    row = {"id": key, "name": "n", "doc": "{}", "bytes": "AAA=", "tags": ["x"], "amount": "1.50"}
    return row | {"at": "2026-01-01T00:00:00Z", "flag": True} | values


def wire(value: object) -> bytes:
    return json.dumps(value).encode()


GIANT: Final = b"9" * 5_000
DEEP: Final = 100_000
V: Final = pack(1, 1)
ATTACKS: Final[dict[str, tuple[bytes | None, set[str]]]] = {
    "nothing": (None, {"malformed"}),
    "empty": (b"", {"malformed"}),
    "random bytes": (bytes(range(256)), {"malformed"}),
    "invalid UTF-8": (wire(event(item(1))).replace(b'"n"', b'"\xff\xfe"'), {"malformed"}),
    "overlong UTF-8": (wire(event(item(1))).replace(b'"n"', b'"\xc0\xaf"'), {"malformed"}),
    "a lone surrogate": (wire(event(item(1, name="\ud800"))), {"malformed", "bad_value"}),
    "NUL in a value": (wire(event(item(1, name="a\0b"))), {"malformed"}),
    "NUL in a document": (wire(event(item(1, doc='{"a":"\\u0000"}'))), {"bad_value"}),
    "NUL in the contour": (wire(event(item(1), contour="a\0")), {"malformed"}),
    "NUL in the event's id": (wire(event(item(1), event_id="\0")), {"malformed"}),
    "deep nesting": (b"[" * DEEP, {"malformed"}),
    "a deep value": (
        wire(event(item(1, name="@"))).replace(b'"@"', b"[" * DEEP + b"]" * DEEP),
        {"malformed"},
    ),
    "a deep document": (
        wire(event(item(1, doc="@"))).replace(b'"@"', b'"' + b"[" * DEEP + b"]" * DEEP + b'"'),
        {"bad_value"},
    ),
    "a giant number as value": (wire(event(item(1, amount=0))).replace(b'"amount": 0', b'"amount": ' + GIANT), {"malformed", "bad_value"}),
    "a giant number as key": (wire(event(item(-1))).replace(b'"id": -1', b'"id": ' + GIANT), {"malformed", "bad_value"}),
    "a giant exponent": (wire(event(item(1, amount="1e99999999"))), {"bad_value"}),
    "a giant version": (wire(event(item(1), row_version=GIANT.decode())), {"malformed"}),
    "a version beyond bigint": (wire(event(item(1), row_version=str((1 << 70) + 1))), {"malformed"}),
    "a negative version": (wire(event(item(1), row_version="-1023")), {"malformed"}),
    "a version that is no integer": (wire(event(item(1), row_version="1.5")), {"malformed"}),
    "a version with signs of Python": (wire(event(item(1), row_version="1_025")), {"malformed"}),
    "a version in other digits": (wire(event(item(1), row_version="١٠٢٥")), {"malformed"}),
    "a version that is true": (wire(event(item(1), row_version=True)), {"malformed"}),
    "a far future": (wire(event(item(1), row_version=str(pack(now() + 10**15, 1)))), {"clock_skew"}),
    "a negative base": (wire(event(item(1), base_version=str(-(1 << 80)))), {"malformed"}),
    "an unknown operation": (wire(event(item(1), op="x")), {"malformed"}),
    "an operation that is a statement": (wire(event(item(1), op="d; drop table items")), {"malformed"}),
    "no key": (wire(event({"name": "x"})), {"malformed"}),
    "an object as key": (wire(event(item(1) | {"id": {"a": 1}})), {"malformed"}),
    "null as key": (wire(event(item(1) | {"id": None})), {"constraint", "malformed", "bad_value"}),
    "a row that is a list": (wire(event([1, 2])), {"malformed"}),
    "a column that is not there": (wire(event(item(1) | {'x"; drop table items; --': 1})), {"unknown_column"}),
    "terminal control in a column": (wire(event(item(2) | {"\x1b[2J\x9b31m": 1})), {"unknown_column"}),
    "ten thousand columns": (wire(event(item(3) | {f"c{n}": n for n in range(10_000)})), {"unknown_column"}),
    "base64 that is none": (wire(event(item(1, bytes="'; drop table items; --"))), {"bad_value"}),
    "an id of an event that is none": (wire(event(item(1), event_id="' or true --")), {"bad_value"}),
    "this contour's number": (wire(event(item(1), row_version=str(pack(now(), 2)))), {"forged_origin"}),
    "another contour's number": (wire(event(item(1), row_version=str(pack(now(), 3)))), {"forged_origin"}),
    "nobody's number": (wire(event(item(1), row_version=str(pack(now(), 9)))), {"forged_origin"}),
    "this contour's name": (wire(event(item(1), contour="b")), {"forged_origin"}),
    "a stranger with a known number": (wire(event(item(1), contour="zed")), {"forged_origin"}),
    "a name that is none": (wire(event(item(1), contour="a'; drop table items; --")), {"malformed"}),
    "an empty name": (wire(event(item(1), contour="")), {"malformed"}),
}  # fmt: skip


def test_every_known_attack_is_parked_and_the_event_behind_it_applied(target: Target) -> None:
    """All in one batch, each followed by a good event; by the version column nothing of them is there."""
    values: list[bytes | None] = []
    for number, (value, _) in enumerate(ATTACKS.values()):
        values += [value, wire(event(item(1000 + number)))]
    reasons = target.take(values)
    told = {name: reasons.get(2 * n, "applied") for n, name in enumerate(ATTACKS)}
    assert {name: r for name, r in told.items() if r not in ATTACKS[name][1]} == {}
    assert len(reasons) == len(ATTACKS)
    assert target.contour.value("select count(*) from items where id >= 1000") == len(ATTACKS)
    assert target.contour.run("select id from items where id < 1000") == []
    shown = target.contour.run("select detail from replication.parked_events")
    assert all(detail.isprintable() and len(detail) <= 200 for (detail,) in shown)
    target.assert_nothing_was_executed()
    # What is parked stays parked when it is tried again, and is still whole.
    before = target.contour.value("select count(*) from replication.parked_events")
    target.contour.run(
        "update replication.parked_events set retried_at = '-infinity', attempts = 1"
    )
    while target.inbox.retry_parked(1_000, eagerly=False).count:
        pass
    assert target.contour.value("select count(*) from replication.parked_events") == before
    assert target.contour.run("select id from items where id < 1000") == []
    target.contour.run("delete from replication.parked_events")


def test_a_forged_event_hides_no_real_one(target: Target) -> None:
    """Of one key, in one batch: newest by version, and far ahead or of a number that is not its own."""
    good = event(item(7, name="real"))
    for forged in (
        event(item(7, name="forged"), row_version=str(pack(now() + 10**15, 1))),
        event(item(7, name="forged"), row_version=str(pack(now() + 10**6, 3))),
        event({"id": 7}, op="d", row_version=str(pack(now() + 10**15, 1))),
    ):
        good["source"] |= {"event_id": str(uuid.uuid4()), "row_version": str(pack(now(), 1))}
        assert list(target.take([wire(good), wire(forged)])) == [1]
        assert target.contour.run("select name from items where id = 7") == [("real",)]
    target.contour.run("delete from replication.parked_events")


def test_a_flood_of_garbage_costs_no_more_than_events_do(target: Target) -> None:
    """One transaction, and not a handful for each: of 2,000 the last one is good."""
    transactions = "select coalesce(sum(batches), 0) from replication.workers"
    before = target.contour.value(transactions)
    garbage = [b"garbage %d" % n if n % 2 else None for n in range(2_000)]
    reasons = target.take([*garbage, wire(event(item(8)))])
    assert set(reasons.values()) == {"malformed"}
    assert len(reasons) == 2_000
    assert target.contour.value("select count(*) from items where id = 8") == 1
    assert target.contour.value(transactions) - before <= 2
    target.contour.run("delete from replication.parked_events")


# By Hypothesis

SPICE: Final = st.sampled_from(
    [
        "", "\0", "\ud800", "'; drop table items; --", '"; drop table canary; --', "%s %(x)s {0} $1 $$",
        "\\", "\x1b[2J", "null", "NaN", "-Infinity", "1e400", "()", "{}", "{,}", "[]", "x" * 3000,
        "2026-02-30", "infinity", "4714-01-01 BC", "true", "\N{RIGHT-TO-LEFT OVERRIDE}", ",", "\t\n",
    ]
)  # fmt: skip
SCALARS: Final = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 70), 1 << 70),
    st.floats(),
    SPICE,
    st.text(max_size=8),
)
ANYTHING: Final = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(SPICE | st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
VERSIONS: Final = st.one_of(
    st.builds(pack, st.integers(0, 1 << 52), st.integers(1, 1023)).map(str),
    st.integers(-5, 5).map(str),
    SCALARS,
)
ROWS: Final[dict[str, Callable[[int], dict[str, Any]]]] = {
    "items": item,
    ODD: lambda key: {"id": key, "x'); drop table items; --": "y"},
    "counters": lambda key: {"id": key, "name": "c", "n": 1},
}
FIELDS: Final = {
    "row_version": VERSIONS,
    "base_version": VERSIONS,
    "contour": st.sampled_from(["a", "b", "c", "zed", ""]) | SCALARS,
    "event_id": SCALARS,
    "table": SPICE,
    "schema": SPICE,
    "to": st.sampled_from(["a", "b", "*"]) | SCALARS,
    "snapshot": st.sampled_from(["incremental", "true"]) | SCALARS,
    "schema_fingerprint": SCALARS,
    "merge": st.dictionaries(
        st.sampled_from(["bases", "totals", "versions", "deltas"]),
        st.dictionaries(st.sampled_from(["n", "name", "id"]), SCALARS, max_size=2) | ANYTHING,
        max_size=4,
    )
    | ANYTHING,
}


@st.composite
def bent(draw: st.DrawFn, table: str) -> bytes:
    """A good event with something wrong, or nothing; or no event."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=60))
    row = ROWS[table](draw(st.integers(1, 6)))
    told = event(row, op=draw(st.sampled_from("cudr")))
    for name in draw(st.lists(st.sampled_from(sorted(FIELDS)), max_size=3)):
        told["source"][name] = draw(FIELDS[name])
    for side in ("before", "after"):
        if draw(st.integers(0, 3)) == 0:
            told[side] = draw(st.just(dict(row)) | ANYTHING)
        if isinstance(told[side], dict) and draw(st.booleans()):
            told[side] = told[side] | draw(
                st.dictionaries(st.sampled_from([*row, "gone"]) | SPICE, ANYTHING, max_size=2)
            )
    if draw(st.integers(0, 9)) == 0:
        told["op"] = draw(SCALARS)
    value = wire(told)
    if draw(st.integers(0, 5)) == 0:  # twice the same name: the last one counts, or none
        value = value.replace(b'"op":', b'"op": "d", "op":').replace(b'"id":', b'"id": 5, "id":')
    if draw(st.integers(0, 5)) == 0:
        place = draw(st.integers(0, len(value)))
        value = (
            value[:place] + draw(st.binary(max_size=3)) + value[place + draw(st.integers(0, 2)) :]
        )
    return value


def origins_of(contour: Contour) -> set[int]:
    """The numbers in the versions of all rows and tombstones."""
    return {
        number
        for (number,) in contour.run(
            "select replication_version & 1023 from items union select replication_version & 1023 from counters "
            "union select version & 1023 from replication.replication_tombstones where version >= 1024"
        )
    }


def test_whatever_hypothesis_writes_to_a_topic_the_applier_goes_on(target: Target) -> None:
    target.contour.run("delete from items; delete from counters")
    target.contour.run("delete from replication.replication_tombstones")
    target.contour.run("delete from replication.replication_queue")
    good = 10_000

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize="HOSTILE_EXAMPLES" not in os.environ,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(data=st.data())
    def attack(data: st.DataObject) -> None:
        nonlocal good
        table = data.draw(st.sampled_from(sorted(TABLES)))
        bad = data.draw(st.lists(bent(table), min_size=1, max_size=8))
        good += 1
        values = [*bad, wire(event(ROWS[table](good), table=table))]
        reasons = target.take(values, table)
        assert len(bad) not in reasons, "the good one is applied"
        for place, value in enumerate(bad):
            if place not in reasons:
                assert is_an_event(value), f"applied, or passed by: {value!r}"

    attack()
    target.assert_nothing_was_executed()
    for table in TABLES:
        quoted = '"' + table.replace('"', '""') + '"'
        assert target.contour.value(f"select count(*) from {quoted} where id > 10000") > 0
    # Retried, all of it, in one go: nothing crashes, nothing leaves without having been applied.
    target.contour.run(
        "update replication.parked_events set retried_at = '-infinity', attempts = 1"
    )
    while target.inbox.retry_parked(1_000, eagerly=True).count:
        pass
    target.assert_nothing_was_executed()
    target.contour.run("delete from replication.parked_events")


def is_an_event(value: bytes) -> bool:
    """Whether what was not parked may have been one: the least that every event of ours has, and an
    origin that can be. Judged by another reader of JSON than the applier's.
    """
    try:
        told = json.loads(value)
        source = told["source"]
        contour, version = source["contour"], int(source["row_version"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
    if told["op"] not in {"c", "u", "d", "r"} or not 0 <= version < 1 << 63:
        return False
    ids = {"a": 1, "b": 2, "c": 3}
    own_word = source.get("snapshot") is None and told["op"] != "r"
    if own_word and ids.get(contour) not in {None, version & 1023}:
        return False
    return not (own_word and contour not in ids and version & 1023 in ids.values())


BEAT: Final = json.loads(
    encode(Beat(Identity("a", 1, "00000000-0000-0000-0000-000000000001"), 1, 1, 60.0))
)


@settings(max_examples=300, deadline=None, database=None, derandomize=True, phases=[Phase.generate])
@given(
    bent=st.dictionaries(st.sampled_from([*BEAT, "round"]), ANYTHING | SCALARS, max_size=3)
    | st.fixed_dictionaries(
        {
            "round": st.fixed_dictionaries(
                {
                    "taken_at": SCALARS,
                    "applied": st.dictionaries(SPICE, st.lists(SCALARS, max_size=2), max_size=2),
                    "ends": st.dictionaries(SPICE, st.lists(SCALARS, max_size=2), max_size=2),
                }
            )
        }
    ),
    raw=st.binary(max_size=20),
)
def test_a_heartbeat_that_no_contour_could_send_is_passed_by(
    bent: dict[str, Any], raw: bytes
) -> None:
    """Else it would stop every applier, and again after each restart: it lies in the log."""
    assert decode(raw) is None
    record = decode(wire(BEAT | bent))
    if isinstance(record, Beat):
        assert 1 <= record.identity.id <= 1023
        assert str(uuid.UUID(record.identity.incarnation)) == record.identity.incarnation
        assert record.identity.contour.isidentifier()
        assert 0 <= record.sequence < 1 << 63
        assert 0 <= record.sent_at < 1 << 63
        assert 0 <= record.fence_after < 1e12
        for offsets in (record.round.applied, record.round.ends) if record.round else ():
            assert all("\0" not in topic for topic in offsets)
            assert all(0 <= n < 1 << 63 for each in offsets.values() for n in each)


def test_a_heartbeat_is_read_deep_or_not_at_all() -> None:
    assert decode(b"[" * DEEP) is None
    assert (
        decode(wire(BEAT | {"sequence": 1}).replace(b'"sequence": 1', b'"sequence": ' + GIANT))
        is None
    )
