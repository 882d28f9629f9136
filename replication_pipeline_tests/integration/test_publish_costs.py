"""What publishing costs, in what can be counted: round trips, WAL, dead rows. Never time.

What is allowed stands in ``costs.toml``; a change that breaks it is to be wanted, or mended.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from bench.round_trips import RoundTrips, counted
from bench.users import insert
from replication_pipeline import runtime
from replication_pipeline.embedded import EmbeddedKafka
from replication_pipeline.engine import publish as engine
from replication_pipeline.engine.stopping import StopToken
from replication_pipeline.postgres.outbox import PostgresOutbox
from replication_pipeline_tests.conftest import LONGEST, Contour
from replication_pipeline_tests.integration.costs import Batches, costs_no_more, wal_bytes

pytestmark = [pytest.mark.integration, pytest.mark.costs]

EVENTS = 5000
WARM_UP = 3  # events
OF_A_BATCH = 2  # round trips, see `publish_batch_round_trips`


@dataclass
class Cost:
    batches: list[int]
    round_trips: RoundTrips
    wal_bytes: int


@contextmanager
def warm_outbox(contour: Contour) -> Iterator[PostgresOutbox]:
    """Its session is prepared, its statements are planned, and what is done now and then is not due."""
    with runtime.open_outbox(contour.settings, "costs") as outbox:
        for number in range(1, WARM_UP + 1):
            contour.run(insert(-number, -number))
            publish(contour, outbox)
        outbox._next_heartbeat = outbox._next_look = outbox._next_due = float("inf")
        outbox._low_water._next_refresh = float("inf")
        yield outbox


def publish(contour: Contour, outbox: PostgresOutbox) -> list[int]:
    """The sizes of the batches."""
    seen, usual = Batches(), (700, 10, 10)
    gc.set_threshold(
        *usual
    )  # windows beside each other in other tests' threads may have left theirs
    with runtime.open_producer(contour.settings) as producer:
        totals = runtime.publish_window(
            contour.settings,
            outbox=outbox,
            producer=producer,
            stop=StopToken(),
            length=LONGEST,
            until="drained",
            observer=seen,
        )
    assert totals.processed == sum(seen.counts)
    assert min(seen.collections) >= 100_000, "the garbage collector looks through every batch"
    assert gc.get_threshold() == usual
    return seen.counts


def cost_of_publishing(contour: Contour, outbox: PostgresOutbox) -> Cost:
    session, _ = outbox._session.connection()
    before = wal_bytes(session)
    with counted(session) as trips:
        batches = publish(contour, outbox)
    return Cost(batches, trips, wal_bytes(session) - before)


def test_a_backlog_costs_few_round_trips_and_little_wal(
    users: list[Contour], kafka: EmbeddedKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "TURN", 60.0)  # one turn, however slow the machine is
    contour = users[0]
    with warm_outbox(contour) as outbox:
        contour.run(insert(1, EVENTS))
        cost = cost_of_publishing(contour, outbox)
    assert sum(cost.batches) == EVENTS
    costs_no_more(
        "publish_turn_round_trips", cost.round_trips.count - OF_A_BATCH * len(cost.batches)
    )
    costs_no_more("publish_backlog_round_trips", cost.round_trips.count / EVENTS * 1000)
    costs_no_more("publish_backlog_wal", cost.wal_bytes / EVENTS)
    contour.run("select pg_stat_force_next_flush()")
    ((updated, dead),) = contour.run(
        "select sum(n_tup_upd)::bigint, sum(n_dead_tup)::bigint from pg_stat_user_tables "
        "where schemaname = 'replication' and relname like 'replication_queue%'"
    )
    assert updated == EVENTS + WARM_UP
    costs_no_more("publish_backlog_dead_rows", dead / (EVENTS + WARM_UP))


def test_one_event_costs_few_round_trips(users: list[Contour], kafka: EmbeddedKafka) -> None:
    contour = users[0]
    with warm_outbox(contour) as outbox:
        contour.run(insert(1, 1))
        cost = cost_of_publishing(contour, outbox)
    assert cost.batches == [1]
    costs_no_more("publish_event_round_trips", cost.round_trips.count)
    costs_no_more("publish_event_wal", cost.wal_bytes)
