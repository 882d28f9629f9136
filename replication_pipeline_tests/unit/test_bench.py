"""The benchmarks' arithmetic and reading: what makes figures of measurements."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from bench import layout, pgbench, plans, results, round_trips
from bench.children import Child, cpu_seconds
from bench.explain_capture import VALUES, insert_of
from bench.handover import changes_of, within
from bench.measure import rotated
from bench.pacing import Paced, latencies, pace, paces, reached, together
from bench.publish_latency import row_of
from bench.publish_split import CLAIM, REST_OF_CLAIM, Meter
from bench.queue_health import Hour
from bench.report.console import show
from bench.report.summary import number, summarize
from bench.results import Recorder, Result
from bench.site import Run, pauses, waits
from bench.workers import Progress

pytestmark = pytest.mark.unit


def result(contestant: str, value: float, run: int, **other: str) -> Result:
    return Result(
        **{  # type: ignore[arg-type]
            "scenario": "capture",
            "contestant": contestant,
            "metric": "time",
            "value": value,
            "unit": "µs/row",
            "run": run,
            "settings": {"contestants": ["plain", "half", "ours"], "rows": 10, "cumulative": True},
            "versions": {"postgresql": "18.6"},
            "machine": {"cpus": 2},
            "commit": "abc",
            "date": "2026-01-01T00:00:00+00:00",
            "command": "python -m bench run capture",
        }
        | other
    )


# The second round was twice as slow for everybody, the third one slow for `ours` alone.
MEASURED = [
    *(result("ours", value, run) for run, value in enumerate((6.0, 12.0, 30.0), start=1)),
    *(result("plain", value, run) for run, value in enumerate((2.0, 4.0, 2.0), start=1)),
    *(result("half", value, run) for run, value in enumerate((3.0, 6.0, 3.0), start=1)),
]


def test_contestants_are_compared_round_by_round_with_the_first_one() -> None:
    plain, half, ours = summarize(MEASURED)
    assert [row.contestant for row in (plain, half, ours)] == ["plain", "half", "ours"]
    assert (plain.median, plain.added, plain.ratio, plain.step) == (2.0, None, None, None)
    assert (ours.runs, ours.median, ours.low, ours.high) == (3, 12.0, 6.0, 30.0)
    assert ours.added == 8.0  # of 4, 8 and 28
    assert ours.ratio == 3.0  # of 3, 3 and 15
    assert (half.step, ours.step) == (1.0, 6.0)


def test_rounds_that_only_one_has_finished_are_left_out_of_comparisons() -> None:
    plain, ours = summarize(
        [result("plain", 2.0, 1), result("ours", 6.0, 1), result("ours", 99, 2)]
    )
    assert plain.runs == 1
    assert (ours.runs, ours.ratio) == (2, 3.0)


def test_nothing_is_compared_with_nothing() -> None:
    assert summarize([]) == []
    zero, ours = summarize([result("plain", 0.0, 1), result("ours", 6.0, 1)])
    assert (zero.median, ours.added, ours.ratio) == (0.0, 6.0, None)


def test_results_of_two_runs_are_not_compared() -> None:
    with pytest.raises(ValueError, match="one run"):
        summarize([*MEASURED, result("plain", 1.0, 1, date="2026-01-02T00:00:00+00:00")])


def test_a_report_shows_each_run_by_itself() -> None:
    output = io.StringIO()
    later = [result("plain", 1.0, 1, date="2026-01-02T00:00:00+00:00")]
    show(Console(file=output, width=80), [*MEASURED, *later])
    text = output.getvalue()
    assert "2026-01-01" in text
    assert "2026-01-02" in text
    assert "6.00 … 30.0" in text
    assert "3.00" in text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (0.0, "0.00"), (3.14159, "3.14"), (31.4159, "31.4"), (3141.59, "3\u2009142")],
)
def test_numbers_have_three_digits(value: float | None, text: str) -> None:
    assert number(value) == text


def test_a_line_has_the_fields_of_the_contract_and_comes_back() -> None:
    line = MEASURED[0].line()
    assert Result.parse(line) == MEASURED[0]
    contract = "scenario contestant metric value unit run settings versions machine commit"
    assert set(json.loads(line)) == {*contract.split(), "date", "command"}


def test_results_are_written_at_once_and_the_newest_are_found(tmp_path: Path) -> None:
    (tmp_path / "capture-20200101T000000Z.jsonl").write_text(MEASURED[0].line() + "\n")
    for scenario in ("capture", "capture-split"):
        recorder = Recorder(scenario, {"contestants": ["plain"]}, {}, folder=tmp_path)
        recorder.add("plain", "time", 1.23456789, "s", run=1)
        assert results.load([recorder.path]) == recorder.results
        assert recorder.results[0].value == 1.23457
        assert recorder.path in results.newest(tmp_path)
    assert len(results.newest(tmp_path)) == 2


def test_a_machine_is_described_without_its_name() -> None:
    facts = results.machine_facts()
    assert set(facts) == {"cpus", "memory_gib", "cpu", "kernel"}
    assert facts["memory_gib"] > 0


def test_commands_lose_their_paths() -> None:
    given = ["run", "capture", "--rows", "9", "--postgres", "/opt/pg/bin", "--directory=/mnt/x"]
    assert results.command(given) == (
        "python -m bench run capture --rows 9 --postgres …/bin --directory=…/x"
    )


def test_everybody_begins_once() -> None:
    assert [rotated("abc", turn) for turn in range(4)] == [
        ["a", "b", "c"],
        ["b", "c", "a"],
        ["c", "a", "b"],
        ["a", "b", "c"],
    ]


REPORT = """transaction type: multiple scripts
number of transactions actually processed: 12345
number of failed transactions: {failed} (0.000%)
latency average = 0.324 ms
tps = 12346.789012 (without initial connection time)
"""


def test_the_speed_is_read_from_a_clean_report_only() -> None:
    assert pgbench.parse(REPORT.format(failed=0)) == pytest.approx(12346.789012)
    for output in (REPORT.format(failed=3), "could not connect"):
        with pytest.raises(RuntimeError, match="no clean run"):
            pgbench.parse(output)


QUERIES = {
    "lock": "-- Locks.\nselect 1 % %(n)s".replace("1 %", "1 %%"),
    "stage": "insert into {stage} ({columns}) select '{{}}' where n = %(n)s",
    "claim": "-- Locks.\nselect id from queue where id > %(after)s limit %(limit)s",
}
LOG = """2026-01-01 LOG:  checkpoint starting: time
2026-01-01 LOG:  duration: 1.250 ms  plan:
\t{
\t  "Query Text": "-- Locks.\\nselect id from queue where id > $1 limit $2",
\t  "Plan": {
\t    "Node Type": "Limit", "Actual Rows": 5, "Actual Loops": 1, "Actual Total Time": 1.2,
\t    "Shared Hit Blocks": 30, "Shared Read Blocks": 4,
\t    "Plans": [{
\t      "Node Type": "Index Scan", "Relation Name": "queue", "Index Name": "queue_pkey",
\t      "Actual Rows": 2.5, "Actual Loops": 2, "Actual Total Time": 0.5,
\t      "Shared Hit Blocks": 30, "Shared Read Blocks": 4, "Rows Removed by Filter": 7
\t    }]
\t  }
\t}
2026-01-01 LOG:  checkpoint complete
"""


def test_plans_are_read_from_the_log() -> None:
    (plan,) = plans.parse(LOG, QUERIES)
    assert (plan.name, plan.milliseconds, plan.blocks) == ("claim", 1.25, 34)
    assert plan.rows == 5 + (2.5 + 7) * 2
    assert plan.nodes == (
        "Limit: 5 rows, 1.20 ms, 34 blocks",
        "  Index Scan queue by queue_pkey: 5 rows, 1.00 ms, 34 blocks, 14 rows filtered, 2 loops",
    )


def test_statements_are_named_by_their_text_parameters_and_parts_aside() -> None:
    stage = 'insert into "pg_temp"."s" ("a", "b") select \'{}\' where n = $1'
    assert plans.name_of(stage, QUERIES) == "stage"
    assert plans.name_of("-- Locks.\nselect 1 % $1", QUERIES) == "lock"
    assert plans.name_of("set search_path = public", QUERIES) == "set search_p…"


def test_a_queue_column_that_nobody_can_fill_is_named() -> None:
    columns = [layout.Column("id", needed=True), layout.Column("attempts", needed=False)]
    assert layout.filled(columns, VALUES) == {"id": VALUES["id"]}
    with pytest.raises(ValueError, match="colour"):
        layout.filled([*columns, layout.Column("colour", needed=True)], VALUES)


def test_a_step_computes_only_what_it_stores() -> None:
    statement = insert_of({"payload": VALUES["payload"]}, wire_form=False)
    assert "row_to_json(n)" in statement
    assert not any(part in statement for part in ("nextval", "replication_version", '"id"'))


def test_an_hour_is_seen_at_its_beginning_middle_and_end() -> None:
    samples = [(step / 100, float(step)) for step in range(1, 101)]
    assert Hour().at(samples) == {"begin": 3.0, "half": 50.0, "end": 97.5}
    assert Hour().at([(1.0, 7.0)]) == {"end": 7.0}


def test_round_trips_are_read_from_a_protocol_trace() -> None:
    trace = [
        b'F\t10\tQuery\t "BEGIN"\n',
        b"B\t5\tReadyForQuery\t T\n",
        b'F\t30\tParse\t "" "select \\x0aF\t4\tSync" 0\n',
        b"F\t4\tSync\n",
        b"B\t5\tReadyForQuery\t T\n",
    ]
    assert round_trips.count(trace) == 2


def test_a_late_write_does_not_shift_those_behind_it() -> None:
    began: list[float] = []

    def write(number: int) -> float:
        began.append(time.monotonic())
        if number == 11:
            time.sleep(0.05)
        return float(number)

    paced = pace(write, 10, 10, rate=100)
    assert paced.written == {number: float(number) for number in range(10, 20)}
    assert paced.late[2] > 0.03
    assert began[2] - began[1] >= 0.05


def test_writers_share_a_pace_without_a_gap() -> None:
    asked = paces(2500, 1)
    assert [(one.number, one.of) for one in asked] == [(0, 3), (1, 3), (2, 3)]
    assert len(paces(1000, 1)) == 1
    parts = [pace(float, 10, 8, rate=1000, number=one.number, of=one.of) for one in asked]
    whole = together(parts)
    assert sorted(whole.written) == [*range(10, 18)]
    assert len(whole.late) == 8


def test_a_rate_is_what_was_reached() -> None:
    assert reached(Paced({1: 10.0, 2: 10.5, 3: 11.0}, [])) == 2.0


def test_latencies_need_every_event() -> None:
    assert row_of(b'{"id":42}') == 42
    assert latencies({1: 10.0, 2: 11.0}, {1: 10.5, 2: 11.25, 3: 1.0}) == [500.0, 250.0]
    with pytest.raises(RuntimeError, match="1 of 2 events"):
        latencies({1: 10.0, 2: 11.0}, {1: 10.5})


def test_a_run_is_over_when_all_have_published_enough_together() -> None:
    progress, endless = Progress(10), Progress(None)
    progress.add(6)
    assert not progress.over.is_set()
    progress.add(4)
    endless.add(1_000_000)
    assert progress.over.is_set()
    assert not endless.over.is_set()


def test_a_part_within_another_is_not_counted_twice() -> None:
    meter, began = Meter(os.getpid()), time.perf_counter()
    with meter.part(REST_OF_CLAIM):
        time.sleep(0.01)
        with meter.part(CLAIM):
            time.sleep(0.05)
    passed = time.perf_counter() - began
    outer, inner = meter.parts[REST_OF_CLAIM], meter.parts[CLAIM]
    assert inner.time >= 0.05
    assert outer.time >= 0.01
    assert outer.time + inner.time <= passed


def test_processor_time_of_any_process_is_known() -> None:
    assert cpu_seconds(os.getpid()) == pytest.approx(time.process_time(), abs=0.05)


def test_a_child_that_fails_is_heard() -> None:
    with Child(os.kill, 0) as child, pytest.raises(RuntimeError, match="a child failed"):
        child.receive(60)


def test_a_change_of_windows_lasts_from_the_new_process_until_after_the_old_one() -> None:
    def run(started: float | None, ended: float | None) -> Run:
        return Run("id", "SUCCESS", started, ended, {})

    runs = [run(100.0, 140.0), run(130.0, 170.0), run(165.0, None), run(None, None)]
    changes = changes_of(runs)
    assert changes == [(125.0, 143.0), (160.0, 173.0)]
    assert [within(moment, changes) for moment in (124.9, 125.0, 150.0, 173.0)] == [
        False,
        True,
        False,
        True,
    ]


def test_pauses_lie_between_neighbours() -> None:
    assert pauses([1.0, 1.5, 4.0]) == [(1.0, 0.5), (1.5, 2.5)]


def test_a_wait_begins_with_a_commit_that_is_not_published() -> None:
    # The second row was committed while nothing was waiting; the fourth waited behind the third.
    rows = [(1.0, 0.75), (3.0, 2.5), (4.0, 3.5), (4.5, 3.25)]
    assert waits(rows) == [(2.5, 0.5), (3.25, 0.75), (4.0, 0.5)]


def test_a_run_without_a_living_process_is_not_alive() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    mine = Run("id", "STARTED", 1.0, None, {"process": f"host/{os.getpid()}/1"})
    assert mine.alive
    assert not replace(mine, tags={"process": f"host/{gone.pid}/1"}).alive
    assert not replace(mine, tags={}).alive
