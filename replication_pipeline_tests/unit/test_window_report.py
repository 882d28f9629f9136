"""What a window remembers of its batches, and what it tells Dagster of them."""

from __future__ import annotations

import base64
import os
import re
import struct
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from replication_pipeline.defs import chart
from replication_pipeline.defs.report import materializations
from replication_pipeline.domain.batches import COURSE, FAILED, LAST, SLOWEST, Batches
from replication_pipeline.domain.errors import OffsetConflictError, TransientError
from replication_pipeline.domain.model import BatchResult, Role, WindowTotals
from replication_pipeline.settings import Settings, load_settings

pytestmark = pytest.mark.unit


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in list(os.environ):
        if name.startswith("REPLICATION_"):
            monkeypatch.delenv(name)
    path = tmp_path / "a.yaml"
    path.write_text(
        "contour: {name: a, id: 1}\npostgres: {host: db.invalid}\n"
        "kafka: {bootstrap_servers: 'kafka.invalid:9092'}\ntables: [users, sales.orders]\n",
        encoding="utf-8",
    )
    return load_settings(path)


def result(milliseconds: float = 10.0, role: Role = "publisher", **more: Any) -> BatchResult:
    return BatchResult(
        **{
            "role": role,
            "count": 100,
            "processed": 100,
            "duration": timedelta(milliseconds=milliseconds),
            "lag": timedelta(milliseconds=5 * milliseconds),
            "per_table": {"users": 100},
        }
        | more
    )


def away(events: int = 0, took: float = 0.0, kind: str = "Kafka: away") -> TransientError:
    error = TransientError("contour a: Kafka is away", kind=kind)
    error.events, error.took = events, timedelta(seconds=took)
    return error


# What it remembers


def test_the_last_and_the_slowest_batches_are_kept_and_no_more() -> None:
    batches = Batches()
    durations = [float(n * 37 % 1000) for n in range(1000)]  # each once
    for duration in durations:
        batches.add(result(duration))
    assert [b.duration_ms for b in batches.last] == durations[-LAST:]
    assert [b.duration_ms for b in batches.slowest] == [999.0 - n for n in range(SLOWEST)]
    assert not batches.failed


def test_tries_of_one_batch_are_one_row_with_their_number() -> None:
    batches = Batches()
    batches.add(result())
    for took in (1.0, 2.0, 4.0):
        batches.add_failed_try(away(100 if took == 2.0 else 0, took))
    batches.add(result())
    batches.add(result())
    batches.add_failed_try(OffsetConflictError("contour a: too late"))
    first, second = batches.failed
    assert (first.attempts, first.events, first.duration_ms) == (3, 100, 7_000.0)
    assert first.error == "contour a: Kafka is away"
    assert (second.attempts, second.events) == (1, 0)
    assert [b.attempts for b in batches.last] == [1, 4, 1]
    assert {kind: (t.outcome, t.batches, t.events) for kind, t in batches.trouble.items()} == {
        "Kafka: away": ("tried again", 3, 100),
        "offset moved by another consumer": ("tried again", 1, 0),
    }


def test_refused_and_parked_events_are_counted_by_kind() -> None:
    batches = Batches()
    batches.add(result(failed=3, errors={"MSG_SIZE_TOO_LARGE": 2, "TOPIC_EXCEPTION": 1}))
    batches.add(result(failed=1, errors={"MSG_SIZE_TOO_LARGE": 1}))
    batches.add(result(role="applier", parked=4, errors={"missing_parent": 4}))
    assert {kind: (t.outcome, t.batches, t.events) for kind, t in batches.trouble.items()} == {
        "MSG_SIZE_TOO_LARGE": ("refused", 2, 3),
        "TOPIC_EXCEPTION": ("refused", 1, 1),
        "missing_parent": ("parked", 1, 4),
    }
    assert [b.error for b in batches.failed] == [
        "2 MSG_SIZE_TOO_LARGE, 1 TOPIC_EXCEPTION",
        "1 MSG_SIZE_TOO_LARGE",
        "4 missing_parent",
    ]


def test_failed_batches_beyond_the_most_are_counted() -> None:
    batches = Batches()
    for _ in range(FAILED + 7):
        batches.add(result(failed=1, errors={"TOPIC_EXCEPTION": 1}))
    assert (len(batches.failed), batches.failed_count) == (FAILED, FAILED + 7)


def test_the_course_of_an_hour_has_no_more_points_and_loses_nothing() -> None:
    batches = Batches()
    for _ in range(1200):
        batches.add(result())
        batches.began -= timedelta(seconds=3)  # instead of waiting
    assert batches.width == timedelta(seconds=16)
    course = batches.course
    assert len(course) <= COURSE
    assert sum(point.events for _, point in course) == 120_000
    assert sum(point.batches for _, point in course) == 1_200


# What it tells


def totals(role: Role) -> tuple[WindowTotals, Batches]:
    summed, batches = WindowTotals(role=role), Batches()
    for milliseconds in (10, 20, 30):
        one = result(milliseconds, role, applied=90)
        summed.add(one)
        batches.add(one)
        batches.began -= timedelta(seconds=2)
    summed.elapsed, summed.end = timedelta(seconds=10), "time"
    return summed, batches


def shown(event: dg.AssetMaterialization) -> dict[str, Any]:
    return {name: entry.value for name, entry in event.metadata.items()}


def records(table: Any) -> list[dict[str, Any]]:
    return [record.data for record in table.records]


def test_a_publish_window_reports_on_the_queue(settings: Settings) -> None:
    (event,) = materializations(settings, *reordered(*totals("publisher")), timedelta())
    assert event.asset_key.path == ["a", "replication_queue"]
    told = shown(event)
    assert told["processed"] == 300
    assert told["events_per_second"] == 30.0
    assert told["events_per_busy_second"] == 5_000.0
    assert (told["batch_ms_p50"], told["batch_ms_max"]) == (20.0, 30.0)
    assert (told["batch_events_p50"], told["batch_events_max"]) == (100, 100)
    assert (told["lag_ms_p95"], told["lag_ms_max"]) == (150.0, 150.0)
    assert told["ended_by"] == "time"
    assert [r["duration_ms"] for r in records(told["last_batches"])] == [30, 20, 10]


def reordered(summed: WindowTotals, batches: Batches) -> tuple[WindowTotals, str, Batches]:
    return summed, str(summed.end), batches


def test_every_list_of_batches_is_told_with_what_went_wrong(settings: Settings) -> None:
    summed, batches = totals("publisher")
    batches.add_failed_try(away(100, 20.5))
    batches.add(result(failed=1, parked=1, errors={"TOPIC_EXCEPTION": 1}))
    (event,) = materializations(settings, summed, "time", batches, timedelta())
    told = shown(event)
    assert records(told["errors_by_kind"]) == [
        {"kind": "Kafka: away", "outcome": "tried again", "batches": 1, "events": 100},
        {"kind": "TOPIC_EXCEPTION", "outcome": "refused", "batches": 1, "events": 1},
    ]
    newest, oldest = records(told["failed_batches"])
    assert (newest["events"], newest["attempts"], newest["error"]) == (100, 2, "1 TOPIC_EXCEPTION")
    assert (oldest["events"], oldest["duration_ms"]) == (100, 20_500.0)
    assert oldest["error"] == "contour a: Kafka is away"
    assert [r["duration_ms"] for r in records(told["slowest_batches"])] == [30, 20, 10, 10]
    assert "| Kafka: away | tried again | 1 | 100 |" in told["summary"]


def test_an_apply_window_reports_on_every_table_and_fully_on_the_busiest(
    settings: Settings,
) -> None:
    summed, batches = totals("applier")
    summed.per_table["sales.orders"] = 5
    moved = {
        event.asset_key.path[-1]: shown(event)
        for event in materializations(settings, summed, "stopped", batches, timedelta())
    }
    assert moved["sales.orders"]["events"] == 5
    assert moved["sales.orders"]["applied"] == 270
    assert "summary" not in moved["sales.orders"]
    assert moved["users"]["events"] == 300
    assert moved["users"]["summary"]
    summed.per_table.pop("sales.orders")
    first, _ = materializations(settings, summed, "stopped", batches, timedelta())
    assert shown(first) == {"events": 0}


def test_an_idle_window_reports_too(settings: Settings) -> None:
    idle = WindowTotals(role="publisher", end="time")
    (event,) = materializations(settings, idle, "time", Batches())
    assert shown(event)["processed"] == 0
    assert shown(event)["lag_ms_max"] == 0.0
    assert "data:image" not in shown(event)["summary"]
    assert materializations(settings, WindowTotals(role="applier"), "time", Batches())


def test_the_report_fits_a_row_of_the_event_log_whatever_happened(settings: Settings) -> None:
    summed, batches = WindowTotals(role="publisher"), Batches()
    for number in range(3000):
        one = result(1 + number * 997 % 5000, failed=1, errors={"TOPIC_EXCEPTION": 1})
        summed.add(one)
        batches.add(one)
        batches.add_failed_try(away(5000, 20.0))
        batches.began -= timedelta(seconds=0.2)
    (event,) = materializations(settings, summed, "time", batches, timedelta())
    assert len(dg.serialize_value(event)) + 4 / 3 * chart.LARGEST < 150_000


# The chart


def test_the_summary_has_a_picture_of_the_course(settings: Settings) -> None:
    longest = timedelta(seconds=170)  # on a busy machine too
    (event,) = materializations(settings, *reordered(*totals("publisher")), longest)
    found = re.search(r"!\[[^]]+\]\(data:image/png;base64,([^)]+)\)", shown(event)["summary"])
    assert found
    drawn = base64.b64decode(found[1])
    assert drawn[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", drawn[16:24])
    assert (400 < width < 900, 150 < height < 400) == (True, True)
    assert len(drawn) < chart.LARGEST


def test_the_frame_has_a_row_for_each_second_and_no_lag_where_nothing_was() -> None:
    batches = Batches()
    batches.add(result(10))
    batches.began -= timedelta(seconds=3)
    batches.add_failed_try(away())
    batches.began -= timedelta(seconds=1)
    batches.add(result(20))
    rows = chart.frame(batches)
    assert rows["events_per_second"].tolist() == [100, 0, 0, 0, 100]
    assert rows["failed"].tolist() == [0, 0, 0, 1, 0]
    assert rows["max_lag_ms"].isna().tolist() == [False, True, True, True, False]


def test_a_service_that_is_stopped_draws_nothing(settings: Settings) -> None:
    """Whoever stops it waits for seconds only; the figures must be there."""
    (event,) = materializations(settings, *reordered(*totals("publisher")), timedelta())
    assert "data:image" not in shown(event)["summary"]
    assert shown(event)["processed"] == 300


def test_without_a_way_to_draw_there_is_no_picture_and_no_error(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    (event,) = materializations(settings, *reordered(*totals("publisher")))
    assert "data:image" not in shown(event)["summary"]
    assert shown(event)["processed"] == 300


def test_a_run_process_imports_no_drawing_before_its_window_ends() -> None:
    """They would make each run process larger by half."""
    heavy = ("pandas", "numpy", "matplotlib", "PIL")
    code = (
        "import sys\n"
        "from replication_pipeline import runtime, definitions\n"
        "from replication_pipeline.defs import chart, report, windows\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
