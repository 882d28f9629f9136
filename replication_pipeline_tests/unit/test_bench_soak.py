"""The soak's arithmetic: whose fault a late row is, when an outage was over, and what writers write."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from bench.site import Run
from bench.soak_figures import (
    CHANGES,
    OUTAGE,
    STEADY,
    Lag,
    buckets,
    by_phase,
    changes,
    drained,
    lags,
    merged,
    ranks,
)
from bench.soak_load import DELETE, UPDATE, Load

pytestmark = pytest.mark.unit


def test_lags_are_sorted_by_writing_and_none_is_missing() -> None:
    found = lags({2: 20.0, 1: 10.0}, {1: 10.5, 2: 20.25, 3: 99.0})
    assert found == [Lag(10.0, 0.5), Lag(20.0, 0.25)]
    with pytest.raises(RuntimeError, match="1 of 2 rows"):
        lags({1: 10.0, 2: 20.0}, {1: 10.5})


def test_an_outage_is_over_when_nothing_late_is_left_of_it() -> None:
    found = [Lag(90, 2), Lag(100, 70), Lag(150, 25), Lag(165, 12), Lag(176, 2), Lag(180, 5)]
    # Kafka was back at 160. The last but one came at 178; the last one waited for something else.
    assert drained(found, 95, 160) == 178
    assert drained(found, 200, 210) == 210


def test_a_row_belongs_to_what_was_going_on_while_it_was_under_way() -> None:
    found = [Lag(10, 0.1), Lag(19.95, 0.1), Lag(30, 0.1), Lag(49, 2), Lag(25, 30)]
    phases = by_phase(found, (50, 60), [(20, 40)])
    assert phases == {
        STEADY: [Lag(10, 0.1)],
        CHANGES: [Lag(19.95, 0.1), Lag(30, 0.1)],
        OUTAGE: [Lag(49, 2), Lag(25, 30)],
    }
    assert by_phase(found[:1], None, []) == {STEADY: [Lag(10, 0.1)], CHANGES: [], OUTAGE: []}


def test_a_change_is_around_the_start_and_the_end_of_a_window() -> None:
    runs = [Run("1", "SUCCESS", 100.0, 700.0, {}), Run("2", "STARTED", 660.0, None, {})]
    assert changes(runs) == [(95.0, 110.0), (655.0, 670.0), (695.0, 703.0)]
    assert merged([(5.0, 6.0), (1.0, 3.0), (2.0, 4.0)]) == [(1.0, 4.0), (5.0, 6.0)]


def test_buckets_count_from_one() -> None:
    found = buckets([Lag(100, 1), Lag(129, 2), Lag(130, 3)], began=100, width=30)
    assert {number: [lag.seconds for lag in some] for number, some in found.items()} == {
        1: [1, 2],
        2: [3],
    }
    assert ranks([Lag(0, n / 1000) for n in range(1, 101)]) == {"p50": 51, "p99": 100, "max": 100}


def test_a_writer_has_as_many_rows_at_all_times_and_updates_only_those_there_are() -> None:
    load, chance = Load("", 1, rate=100), random.Random(1)
    mine = set(range(load.first(1), load.first(1) + load.rows))
    others = range(load.first(0), load.first(0) + load.rows + 500)
    kinds: Counter[str] = Counter()
    for position in range(5000):
        statement, row = load.statement(position, chance)
        if statement == UPDATE:
            assert row in mine or row in others
            kinds["theirs" if row in others else "mine"] += 1
        elif statement == DELETE:
            mine.remove(row)
        else:
            assert row not in mine
            mine.add(row)
    assert len(mine) == load.rows
    assert kinds["mine"] > 5 * kinds["theirs"] > 0
