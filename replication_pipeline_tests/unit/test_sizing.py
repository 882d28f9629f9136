"""The sizing model: what it computes from costs, and that its simulation is the same each time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.report.sized import BEGIN, END, replaced, section
from bench.report.writing import committed
from bench.sizing import (
    BUSY,
    Costs,
    Load,
    NotMeasuredError,
    Turns,
    calibrated,
    costs_of,
    knobs,
    many_tables,
    most,
    nearest_end,
    need,
    pace,
    tables_touched,
)

pytestmark = pytest.mark.unit

COSTS = Costs(
    capture=8.0,
    publisher=9.0,
    publisher_backend=12.0,
    publishing_broker=2.0,
    applier=12.0,
    applier_backend=16.0,
    applying_broker=1.0,
    capture_wal=500.0,
    publish_wal=800.0,
    apply_wal=600.0,
    publisher_speed=80_000.0,
    applier_speed=40_000.0,
    steady={200.0: 0.8, 1000.0: 1.2},
    steady_p50={200.0: 6.0, 1000.0: 9.0},
    kept={200.0: True, 1000.0: False},
    window_memory=128.0,
)


def test_two_contours_share_the_work() -> None:
    needed = need(Load(what="two", contours=2, events=56_000), COSTS)
    assert (needed.publishers, needed.appliers) == (1, 2)
    assert needed.database_cores == pytest.approx(56_000 * (8 + 12 + 16) / 1e6 / BUSY)
    assert needed.broker_cores == pytest.approx(112_000 * (2 + 2 * 1) / 1e6 / BUSY)
    assert needed.wal == pytest.approx(56_000 * 1900 / 1e6)
    assert needed.memory == pytest.approx(3 * 128 / 1024)
    assert knobs(needed) == []


def test_each_further_contour_is_more_to_apply_for_all() -> None:
    ten = Load(what="ten", contours=10, events=100_000)
    needed = need(ten, COSTS)
    assert needed.publishers == 2
    assert needed.appliers == 33
    assert "`consumer.max_appliers: 33`" in knobs(needed)
    assert "`tables.T.partitions: 33`" in knobs(needed)
    assert nearest_end(ten, needed)[0] == "PostgreSQL"
    assert nearest_end(replace(ten, database=1000), needed)[0] == "appliers"


def test_what_a_database_can_do_is_what_needs_all_of_it() -> None:
    for contours in (2, 10):
        events = most(contours, 16, COSTS)
        needed = need(Load(what="all", contours=contours, events=events), COSTS)
        assert needed.database_cores == pytest.approx(16)


def test_the_simulation_is_the_same_each_time_and_shares_turns_under_load() -> None:
    turns = Turns(cpu=0.004, wait=0.002)
    few, many = (pace(rate, turns, 50e-6) for rate in (10, 5000))
    assert few == pace(10, turns, 50e-6)
    assert few.events_a_turn == pytest.approx(1, abs=0.05)
    assert few.cores == pytest.approx(10 * 0.00405, rel=0.05)
    assert few.p50 == pytest.approx(6.05, rel=0.05)
    assert many.events_a_turn > 10
    assert many.cores < 2


def test_the_calibration_gives_back_what_was_measured() -> None:
    found = pace(200, calibrated(COSTS), COSTS.whole / 1e6)
    assert found.cores == pytest.approx(0.8, rel=0.03)
    assert found.p50 == pytest.approx(6.0, rel=0.05)


def test_tables_share_a_batch() -> None:
    assert tables_touched(5000, 1) == 1
    assert tables_touched(1, 100) == pytest.approx(1)
    assert tables_touched(100_000, 100) == pytest.approx(100)
    turns = Turns(cpu=0.004, wait=0.0)
    assert many_tables(1, 100, turns, COSTS) == pytest.approx(29 + 2000)
    assert many_tables(5000, 100, turns, COSTS) == pytest.approx(29 + 40, rel=0.01)


def test_costs_come_from_the_newest_results() -> None:
    runs = committed()
    costs = costs_of(runs)
    assert costs.publisher > 0
    assert costs.source < costs.whole + costs.capture
    with pytest.raises(NotMeasuredError, match="publish"):
        costs_of([run for run in runs if run.scenario != "publish"])
    assert "no result of" in section([])


def test_only_what_is_between_the_marks_is_written() -> None:
    text = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert replaced(text, "new\n") == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    with pytest.raises(ValueError, match="marks"):
        replaced("nothing", "new")
