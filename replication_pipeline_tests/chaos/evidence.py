"""What is read of contours and Kafka when all is quiet: plain values that checkers judge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from replication_pipeline.domain.errors import ReplicationError
from replication_pipeline.domain.model import Consumed, Message, PartitionAdvance
from replication_pipeline.domain.names import Topic, topic_for
from replication_pipeline.postgres.inbox import PostgresInbox
from replication_pipeline_tests.chaos.kafka_log import Record, read_all
from replication_pipeline_tests.chaos.stack import PARTITIONS, TOPIC_PREFIX, Contour, Stack
from replication_pipeline_tests.chaos.tables import CHILDREN, UNIQUE, WAITING
from replication_pipeline_tests.chaos.workload import Operation

Name = tuple[str, str]  # table and canonical key
REPLAYED_AT_ONCE: Final = 2_000
REPLAY_PARTITIONS: Final = 1_000  # so that offsets of the real ones stay as they are


class Row(NamedTuple):
    """A live row; ``digest`` is of all its values, ``op`` the statement that wrote it."""

    version: int
    digest: str
    op: str | None
    unique: str | None = None  # the value that no two rows may have


class Queued(NamedTuple):
    """A captured change, in the order of the queue."""

    name: Name
    version: int
    operation: str
    op: str | None
    event_id: str
    unique: str | None = None


class Sent(NamedTuple):
    """An event in Kafka, in the order of its partition."""

    name: Name
    contour: str
    version: int
    event_id: str
    partition: int
    offset: int


@dataclass(frozen=True)
class State:
    """One contour."""

    rows: dict[Name, Row] = field(default_factory=dict)
    tombstones: dict[Name, tuple[int, bool]] = field(default_factory=dict)  # version, unsettled
    queue: list[Queued] = field(default_factory=list)
    parked: Counter[str] = field(default_factory=Counter)  # by reason
    orphans: list[Name] = field(default_factory=list)
    applied_twice: list[tuple[Name, int, int]] = field(default_factory=list)  # version, how often
    changed_by_replay: int = 0
    replay_failed: str = ""
    leftovers: dict[str, int] = field(default_factory=dict)  # what must be none
    sizes: dict[str, int] = field(default_factory=dict)
    conflicts: int = 0


@dataclass(frozen=True)
class Evidence:
    """All of them, and what the harness did."""

    contours: dict[str, State] = field(default_factory=dict)
    log: list[Sent] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    poison: dict[str, Counter[str]] = field(default_factory=dict)  # reasons by contour
    recoveries: list[float] = field(default_factory=list)  # seconds until all was quiet and equal
    deaths: list[str] = field(default_factory=list)


# Deletes that may still take a row away.
UNSETTLED: Final = "select count(*) from replication.replication_tombstones where unsettled"
LEFTOVERS: Final = f"""
select 'unpublished events', (select count(*) from replication.replication_queue where not published)
union all
select 'held events', (select count(*) from replication.replication_queue where held)
union all
select 'unsettled deletes', ({UNSETTLED})
union all
select 'idle transactions', (select count(*) from pg_stat_activity
                              where datname = current_database() and state like 'idle in transaction%')
"""
SIZES: Final = """
select relname::text, pg_total_relation_size(c.oid) / 1024
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where nspname = 'replication' and relkind = 'r' and pg_total_relation_size(c.oid) > 65536
 order by 2 desc limit 6
"""


def collect(
    stack: Stack,
    operations: list[Operation],
    poison: dict[str, Counter[str]],
    recoveries: list[float],
) -> Evidence:
    """Read everything. Workers have ended; the topics are replayed through each contour's tables."""
    topics = {topic_for(table, prefix=TOPIC_PREFIX): table for table in stack.tables}
    records = read_all(f"127.0.0.1:{stack.kafka_network.port}", list(topics), PARTITIONS)
    genuine = [record for record in records if record.injected is None]
    return Evidence(
        {contour.name: _state(contour, stack.tables, genuine) for contour in stack.contours},
        [_sent(record, topics[Topic(record.topic)]) for record in genuine],
        operations,
        poison,
        recoveries,
        stack.deaths,
    )


def rows_of(contour: Contour, tables: Sequence[str]) -> dict[Name, Row]:
    union = " union all ".join(
        f"select '{table}', format('{{\"id\":%s}}', id), replication_version, md5(t::text), op, "
        f"{'email' if table == UNIQUE else 'null'} from {table} t"
        for table in tables
    )
    return {(table, key): Row(*rest) for table, key, *rest in contour.ask(union)}


def _state(contour: Contour, tables: Sequence[str], records: Sequence[Record]) -> State:
    rows = rows_of(contour, tables)
    leftovers: dict[str, int] = dict(contour.ask(LEFTOVERS))
    twice = contour.ask(
        "select table_name, format('{\"id\":%s}', id), version, sum(times) from applied "
        "group by 1, 2, 3 having sum(times) > 1"
    )
    found = State(
        rows=rows,
        tombstones={
            (table, key): (version, unsettled)
            for table, key, version, unsettled in contour.ask(
                "select table_name, record_key, version, unsettled "
                "from replication.replication_tombstones"
            )
        },
        queue=[
            Queued((table, key), *rest)
            for table, key, *rest in contour.ask(
                "select table_name, record_key, version, operation, payload ->> 'op', "
                "event_id::text, payload ->> 'email' from replication.replication_queue order by id"
            )
        ],
        parked=Counter(
            reason
            for (reason,) in contour.ask(
                "select reason from replication.parked_events "
                f"where table_name is distinct from 'member' or record_key not in ({WAITING})"
            )
        ),
        orphans=[
            (table, f'{{"id":{id_}}}')
            for table in CHILDREN
            for (id_,) in contour.ask(
                f"select id from {table} where parent_id not in (select id from parent)"
            )
        ],
        applied_twice=[((table, key), version, count) for table, key, version, count in twice],
        leftovers=leftovers,
        sizes=dict(contour.ask(SIZES)),
        conflicts=contour.ask("select count(*) from replication.replication_conflicts")[0][0],
    )
    # Last, as it may change what is read above. Rows that gave way may come back so, until appliers
    # have looked at them.
    unique = topic_for(UNIQUE, prefix=TOPIC_PREFIX)
    changed, failed = _replay(contour, [r for r in records if r.topic != unique])
    return replace(found, changed_by_replay=changed, replay_failed=failed)


def _replay(contour: Contour, records: Sequence[Record]) -> tuple[int, str]:
    """All topics once more, without the ledger of processed events. How many events were news, and why
    it could not be done.
    """
    contour.ask("delete from replication.processed_events")
    inbox = PostgresInbox(contour.settings, "replays")
    changed = 0
    offsets: Counter[tuple[Topic, int]] = Counter()
    try:
        for start in range(0, len(records), REPLAYED_AT_ONCE):
            before = offsets.copy()
            messages = []
            for record in records[start : start + REPLAYED_AT_ONCE]:
                place = (Topic(record.topic), record.partition + REPLAY_PARTITIONS)
                messages.append(Message(*place, offsets[place], record.value))
                offsets[place] += 1
            advances = tuple(
                PartitionAdvance(*place, before[place], offsets[place], offsets[place])
                for place in offsets
                if before[place] < offsets[place]
            )
            changed += inbox.apply(Consumed(tuple(messages), advances)).applied
    except ReplicationError as error:
        return changed, error.message
    finally:
        inbox.close()
    return changed, ""


def _sent(record: Record, table: str) -> Sent:
    source = record.event()["source"]
    return Sent(
        (table, record.key.decode()), source["contour"], int(source["row_version"]),
        source["event_id"], record.partition, record.offset,
    )  # fmt: skip
